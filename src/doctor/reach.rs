//! Whether other servers and apps that connect get to this server, at each of its addresses.

use std::time::Duration;

use http::StatusCode;
use ruma::ServerName;

use super::{
    finding::Finding,
    visit::{Visit, Visits, cors_problem, json},
};
use crate::federation::probe::Failure;

const FEDERATION: &str = "federation";
const CLIENTS: &str = "clients";
const HAIRPIN: &str = "hairpin";

/// Who this server is.
pub(super) struct Identity<'a> {
    pub name: &'a ServerName,
    pub key_id: &'a str,
    /// In base64.
    pub key: &'a str,
}

/// Whether somebody elsewhere reaches this server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    Now,
    /// Before this check. What is wrong may be so only since then.
    Lately(Duration),
    Not,
}

impl Reached {
    /// Whether the server can be reached from other networks, if something else has not broken since.
    pub fn is_reachable(self) -> bool {
        self != Self::Not
    }
}

/// What the checks of a site know of its surroundings.
#[derive(Clone, Copy)]
pub(super) struct Surroundings {
    /// Whether somebody elsewhere was seen to reach the server.
    pub reached: Option<Reached>,
    /// Whether others find the server by its name and the default port alone.
    pub is_default_port: bool,
}

/// `keys` are the visits of `/_matrix/key/v2/server`, `versions` those of `/_matrix/federation/v1/version`.
pub(super) fn check_federation(
    identity: &Identity<'_>,
    keys: &Visits,
    versions: &Visits,
    surroundings: Surroundings,
) -> Vec<Finding> {
    let at = &keys.site.authority;
    let mut findings = check_connections(FEDERATION, keys, surroundings);
    for visit in &keys.all {
        findings.extend(check_keys(identity, at, visit));
    }
    // What the keys say is not said again.
    if findings.is_empty() {
        for visit in &versions.all {
            findings.extend(check_version(at, visit));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            FEDERATION,
            format!("Other servers reach this one at {at}, and get its key."),
        ));
    }
    findings
}

/// What does not answer at all.
fn check_connections(
    check: &'static str,
    visits: &Visits,
    surroundings: Surroundings,
) -> Vec<Finding> {
    let site = &visits.site;
    let port = site.port;
    let (answering, failing): (Vec<_>, Vec<_>) = visits
        .all
        .iter()
        .partition(|visit| visit.response().is_ok());
    if visits.all.is_empty() {
        return vec![Finding::error(
            check,
            format!("{} has no address.", site.authority),
            "Enter an A record with your public address at the provider of the domain.",
        )];
    }
    let is_certain = !answering.is_empty();
    let failing = failing.into_iter().filter_map(|visit| {
        let failure = visit.response().err()?;
        let (address, kind) = match visit.address.is_ipv6() {
            true => (format!("[{}]:{port}", visit.address), "AAAA"),
            false => (format!("{}:{port}", visit.address), "A"),
        };
        let is_seen = is_certain || surroundings.reached.is_some_and(Reached::is_reachable);
        if *failure == Failure::NoRoute && visit.address.is_ipv6() && is_seen {
            return Some(Finding::unknown(
                check,
                format!("This machine has no IPv6, so it cannot see whether {address} answers."),
                format!(
                    "If no other machine answers there, remove the AAAA record of {}.",
                    site.host
                ),
            ));
        }
        let problem = format!("Nothing usable answers at {address} ({}): {failure}.", site.host);
        if is_certain {
            return Some(Finding::error(
                check,
                problem,
                format!(
                    "Remove the {kind} record of {} with this address, or let the server listen there and \
                     open port {port} for it in router and firewall: others wait for an answer there.",
                    site.host
                ),
            ));
        }
        if surroundings.reached == Some(Reached::Now) {
            return Some(Finding::warning(
                HAIRPIN,
                format!(
                    "Others reach this server, but from inside your own network nothing answers at \
                     {address}."
                ),
                format!(
                    "Switch on NAT loopback (hairpin NAT) in the router, or let the name server at home \
                     answer for {} with the address of this machine: otherwise apps at home do not connect.",
                    site.host
                ),
            ));
        }
        let mut advice = format!(
            "Forward port {port} in the router to this machine, open it in its firewall, and look in \
             `listen` and `tls_listen` whether somebody listens there."
        );
        if surroundings.is_default_port && check == FEDERATION {
            advice += " Or serve all on port 443, where hearth answers /.well-known/matrix/server.";
        }
        if surroundings.reached != Some(Reached::Not) {
            advice += " If it answers from elsewhere, the router lacks NAT loopback (hairpin NAT).";
        }
        Some(Finding::error(check, problem, advice))
    });
    failing.collect()
}

fn check_keys(identity: &Identity<'_>, at: &str, visit: &Visit) -> Option<Finding> {
    let response = visit.response().ok()?;
    let address = visit.address;
    if let Some(finding) = check_proxy_status(FEDERATION, at, response.status()) {
        return Some(finding);
    }
    if !json(response).is_some_and(|body| body["server_name"].is_string()) {
        return Some(Finding::error(
            FEDERATION,
            format!(
                "At {at} ({address}) answers no Matrix server: /_matrix/key/v2/server is {}.",
                response.status()
            ),
            "Let the web server or proxy there pass /_matrix, with its whole path, to an address in hearth's \
             `listen`.",
        ));
    }
    check_identity(FEDERATION, identity, at, visit)
}

/// Whether it is another server that publishes keys. `visit` is one of `/_matrix/key/v2/server`.
pub(super) fn check_identity(
    check: &'static str,
    identity: &Identity<'_>,
    at: &str,
    visit: &Visit,
) -> Option<Finding> {
    let address = visit.address;
    let body = json(visit.response().ok()?)?;
    let name = body["server_name"].as_str()?;
    if name != identity.name {
        return Some(Finding::error(
            check,
            format!(
                "At {at} ({address}) is the server {name:.255}, not {}.",
                identity.name
            ),
            "Correct the proxy there, or the DNS or well-known file that leads there.",
        ));
    }
    let key = body["verify_keys"][identity.key_id]["key"].as_str();
    let is_own = key.is_some_and(|key| key.trim_end_matches('=') == identity.key);
    (!is_own).then(|| {
        Finding::error(
            check,
            format!(
                "At {at} ({address}) is another installation of {}: its signing key is not that of this one.",
                identity.name
            ),
            "Stop the other one, or let the address lead here; if this is a new installation, bring the data \
             directory of the old one back.",
        )
    })
}

fn check_version(at: &str, visit: &Visit) -> Option<Finding> {
    let response = visit.response().ok()?;
    let is_version = json(response).is_some_and(|body| body["server"]["name"].is_string());
    (!is_version).then(|| {
        Finding::error(
            FEDERATION,
            format!(
                "{at} answers for /_matrix/key, but not for /_matrix/federation: {}.",
                response.status()
            ),
            "Let the web server or proxy there pass all paths below /_matrix to hearth.",
        )
    })
}

fn check_proxy_status(check: &'static str, at: &str, status: StatusCode) -> Option<Finding> {
    const STATUSES: [StatusCode; 3] = [
        StatusCode::BAD_GATEWAY,
        StatusCode::SERVICE_UNAVAILABLE,
        StatusCode::GATEWAY_TIMEOUT,
    ];
    STATUSES.contains(&status).then(|| {
        Finding::error(
            check,
            format!("The proxy at {at} does not reach hearth: it answers {status}."),
            "Give the proxy one of the addresses in hearth's `listen`, with http and not https.",
        )
    })
}

/// `visits` are those of `/_matrix/client/versions`, `keys` those of `/_matrix/key/v2/server`, where nothing has to
/// be if other servers are led elsewhere.
pub(super) fn check_clients(
    identity: &Identity<'_>,
    visits: &Visits,
    keys: &Visits,
    surroundings: Surroundings,
) -> Vec<Finding> {
    let at = &visits.site.authority;
    let mut findings = check_connections(CLIENTS, visits, surroundings);
    let others = keys.all.iter();
    findings.extend(others.filter_map(|visit| check_identity(CLIENTS, identity, at, visit)));
    for visit in &visits.all {
        let Ok(response) = visit.response() else {
            continue;
        };
        if let Some(finding) = check_proxy_status(CLIENTS, at, response.status()) {
            findings.push(finding);
        } else if !json(response).is_some_and(|body| body["versions"].is_array()) {
            findings.push(Finding::error(
                CLIENTS,
                format!(
                    "At {at} ({}) answers no Matrix server: /_matrix/client/versions is {}.",
                    visit.address,
                    response.status()
                ),
                "Let the web server or proxy there pass /_matrix, with its whole path, to an address in \
                 hearth's `listen`.",
            ));
        } else if let Some(problem) = cors_problem(response) {
            findings.push(Finding::error(
                CLIENTS,
                format!("{at} answers apps {problem}, so that web apps refuse it."),
                "hearth sends this header: let the proxy neither remove it nor add another.",
            ));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            CLIENTS,
            format!("Apps reach this server at {at}."),
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{CLIENTS, HAIRPIN, Reached, Surroundings, check_connections};
    use crate::{
        doctor::{
            finding::State,
            visit::{Visit, Visits, site},
        },
        federation::probe::Failure,
    };

    #[test]
    fn a_server_of_which_no_address_answers_is_only_in_order_if_others_reach_it() {
        for (reached, state) in [
            (None, State::Error),
            (Some(Reached::Not), State::Error),
            (Some(Reached::Now), State::Unknown),
        ] {
            let visits = Visits {
                site: site("example.org", None, 443),
                all: vec![Visit {
                    address: "2001:db8::1".parse().unwrap(),
                    reply: Err(Failure::NoRoute),
                }],
            };
            let surroundings = Surroundings {
                reached,
                is_default_port: true,
            };
            let findings = check_connections(CLIENTS, &visits, surroundings);
            let states: Vec<_> = findings.iter().map(|finding| finding.state).collect();
            assert_eq!(states, [state], "{reached:?}");
        }
    }

    #[test]
    fn what_reached_the_server_before_does_not_excuse_what_does_not_answer_now() {
        for (reached, check) in [
            (Reached::Now, HAIRPIN),
            (Reached::Lately(Duration::from_mins(2)), CLIENTS),
        ] {
            let visits = Visits {
                site: site("example.org", None, 443),
                all: vec![Visit {
                    address: "198.51.99.7".parse().unwrap(),
                    reply: Err(Failure::Refused),
                }],
            };
            let surroundings = Surroundings {
                reached: Some(reached),
                is_default_port: true,
            };
            let findings = check_connections(CLIENTS, &visits, surroundings);
            let checks: Vec<_> = findings.iter().map(|finding| finding.check).collect();
            assert_eq!(checks, [check], "{reached:?}");
        }
    }
}
