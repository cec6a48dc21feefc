use std::fmt;

use http::Uri;
use serde::{Deserialize, Deserializer, de};

/// The address under which clients reach the server, without a slash at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicUrl(String);

impl PublicUrl {
    /// An IPv6 address has its brackets.
    pub fn host(&self) -> Option<&str> {
        let (_, rest) = self.0.split_once("://")?;
        let authority = rest.split('/').next()?;
        match authority.strip_prefix('[').and_then(|rest| rest.find(']')) {
            Some(end) => authority.get(..end + 2),
            None => authority.split(':').next(),
        }
    }

    /// The host and port, if it is `https` without a path.
    pub fn tls_authority(&self) -> Option<String> {
        let authority = self.0.strip_prefix("https://")?;
        let uri: Uri = self.0.parse().ok()?;
        (uri.path() == "/").then(|| match uri.port() {
            Some(_) => authority.to_owned(),
            None => format!("{authority}:443"),
        })
    }
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for PublicUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let uri: Uri = text.parse().map_err(de::Error::custom)?;
        let is_web = matches!(uri.scheme_str(), Some("http" | "https"));
        if !is_web
            || text.contains(['#', '@'])
            || uri.host().is_none_or(str::is_empty)
            || uri.query().is_some()
        {
            return Err(de::Error::custom("not the address of a server"));
        }
        Ok(Self(text.trim_end_matches('/').to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Settings;

    #[test]
    fn the_address_is_that_of_a_web_server() {
        let read = |url: &str| {
            let settings = Settings::parse(&format!("public_url = \"{url}\"")).ok();
            settings.and_then(|settings| settings.public_url)
        };
        let shown = read("https://matrix.example.org/").map(|url| url.to_string());
        assert_eq!(shown.as_deref(), Some("https://matrix.example.org"));
        assert!(read("http://10.0.0.2:8008/matrix").is_some());
        for (url, host) in [
            ("https://matrix.example.org:8448/a", "matrix.example.org"),
            ("https://[2001:db8::1]:443", "[2001:db8::1]"),
            ("http://10.0.0.2", "10.0.0.2"),
        ] {
            assert_eq!(read(url).unwrap().host(), Some(host));
        }
        for wrong in [
            "example.org",
            "ftp://example.org",
            "https://",
            "/a",
            "https://a?b",
            "https://a/#b",
            "https://u:p@a",
        ] {
            assert!(read(wrong).is_none(), "{wrong}");
        }
    }
}
