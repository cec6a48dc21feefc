//! The web, by `https`: where something is, and how it is fetched. Each host on the way, also behind a
//! redirect, is looked up and must be at an address that everybody knows.

use std::net::IpAddr;

use http::{Request, Uri, header};
use http_body_util::Full;
use hyper::body::Bytes;

use super::connect::{Answer, open};
use crate::federation::{Error, discovery::resolver::Search};

/// How often one may be sent elsewhere.
const REDIRECTS: usize = 3;
const AGENT: &str = concat!("hearth/", env!("CARGO_PKG_VERSION"));

/// Where something is on the web, by `https`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub host: String,
    pub port: Option<u16>,
    pub path: String,
}

impl Place {
    /// What `url` names.
    pub fn of(url: &str) -> Option<Self> {
        let nowhere = Self {
            host: String::new(),
            port: None,
            path: String::new(),
        };
        let place = nowhere.redirected(url)?;
        (!place.host.is_empty()).then_some(place)
    }

    /// Where `location` leads from here: to another host, or another path.
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

/// Where something may be.
#[derive(Clone, Copy, Debug)]
pub enum Reach {
    /// Wherever other servers may be.
    AsServers,
    /// Nowhere but at such addresses: it is not for the one who names it to make this server ask what
    /// only this server can.
    Only(fn(IpAddr) -> bool),
}

/// Asks for what is at `place`, or wherever that leads, which is returned too. The answer is a good one.
pub async fn get(
    search: &Search,
    mut place: Place,
    reach: Reach,
) -> Result<(Place, Answer), Error> {
    for _ in 0..=REDIRECTS {
        // There are those who do not answer one who does not say what it is.
        let request = Request::get(&place.path)
            .header(header::USER_AGENT, AGENT)
            .body(Full::<Bytes>::default());
        let request = request.map_err(nonsense)?;
        let mut target = search.web_host(&place.host, place.port).await?;
        if let Reach::Only(may_be) = reach {
            target.addresses.retain(|address| may_be(address.ip()));
        }
        let connection = search.connector().connect(&target).await?;
        let answer = open(connection, &target, request).await?;
        match answer.head.status {
            status if status.is_success() => return Ok((place, answer)),
            status if status.is_redirection() => {
                let location = answer.head.headers.get(header::LOCATION);
                let location = location.and_then(|location| location.to_str().ok());
                let to = place.redirected(location.unwrap_or_default());
                place = to.ok_or_else(|| nonsense("a redirect to nowhere"))?;
            }
            status => return Err(Error::Status(status, None)),
        }
    }
    Err(nonsense("too many redirects"))
}

fn nonsense(error: impl ToString) -> Error {
    Error::Nonsense(error.to_string().into())
}

#[cfg(test)]
mod tests {
    use super::Place;

    #[test]
    fn redirects_lead_to_https_alone() {
        let place = |host: &str, port, path: &str| Place {
            host: host.to_owned(),
            port,
            path: path.to_owned(),
        };
        let from = place("a.example", None, "/");
        for (location, to) in [
            ("https://b.example/c?d", place("b.example", None, "/c?d")),
            ("https://b.example:80", place("b.example", Some(80), "/")),
            ("https://u:p@b.example/c", place("b.example", None, "/c")),
            ("https://[::1]:8/c", place("[::1]", Some(8), "/c")),
            ("/c", place("a.example", None, "/c")),
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
        assert_eq!(Place::of("/c"), None);
    }
}
