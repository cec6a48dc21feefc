//! Requests of this server to itself, by which it learns what a proxy in front does to them.

use ruma::api::{
    EmptyBody, IncomingRequest, OutgoingResponse,
    auth_scheme::NoAuthentication,
    error::{DeserializationError, Error as MatrixError, IntoHttpError},
    metadata,
};

use super::{Api, Error, Streamed, Unauthenticated, Upload};
use crate::doctor::Echo;

/// More is not read.
const MAX_BYTES: u64 = 16 << 20;

/// `PUT …/hearth.doctor/{nonce}/{text}`
#[derive(Clone, Debug)]
pub struct Request {
    nonce: String,
    path: String,
    forwarded_for: Option<String>,
}

metadata! {
    method: PUT,
    rate_limited: true,
    authentication: NoAuthentication,
    path: "/_matrix/client/unstable/hearth.doctor/{nonce}/{text}",
}

impl IncomingRequest for Request {
    type EndpointError = MatrixError;
    type OutgoingResponse = NoResponse;

    fn try_from_http_request_inner(
        request: http::Request<&[u8]>,
        path_arguments: &[&str],
    ) -> Result<Self, DeserializationError> {
        let forwarded = request.headers().get_all("x-forwarded-for").iter();
        let forwarded: Vec<_> = forwarded.filter_map(|value| value.to_str().ok()).collect();
        Ok(Self {
            nonce: path_arguments
                .first()
                .copied()
                .unwrap_or_default()
                .to_owned(),
            path: request.uri().path().to_owned(),
            forwarded_for: (!forwarded.is_empty()).then(|| forwarded.join(", ")),
        })
    }
}

/// The handler returns [`Streamed`] instead.
#[derive(Clone, Copy, Debug)]
pub struct NoResponse;

impl OutgoingResponse for NoResponse {
    type Body = EmptyBody<false>;

    fn try_into_http_response_inner(self) -> Result<http::Response<Self::Body>, IntoHttpError> {
        Ok(http::Response::new(EmptyBody))
    }
}

/// What arrived, for whoever knows the nonce of the check that is under way.
pub async fn echo(
    api: Api,
    client: Unauthenticated,
    request: Request,
    mut upload: Upload,
) -> Result<Streamed, Error> {
    if !api.doctor.nonce.is(&request.nonce) {
        return Err(Error::not_found("no check of this server is under way"));
    }
    let mut body_bytes = 0;
    while let Some(piece) = upload.next().await? {
        body_bytes += piece.len() as u64;
        if body_bytes > MAX_BYTES {
            return Err(Error::invalid_param("the body is too large"));
        }
    }
    Streamed::json(&Echo {
        path: request.path,
        body_bytes,
        client: client.address,
        forwarded_for: request.forwarded_for,
    })
}
