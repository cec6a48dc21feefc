//! What a server elsewhere says: whether it reaches this one, and what time it is.
//!
//! A notary that is asked for this server's keys fetches them if those that it has are too old. That is the one
//! way to see this server from another network without a service of hearth's own.

use std::time::{Duration, UNIX_EPOCH};

use http::header;
use ruma::{OwnedServerName, ServerName};
use rustls::{CertificateError, Error};
use serde_json::json;

use super::{
    finding::Finding,
    reach::{Identity, Reached},
    visit::{self, Visit},
};
use crate::{
    clock::as_ms,
    executor::Executor,
    federation::{WebUrl, probe::Probe},
};

const CLOCK: &str = "clock";
const ELSEWHERE: &str = "elsewhere";
/// A notary that has fetched the keys before may take a while to fetch them again. Older ones say nothing.
const MAX_AGE: Duration = Duration::from_hours(1);
const WARNING_OFF: Duration = Duration::from_secs(20);
const ERROR_OFF: Duration = Duration::from_mins(5);

/// What a server elsewhere shows.
#[derive(Default)]
pub(super) struct Evidence {
    /// None if it did not say.
    pub reached: Option<Reached>,
    /// Its name, and by how many milliseconds its clock is before that of this machine.
    ahead: Option<(String, i64)>,
}

/// `validity` is that of published keys.
pub(super) async fn request_keys(
    over: (&Probe, &Executor),
    notary: &ServerName,
    identity: &Identity<'_>,
    (now_ms, validity): (u64, Duration),
) -> Evidence {
    let (probe, _) = over;
    let delegated = delegation(over, notary).await;
    let Some(found) = probe.discover(notary, delegated).await else {
        return Evidence::default();
    };
    let Some(address) = found.addresses.first() else {
        return Evidence::default();
    };
    // Of keys that are published from now on.
    let valid_until = now_ms.saturating_add(as_ms(validity));
    let name = identity.name;
    // Only a POST request names the key: Synapse fetches none for a GET request without its id.
    let key = json!({ identity.key_id: { "minimum_valid_until_ts": valid_until } });
    let query = json!({ "server_keys": { name.as_str(): key } });
    let mut site = visit::site(&found.host, None, address.port());
    site.authority = found.authority;
    let mut addresses: Vec<_> = found.addresses.iter().map(|address| address.ip()).collect();
    addresses.truncate(2);
    let request = ("/_matrix/key/v2/query", &query);
    let visits = visit::post(over, site, &addresses, request).await;
    let visit = visits.all.iter().find(|visit| visit.response().is_ok());
    let Some(visit) = visit else {
        return Evidence::default();
    };
    Evidence {
        reached: reached(visit, identity, valid_until),
        ahead: ahead(visit).map(|ms| (notary.to_string(), ms)),
    }
}

async fn delegation(over: (&Probe, &Executor), name: &ServerName) -> Option<OwnedServerName> {
    if name.port().is_some() || name.is_ip_literal() {
        return None;
    }
    let fetched = super::well_known::fetch_server(over, name).await;
    let delegation = super::well_known::Delegation::of(name, &fetched);
    delegation.to().map(ToOwned::to_owned)
}

/// The time of the web server at `url`.
pub(super) async fn request_time((probe, executor): (&Probe, &Executor), url: &str) -> Evidence {
    let Some(url) = WebUrl::parse(url) else {
        return Evidence::default();
    };
    let site = visit::site(&url.host, url.port, probe.https_port());
    let addresses = visit::addresses(probe, &url.host).await;
    let visits = visit::get((probe, executor), site, &addresses, &url.path).await;
    let ahead = visits.all.iter().find_map(ahead);
    Evidence {
        reached: None,
        ahead: ahead.map(|ms| (url.host, ms)),
    }
}

/// `valid_until` is that of keys that were published after the check began.
fn reached(visit: &Visit, identity: &Identity<'_>, valid_until: u64) -> Option<Reached> {
    let response = visit.response().ok()?;
    visit.certificate()?.verdict.as_ref().ok()?;
    if response.status().is_server_error() || response.status().as_u16() == 429 {
        return None;
    }
    let body = visit::json(response)?;
    let keys = body["server_keys"].as_array()?.iter().filter(|keys| {
        keys["server_name"].as_str() == Some(identity.name.as_str())
            && keys["verify_keys"][identity.key_id]["key"].as_str() == Some(identity.key)
    });
    let newest = keys
        .filter_map(|keys| keys["valid_until_ts"].as_u64())
        .max();
    let age = newest.map(|newest| Duration::from_millis(valid_until.saturating_sub(newest)));
    Some(match age {
        Some(Duration::ZERO) => Reached::Now,
        Some(age) if age <= MAX_AGE => Reached::Lately(age),
        _ => Reached::Not,
    })
}

/// By its `Date` header, which counts if its certificate is valid but for the time. The time of this machine is
/// that of the response: other requests may take longer.
fn ahead(visit: &Visit) -> Option<i64> {
    let response = visit.response().ok()?;
    match &visit.certificate()?.verdict {
        Ok(())
        | Err(Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        )) => {}
        Err(_) => return None,
    }
    let date = response.headers().get(header::DATE)?.to_str().ok()?;
    let theirs = i64::try_from(http_date_ms(date)?).ok()?;
    let own = i64::try_from(visit.reply.as_ref().ok()?.received_ms).ok()?;
    theirs.checked_sub(own)
}

/// An IMF-fixdate (RFC 9110, section 5.6.7), such as `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_date_ms(date: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let mut words = date.split_once(", ")?.1.split(' ');
    let day: u8 = words.next()?.parse().ok()?;
    let month = words.next()?;
    let month = MONTHS.iter().position(|known| *known == month)? + 1;
    let year: u16 = words.next()?.parse().ok()?;
    let time = words.next()?;
    let text = format!("{year:04}-{month:02}-{day:02}T{time}Z");
    let time = humantime::parse_rfc3339(&text).ok()?;
    Some(as_ms(time.duration_since(UNIX_EPOCH).ok()?))
}

pub(super) fn check_reached(evidence: &Evidence, notary: Option<&ServerName>) -> Vec<Finding> {
    let Some(notary) = notary else {
        return Vec::new();
    };
    vec![match evidence.reached {
        Some(Reached::Now) => Finding::ok(ELSEWHERE, format!("{notary} reaches this server.")),
        Some(Reached::Lately(age)) => Finding::ok(
            ELSEWHERE,
            format!(
                "{notary} reached this server {} minutes ago, and has not tried again.",
                age.as_secs().div_ceil(60)
            ),
        ),
        Some(Reached::Not) => Finding::error(
            ELSEWHERE,
            format!("{notary} does not reach this server: it has no new keys of it."),
            "See the other findings; if there are none, the provider or the router lets nobody in (with CGNAT \
             you need IPv6 or a tunnel). A notary may also take a while to try again.",
        ),
        None => Finding::unknown(
            ELSEWHERE,
            format!("{notary} does not say whether it reaches this server."),
            "Try again later, or ask somebody on another server to write to you.",
        ),
    }]
}

pub(super) fn check_clock(evidence: &Evidence) -> Finding {
    let Some((who, ahead)) = &evidence.ahead else {
        return Finding::unknown(
            CLOCK,
            "Nobody was found to compare the clock with.",
            "`timedatectl` shows whether it is synchronized.",
        );
    };
    let off = Duration::from_millis(ahead.unsigned_abs());
    let (state, seconds) = match off {
        off if off >= ERROR_OFF => (super::finding::State::Error, off.as_secs()),
        off if off >= WARNING_OFF => (super::finding::State::Warning, off.as_secs()),
        _ => return Finding::ok(CLOCK, format!("The clock is right, by that of {who}.")),
    };
    let side = if *ahead > 0 { "slow" } else { "fast" };
    Finding::new(
        CLOCK,
        state,
        format!("The clock of this machine is {seconds} seconds {side}, by that of {who}."),
        "Set it: `timedatectl set-ntp true` keeps it right.",
    )
}

#[cfg(test)]
mod tests {
    use super::http_date_ms;

    #[test]
    fn dates_of_http_are_read() {
        let ms = http_date_ms("Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(ms, Some(784_111_777_000));
        for wrong in ["", "now", "Sun, 06 Foo 1994 08:49:37 GMT", "Sun, 6 Nov"] {
            assert_eq!(http_date_ms(wrong), None, "{wrong}");
        }
    }
}
