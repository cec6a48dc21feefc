//! What a domain says of where its server is: `.well-known/matrix/server`.

use std::time::Duration;

use http::{HeaderMap, header};
use ruma::{OwnedServerName, ServerName};
use serde::Deserialize;

use super::search::Search;
use crate::federation::{
    Error,
    transport::{
        connect::in_time,
        web::{self, Place, Reach},
    },
};

const PATH: &str = "/.well-known/matrix/server";
/// How long it may take until a domain has answered, and how large the answer may be.
const PATIENCE: Duration = Duration::from_secs(10);
const LARGEST: usize = 16 * 1024;
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
    let asked = in_time(PATIENCE, Box::pin(fetch(search, name)))
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
    let place = Place {
        host: name.host().to_owned(),
        port: None,
        path: PATH.to_owned(),
    };
    let (_, answer) = web::get(search, place, Reach::AsServers).await?;
    let holds = holds(&answer.head.headers);
    let body = answer.whole(LARGEST).await?;
    let body: Body = serde_json::from_slice(&body).map_err(nonsense)?;
    Ok((body.server, holds))
}

fn nonsense(error: impl ToString) -> Error {
    Error::Nonsense(error.to_string().into())
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

    use super::{HOLDS, HOLDS_AT_LEAST, HOLDS_AT_MOST, holds};

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
