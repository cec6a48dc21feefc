//! CORS headers for clients in a browser: [Web Browser Clients].
//!
//! [Web Browser Clients]: https://spec.matrix.org/v1.19/client-server-api/#web-browser-clients

use http::{HeaderMap, HeaderValue, header};

/// Browsers may cache the response to a preflight for a day.
const MAX_AGE: HeaderValue = HeaderValue::from_static("86400");

pub(super) fn allow(headers: &mut HeaderMap) {
    let fixed = HeaderValue::from_static;
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, fixed("*"));
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_METHODS,
        fixed("GET, POST, PUT, DELETE, OPTIONS"),
    );
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        fixed("X-Requested-With, Content-Type, Authorization"),
    );
}

pub(super) fn preflight(headers: &mut HeaderMap) {
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
}
