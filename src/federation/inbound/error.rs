use crate::{rooms, store};

/// Why a PDU was not processed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Rooms(#[from] rooms::Error),
    /// No server that was asked gives an event or a state that the PDU refers to.
    #[error("an event that it refers to is not available")]
    Unavailable,
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        Self::Rooms(error.into())
    }
}
