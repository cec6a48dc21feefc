//! Why a request is not fulfilled.

use std::borrow::Cow;

use ruma::api::{
    client::uiaa::UiaaInfo,
    error::{ErrorKind, LimitExceededErrorData, RetryAfter, UnknownTokenErrorData},
};

use crate::{federation, media, pool, rates, rooms, store, users};

/// Why a request is not fulfilled. `http/error.rs` decides what each looks like on the wire; the
/// errors of other modules become one of these with `?`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// One of the specification's [standard errors], with a sentence for whoever reads it.
    ///
    /// [standard errors]: https://spec.matrix.org/v1.19/client-server-api/#standard-error-response
    #[error("{}: {}", .0.kind.errcode(), .0.message)]
    Matrix(Box<Standard>),
    /// More is wanted before the request is fulfilled: [user-interactive authentication].
    ///
    /// [user-interactive authentication]: https://spec.matrix.org/v1.19/client-server-api/#user-interactive-authentication-api
    #[error("more authentication is needed")]
    Uiaa(Box<UiaaInfo>),
    /// Too often.
    #[error(transparent)]
    Limited(#[from] rates::Limited),
    /// Too much of this is being worked on.
    #[error(transparent)]
    Busy(#[from] pool::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// An account is not what the request needs it to be.
    #[error(transparent)]
    Users(#[from] users::Error),
    /// A room is not what the request needs it to be.
    #[error(transparent)]
    Rooms(#[from] rooms::Error),
    /// Media are not there, or are not taken.
    #[error(transparent)]
    Media(#[from] media::Error),
    /// Another server does not do what this one needs of it.
    #[error(transparent)]
    Peer(#[from] federation::Error),
    /// Something that cannot happen did. Logged; the caller learns only that the fault is ours.
    #[error("{0}")]
    Internal(&'static str),
}

/// One of the specification's standard errors.
#[derive(Debug)]
pub struct Standard {
    /// The error code and what belongs to it.
    pub kind: ErrorKind,
    /// One sentence, without secrets.
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
        }
    }
}

/// Makes a constructor for each error that carries nothing but its message.
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
    /// 403: the caller may not do this.
    forbidden => Forbidden;
    /// 404: there is no such thing, or the caller may not know of it.
    not_found => NotFound;
    /// 404: the endpoint does not exist, or not for what was asked.
    unrecognized => Unrecognized;
    /// 400: the body is JSON but not what the endpoint takes.
    bad_json => BadJson;
    /// 400: the body is not JSON.
    not_json => NotJson;
    /// 400: a parameter has a value that makes no sense.
    invalid_param => InvalidParam;
    /// 400: a parameter is not there.
    missing_param => MissingParam;
    /// 413: the request, or what it would make, is too large.
    too_large => TooLarge;
    /// 400: the request is wrong in a way that has no code of its own.
    unknown => Unknown;
    /// 401: the signature of another server is missing, or wrong.
    unauthorized => Unauthorized;
    /// 401: there is no access token.
    missing_token => MissingToken;
}

impl Error {
    /// A standard error of any kind.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self::Matrix(Box::new(Standard {
            kind,
            message: message.into(),
        }))
    }

    /// 401: the access token is not, or no longer, one of this server. With `soft_logout` the
    /// client keeps its data and asks its user to log in again.
    pub fn unknown_token(soft_logout: bool) -> Self {
        let mut data = UnknownTokenErrorData::new();
        data.soft_logout = soft_logout;
        Self::new(
            ErrorKind::UnknownToken(data),
            "this access token is not valid here",
        )
    }

    /// 429: too much, for a reason that is not one of the [rates](crate::rates).
    pub fn limit_exceeded(message: &'static str, retry_after: std::time::Duration) -> Self {
        let mut data = LimitExceededErrorData::new();
        data.retry_after = Some(RetryAfter::Delay(retry_after));
        Self::new(ErrorKind::LimitExceeded(data), message)
    }
}
