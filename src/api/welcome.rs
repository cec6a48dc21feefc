//! `GET /`: a page for the person who opens the server's address in a browser.

use http::header;
use ruma::api::{
    IncomingRequest,
    auth_scheme::NoAuthentication,
    error::{DeserializationError, Error as MatrixError},
    metadata,
};
use serde_json::json;

use super::{Api, Error, Unauthenticated, text::Text};
use crate::config::Registration;

#[derive(Clone, Copy, Debug)]
pub struct Request {
    accepts_html: bool,
}

metadata! {
    method: GET,
    rate_limited: true,
    authentication: NoAuthentication,
    path: "/",
}

impl IncomingRequest for Request {
    type EndpointError = MatrixError;
    type OutgoingResponse = Text;

    fn try_from_http_request_inner(
        request: http::Request<&[u8]>,
        _path_arguments: &[&str],
    ) -> Result<Self, DeserializationError> {
        let accept = request.headers().get(header::ACCEPT);
        let accept = accept.and_then(|accept| accept.to_str().ok());
        Ok(Self {
            accepts_html: accept.is_some_and(|accept| accept.contains("text/html")),
        })
    }
}

/// `GET /`: HTML, or JSON for who does not accept HTML.
pub async fn welcome(api: Api, _client: Unauthenticated, request: Request) -> Result<Text, Error> {
    let name = &api.config.server_name;
    if !request.accepts_html {
        let about = json!({ "server": "hearth", "server_name": name });
        return Ok(Text {
            content_type: "application/json",
            body: about.to_string(),
        });
    }
    let accounts = match api.config.registration {
        Registration::Open => "You can make an account here.",
        Registration::Token(_) => "You can make an account here with the token of the owner.",
        Registration::Closed => "Accounts are made by the owner.",
    };
    // A server name has no character that is special in HTML.
    Ok(Text {
        content_type: "text/html; charset=utf-8",
        body: format!(
            "<!DOCTYPE html><html lang=en><meta charset=utf-8>\
             <meta name=viewport content=\"width=device-width\"><title>{name}</title>\
             <h1>{name}</h1><p>This is a Matrix server: people chat here with an app, with each \
             other and with people on other servers. {accounts}</p>\
             <p>To begin, choose <a href=\"https://matrix.org/ecosystem/clients/\">an app</a> and \
             enter <b>{name}</b> as its homeserver.</p></html>"
        ),
    })
}
