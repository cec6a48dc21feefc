//! The steps of the specification, from the first to where they lead.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use ruma::{OwnedServerName, ServerName};

use super::{
    order::in_order,
    well_known::{self, WellKnown},
};
use crate::{
    federation::{
        Error,
        discovery::dns::{Dns, Found, Service},
        transport::connect::{Connector, Target, in_time},
    },
    store::records::{Endpoint, ResolvedServer},
};

/// The services that a domain can have in its records, and the second is deprecated.
const SERVICES: [&str; 2] = ["_matrix-fed._tcp", "_matrix._tcp"];
/// How many hosts of a service are tried.
const HOSTS: usize = 4;
/// How many addresses of a host are.
const ADDRESSES: usize = 4;
/// How long name servers may take.
const NAME_SERVERS: Duration = Duration::from_secs(10);
/// The least and the most that addresses hold, whatever their records say. A server proves who it is
/// wherever it is, and is looked for again when it is not where it was.
const HOLDS_AT_LEAST: Duration = Duration::from_hours(1);
const HOLDS_AT_MOST: Duration = Duration::from_hours(24);
/// How long they hold if the name servers did not say everything, and what a domain said before it
/// could not be asked.
const UNSURE: Duration = Duration::from_mins(5);
/// How long it holds that a domain does not delegate.
const NONE_HOLDS: Duration = Duration::from_hours(1);

/// The ports of those whose names have none.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// Of a server.
    pub matrix: u16,
    /// Of what answers for its domain.
    pub https: u16,
}

impl Default for Ports {
    fn default() -> Self {
        Self {
            matrix: 8448,
            https: 443,
        }
    }
}

/// Searches. Asks others each time.
pub struct Search {
    connector: Connector,
    dns: Dns,
    ports: Ports,
}

/// Where to connect for the server `name`, which is found there.
pub fn target(name: &ServerName, found: &ResolvedServer) -> Target {
    let name = delegated(found).unwrap_or(name);
    let endpoints = in_order(&found.endpoints, |sum| rand::random_range(0..=sum));
    let addresses = endpoints.into_iter().flat_map(|endpoint| {
        let addresses = endpoint.addresses.iter();
        addresses.map(|address| SocketAddr::new(*address, endpoint.port))
    });
    Target {
        addresses: addresses.collect(),
        authority: name.as_str().to_owned(),
        tls_name: without_brackets(name.host()).to_owned(),
    }
}

fn delegated(found: &ResolvedServer) -> Option<&ServerName> {
    // It was a name when it was stored.
    <&ServerName>::try_from(found.delegated.as_deref()?).ok()
}

fn after(now: u64, time: Duration) -> u64 {
    now.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

/// A host as certificates and sockets have it.
pub fn without_brackets(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

impl Search {
    /// Asks through these.
    pub fn new(connector: &Connector, dns: Dns, ports: Ports) -> Self {
        Self {
            connector: connector.clone(),
            dns,
            ports,
        }
    }

    /// Where the server `name` is, at `now` (milliseconds since the epoch), if it was last found where
    /// `before` says.
    pub async fn find(
        &self,
        name: &ServerName,
        before: Option<&ResolvedServer>,
        now: u64,
    ) -> Result<ResolvedServer, Error> {
        let (to, delegated_until_ts) = self.delegation(name, before, now).await;
        let (endpoints, holds) = self.endpoints(to.as_deref().unwrap_or(name)).await?;
        Ok(ResolvedServer {
            delegated: to.map(String::from),
            delegated_until_ts,
            endpoints,
            until_ts: after(now, holds).min(delegated_until_ts),
        })
    }

    /// To which name `name` delegates, and until when that holds.
    async fn delegation(
        &self,
        name: &ServerName,
        before: Option<&ResolvedServer>,
        now: u64,
    ) -> (Option<OwnedServerName>, u64) {
        if name.is_ip_literal() || name.port().is_some() {
            return (None, u64::MAX);
        }
        let known = before.and_then(delegated).map(ToOwned::to_owned);
        if let Some(before) = before
            && now < before.delegated_until_ts
        {
            return (known, before.delegated_until_ts);
        }
        match well_known::ask(self, name).await {
            WellKnown::Delegates(to, holds) => (Some(to), after(now, holds)),
            WellKnown::Silence if known.is_some() => (known, after(now, UNSURE)),
            WellKnown::Nothing | WellKnown::Silence => (None, after(now, NONE_HOLDS)),
        }
    }

    /// Who connects.
    pub fn connector(&self) -> &Connector {
        &self.connector
    }

    /// What answers for the domain `host`.
    pub async fn web_host(&self, host: &str, port: Option<u16>) -> Result<Target, Error> {
        let port_or_usual = port.unwrap_or(self.ports.https);
        let found = self.addresses(host).await?;
        let addresses = found.records.into_iter();
        Ok(Target {
            addresses: addresses
                .map(|address| SocketAddr::new(address, port_or_usual))
                .collect(),
            authority: port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")),
            tls_name: without_brackets(host).to_owned(),
        })
    }

    /// The hosts of the server `name`, once nothing is delegated any further.
    async fn endpoints(&self, name: &ServerName) -> Result<(Vec<Endpoint>, Duration), Error> {
        let host = name.host();
        if name.is_ip_literal() || name.port().is_some() || is_local(host) {
            let port = name.port().unwrap_or(self.ports.matrix);
            return self.host(host, port).await;
        }
        let mut is_sure = true;
        for service in SERVICES {
            let records = format!("{service}.{host}");
            match in_time(NAME_SERVERS, self.dns.services(&records)).await {
                Ok(Ok(found)) if found.records.is_empty() => {}
                Ok(Ok(found)) => return self.hosts(found).await,
                Ok(Err(error)) => {
                    log::debug!("{records}: {error}");
                    is_sure = false;
                }
                Err(_) => is_sure = false,
            }
        }
        let (endpoints, holds) = self.host(host, self.ports.matrix).await?;
        Ok((endpoints, if is_sure { holds } else { UNSURE }))
    }

    /// The host `host` alone.
    async fn host(&self, host: &str, port: u16) -> Result<(Vec<Endpoint>, Duration), Error> {
        let found = self.addresses(host).await?;
        let endpoint = Endpoint {
            priority: 0,
            weight: 0,
            port,
            addresses: found.records,
        };
        Ok((
            vec![endpoint],
            found.holds.clamp(HOLDS_AT_LEAST, HOLDS_AT_MOST),
        ))
    }

    /// The hosts of a service.
    async fn hosts(&self, mut found: Found<Service>) -> Result<(Vec<Endpoint>, Duration), Error> {
        found.records.sort_by_key(|service| service.priority);
        let mut holds = found.holds;
        let mut endpoints = Vec::new();
        // A host without a name says that the service is decidedly not there.
        let services = found.records.into_iter().filter(|it| !it.host.is_empty());
        for service in services.take(HOSTS) {
            match self.addresses(&service.host).await {
                Ok(found) => {
                    holds = holds.min(found.holds);
                    endpoints.push(Endpoint {
                        priority: service.priority,
                        weight: service.weight,
                        port: service.port,
                        addresses: found.records,
                    });
                }
                Err(error) => log::debug!("{}: {error}", service.host),
            }
        }
        if endpoints.is_empty() {
            return Err(Error::Unresolvable);
        }
        Ok((endpoints, holds.clamp(HOLDS_AT_LEAST, HOLDS_AT_MOST)))
    }

    /// The addresses of a host, of which there are some.
    async fn addresses(&self, host: &str) -> Result<Found<IpAddr>, Error> {
        if let Ok(address) = without_brackets(host).parse() {
            return Ok(Found {
                records: vec![address],
                holds: HOLDS_AT_MOST,
            });
        }
        let found = in_time(NAME_SERVERS, self.dns.addresses(host)).await?;
        let mut found = found.map_err(|error| {
            log::debug!("{host}: {error}");
            Error::Unresolvable
        })?;
        found.records.truncate(ADDRESSES);
        if found.records.is_empty() {
            return Err(Error::Unresolvable);
        }
        Ok(found)
    }
}

/// Whether name servers do not know of the host.
///
/// Source: RFC 6761, section 6.3.
fn is_local(host: &str) -> bool {
    host == "localhost" || host.ends_with(".localhost")
}
