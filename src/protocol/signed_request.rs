//! What is signed of a request to another server.
//!
//! Source: server-server API, "Request Authentication".

use std::ops::Range;

use http::Request;
use ruma::ServerName;
use serde_json::json;

use super::canonical_text::{CanonicalTextError, append_request_text};

/// The text that is signed for a request.
pub struct SignedRequest {
    text: String,
    body: Range<usize>,
}

impl SignedRequest {
    pub fn new(
        request: &Request<impl AsRef<[u8]>>,
        origin: &ServerName,
        destination: &ServerName,
    ) -> Result<Self, CanonicalTextError> {
        let body = request.body().as_ref();
        let uri = request.uri().path_and_query();
        let head = format!(
            r#""destination":{},"method":{},"origin":{},"uri":{}}}"#,
            json!(destination),
            json!(request.method().as_str()),
            json!(origin),
            json!(uri.map_or("/", |uri| uri.as_str())),
        );
        let mut text = String::with_capacity(body.len() + head.len() + 16);
        text.push('{');
        let mut range = 0..0;
        if !body.is_empty() {
            text += r#""content":"#;
            let start = text.len();
            append_request_text(&mut text, body)?;
            range = start..text.len();
            text.push(',');
        }
        text += &head;
        Ok(Self { text, body: range })
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// The body as it is signed, and as it must be parsed: if it has a key twice, only the last value is
    /// signed.
    pub fn into_body(self) -> Vec<u8> {
        let mut body = self.text.into_bytes();
        body.truncate(self.body.end);
        body.drain(..self.body.start);
        body
    }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use ruma::{api::federation::authentication::XMatrix, server_name};

    use super::SignedRequest;

    #[test]
    fn the_text_is_the_canonical_json_of_the_request_object() {
        let (origin, destination) = (server_name!("a.example"), server_name!("b.example:8448"));
        for (method, uri, body) in [
            ("GET", "/_matrix/federation/v1/event/$x?a=%22&b", ""),
            (
                "PUT",
                "/_matrix/federation/v1/send/1",
                r#"{ "b": ["ü\u0041"], "a": -1 }"#,
            ),
            ("POST", "/", "[1, 2]"),
        ] {
            let request = Request::builder().method(method).uri(uri);
            let request = request.body(body.as_bytes()).unwrap();
            let signed = SignedRequest::new(&request, origin, destination).unwrap();
            let expected = XMatrix::request_object(&request, origin, destination).unwrap();
            assert_eq!(signed.text(), serde_json::to_string(&expected).unwrap());
            let body = expected.get("content").map(ToString::to_string);
            assert_eq!(signed.into_body(), body.unwrap_or_default().into_bytes());
        }
    }
}
