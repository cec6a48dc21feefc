//! Errors as responses: the one place where errors get a status and an `errcode`.
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

use super::response_body::{FirstChunkError, ResponseBody};
use crate::{api::Error, body_budget::Exhausted, federation, media, rooms, store, users};

/// For clients that are turned away because the server is busy.
const RETRY_AFTER: Duration = Duration::from_secs(1);

const BODY_TIMEOUT: &str = "the body did not come in time";
const BODY_INCOMPLETE: &str = "the body ended too early";

/// Why a request gets an error instead of what it requests.
#[derive(Debug)]
pub(super) enum Rejection {
    /// An error of a handler, or of what runs before it.
    Api(Error),
    /// No endpoint has this path.
    UnknownPath,
    /// An endpoint has this path, but not with this method.
    WrongMethod,
    /// The body has more bytes than this endpoint takes.
    TooLarge(usize),
    BodyTimeout,
    BodyIncomplete,
    /// Other bodies use all memory for bodies.
    BodyBudgetExhausted,
    /// Other responses that are being sent use all memory for responses.
    ResponseBudgetExhausted,
    /// The client's network has its share of the connections.
    TooManyConnections,
    InvalidHost,
    /// The server is starting or stopping.
    ServiceUnavailable,
    /// A handler panicked; the panic hook has logged it.
    Panicked,
}

impl From<Error> for Rejection {
    fn from(error: Error) -> Self {
        Self::Api(error)
    }
}

impl From<FirstChunkError> for Rejection {
    fn from(error: FirstChunkError) -> Self {
        match error {
            FirstChunkError::NotMade(error) => error.into(),
            FirstChunkError::Exhausted => Self::ResponseBudgetExhausted,
        }
    }
}

impl From<Exhausted> for Rejection {
    fn from(_: Exhausted) -> Self {
        Self::BodyBudgetExhausted
    }
}

impl Rejection {
    pub(super) fn response(self) -> Response<ResponseBody> {
        match self {
            Self::Api(error) => error_response(error),
            Self::UnknownPath => standard(
                StatusCode::NOT_FOUND,
                ErrorKind::Unrecognized,
                "no endpoint has this path",
            ),
            Self::WrongMethod => standard(
                StatusCode::METHOD_NOT_ALLOWED,
                ErrorKind::Unrecognized,
                "this endpoint does not have this method",
            ),
            Self::TooLarge(max_bytes) => standard(
                StatusCode::PAYLOAD_TOO_LARGE,
                ErrorKind::TooLarge,
                format!("the body may have at most {max_bytes} bytes"),
            ),
            Self::BodyTimeout => standard(
                StatusCode::REQUEST_TIMEOUT,
                ErrorKind::Unknown,
                BODY_TIMEOUT,
            ),
            Self::BodyIncomplete => {
                standard(StatusCode::BAD_REQUEST, ErrorKind::Unknown, BODY_INCOMPLETE)
            }
            Self::BodyBudgetExhausted => {
                busy("too many large requests at once; try again in a moment")
            }
            Self::ResponseBudgetExhausted => {
                busy("too many large responses at once; try again in a moment")
            }
            Self::TooManyConnections => {
                busy("too many requests from your network at once; try again in a moment")
            }
            Self::InvalidHost => standard(
                StatusCode::BAD_REQUEST,
                ErrorKind::Unknown,
                "a request has one `Host` header, with the name of a host",
            ),
            Self::ServiceUnavailable => {
                let mut response = standard(
                    StatusCode::SERVICE_UNAVAILABLE,
                    ErrorKind::Unknown,
                    "the server is starting or stopping; try again in a moment",
                );
                let seconds = HeaderValue::from(RETRY_AFTER.as_secs());
                response.headers_mut().insert(header::RETRY_AFTER, seconds);
                response
            }
            Self::Panicked => internal_error(),
        }
    }
}

impl Rejection {
    /// The message for a body that ended while a handler was reading it.
    pub(super) fn interruption(&self) -> &'static str {
        match self {
            Self::BodyTimeout => BODY_TIMEOUT,
            _ => BODY_INCOMPLETE,
        }
    }
}

/// A range of a file of `size` bytes begins behind its end.
pub(super) fn range_not_satisfiable(size: u64) -> Response<ResponseBody> {
    let mut response = standard(
        StatusCode::RANGE_NOT_SATISFIABLE,
        ErrorKind::InvalidParam,
        format!("the range begins behind the end of the file, which has {size} bytes"),
    );
    if let Ok(range) = HeaderValue::from_str(&format!("bytes */{size}")) {
        response.headers_mut().insert(header::CONTENT_RANGE, range);
    }
    response
}

fn error_response(error: Error) -> Response<ResponseBody> {
    match error {
        Error::Matrix(error) => standard(status(&error.kind), error.kind, error.message),
        error @ Error::UnsupportedArgument(_) => standard(
            StatusCode::BAD_REQUEST,
            ErrorKind::Unrecognized,
            error.to_string(),
        ),
        Error::Refused(status, body) => {
            let (status, kind) = of_other_server(status, body.kind);
            standard(status, kind, body.message)
        }
        Error::Uiaa(info) => encode(UiaaResponse::AuthResponse(*info)),
        Error::Limited(limited) => {
            let message = limited.to_string();
            limit_exceeded(limited.retry_after, message)
        }
        Error::Busy(error) => busy(error.to_string()),
        Error::Store(error) => store_error(error),
        Error::Users(error) => users_error(error),
        Error::Rooms(error) => rooms_error(error),
        Error::Media(error) => media_error(error),
        Error::Peer(error) => federation_error(error),
        Error::Internal(message) => {
            log::error!("{message}");
            internal_error()
        }
    }
}

fn store_error(error: store::Error) -> Response<ResponseBody> {
    use store::Error;

    match error {
        Error::Full => standard(
            StatusCode::INSUFFICIENT_STORAGE,
            ErrorKind::Unknown,
            "the server's disk is almost full",
        ),
        Error::Closed | Error::Unavailable | Error::Failed(_) => {
            Rejection::ServiceUnavailable.response()
        }
        // The panic hook has logged it.
        Error::Panicked => internal_error(),
        Error::Storage(_)
        | Error::Damaged(_)
        | Error::Corrupt(_)
        | Error::NotSerializable(_)
        | Error::InUse
        | Error::TooNew { .. }
        | Error::TooOld => {
            log::error!("{error}");
            internal_error()
        }
    }
}

/// The device may fetch its messages at any time, or never.
const QUEUE_FULL_RETRY_AFTER: Duration = Duration::from_mins(1);

fn users_error(error: users::Error) -> Response<ResponseBody> {
    use users::Error;

    let message = error.to_string();
    let kind = match error {
        Error::Store(error) => return store_error(error),
        Error::Busy(error) => return busy(error.to_string()),
        Error::QueueFull => return limit_exceeded(QUEUE_FULL_RETRY_AFTER, message),
        Error::UnknownToken { soft_logout } => {
            return error_response(crate::api::Error::unknown_token(soft_logout));
        }
        // The specification has this status for account data that only the server sets.
        Error::ServerManaged => {
            return standard(StatusCode::METHOD_NOT_ALLOWED, ErrorKind::BadJson, message);
        }
        Error::WrongPassword
        | Error::InvalidLoginToken
        | Error::RegistrationClosed(_)
        | Error::KeyInUse
        | Error::Forbidden(_)
        | Error::InvalidRegistrationToken
        | Error::WrongSignature => ErrorKind::Forbidden,
        Error::Deactivated => ErrorKind::UserDeactivated,
        Error::Locked => ErrorKind::UserLocked,
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

fn rooms_error(error: rooms::Error) -> Response<ResponseBody> {
    use rooms::Error;

    let message = error.to_string();
    let kind = match error {
        Error::Store(error) => return store_error(error),
        Error::Pool(error) => return busy(error.to_string()),
        // Callers handle these. One that comes here is a bug.
        Error::Stale
        | Error::Missing
        | Error::Unresolvable(_)
        | Error::Unsigned(_)
        | Error::OtherServer(_)
        | Error::RoomExists => {
            log::error!("{message}");
            return internal_error();
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
        Error::CannotRejectServerNotices => ErrorKind::CannotLeaveServerNoticeRoom,
        Error::InviteBlocked => ErrorKind::InviteBlocked,
        Error::ThirdPartyInvite => ErrorKind::ThreepidDenied,
        Error::StillInRoom | Error::NestedThread => ErrorKind::Unknown,
        Error::DuplicateAnnotation => ErrorKind::DuplicateAnnotation,
        Error::UnsupportedVersion(_) | Error::NotCreatedVersion(_) => {
            ErrorKind::UnsupportedRoomVersion
        }
    };
    standard(status(&kind), kind, message)
}

fn media_error(error: media::Error) -> Response<ResponseBody> {
    use media::Error;

    let message = error.to_string();
    let kind = match error {
        Error::Store(error) => return store_error(error),
        Error::Busy(error) => return busy(error.to_string()),
        Error::Full => return store_error(store::Error::Full),
        Error::Disk(_) => {
            log::error!("{message}");
            return internal_error();
        }
        Error::TooManyPending => return busy(message),
        Error::RemoteTooLarge(_) | Error::RemoteTooManyPixels => {
            return standard(StatusCode::BAD_GATEWAY, ErrorKind::TooLarge, message);
        }
        Error::NotFound => ErrorKind::NotFound,
        Error::NotYetUploaded => ErrorKind::NotYetUploaded,
        Error::CannotOverwrite => ErrorKind::CannotOverwriteMedia,
        Error::NoPicture => ErrorKind::Unknown,
        Error::NotYours | Error::OverQuota(_) | Error::Quarantined | Error::Protected => {
            ErrorKind::Forbidden
        }
        Error::Deactivated => ErrorKind::UserDeactivated,
        Error::TooLarge(_) | Error::TooManyPixels => ErrorKind::TooLarge,
        Error::Invalid(_) => ErrorKind::InvalidParam,
    };
    standard(status(&kind), kind, message)
}

/// What another server says of a session or an account is not about the client's here: a client would log
/// out.
fn of_other_server(status: StatusCode, kind: ErrorKind) -> (StatusCode, ErrorKind) {
    match kind {
        ErrorKind::UnknownToken(_)
        | ErrorKind::MissingToken
        | ErrorKind::Unauthorized
        | ErrorKind::UserDeactivated
        | ErrorKind::UserLocked
        | ErrorKind::UserSuspended => (StatusCode::FORBIDDEN, ErrorKind::Forbidden),
        kind if status == StatusCode::UNAUTHORIZED => (StatusCode::FORBIDDEN, kind),
        kind => (status, kind),
    }
}

/// An error response of another server is passed on to the client. Any other failure is that of a
/// gateway.
fn federation_error(error: federation::Error) -> Response<ResponseBody> {
    use federation::Error;

    let message = error.to_string();
    match error {
        Error::NotAllowed => standard(StatusCode::FORBIDDEN, ErrorKind::Forbidden, message),
        Error::Status(status, Some(said)) if status.is_client_error() => {
            let (status, kind) = of_other_server(status, said.kind);
            standard(status, kind, message)
        }
        Error::NoMemory => busy(message),
        Error::TimedOut => standard(StatusCode::GATEWAY_TIMEOUT, ErrorKind::Unknown, message),
        Error::Disk(_) => {
            log::error!("{message}");
            internal_error()
        }
        Error::Unresolvable
        | Error::Unreachable(_)
        | Error::Status(..)
        | Error::Unsendable(_)
        | Error::InvalidResponse(_) => {
            standard(StatusCode::BAD_GATEWAY, ErrorKind::Unknown, message)
        }
    }
}

fn internal_error() -> Response<ResponseBody> {
    standard(
        StatusCode::INTERNAL_SERVER_ERROR,
        ErrorKind::Unknown,
        "internal error; the server's log has the reason",
    )
}

fn busy(message: impl Into<Cow<'static, str>>) -> Response<ResponseBody> {
    limit_exceeded(RETRY_AFTER, message)
}

fn limit_exceeded(
    retry_after: Duration,
    message: impl Into<Cow<'static, str>>,
) -> Response<ResponseBody> {
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

/// The status that most endpoints of the specification give with an error code. Clients look at the
/// code.
fn status(kind: &ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::MissingToken | ErrorKind::UnknownToken(_) | ErrorKind::Unauthorized => {
            StatusCode::UNAUTHORIZED
        }
        // As for an expired token with `soft_logout`.
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
) -> Response<ResponseBody> {
    let body = StandardErrorBody::new(kind, message.into().into_owned());
    encode(MatrixError::new(status, ErrorBody::Standard(body)))
}

pub(super) fn encode(response: impl OutgoingResponse) -> Response<ResponseBody> {
    let encoded = response
        .try_into_http_response_inner()
        .and_then(|response| {
            let (parts, body) = response.into_parts();
            let content_type = body.content_type();
            let body = body.try_into_buf().map_err(Into::into)?;
            Ok((parts, content_type, body))
        });
    to_response(encoded)
}

type Encoded = (Parts, Option<HeaderValue>, Vec<u8>);

/// The part of [`encode`] that is not generic, so that it is compiled once.
fn to_response(encoded: Result<Encoded, IntoHttpError>) -> Response<ResponseBody> {
    match encoded {
        Ok((mut parts, content_type, body)) => {
            if let Some(content_type) = content_type {
                let headers = &mut parts.headers;
                headers.entry(header::CONTENT_TYPE).or_insert(content_type);
            }
            Response::from_parts(parts, ResponseBody::from(body))
        }
        Err(error) => {
            log::error!("a response cannot be serialized: {error}");
            plain_internal_error()
        }
    }
}

/// [`internal_error`] without going through [`encode`], which has just failed.
fn plain_internal_error() -> Response<ResponseBody> {
    let body = br#"{"errcode":"M_UNKNOWN","error":"the response cannot be serialized"}"#;
    let mut response = Response::new(ResponseBody::from(body.to_vec()));
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// The error for a request that ruma cannot parse.
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

/// As serde words it.
fn is_missing(message: &str) -> bool {
    message.starts_with("missing field")
}
