//! What goes wrong, as it looks on the wire: the one place where errors get a status.
//!
//! The shape is the specification's [standard error response].
//!
//! [standard error response]: https://spec.matrix.org/v1.19/client-server-api/#standard-error-response

use std::{borrow::Cow, time::Duration};

use http::{HeaderValue, Response, StatusCode, header, response::Parts};
use ruma::api::{
    OutgoingBody, OutgoingResponse,
    client::uiaa::UiaaResponse,
    error::{
        DeserializationError, Error as MatrixError, ErrorBody, ErrorKind,
        HeaderDeserializationError, IntoHttpError, LimitExceededErrorData, RetryAfter,
        StandardErrorBody, WrongRoomKeysVersionErrorData,
    },
};
use serde_json::error::Category;

use super::body::Answer;
use crate::{api::Error, federation, media, rooms, store, users};

/// How long a client is told to wait when the server is busy with others.
const BUSY: Duration = Duration::from_secs(1);

const LATE: &str = "the body did not come in time";
const BROKEN_OFF: &str = "the body ended too early";

/// Why the edge itself does not fulfil a request.
#[derive(Debug)]
pub(super) enum Refusal {
    /// A handler said so, or would have.
    Api(Error),
    /// No endpoint has this path.
    NoSuchPath,
    /// An endpoint has this path, but not with this method.
    WrongMethod,
    /// The body has more bytes than this endpoint takes.
    TooLarge(usize),
    /// The body did not come in time.
    TooSlow,
    /// The body ended before its end.
    BrokenOff,
    /// Too many bodies are being read.
    NoRoom,
    /// The server is starting or stopping.
    NotServing,
    /// A handler panicked.
    Panicked,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Api(error)
    }
}

impl Refusal {
    pub(super) fn answer(self) -> Response<Answer> {
        match self {
            Self::Api(error) => answer(error),
            Self::NoSuchPath => standard(
                StatusCode::NOT_FOUND,
                ErrorKind::Unrecognized,
                "there is no such endpoint here",
            ),
            Self::WrongMethod => standard(
                StatusCode::METHOD_NOT_ALLOWED,
                ErrorKind::Unrecognized,
                "this endpoint does not take this method",
            ),
            Self::TooLarge(most) => standard(
                StatusCode::PAYLOAD_TOO_LARGE,
                ErrorKind::TooLarge,
                format!("the body may have at most {most} bytes"),
            ),
            Self::TooSlow => standard(StatusCode::REQUEST_TIMEOUT, ErrorKind::Unknown, LATE),
            Self::BrokenOff => standard(StatusCode::BAD_REQUEST, ErrorKind::Unknown, BROKEN_OFF),
            Self::NoRoom => busy("too many large requests at once; try again in a moment"),
            Self::NotServing => {
                let mut response = standard(
                    StatusCode::SERVICE_UNAVAILABLE,
                    ErrorKind::Unknown,
                    "the server is starting or stopping; try again in a moment",
                );
                let seconds = HeaderValue::from(BUSY.as_secs());
                response.headers_mut().insert(header::RETRY_AFTER, seconds);
                response
            }
            Self::Panicked => fault(),
        }
    }
}

impl Refusal {
    /// What to say of a body that a handler was taking.
    pub(super) fn interruption(&self) -> &'static str {
        match self {
            Self::TooSlow => LATE,
            _ => BROKEN_OFF,
        }
    }
}

/// The answer to one who asks for a part of `size` bytes where there is none.
pub(super) fn no_such_part(size: u64) -> Response<Answer> {
    let mut response = standard(
        StatusCode::RANGE_NOT_SATISFIABLE,
        ErrorKind::InvalidParam,
        "the file is shorter than that",
    );
    if let Ok(range) = HeaderValue::from_str(&format!("bytes */{size}")) {
        response.headers_mut().insert(header::CONTENT_RANGE, range);
    }
    response
}

/// The one match from errors to status and `errcode`.
fn answer(error: Error) -> Response<Answer> {
    match error {
        Error::Matrix(error) => standard(status(&error.kind), error.kind, error.message),
        Error::Uiaa(info) => encode(UiaaResponse::AuthResponse(*info)),
        Error::Limited(limited) => {
            let message = limited.to_string();
            limit_exceeded(limited.retry_after, message)
        }
        Error::Busy(error) => busy(error.to_string()),
        Error::Store(error) => of_store(error),
        Error::Users(error) => of_users(error),
        Error::Rooms(error) => of_rooms(error),
        Error::Media(error) => of_media(error),
        Error::Peer(error) => of_peer(error),
        Error::Internal(message) => {
            log::error!("{message}");
            fault()
        }
    }
}

fn of_store(error: store::Error) -> Response<Answer> {
    use store::Error;

    match error {
        Error::Full => standard(
            StatusCode::INSUFFICIENT_STORAGE,
            ErrorKind::Unknown,
            "the server's disk is almost full",
        ),
        Error::Closed | Error::Unavailable | Error::Failed(_) => Refusal::NotServing.answer(),
        // The panic hook has logged it.
        Error::Panicked => fault(),
        Error::Storage(_)
        | Error::Corrupt(_)
        | Error::NotSerializable(_)
        | Error::TooNew { .. }
        | Error::TooOld => {
            log::error!("{error}");
            fault()
        }
    }
}

fn of_users(error: users::Error) -> Response<Answer> {
    use users::Error;

    let message = error.to_string();
    let kind = match error {
        Error::Store(error) => return of_store(error),
        Error::Busy(error) => return busy(error.to_string()),
        Error::UnknownToken { soft_logout } => {
            return answer(crate::api::Error::unknown_token(soft_logout));
        }
        // The specification has this status for account data that only the server sets.
        Error::ServerManaged => {
            return standard(StatusCode::METHOD_NOT_ALLOWED, ErrorKind::BadJson, message);
        }
        Error::WrongPassword
        | Error::InvalidLoginToken
        | Error::RegistrationClosed(_)
        | Error::KeyInUse
        | Error::WrongSignature => ErrorKind::Forbidden,
        Error::Deactivated => ErrorKind::UserDeactivated,
        Error::InvalidUsername(_) => ErrorKind::InvalidUsername,
        Error::ReservedUsername => ErrorKind::Exclusive,
        Error::UsernameInUse => ErrorKind::UserInUse,
        Error::WeakPassword(_) => ErrorKind::WeakPassword,
        Error::InvalidParam(_) => ErrorKind::InvalidParam,
        Error::MissingParam(_) => ErrorKind::MissingParam,
        Error::BadJson(_) => ErrorKind::BadJson,
        Error::InvalidSignature(_) => invalid_signature(),
        Error::WrongBackup(latest) => {
            ErrorKind::WrongRoomKeysVersion(WrongRoomKeysVersionErrorData::new(latest.to_string()))
        }
        Error::TooLarge(_) => ErrorKind::TooLarge,
        Error::KeyTooLarge => ErrorKind::KeyTooLarge,
        Error::ProfileTooLarge => ErrorKind::ProfileTooLarge,
        Error::TooMany(_) => ErrorKind::Unknown,
        Error::NotFound(_) => ErrorKind::NotFound,
    };
    standard(status(&kind), kind, message)
}

fn of_rooms(error: rooms::Error) -> Response<Answer> {
    use rooms::Error;

    let message = error.to_string();
    let kind = match error {
        Error::Store(error) => return of_store(error),
        Error::Pool(error) => return busy(error.to_string()),
        // These are for whoever called the rooms to deal with.
        Error::Stale
        | Error::Missing
        | Error::Unresolvable(_)
        | Error::OtherServer(_)
        | Error::RoomExists => {
            log::error!("{message}");
            return fault();
        }
        Error::UnknownRoom | Error::NotFound(_) => ErrorKind::NotFound,
        Error::Forbidden(_) => ErrorKind::Forbidden,
        Error::UnableToAuthorizeJoin => ErrorKind::UnableToAuthorizeJoin,
        Error::UnableToGrantJoin => ErrorKind::UnableToGrantJoin,
        Error::Invalid(_) => ErrorKind::InvalidParam,
        Error::BadContent(_) => ErrorKind::BadJson,
        Error::TooLarge(_) => ErrorKind::TooLarge,
        Error::AliasTaken => {
            return standard(StatusCode::CONFLICT, ErrorKind::Unknown, message);
        }
        Error::BadState(_) => {
            return standard(StatusCode::FORBIDDEN, ErrorKind::BadState, message);
        }
        Error::RoomInUse => ErrorKind::RoomInUse,
        Error::InvalidRoomState(_) => ErrorKind::InvalidRoomState,
        Error::BadAlias(_) => ErrorKind::BadAlias,
        Error::InviteBlocked => ErrorKind::InviteBlocked,
        Error::ThirdPartyInvite => ErrorKind::ThreepidDenied,
        Error::StillInRoom => ErrorKind::Unknown,
        Error::UnsupportedVersion(_) => ErrorKind::UnsupportedRoomVersion,
    };
    standard(status(&kind), kind, message)
}

fn of_media(error: media::Error) -> Response<Answer> {
    use media::Error;

    let message = error.to_string();
    let kind = match error {
        Error::Store(error) => return of_store(error),
        Error::Busy(error) => return busy(error.to_string()),
        Error::Full => return of_store(store::Error::Full),
        Error::Disk(_) => {
            log::error!("{message}");
            return fault();
        }
        Error::TooManyPending => return busy(message),
        Error::RemoteTooLarge(_) | Error::RemoteTooManyPixels => {
            return standard(StatusCode::BAD_GATEWAY, ErrorKind::TooLarge, message);
        }
        Error::NotFound => ErrorKind::NotFound,
        Error::NotYetUploaded => ErrorKind::NotYetUploaded,
        Error::CannotOverwrite => ErrorKind::CannotOverwriteMedia,
        Error::NoPicture => ErrorKind::Unknown,
        Error::NotYours | Error::OverQuota(_) | Error::Quarantined => ErrorKind::Forbidden,
        Error::Deactivated => ErrorKind::UserDeactivated,
        Error::TooLarge(_) | Error::TooManyPixels => ErrorKind::TooLarge,
        Error::Invalid(_) => ErrorKind::InvalidParam,
    };
    standard(status(&kind), kind, message)
}

/// What another server says to a request of ours on a client's behalf is passed on; where it says
/// nothing, the fault is on the way.
fn of_peer(error: federation::Error) -> Response<Answer> {
    use federation::Error;

    let message = error.to_string();
    match error {
        Error::NotAllowed => standard(StatusCode::FORBIDDEN, ErrorKind::Forbidden, message),
        Error::Status(status, Some(said)) if status.is_client_error() => {
            standard(status, said.kind, message)
        }
        Error::TimedOut => standard(StatusCode::GATEWAY_TIMEOUT, ErrorKind::Unknown, message),
        Error::Disk(_) => {
            log::error!("{message}");
            fault()
        }
        Error::Unresolvable
        | Error::Unreachable(_)
        | Error::Status(..)
        | Error::Unsendable(_)
        | Error::Nonsense(_) => standard(StatusCode::BAD_GATEWAY, ErrorKind::Unknown, message),
    }
}

fn fault() -> Response<Answer> {
    standard(
        StatusCode::INTERNAL_SERVER_ERROR,
        ErrorKind::Unknown,
        "something went wrong here; the server's log says what",
    )
}

fn busy(message: impl Into<Cow<'static, str>>) -> Response<Answer> {
    limit_exceeded(BUSY, message)
}

fn limit_exceeded(
    retry_after: Duration,
    message: impl Into<Cow<'static, str>>,
) -> Response<Answer> {
    let mut data = LimitExceededErrorData::new();
    data.retry_after = Some(RetryAfter::Delay(retry_after));
    let kind = ErrorKind::LimitExceeded(data);
    standard(StatusCode::TOO_MANY_REQUESTS, kind, message)
}

/// `M_INVALID_SIGNATURE`, which ruma has no name for: client-server API,
/// `POST /keys/device_signing/upload`.
fn invalid_signature() -> ErrorKind {
    let code = serde_json::json!({ "errcode": "M_INVALID_SIGNATURE" });
    serde_json::from_value(code).unwrap_or(ErrorKind::InvalidParam)
}

/// The status that the specification's endpoints give with an error code. Where they differ, the
/// code is what counts for clients; the usual one is here.
fn status(kind: &ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::MissingToken | ErrorKind::UnknownToken(_) | ErrorKind::Unauthorized => {
            StatusCode::UNAUTHORIZED
        }
        // A locked account answers as a dead token with `soft_logout` does.
        ErrorKind::UserLocked => StatusCode::UNAUTHORIZED,
        ErrorKind::Forbidden
        | ErrorKind::GuestAccessForbidden
        | ErrorKind::InviteBlocked
        | ErrorKind::UserDeactivated
        | ErrorKind::UserSuspended
        | ErrorKind::UserLimitExceeded(_)
        | ErrorKind::ResourceLimitExceeded(_)
        | ErrorKind::ThreepidAuthFailed
        | ErrorKind::ThreepidDenied
        | ErrorKind::CannotLeaveServerNoticeRoom
        | ErrorKind::WrongRoomKeysVersion(_) => StatusCode::FORBIDDEN,
        ErrorKind::NotFound
        | ErrorKind::Unrecognized
        | ErrorKind::ThreepidNotFound
        | ErrorKind::UnknownDevice => StatusCode::NOT_FOUND,
        ErrorKind::CannotOverwriteMedia => StatusCode::CONFLICT,
        ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorKind::LimitExceeded(_) => StatusCode::TOO_MANY_REQUESTS,
        ErrorKind::ConnectionFailed | ErrorKind::BadStatus(_) => StatusCode::BAD_GATEWAY,
        ErrorKind::ConnectionTimeout | ErrorKind::NotYetUploaded => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::BAD_REQUEST,
    }
}

fn standard(
    status: StatusCode,
    kind: ErrorKind,
    message: impl Into<Cow<'static, str>>,
) -> Response<Answer> {
    let body = StandardErrorBody::new(kind, message.into().into_owned());
    encode(MatrixError::new(status, ErrorBody::Standard(body)))
}

/// The answer that one of ruma's responses makes.
pub(super) fn encode(response: impl OutgoingResponse) -> Response<Answer> {
    let written = response
        .try_into_http_response_inner()
        .and_then(|response| {
            let (parts, body) = response.into_parts();
            let content_type = body.content_type();
            let body = body.try_into_buf().map_err(Into::into)?;
            Ok((parts, content_type, body))
        });
    encoded(written)
}

type Written = (Parts, Option<HeaderValue>, Vec<u8>);

/// What is the same for every response, and so is in the program once.
fn encoded(written: Result<Written, IntoHttpError>) -> Response<Answer> {
    match written {
        Ok((mut parts, content_type, body)) => {
            if let Some(content_type) = content_type {
                let headers = &mut parts.headers;
                headers.entry(header::CONTENT_TYPE).or_insert(content_type);
            }
            Response::from_parts(parts, Answer::from(body))
        }
        Err(error) => {
            log::error!("an answer cannot be written: {error}");
            plain_fault()
        }
    }
}

/// [`fault`] without going through [`encode`], which has just failed.
fn plain_fault() -> Response<Answer> {
    let body = br#"{"errcode":"M_UNKNOWN","error":"the answer cannot be written"}"#;
    let mut response = Response::new(Answer::from(body.to_vec()));
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// What is wrong with a request that ruma cannot make sense of.
pub(super) fn malformed(error: &DeserializationError) -> Error {
    let message = error.to_string();
    match error {
        DeserializationError::Json(error) => match error.classify() {
            Category::Data if is_missing(&message) => Error::missing_param(message),
            Category::Data => Error::bad_json(message),
            Category::Syntax | Category::Eof | Category::Io => Error::not_json(message),
        },
        DeserializationError::Query(_) if is_missing(&message) => Error::missing_param(message),
        DeserializationError::Header(HeaderDeserializationError::MissingHeader(_)) => {
            Error::missing_param(message)
        }
        _ => Error::invalid_param(message),
    }
}

/// serde's words for a field that is not there.
fn is_missing(message: &str) -> bool {
    message.starts_with("missing field")
}
