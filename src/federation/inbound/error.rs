use std::io;

use super::event_source::FetchError;
use crate::{rooms, store};

/// Why a PDU was not processed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Rooms(#[from] rooms::Error),
    /// An event or a state that the PDU refers to was not fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
}

/// The disk failed, with what was fetched. Another attempt may succeed.
impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        log::warn!("cannot read events of another server from a temporary file: {error}");
        Self::Fetch(FetchError::Unreachable)
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        Self::Rooms(error.into())
    }
}
