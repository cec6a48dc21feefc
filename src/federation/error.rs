//! What can go wrong with another server.

use http::StatusCode;
use ruma::api::error::{ErrorKind, StandardErrorBody};

/// An error on the way to another server, or its own.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// This server has nothing to do with that one: the settings say so.
    #[error("this server does not federate with that one")]
    NotAllowed,
    /// Its name leads nowhere, or where nobody may be led.
    #[error("the other server cannot be found")]
    Unresolvable,
    /// It is where its name leads to, but cannot be reached, or proves to be somebody else.
    #[error("the other server cannot be reached: {0}")]
    Unreachable(Box<str>),
    /// It took too long.
    #[error("the other server takes too long")]
    TimedOut,
    /// It answered with an error.
    #[error("the other server says: {}", .1.as_ref().map_or("an error", |body| &body.message))]
    Status(StatusCode, Option<Box<StandardErrorBody>>),
    /// The answer cannot be put on this server's disk.
    #[error("this server cannot store the answer: {0}")]
    Disk(Box<str>),
    /// What it was to get cannot be written as a request: it has heard nothing.
    #[error("this server cannot put the request together: {0}")]
    Unsendable(Box<str>),
    /// Its answer is not what the specification says, or is too large.
    #[error("the other server answers nonsense: {0}")]
    Nonsense(Box<str>),
}

impl Error {
    /// This server's disk fails.
    pub fn disk(error: std::io::Error) -> Self {
        Self::Disk(error.to_string().into())
    }

    /// The Matrix error code that the other server gave.
    pub fn kind(&self) -> Option<&ErrorKind> {
        match self {
            Self::Status(_, Some(body)) => Some(&body.kind),
            _ => None,
        }
    }

    /// Whether the other server was not reached, or not in time: it would not be for another question.
    pub fn is_away(&self) -> bool {
        matches!(
            self,
            Self::NotAllowed | Self::Unresolvable | Self::Unreachable(_) | Self::TimedOut
        )
    }

    /// Whether the other server is there and answers for itself.
    pub fn is_alive(&self) -> bool {
        matches!(self, Self::Status(status, _) if status.is_client_error())
    }
}
