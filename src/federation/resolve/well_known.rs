//! What a domain says of where its server is: `.well-known/matrix/server`.

use std::time::Duration;

use http::{HeaderMap, Request, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::body::Bytes;
use ruma::{OwnedServerName, ServerName};
use serde::Deserialize;

use super::search::Search;
use crate::federation::{
    Error,
    connect::{Limits, exchange, in_time},
};

const PATH: &str = "/.well-known/matrix/server";
/// How often a domain may send us elsewhere.
const REDIRECTS: usize = 3;
/// What one answer may take, and all of them together.
const LIMITS: Limits = Limits {
    time: Duration::from_secs(10),
    size: 16 * 1024,
};
/// How long an answer holds that does not say, and the least and the most that one can say.
const HOLDS: Duration = Duration::from_hours(24);
const HOLDS_AT_LEAST: Duration = Duration::from_mins(5);
const HOLDS_AT_MOST: Duration = Duration::from_hours(48);

/// What a domain says.
#[derive(Debug)]
pub enum WellKnown {
    /// Its server has another name, for so long.
    Delegates(OwnedServerName, Duration),
    /// Nothing of use.
    Nothing,
    /// It cannot be asked.
    Silence,
}

/// Asks the domain of the server `name`.
pub async fn ask(search: &Search, name: &ServerName) -> WellKnown {
    let asked = in_time(LIMITS.time, Box::pin(fetch(search, name)))
        .await
        .flatten();
    match asked {
        Ok((delegated, holds)) => WellKnown::Delegates(delegated, holds),
        Err(error) => {
            log::debug!("{name} has no .well-known: {error}");
            match error {
                Error::Nonsense(_) => WellKnown::Nothing,
                Error::Status(status, _) if !status.is_server_error() => WellKnown::Nothing,
                _ => WellKnown::Silence,
            }
        }
    }
}

#[derive(Deserialize)]
struct Body {
    #[serde(rename = "m.server")]
    server: OwnedServerName,
}

async fn fetch(search: &Search, name: &ServerName) -> Result<(OwnedServerName, Duration), Error> {
    let mut place = Place {
        host: name.host().to_owned(),
        port: None,
        path: PATH.to_owned(),
    };
    for _ in 0..=REDIRECTS {
        let request = Request::get(&place.path).body(Full::<Bytes>::default());
        let request = request.map_err(nonsense)?;
        let target = search.web_host(&place.host, place.port).await?;
        let mut connection = search.connector().connect(&target).await?;
        let answer = exchange(&mut connection, &target, request, LIMITS).await?;
        match answer.status() {
            StatusCode::OK => {
                let body: Body = serde_json::from_slice(answer.body()).map_err(nonsense)?;
                return Ok((body.server, holds(answer.headers())));
            }
            status if status.is_redirection() => {
                let location = answer.headers().get(header::LOCATION);
                let location = location.and_then(|location| location.to_str().ok());
                place = place
                    .redirected(location.unwrap_or_default())
                    .ok_or_else(|| nonsense("a redirect to nowhere"))?;
            }
            status => return Err(Error::Status(status, None)),
        }
    }
    Err(nonsense("too many redirects"))
}

fn nonsense(error: impl ToString) -> Error {
    Error::Nonsense(error.to_string())
}

/// Where something is on the web, by `https`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    host: String,
    port: Option<u16>,
    path: String,
}

impl Place {
    /// Where `location` leads from here: to another host, or another path.
    fn redirected(&self, location: &str) -> Option<Self> {
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

/// How long an answer with these headers holds.
fn holds(headers: &HeaderMap) -> Duration {
    let control = headers.get_all(header::CACHE_CONTROL).iter();
    let control = control.filter_map(|value| value.to_str().ok());
    let mut says = None;
    for directive in control.flat_map(|value| value.split(',')) {
        let directive = directive.trim().to_ascii_lowercase();
        match directive.split_once('=') {
            Some(("max-age", seconds)) => {
                says = seconds
                    .trim_matches('"')
                    .parse()
                    .ok()
                    .map(Duration::from_secs)
                    .or(says);
            }
            None if directive == "no-store" || directive == "no-cache" => {
                return HOLDS_AT_LEAST;
            }
            _ => {}
        }
    }
    says.unwrap_or(HOLDS).clamp(HOLDS_AT_LEAST, HOLDS_AT_MOST)
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, header::CACHE_CONTROL};

    use super::{HOLDS, HOLDS_AT_LEAST, HOLDS_AT_MOST, Place, holds};

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
    }

    #[test]
    fn an_answer_holds_as_long_as_it_says_within_reason() {
        let says = |text: &str| {
            let value = text.parse().expect("a header");
            holds(&HeaderMap::from_iter([(CACHE_CONTROL, value)]))
        };
        assert_eq!(holds(&HeaderMap::new()), HOLDS);
        assert_eq!(says("public, max-age=7200").as_secs(), 7200);
        assert_eq!(says("max-age=1"), HOLDS_AT_LEAST);
        assert_eq!(says("no-store, max-age=7200"), HOLDS_AT_LEAST);
        assert_eq!(says("max-age=99999999"), HOLDS_AT_MOST);
        assert_eq!(says("max-age=soon"), HOLDS);
    }
}
