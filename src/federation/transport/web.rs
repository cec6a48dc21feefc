//! GET requests by https, with redirects. The host of each redirect is resolved and must have an allowed
//! address.

use std::net::IpAddr;

use http::{Request, Uri, header};
use http_body_util::Full;
use hyper::body::Bytes;

use super::connect::{StreamedResponse, open};
use crate::federation::{Error, discovery::hosts::Hosts};

const MAX_REDIRECTS: usize = 3;
const USER_AGENT: &str = concat!("hearth/", env!("CARGO_PKG_VERSION"));

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpsUrl {
    pub host: String,
    pub port: Option<u16>,
    pub path: String,
}

impl HttpsUrl {
    pub fn parse(url: &str) -> Option<Self> {
        let empty = Self {
            host: String::new(),
            port: None,
            path: String::new(),
        };
        let url = empty.redirected(url)?;
        (!url.host.is_empty()).then_some(url)
    }

    /// The URL that `location` means in a redirect from this one.
    pub fn redirected(&self, location: &str) -> Option<Self> {
        let location: Uri = location.parse().ok()?;
        let path = location.path_and_query();
        let path = path.map_or("/", |path| path.as_str()).to_owned();
        match location.authority() {
            Some(authority) if location.scheme_str() == Some("https") => Some(Self {
                host: authority.host().to_owned(),
                port: authority.port_u16(),
                path,
            }),
            None if path.starts_with('/') && !path.starts_with("//") => Some(Self {
                path,
                ..self.clone()
            }),
            _ => None,
        }
    }
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
    mut url: HttpsUrl,
    allowed: AllowedAddresses,
) -> Result<(HttpsUrl, StreamedResponse), Error> {
    for _ in 0..=MAX_REDIRECTS {
        // Some web servers require a user agent.
        let request = Request::get(&url.path)
            .header(header::USER_AGENT, USER_AGENT)
            .body(Full::<Bytes>::default());
        let request = request.map_err(invalid)?;
        let mut target = hosts.web_target(&url.host, url.port).await?;
        if let AllowedAddresses::Only(is_allowed) = allowed {
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
                url = to.ok_or_else(|| invalid("a redirect to something else than https"))?;
            }
            status => return Err(Error::Status(status, None)),
        }
    }
    Err(invalid("too many redirects"))
}

fn invalid(error: impl ToString) -> Error {
    Error::InvalidResponse(error.to_string().into())
}

#[cfg(test)]
mod tests {
    use super::HttpsUrl;

    #[test]
    fn redirects_lead_to_https_alone() {
        let url = |host: &str, port, path: &str| HttpsUrl {
            host: host.to_owned(),
            port,
            path: path.to_owned(),
        };
        let from = url("a.example", None, "/");
        for (location, to) in [
            ("https://b.example/c?d", url("b.example", None, "/c?d")),
            ("https://b.example:80", url("b.example", Some(80), "/")),
            ("https://u:p@b.example/c", url("b.example", None, "/c")),
            ("https://[::1]:8/c", url("[::1]", Some(8), "/c")),
            ("/c", url("a.example", None, "/c")),
        ] {
            assert_eq!(from.redirected(location), Some(to), "{location}");
        }
        for location in [
            "http://b.example/c",
            "ftp://b.example",
            "//b.example/c",
            "",
            "b",
        ] {
            assert_eq!(from.redirected(location), None, "{location}");
        }
        assert_eq!(HttpsUrl::parse("/c"), None);
    }
}
