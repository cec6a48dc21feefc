//! GET requests to the web, with redirects. The host of each redirect is resolved and must have an allowed
//! address.

use std::net::IpAddr;

use http::{Request, header};
use http_body_util::Full;
use hyper::body::Bytes;

use super::{
    connect::{StreamedResponse, open},
    web_url::{Scheme, WebUrl},
};
use crate::federation::{Error, discovery::hosts::Hosts};

const MAX_REDIRECTS: usize = 3;
/// Some web servers require one.
pub(super) const USER_AGENT: &str = concat!("hearth/", env!("CARGO_PKG_VERSION"));

/// What a URL and its redirects may lead to.
#[derive(Clone, Copy, Debug)]
pub struct Allowed {
    /// Whether connections without TLS are.
    pub http: bool,
    pub addresses: AllowedAddresses,
}

/// Which addresses a URL may lead to.
#[derive(Clone, Copy, Debug)]
pub enum AllowedAddresses {
    /// Those at which other servers may be.
    AsServers,
    /// Only those for which the function returns true, so that whoever chose the URL cannot reach the
    /// private network.
    Only(fn(IpAddr) -> bool),
}

/// Requests `url` and follows redirects. Returns the last URL and a successful response.
pub async fn get(
    hosts: &Hosts,
    mut url: WebUrl,
    allowed: Allowed,
) -> Result<(WebUrl, StreamedResponse), Error> {
    for _ in 0..=MAX_REDIRECTS {
        if url.scheme == Scheme::Http && !allowed.http {
            return Err(invalid("a URL of http where only https is allowed"));
        }
        let request = Request::get(&url.path)
            .header(header::USER_AGENT, USER_AGENT)
            .body(Full::<Bytes>::default());
        let request = request.map_err(invalid)?;
        let mut target = hosts.web_target(&url).await?;
        if let AllowedAddresses::Only(is_allowed) = allowed.addresses {
            target.addresses.retain(|address| is_allowed(address.ip()));
        }
        let connection = hosts.connector.connect(&target).await?;
        let response = open(connection, &target, request).await?;
        match response.head.status {
            status if status.is_success() => return Ok((url, response)),
            status if status.is_redirection() => {
                let location = response.head.headers.get(header::LOCATION);
                let location = location.and_then(|location| location.to_str().ok());
                let to = url.redirected(location.unwrap_or_default());
                url = to.ok_or_else(|| invalid("a redirect to something else than a web page"))?;
            }
            status => return Err(Error::Status(status, None)),
        }
    }
    Err(invalid("too many redirects"))
}

fn invalid(error: impl ToString) -> Error {
    Error::InvalidResponse(error.to_string().into())
}
