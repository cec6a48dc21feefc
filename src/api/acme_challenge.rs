//! Answers to an ACME authority that connects without TLS.

use http::{HeaderValue, header};
use ruma::api::{
    BytesBody, IncomingRequest, OutgoingResponse,
    auth_scheme::NoAuthentication,
    error::{DeserializationError, Error as MatrixError, IntoHttpError},
    metadata,
};

use super::{Api, Error, Unauthenticated};

/// `GET /.well-known/acme-challenge/{token}`
///
/// Source: RFC 8555, section 8.3.
#[derive(Clone, Debug)]
pub struct Request {
    token: String,
}

metadata! {
    method: GET,
    rate_limited: true,
    authentication: NoAuthentication,
    path: "/.well-known/acme-challenge/{token}",
}

#[derive(Clone, Debug)]
pub struct Response {
    key_authorization: String,
}

impl IncomingRequest for Request {
    type EndpointError = MatrixError;
    type OutgoingResponse = Response;

    fn try_from_http_request_inner(
        _request: http::Request<&[u8]>,
        path_arguments: &[&str],
    ) -> Result<Self, DeserializationError> {
        let token = path_arguments.first().copied().unwrap_or_default();
        Ok(Self {
            token: token.to_owned(),
        })
    }
}

impl OutgoingResponse for Response {
    type Body = BytesBody;

    fn try_into_http_response_inner(self) -> Result<http::Response<BytesBody>, IntoHttpError> {
        let body = BytesBody(self.key_authorization.into_bytes());
        let mut response = http::Response::new(body);
        let content_type = HeaderValue::from_static("application/octet-stream");
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, content_type);
        Ok(response)
    }
}

/// `GET /.well-known/acme-challenge/{token}`
pub async fn get_challenge(
    api: Api,
    _client: Unauthenticated,
    request: Request,
) -> Result<Response, Error> {
    let acme = api.acme.as_ref();
    let key_authorization = acme.and_then(|acme| acme.http_challenge(&request.token));
    let key_authorization =
        key_authorization.ok_or_else(|| Error::not_found("no such challenge"))?;
    Ok(Response { key_authorization })
}
