//! Errors of requests to other servers.

use http::StatusCode;
use ruma::api::error::{ErrorKind, StandardErrorBody};

use crate::body_budget::Exhausted;

/// Why a request to another server failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// By the setting `federation`.
    #[error("this server does not federate with that one")]
    NotAllowed,
    /// Discovery finds no address, or only addresses that may not be connected to.
    #[error("the other server cannot be found")]
    Unresolvable,
    /// No connection, or its certificate is not for its name.
    #[error("the other server cannot be reached: {0}")]
    Unreachable(Box<str>),
    #[error("the other server takes too long")]
    TimedOut,
    #[error("the other server says: {}", .1.as_ref().map_or("an error", |body| &body.message))]
    Status(StatusCode, Option<Box<StandardErrorBody>>),
    /// Responses of other servers have all memory that is for them.
    #[error("this server has no memory for the response at this time")]
    NoMemory,
    #[error("this server cannot store the response: {0}")]
    Disk(Box<str>),
    /// The request cannot be serialized or signed, and was not sent.
    #[error("this server cannot make the request: {0}")]
    Unsendable(Box<str>),
    /// Not as the specification has it, or too large.
    #[error("the response of the other server is invalid: {0}")]
    InvalidResponse(Box<str>),
}

impl From<Exhausted> for Error {
    fn from(_: Exhausted) -> Self {
        Self::NoMemory
    }
}

impl Error {
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

    /// Whether the other server does not know the endpoint.
    pub fn is_unrecognized(&self) -> bool {
        const STATUSES: [StatusCode; 2] = [StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED];
        matches!(self, Self::Status(status, _) if STATUSES.contains(status))
            && matches!(self.kind(), Some(ErrorKind::Unrecognized))
    }

    /// Whether the other server was not reached in time, so that another request would fail too.
    pub fn is_unreachable(&self) -> bool {
        matches!(
            self,
            Self::NotAllowed | Self::Unresolvable | Self::Unreachable(_) | Self::TimedOut
        )
    }

    /// Whether the other server, or the proxy in front of it, says that it does not process requests now.
    pub fn is_overloaded(&self) -> bool {
        const STATUSES: [StatusCode; 4] = [
            StatusCode::TOO_MANY_REQUESTS,
            StatusCode::BAD_GATEWAY,
            StatusCode::SERVICE_UNAVAILABLE,
            StatusCode::GATEWAY_TIMEOUT,
        ];
        matches!(self, Self::Status(status, _) if STATUSES.contains(status))
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::Error;

    #[test]
    fn a_server_behind_a_failing_proxy_is_overloaded_and_one_without_the_event_is_not() {
        let is_overloaded = |status| Error::Status(status, None).is_overloaded();
        assert!(is_overloaded(StatusCode::BAD_GATEWAY));
        assert!(is_overloaded(StatusCode::TOO_MANY_REQUESTS));
        assert!(!is_overloaded(StatusCode::NOT_FOUND));
        assert!(!is_overloaded(StatusCode::INTERNAL_SERVER_ERROR));
    }
}
