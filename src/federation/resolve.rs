//! From a server's name to where it is: [server-server API, "Resolving server names"].
//!
//! [server-server API, "Resolving server names"]: https://spec.matrix.org/v1.19/server-server-api/#resolving-server-names

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{HeaderMap, Request, Uri, header};
use http_body_util::Full;
use hyper::body::Bytes;
use ruma::{OwnedServerName, ServerName};
use serde::Deserialize;

use super::{
    Error,
    connect::{Connector, Limits, Target, exchange},
};
use crate::clock::Clock;

/// The port of a server whose name has none.
const PORT: u16 = 8448;
const WELL_KNOWN: &str = "/.well-known/matrix/server";
/// How often a server may send us elsewhere for its `.well-known`.
const REDIRECTS: usize = 3;
const WELL_KNOWN_LIMITS: Limits = Limits {
    time: Duration::from_secs(10),
    size: 16 * 1024,
};
/// How long an answer holds that does not say, and the least and the most that one can say.
const HOLDS: Duration = Duration::from_hours(24);
const HOLDS_AT_LEAST: Duration = Duration::from_mins(5);
const HOLDS_AT_MOST: Duration = Duration::from_hours(48);
/// How long it holds that there is none.
const NONE_HOLDS: Duration = Duration::from_hours(1);
/// How many servers' answers are remembered.
const REMEMBERED: usize = 1000;

/// Finds servers.
pub struct Resolver {
    connector: Arc<Connector>,
    clock: Clock,
    /// What `.well-known` said of each name, and until when that holds, in milliseconds since the
    /// epoch.
    delegations: Mutex<HashMap<OwnedServerName, (Option<OwnedServerName>, u64)>>,
}

impl Resolver {
    /// A resolver that asks through `connector`.
    pub fn new(connector: Arc<Connector>, clock: Clock) -> Self {
        Self {
            connector,
            clock,
            delegations: Mutex::default(),
        }
    }

    /// Where the server `name` is.
    pub async fn resolve(&self, name: &ServerName) -> Result<Target, Error> {
        if let Some(target) = complete(name) {
            return Ok(target);
        }
        match self.delegation(name).await {
            Some(delegated) => Ok(complete(&delegated).unwrap_or_else(|| by_default(&delegated))),
            None => Ok(by_default(name)),
        }
    }

    /// The name to which `name` delegates.
    async fn delegation(&self, name: &ServerName) -> Option<OwnedServerName> {
        let now = self.clock.now_ms();
        {
            let known = self.delegations.lock();
            let known = known.unwrap_or_else(PoisonError::into_inner);
            if let Some((delegated, until)) = known.get(name)
                && now < *until
            {
                return delegated.clone();
            }
        }
        let (delegated, holds) = match self.well_known(name).await {
            Ok((delegated, holds)) => (Some(delegated), holds),
            Err(error) => {
                log::debug!("{name} has no .well-known: {error}");
                (None, NONE_HOLDS)
            }
        };
        let mut known = self
            .delegations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.retain(|_, (_, until)| now < *until);
            if known.len() >= REMEMBERED {
                known.clear();
            }
        }
        let holds = u64::try_from(holds.as_millis()).unwrap_or(u64::MAX);
        let until = now.saturating_add(holds);
        known.insert(name.to_owned(), (delegated.clone(), until));
        delegated
    }

    async fn well_known(&self, name: &ServerName) -> Result<(OwnedServerName, Duration), Error> {
        let mut target = at(name.host(), 443, name.host());
        let mut path = WELL_KNOWN.to_owned();
        for _ in 0..=REDIRECTS {
            let request = Request::get(&path).body(Full::<Bytes>::default());
            let request = request.map_err(nonsense)?;
            let mut connection = self.connector.connect(&target).await?;
            let answer = exchange(&mut connection, &target, request, WELL_KNOWN_LIMITS).await?;
            if answer.status().is_redirection() {
                let location = answer.headers().get(header::LOCATION);
                let location = location.and_then(|location| location.to_str().ok());
                (target, path) = redirected(location.unwrap_or_default(), &target)
                    .ok_or_else(|| nonsense("a redirect to nowhere"))?;
                continue;
            }
            if !answer.status().is_success() {
                return Err(Error::Status(answer.status(), None));
            }
            #[derive(Deserialize)]
            struct WellKnown {
                #[serde(rename = "m.server")]
                server: OwnedServerName,
            }
            let found: WellKnown = serde_json::from_slice(answer.body()).map_err(nonsense)?;
            return Ok((found.server, holds(answer.headers())));
        }
        Err(nonsense("too many redirects"))
    }
}

fn nonsense(error: impl ToString) -> Error {
    Error::Nonsense(error.to_string())
}

/// Where a name leads that needs no looking up: an address, or one with a port.
fn complete(name: &ServerName) -> Option<Target> {
    if !name.is_ip_literal() && name.port().is_none() {
        return None;
    }
    Some(at(name.host(), name.port().unwrap_or(PORT), name.as_str()))
}

fn by_default(name: &ServerName) -> Target {
    at(name.host(), PORT, name.host())
}

fn at(host: &str, port: u16, authority: &str) -> Target {
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    Target {
        tls_name: host.clone(),
        host,
        port,
        authority: authority.to_owned(),
    }
}

/// Where `location` leads from `target`: to another host, or another path there.
fn redirected(location: &str, target: &Target) -> Option<(Target, String)> {
    let location: Uri = location.parse().ok()?;
    let path = location
        .path_and_query()
        .map_or("/", |path| path.as_str())
        .to_owned();
    match location.authority() {
        Some(authority) if location.scheme_str() == Some("https") => {
            let port = authority.port_u16().unwrap_or(443);
            Some((at(authority.host(), port, authority.as_str()), path))
        }
        Some(_) => None,
        None if path.starts_with('/') => Some((target.clone(), path)),
        None => None,
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
    use ruma::server_name;

    use super::{
        HOLDS, HOLDS_AT_LEAST, HOLDS_AT_MOST, at, by_default, complete, holds, redirected,
    };

    #[test]
    fn a_name_that_is_an_address_or_has_a_port_says_it_all() {
        for (name, host, port) in [
            (server_name!("1.2.3.4"), "1.2.3.4", 8448),
            (server_name!("1.2.3.4:80"), "1.2.3.4", 80),
            (server_name!("[2001:db8::1]"), "2001:db8::1", 8448),
            (server_name!("[2001:db8::1]:80"), "2001:db8::1", 80),
            (server_name!("a.example:80"), "a.example", 80),
        ] {
            assert_eq!(
                complete(name),
                Some(at(host, port, name.as_str())),
                "{name}"
            );
        }
        assert_eq!(complete(server_name!("a.example")), None);
    }

    #[test]
    fn a_name_without_a_word_of_where_it_leads_is_at_the_usual_port() {
        let name = server_name!("a.example");
        assert_eq!(by_default(name), at("a.example", 8448, "a.example"));
    }

    #[test]
    fn redirects_lead_to_https_alone() {
        let from = at("a.example", 443, "a.example");
        assert_eq!(
            redirected("https://b.example/c?d", &from),
            Some((at("b.example", 443, "b.example"), "/c?d".to_owned()))
        );
        assert_eq!(
            redirected("/c", &from),
            Some((from.clone(), "/c".to_owned()))
        );
        for location in ["http://b.example/c", "ftp://b.example", "", "b"] {
            assert_eq!(redirected(location, &from), None, "{location}");
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
