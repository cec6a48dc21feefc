use std::io;

use crate::{
    federation::{self, event_graph::EventMemoryError, event_response, inbound},
    pool, rooms, store,
};

/// Why a membership change over federation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The last server that was tried, or the connection to it.
    #[error(transparent)]
    Peer(#[from] federation::Error),
    #[error(transparent)]
    Rooms(#[from] rooms::Error),
    /// The user has too many changes under way.
    #[error("too many of your joins and leaves are under way; try again in a moment")]
    Busy,
    #[error(transparent)]
    Memory(#[from] EventMemoryError),
}

impl Error {
    pub(super) fn invalid_response(error: impl ToString) -> Self {
        Self::Peer(federation::Error::InvalidResponse(error.to_string().into()))
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        Self::Rooms(error.into())
    }
}

impl From<inbound::Error> for Error {
    fn from(error: inbound::Error) -> Self {
        match error {
            inbound::Error::Rooms(error) => error.into(),
            inbound::Error::Fetch(error) => Self::invalid_response(error),
        }
    }
}

impl From<event_response::Error> for Error {
    fn from(error: event_response::Error) -> Self {
        match error {
            event_response::Error::Read(error) => error.into(),
            event_response::Error::Memory(error) => error.into(),
        }
    }
}

impl From<pool::Error> for Error {
    fn from(error: pool::Error) -> Self {
        Self::Rooms(error.into())
    }
}

/// A response cannot be parsed, or the disk failed.
impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::invalid_response(error)
    }
}
