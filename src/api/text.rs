//! Responses that are no JSON.

use http::{HeaderValue, header};
use ruma::api::{BytesBody, OutgoingResponse, error::IntoHttpError};

/// A page or a plain text.
#[derive(Clone, Debug)]
pub struct Text {
    pub content_type: &'static str,
    pub body: String,
}

impl OutgoingResponse for Text {
    type Body = BytesBody;

    fn try_into_http_response_inner(self) -> Result<http::Response<BytesBody>, IntoHttpError> {
        let mut response = http::Response::new(BytesBody(self.body.into_bytes()));
        let content_type = HeaderValue::from_static(self.content_type);
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, content_type);
        Ok(response)
    }
}
