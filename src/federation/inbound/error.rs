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

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        Self::Rooms(error.into())
    }
}
