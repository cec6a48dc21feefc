//! The errors of handlers.

use std::{borrow::Cow, time::Duration};

use http::StatusCode;
use ruma::api::{
    client::uiaa::UiaaInfo,
    error::{
        ErrorKind, LimitExceededErrorData, ResourceLimitExceededErrorData, RetryAfter,
        StandardErrorBody, UnknownTokenErrorData,
    },
};

use crate::{
    federation::{self, EventMemoryError},
    media, pool, rates, rooms, store, users,
};

/// When to join a large room, if others are joining some.
const JOIN_RETRY_AFTER: Duration = Duration::from_mins(5);

/// The error of a handler. `http/error.rs` maps it to a status and an error code; the errors of other
/// modules become one with `?`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// One of the specification's [standard errors].
    ///
    /// [standard errors]: https://spec.matrix.org/v1.19/client-server-api/#standard-error-response
    #[error("{}: {}", .0.kind.errcode(), .0.message)]
    Matrix(Box<Standard>),
    /// [User-interactive authentication] is not complete.
    ///
    /// [User-interactive authentication]: https://spec.matrix.org/v1.19/client-server-api/#user-interactive-authentication-api
    #[error("more authentication is needed")]
    Uiaa(Box<UiaaInfo>),
    /// 400 `M_UNRECOGNIZED`: the query has an argument, given by its name or the beginning of it, that would
    /// change what the request means.
    #[error("this server does not support the argument {0} of the query")]
    UnsupportedArgument(&'static str),
    #[error(transparent)]
    Limited(#[from] rates::Limited),
    /// A queue of the pool is full.
    #[error(transparent)]
    Busy(#[from] pool::Error),
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Users(#[from] users::Error),
    #[error(transparent)]
    Rooms(#[from] rooms::Error),
    #[error(transparent)]
    Media(#[from] media::Error),
    /// An error of a policy server, which the client gets as it is: its status and its body.
    #[error("{}: {}", .1.kind.errcode(), .1.message)]
    Refused(StatusCode, Box<StandardErrorBody>),
    /// Another server failed.
    #[error(transparent)]
    Peer(#[from] federation::Error),
    /// A bug. It is logged; the client gets a 500 without the reason.
    #[error("{0}")]
    Internal(&'static str),
}

#[derive(Debug)]
pub struct Standard {
    pub kind: ErrorKind,
    /// Which field, what was expected, what was found.
    pub message: Cow<'static, str>,
}

impl From<federation::MediaError> for Error {
    fn from(error: federation::MediaError) -> Self {
        match error {
            federation::MediaError::Peer(error) => Self::Peer(error),
            federation::MediaError::Media(error) => Self::Media(error),
        }
    }
}

impl From<federation::MembershipError> for Error {
    fn from(error: federation::MembershipError) -> Self {
        match error {
            federation::MembershipError::Peer(error) => Self::Peer(error),
            federation::MembershipError::Rooms(error) => Self::Rooms(error),
            error @ federation::MembershipError::Busy => {
                Self::limit_exceeded(error.to_string(), JOIN_RETRY_AFTER)
            }
            federation::MembershipError::Memory(error @ EventMemoryError::Busy) => {
                Self::limit_exceeded(error.to_string(), JOIN_RETRY_AFTER)
            }
            // The code of Synapse's `limit_remote_rooms`.
            federation::MembershipError::Memory(error) => Self::new(
                ErrorKind::ResourceLimitExceeded(
                    ResourceLimitExceededErrorData::new(String::new()),
                ),
                error.to_string(),
            ),
        }
    }
}

macro_rules! constructors {
    ($($(#[$doc:meta])+ $name:ident => $kind:ident;)+) => {
        impl Error {
            $(
                $(#[$doc])+
                pub fn $name(message: impl Into<Cow<'static, str>>) -> Self {
                    Self::new(ErrorKind::$kind, message)
                }
            )+
        }
    };
}

constructors! {
    /// 403
    forbidden => Forbidden;
    /// 404: also for what exists but is hidden from the caller.
    not_found => NotFound;
    /// 404: no such endpoint.
    unrecognized => Unrecognized;
    /// 400: the body is JSON with a wrong field.
    bad_json => BadJson;
    /// 400: the body is not JSON.
    not_json => NotJson;
    /// 400: a parameter has a value that is not allowed.
    invalid_param => InvalidParam;
    /// 400
    missing_param => MissingParam;
    /// 413
    too_large => TooLarge;
    /// 400: for errors without a code.
    unknown => Unknown;
    /// 401: the signature of a server is missing or wrong.
    unauthorized => Unauthorized;
    /// 401: there is no access token.
    missing_token => MissingToken;
}

impl Error {
    /// 403: client-server API, "Account suspension".
    pub fn suspended() -> Self {
        Self::new(
            ErrorKind::UserSuspended,
            "you cannot do this while your account is suspended",
        )
    }

    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self::Matrix(Box::new(Standard {
            kind,
            message: message.into(),
        }))
    }

    /// 401. With `soft_logout` the client keeps its data and lets its user log in again.
    pub fn unknown_token(soft_logout: bool) -> Self {
        let mut data = UnknownTokenErrorData::new();
        data.soft_logout = soft_logout;
        Self::new(
            ErrorKind::UnknownToken(data),
            "the access token is unknown or has expired",
        )
    }

    /// 429, for other limits than the [rates](crate::rates).
    pub fn limit_exceeded(message: impl Into<Cow<'static, str>>, retry_after: Duration) -> Self {
        let mut data = LimitExceededErrorData::new();
        data.retry_after = Some(RetryAfter::Delay(retry_after));
        Self::new(ErrorKind::LimitExceeded(data), message)
    }
}
