//! The health check.

use ruma::api::{
    EmptyBody, IncomingRequest, OutgoingResponse,
    auth_scheme::NoAuthentication,
    error::{DeserializationError, Error as MatrixError, IntoHttpError},
    metadata,
};

use super::{Api, Error, Unauthenticated};
use crate::store::{Reader, Rows};

/// `GET /health`: not in the specification, but at Synapse's path, where monitoring looks for it.
#[derive(Clone, Copy, Debug)]
pub struct Request;

metadata! {
    method: GET,
    rate_limited: false,
    authentication: NoAuthentication,
    path: "/health",
}

/// 200 and an empty object if the database can be read.
#[derive(Clone, Copy, Debug)]
pub struct Response;

impl IncomingRequest for Request {
    type EndpointError = MatrixError;
    type OutgoingResponse = Response;

    fn try_from_http_request_inner(
        _request: http::Request<&[u8]>,
        _path_args: &[&str],
    ) -> Result<Self, DeserializationError> {
        Ok(Self)
    }
}

impl OutgoingResponse for Response {
    type Body = EmptyBody<false>;

    fn try_into_http_response_inner(self) -> Result<http::Response<Self::Body>, IntoHttpError> {
        Ok(http::Response::new(EmptyBody))
    }
}

/// `GET /health`
pub async fn health(
    api: Api,
    _client: Unauthenticated,
    _request: Request,
) -> Result<Response, Error> {
    api.store
        .read(|s| s.facts()?.get("server_name").map(drop))?;
    Ok(Response)
}
