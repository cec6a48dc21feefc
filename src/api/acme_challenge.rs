//! Answers to an ACME authority that connects without TLS.

use ruma::api::{
    IncomingRequest,
    auth_scheme::NoAuthentication,
    error::{DeserializationError, Error as MatrixError},
    metadata,
};

use super::{Api, Error, Unauthenticated, text::Text};

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

impl IncomingRequest for Request {
    type EndpointError = MatrixError;
    type OutgoingResponse = Text;

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

/// `GET /.well-known/acme-challenge/{token}`
pub async fn get_challenge(
    api: Api,
    _client: Unauthenticated,
    request: Request,
) -> Result<Text, Error> {
    let acme = api.acme.as_ref();
    let key_authorization = acme.and_then(|acme| acme.http_challenge(&request.token));
    let key_authorization =
        key_authorization.ok_or_else(|| Error::not_found("no such challenge"))?;
    Ok(Text {
        content_type: "application/octet-stream",
        body: key_authorization,
    })
}
