//! `/.well-known/matrix/server`.

use std::time::Duration;

use http::{HeaderMap, header};
use ruma::{OwnedServerName, ServerName};
use serde::Deserialize;

use crate::federation::{
    Error,
    discovery::hosts::Hosts,
    transport::{
        connect::with_timeout,
        web::{self, Allowed, AllowedAddresses},
        web_url::{Scheme, WebUrl},
    },
};

const PATH: &str = "/.well-known/matrix/server";
const TIMEOUT: Duration = Duration::from_secs(10);
const MAX_BYTES: usize = 16 * 1024;
/// For how long a response is cached whose headers do not say it, and the bounds of what they can say.
const DEFAULT_TTL: Duration = Duration::from_hours(24);
const MIN_TTL: Duration = Duration::from_mins(5);
const MAX_TTL: Duration = Duration::from_hours(48);

#[derive(Debug)]
pub enum WellKnown {
    /// To this server name, which is cached for so long.
    Delegates(OwnedServerName, Duration),
    /// There is no valid response.
    None,
    Unreachable,
}

pub async fn fetch(hosts: &Hosts, name: &ServerName) -> WellKnown {
    let response = with_timeout(TIMEOUT, Box::pin(request(hosts, name)))
        .await
        .flatten();
    match response {
        Ok((delegated, ttl)) => WellKnown::Delegates(delegated, ttl),
        Err(error) => {
            log::debug!("{name} has no usable /.well-known/matrix/server: {error}");
            match error {
                Error::InvalidResponse(_) => WellKnown::None,
                Error::Status(status, _) if !status.is_server_error() => WellKnown::None,
                _ => WellKnown::Unreachable,
            }
        }
    }
}

#[derive(Deserialize)]
struct Body {
    #[serde(rename = "m.server")]
    server: OwnedServerName,
}

async fn request(hosts: &Hosts, name: &ServerName) -> Result<(OwnedServerName, Duration), Error> {
    let url = WebUrl {
        scheme: Scheme::Https,
        host: name.host().to_owned(),
        port: None,
        path: PATH.to_owned(),
    };
    let allowed = Allowed {
        http: false,
        addresses: AllowedAddresses::AsServers,
    };
    let (_, response) = web::get(hosts, url, allowed).await?;
    let ttl = ttl(&response.head.headers);
    let body = response.whole(MAX_BYTES).await?;
    let body: Body = serde_json::from_slice(&body).map_err(invalid)?;
    Ok((body.server, ttl))
}

fn invalid(error: impl ToString) -> Error {
    Error::InvalidResponse(error.to_string().into())
}

/// How long a response with these headers is cached.
fn ttl(headers: &HeaderMap) -> Duration {
    let control = headers.get_all(header::CACHE_CONTROL).iter();
    let control = control.filter_map(|value| value.to_str().ok());
    let mut max_age = None;
    for directive in control.flat_map(|value| value.split(',')) {
        let directive = directive.trim().to_ascii_lowercase();
        match directive.split_once('=') {
            Some(("max-age", seconds)) => {
                max_age = seconds
                    .trim_matches('"')
                    .parse()
                    .ok()
                    .map(Duration::from_secs)
                    .or(max_age);
            }
            None if directive == "no-store" || directive == "no-cache" => {
                return MIN_TTL;
            }
            _ => {}
        }
    }
    max_age.unwrap_or(DEFAULT_TTL).clamp(MIN_TTL, MAX_TTL)
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, header::CACHE_CONTROL};

    use super::{DEFAULT_TTL, MAX_TTL, MIN_TTL, ttl};

    #[test]
    fn a_response_is_cached_as_its_headers_say_within_bounds() {
        let says = |text: &str| {
            let value = text.parse().expect("a header");
            ttl(&HeaderMap::from_iter([(CACHE_CONTROL, value)]))
        };
        assert_eq!(ttl(&HeaderMap::new()), DEFAULT_TTL);
        assert_eq!(says("public, max-age=7200").as_secs(), 7200);
        assert_eq!(says("max-age=1"), MIN_TTL);
        assert_eq!(says("no-store, max-age=7200"), MIN_TTL);
        assert_eq!(says("max-age=99999999"), MAX_TTL);
        assert_eq!(says("max-age=soon"), DEFAULT_TTL);
    }
}
