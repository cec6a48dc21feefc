//! URLs of the web, and where redirects lead.

use http::Uri;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebUrl {
    pub scheme: Scheme,
    pub host: String,
    pub port: Option<u16>,
    pub path: String,
}

impl WebUrl {
    pub fn parse(url: &str) -> Option<Self> {
        let empty = Self {
            scheme: Scheme::Https,
            host: String::new(),
            port: None,
            path: String::new(),
        };
        let url = empty.redirected(url)?;
        (!url.host.is_empty()).then_some(url)
    }

    /// The port, which depends on the scheme if the URL has none.
    pub fn port_or_default(&self) -> u16 {
        self.port.unwrap_or(match self.scheme {
            Scheme::Http => 80,
            Scheme::Https => 443,
        })
    }

    /// Scheme, host and port.
    pub fn origin(&self) -> String {
        let (scheme, port) = (self.scheme.as_str(), self.port_or_default());
        format!("{scheme}://{}:{port}", self.host.to_ascii_lowercase())
    }

    /// The URL that `location` means in a redirect from this one.
    pub fn redirected(&self, location: &str) -> Option<Self> {
        let location: Uri = location.parse().ok()?;
        let path = location.path_and_query();
        let path = path.map_or("/", |path| path.as_str()).to_owned();
        let scheme = match location.scheme_str() {
            Some("http") => Some(Scheme::Http),
            Some("https") => Some(Scheme::Https),
            _ => None,
        };
        match location.authority() {
            Some(authority) => Some(Self {
                scheme: scheme?,
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

#[cfg(test)]
mod tests {
    use super::{Scheme, WebUrl};

    #[test]
    fn redirects_lead_to_the_web_alone() {
        let url = |host: &str, port, path: &str| WebUrl {
            scheme: Scheme::Https,
            host: host.to_owned(),
            port,
            path: path.to_owned(),
        };
        let from = url("a.example", None, "/");
        let plain = WebUrl {
            scheme: Scheme::Http,
            ..url("b.example", None, "/c")
        };
        for (location, to) in [
            ("https://b.example/c?d", url("b.example", None, "/c?d")),
            ("https://b.example:80", url("b.example", Some(80), "/")),
            ("https://u:p@b.example/c", url("b.example", None, "/c")),
            ("https://[::1]:8/c", url("[::1]", Some(8), "/c")),
            ("/c", url("a.example", None, "/c")),
            ("http://b.example/c", plain),
        ] {
            assert_eq!(from.redirected(location), Some(to), "{location}");
        }
        for location in ["ftp://b.example", "//b.example/c", "", "b"] {
            assert_eq!(from.redirected(location), None, "{location}");
        }
        assert_eq!(WebUrl::parse("/c"), None);
    }
}
