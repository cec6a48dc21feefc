//! The certificates that sites present.

use std::time::{Duration, UNIX_EPOCH};

use rustls::{CertificateError, Error};

use super::{
    finding::{Finding, State},
    visit::Visits,
};
use crate::{
    acme::NameStatus, clock::as_ms, config::CertificateSource, federation::probe::PeerCertificate,
};

const CHECK: &str = "certificate";
/// It should have been renewed long before. For certificates that are valid for days only, see [`remaining`].
const ERROR_BEFORE: Duration = Duration::from_hours(3 * 24);
const WARNING_BEFORE: Duration = Duration::from_hours(14 * 24);

/// Who gets the certificates.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    Acme,
    Files,
    /// A reverse proxy, or another machine.
    Elsewhere,
}

impl Origin {
    pub fn of(source: Option<&CertificateSource>) -> Self {
        match source {
            Some(CertificateSource::Acme(_)) => Self::Acme,
            Some(CertificateSource::Files(_)) => Self::Files,
            None => Self::Elsewhere,
        }
    }

    fn renewal(self) -> &'static str {
        match self {
            Self::Acme => {
                "`hearth status` says why it was not renewed; SIGHUP tries again at once."
            }
            Self::Files => {
                "Renew it and write it to `tls_certificate` and `tls_key`, or let hearth get it with `acme`."
            }
            Self::Elsewhere => {
                "Renew it in the web server or proxy that presents it, and reload that."
            }
        }
    }
}

/// `origin` is that of the certificates that this server presents itself.
pub(super) fn check(visits: &Visits, origin: Origin, now_ms: u64) -> Vec<Finding> {
    let site = &visits.site.authority;
    let findings = visits.certificates().map(|certificate| {
        let (state, problem, advice) = match &certificate.verdict {
            Ok(()) => match remaining(certificate, site, origin, now_ms) {
                Some(problem) => problem,
                None => {
                    let until = date(certificate.not_after_ms);
                    return Finding::ok(
                        CHECK,
                        format!("The certificate of {site} is valid until {until}."),
                    );
                }
            },
            Err(error) => {
                let (problem, advice) = invalid(error, certificate, visits, origin, now_ms);
                (State::Error, problem, advice)
            }
        };
        Finding::new(CHECK, state, problem, advice)
    });
    findings.collect()
}

type Problem = (State, String, String);

fn remaining(
    certificate: &PeerCertificate,
    site: &str,
    origin: Origin,
    now_ms: u64,
) -> Option<Problem> {
    let until = certificate.not_after_ms;
    let left = Duration::from_millis(until.saturating_sub(now_ms));
    let lifetime = Duration::from_millis(until.saturating_sub(certificate.not_before_ms));
    // Certificates are renewed with a third or half of their time left.
    let state = match left {
        left if left < ERROR_BEFORE.min(lifetime / 12) => State::Error,
        left if left < WARNING_BEFORE.min(lifetime / 4) => State::Warning,
        _ => return None,
    };
    let when = match left.as_secs() / 3600 {
        hours if hours < 48 => format!("{hours} hours"),
        hours => format!("{} days", hours / 24),
    };
    let problem = format!("The certificate of {site} ends in {when} and was not renewed yet.");
    Some((state, problem, origin.renewal().to_owned()))
}

fn invalid(
    error: &Error,
    certificate: &PeerCertificate,
    visits: &Visits,
    origin: Origin,
    now_ms: u64,
) -> (String, String) {
    let site = &visits.site;
    let at = &site.authority;
    // One of an authority is refused as such before anybody asks who has signed it, and most are: `openssl req
    // -x509` makes them so.
    if certificate.is_self_signed {
        return (
            format!("The certificate of {at} is self-signed, which other servers refuse."),
            "Get one from an authority: with `acme`, or in the web server or proxy that presents it."
                .to_owned(),
        );
    }
    let Error::InvalidCertificate(error) = error else {
        return (
            format!("The certificate of {at} is not accepted: {error}."),
            origin.renewal().to_owned(),
        );
    };
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            let ago = Duration::from_millis(now_ms.saturating_sub(certificate.not_after_ms));
            let days = ago.as_secs() / 86_400;
            let problem = format!("The certificate of {at} ended {days} days ago.");
            (problem, origin.renewal().to_owned())
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => (
            format!("The certificate of {at} is not valid yet by the clock of this machine."),
            "Set the clock: `timedatectl` shows whether it is synchronized.".to_owned(),
        ),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            let host = &site.host;
            let names = match certificate.names.join(", ") {
                names if names.is_empty() => "another name".to_owned(),
                names => names,
            };
            (
                format!("The certificate at {at} is for {names}, not for {host}."),
                format!(
                    "Get a certificate for {host}: others want this name, also where an SRV record leads \
                     them to another host."
                ),
            )
        }
        CertificateError::UnknownIssuer if certificate.chain_length == 1 => (
            format!(
                "The certificate of {at} comes without the certificates between it and its authority."
            ),
            "Give the whole chain: with certbot, `fullchain.pem` instead of `cert.pem`.".to_owned(),
        ),
        CertificateError::UnknownIssuer => (
            format!("The certificate of {at} is of an authority that this machine does not know."),
            "Get one from an authority that everybody knows; if that is so, install the package \
             ca-certificates."
                .to_owned(),
        ),
        error => (
            format!("The certificate of {at} is not accepted: {error:?}."),
            origin.renewal().to_owned(),
        ),
    }
}

/// The certificates that hearth gets by itself.
pub(super) fn check_orders(names: &[NameStatus]) -> Vec<Finding> {
    let failed = names.iter().filter_map(|name| {
        let failure = name.failure.as_ref()?;
        let problem = format!("No new certificate for {}: {failure}.", name.name);
        Some(Finding::warning(
            CHECK,
            problem,
            "hearth tries again by itself; after a change, SIGHUP makes it try at once.",
        ))
    });
    failed.collect()
}

fn date(ms: u64) -> String {
    let time = UNIX_EPOCH + Duration::from_millis(ms.min(as_ms(MAX_DATE)));
    let text = humantime::format_rfc3339_seconds(time).to_string();
    text.split('T').next().unwrap_or_default().to_owned()
}

/// The last year that has four digits.
const MAX_DATE: Duration = Duration::from_hours(24 * 365 * 8000);

#[cfg(test)]
mod tests {
    use super::{Origin, State, remaining};
    use crate::federation::probe::PeerCertificate;

    const HOUR_MS: u64 = 60 * 60 * 1000;

    #[test]
    fn the_time_before_the_end_counts_by_the_lifetime() {
        for (days, hours_left, state) in [
            (90, 15 * 24, None),
            (90, 13 * 24, Some(State::Warning)),
            (90, 2 * 24, Some(State::Error)),
            (6, 3 * 24, None),
            (6, 30, Some(State::Warning)),
            (6, 11, Some(State::Error)),
        ] {
            let certificate = PeerCertificate {
                verdict: Ok(()),
                chain_length: 2,
                names: Vec::new(),
                is_self_signed: false,
                not_before_ms: 0,
                not_after_ms: days * 24 * HOUR_MS,
            };
            let now = certificate.not_after_ms - hours_left * HOUR_MS;
            let found = remaining(&certificate, "example.org", Origin::Acme, now);
            let found = found.map(|(state, ..)| state);
            assert_eq!(found, state, "{days} days, {hours_left} hours left");
        }
    }
}
