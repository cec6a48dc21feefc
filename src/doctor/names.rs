//! Addresses and SRV records.

use std::net::IpAddr;

use ruma::ServerName;
use smol::future::zip;

use super::{
    finding::{Finding, State},
    reach::Reached,
};
use crate::federation::probe::{DnsError, Family, Probe, Service, is_public_address};

const DNS: &str = "dns";
const SRV: &str = "srv";
/// How many hosts of a service are looked up.
const MAX_HOSTS: usize = 4;
const SERVICE: &str = "_matrix-fed._tcp";
const DEPRECATED_SERVICE: &str = "_matrix._tcp";

/// The addresses that name servers have of a host.
pub(super) struct HostAddresses {
    pub host: String,
    pub v4: Result<Vec<IpAddr>, DnsError>,
    pub v6: Result<Vec<IpAddr>, DnsError>,
}

pub(super) async fn look_up(probe: &Probe, host: &str) -> HostAddresses {
    let (v4, v6) = zip(
        probe.addresses(Family::V4, host),
        probe.addresses(Family::V6, host),
    )
    .await;
    HostAddresses {
        host: host.to_owned(),
        v4,
        v6,
    }
}

/// `may_be_private` by the settings.
pub(super) fn check_addresses(
    found: &HostAddresses,
    may_be_private: bool,
    reached: Option<Reached>,
) -> Vec<Finding> {
    let host = &found.host;
    let (v4, v6) = (&found.v4, &found.v6);
    let all: Vec<_> = [v4, v6].into_iter().flatten().flatten().copied().collect();
    // That there is none of the other kind does not say that there is none at all.
    if let (Err(error), _) | (_, Err(error)) = (v4, v6)
        && all.is_empty()
    {
        return vec![Finding::error(
            DNS,
            format!("{host} cannot be looked up: {error}."),
            "Check that the domain's name servers answer, and /etc/resolv.conf of this machine.",
        )];
    }
    let mut findings = Vec::new();
    for (kind, failed) in [("A", v4), ("AAAA", v6)] {
        if let Err(error) = failed {
            findings.push(Finding::warning(
                DNS,
                format!("The {kind} records of {host} cannot be looked up: {error}."),
                "Some servers give up then: have the domain's name servers answer for both kinds, if only \
                 with nothing.",
            ));
        }
    }
    if all.is_empty() {
        findings.push(Finding::error(
            DNS,
            format!("{host} has no address in the DNS."),
            format!(
                "Enter an A record for {host} with your public IPv4 address, or an AAAA record with the \
                 IPv6 address of this machine, at the provider of the domain."
            ),
        ));
        return findings;
    }
    let private = all.iter().find(|address| !is_public_address(**address));
    if let Some(address) = private
        && !may_be_private
        && !reached.is_some_and(Reached::is_reachable)
    {
        let state = match reached {
            Some(_) => State::Error,
            None => State::Warning,
        };
        findings.push(Finding::new(
            DNS,
            state,
            format!("{host} is at {address}, which nobody reaches from other networks."),
            "Enter the public address at the provider of the domain; if only your own name server says \
             this, for use at home, all is well.",
        ));
    }
    if findings.is_empty() {
        let all: Vec<_> = all.iter().map(ToString::to_string).collect();
        findings.push(Finding::ok(
            DNS,
            format!("{host} is at {}.", all.join(", ")),
        ));
    }
    findings
}

/// The SRV records of a name and what is known of the hosts that they name.
pub(super) struct Services {
    name: String,
    /// Whether others look for them.
    is_used: bool,
    current: Result<Vec<Target>, DnsError>,
    deprecated: Result<Vec<Target>, DnsError>,
}

struct Target {
    host: String,
    port: u16,
    is_alias: bool,
    has_address: bool,
}

/// `delegated` is where the well-known file of `name` leads.
pub(super) async fn look_up_services(
    probe: &Probe,
    name: &ServerName,
    delegated: Option<&ServerName>,
) -> Vec<Services> {
    let used = delegated.unwrap_or(name);
    let mut all = Vec::new();
    if used.port().is_none() && !used.is_ip_literal() {
        all.push(services(probe, used.host(), true).await);
    }
    let is_leftover = name.port().is_none() && !name.is_ip_literal();
    if is_leftover && (used.host() != name.host() || used.port().is_some()) {
        all.push(services(probe, name.host(), false).await);
    }
    all
}

async fn services(probe: &Probe, host: &str, is_used: bool) -> Services {
    let (current, deprecated) = zip(
        targets(probe, format!("{SERVICE}.{host}")),
        targets(probe, format!("{DEPRECATED_SERVICE}.{host}")),
    )
    .await;
    Services {
        name: host.to_owned(),
        is_used,
        current,
        deprecated,
    }
}

async fn targets(probe: &Probe, name: String) -> Result<Vec<Target>, DnsError> {
    let mut targets = Vec::new();
    for Service { host, port, .. } in probe.services(&name).await?.into_iter().take(MAX_HOSTS) {
        let (is_alias, addresses) = match host.is_empty() {
            true => (false, Vec::new()),
            false => {
                let alias = probe.is_alias(&host);
                let (alias, found) = zip(alias, super::visit::addresses(probe, &host)).await;
                (alias.unwrap_or(false), found)
            }
        };
        targets.push(Target {
            host,
            port,
            is_alias,
            has_address: !addresses.is_empty(),
        });
    }
    Ok(targets)
}

pub(super) fn check_services(services: &Services) -> Vec<Finding> {
    let name = &services.name;
    if !services.is_used {
        let is_there =
            |found: &Result<Vec<Target>, _>| matches!(found, Ok(targets) if !targets.is_empty());
        let leftover = match (is_there(&services.current), is_there(&services.deprecated)) {
            (true, _) => SERVICE,
            (_, true) => DEPRECATED_SERVICE,
            (false, false) => return Vec::new(),
        };
        return vec![Finding::warning(
            SRV,
            format!(
                "The SRV record {leftover}.{name} is not used, since /.well-known/matrix/server comes \
                 first."
            ),
            "Remove it at the provider of the domain, so that nobody takes it for the truth.",
        )];
    }
    let mut findings = Vec::new();
    for (service, found) in [
        (SERVICE, &services.current),
        (DEPRECATED_SERVICE, &services.deprecated),
    ] {
        match found {
            Err(error) => findings.push(Finding::error(
                SRV,
                format!("{service}.{name} cannot be looked up: {error}."),
                format!(
                    "Have the domain's name servers answer for SRV records, if only with nothing; or name a \
                     port in https://{name}/.well-known/matrix/server, so that nobody looks for them."
                ),
            )),
            Ok(targets) => {
                let record = format!("{service}.{name}");
                findings.extend(targets.iter().flat_map(|to| check_target(&record, to)));
            }
        }
    }
    if let (Ok(current), Ok(deprecated)) = (&services.current, &services.deprecated)
        && current.is_empty()
        && !deprecated.is_empty()
    {
        findings.push(Finding::warning(
            SRV,
            format!("{DEPRECATED_SERVICE}.{name} is the old name of this record."),
            format!("Call it {SERVICE}.{name} too; the old one will not be looked up for ever."),
        ));
    }
    if findings.is_empty() {
        let seen = match &services.current {
            Ok(targets) if !targets.is_empty() => {
                let [first, ..] = &**targets else {
                    return findings;
                };
                format!("{SERVICE}.{name} leads to {}:{}.", first.host, first.port)
            }
            _ => format!("{name} has no SRV records; it needs none."),
        };
        findings.push(Finding::ok(SRV, seen));
    }
    findings
}

fn check_target(record: &str, target: &Target) -> Option<Finding> {
    let Target { host, .. } = target;
    if host.is_empty() {
        return Some(Finding::error(
            SRV,
            format!("The SRV record {record} says that there is no Matrix server."),
            "Remove it at the provider of the domain.",
        ));
    }
    if target.is_alias {
        return Some(Finding::error(
            SRV,
            format!(
                "The SRV record {record} leads to {host}, which is a CNAME; some servers refuse that."
            ),
            format!(
                "Let the record name a host with A or AAAA records, or give {host} such records instead of \
                 the CNAME."
            ),
        ));
    }
    (!target.has_address).then(|| {
        Finding::error(
            SRV,
            format!("The SRV record {record} leads to {host}, which has no address."),
            format!("Enter an A or AAAA record for {host}, or correct the SRV record."),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::{HostAddresses, Reached, check_addresses};
    use crate::{doctor::finding::State, federation::probe::DnsError};

    fn found(v4: &[&str]) -> HostAddresses {
        HostAddresses {
            host: "example.org".to_owned(),
            v4: Ok(v4.iter().map(|it| it.parse().unwrap()).collect()),
            v6: Ok(Vec::new()),
        }
    }

    #[test]
    fn an_address_of_the_network_at_home_is_wrong_if_nobody_elsewhere_reaches_the_server() {
        let state = |address: &str, may_be_private, reached| {
            let findings = check_addresses(&found(&[address]), may_be_private, reached);
            findings[0].state
        };
        assert_eq!(state("198.51.99.7", false, None), State::Ok);
        assert_eq!(state("192.168.1.5", false, None), State::Warning);
        assert_eq!(
            state("192.168.1.5", false, Some(Reached::Not)),
            State::Error
        );
        assert_eq!(state("192.168.1.5", false, Some(Reached::Now)), State::Ok);
        assert_eq!(state("192.168.1.5", true, Some(Reached::Not)), State::Ok);
    }

    #[test]
    fn name_servers_that_fail_for_one_kind_of_record_are_named() {
        let fails = HostAddresses {
            v6: Err(DnsError::Refused("ServerFailure".to_owned())),
            ..found(&["198.51.99.7"])
        };
        let findings = check_addresses(&fails, false, None);
        assert_eq!(findings[0].state, State::Warning);
        assert!(findings[0].problem.contains("The AAAA records"));
        for v6 in [fails.v6, Ok(Vec::new())] {
            let none_is_found = HostAddresses {
                v4: Err(DnsError::NoResponse("it is late".to_owned())),
                v6,
                host: fails.host.clone(),
            };
            let findings = check_addresses(&none_is_found, false, None);
            assert_eq!(findings.len(), 1, "{findings:?}");
            assert_eq!(findings[0].state, State::Error);
            assert!(findings[0].problem.contains("cannot be looked up"));
        }
    }
}
