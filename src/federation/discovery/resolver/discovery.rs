//! The steps of server discovery, without a cache.

use std::{net::SocketAddr, time::Duration};

use ruma::{OwnedServerName, ServerName};

use super::{
    srv_order::in_order,
    well_known::{self, WellKnown},
};
use crate::{
    clock::as_ms,
    federation::{
        Error,
        discovery::{
            dns::{Records, Service},
            hosts::{Hosts, without_brackets},
        },
        transport::connect::Target,
    },
    store::records::{Endpoint, ResolvedServer},
};

/// The second one is deprecated.
const SERVICES: [&str; 2] = ["_matrix-fed._tcp", "_matrix._tcp"];
/// How many hosts of a service are tried.
const MAX_HOSTS: usize = 4;
/// The bounds of the time for which addresses are cached, whatever the time to live of their records. A
/// server proves its identity at whatever address, and is looked up again if a connection fails.
const MIN_TTL: Duration = Duration::from_hours(1);
const MAX_TTL: Duration = Duration::from_hours(24);
/// For how long addresses are cached if a name server failed, and a delegation if its domain did.
const UNCERTAIN_TTL: Duration = Duration::from_mins(5);
/// For how long it is cached that a domain does not delegate.
const NO_DELEGATION_TTL: Duration = Duration::from_hours(1);

/// Resolves server names, each time anew.
pub struct Discovery {
    hosts: Hosts,
}

/// Where to connect for the server `name`.
pub fn target(name: &ServerName, resolved: &ResolvedServer) -> Target {
    let name = delegated(resolved).unwrap_or(name);
    let endpoints = in_order(&resolved.endpoints, |sum| rand::random_range(0..=sum));
    let addresses = endpoints.into_iter().flat_map(|endpoint| {
        let addresses = endpoint.addresses.iter();
        addresses.map(|address| SocketAddr::new(*address, endpoint.port))
    });
    Target {
        addresses: addresses.collect(),
        authority: name.as_str().to_owned(),
        tls_name: Some(without_brackets(name.host()).to_owned()),
    }
}

fn delegated(resolved: &ResolvedServer) -> Option<&ServerName> {
    // It was a server name when it was stored.
    <&ServerName>::try_from(resolved.delegated.as_deref()?).ok()
}

fn after(now: u64, time: Duration) -> u64 {
    now.saturating_add(as_ms(time))
}

impl Discovery {
    pub fn new(hosts: Hosts) -> Self {
        Self { hosts }
    }

    pub fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    /// Resolves the server `name` at `now` (milliseconds since the epoch). A delegation that `before` has
    /// is used while it is cached, and while its domain cannot be reached.
    pub async fn resolve(
        &self,
        name: &ServerName,
        before: Option<&ResolvedServer>,
        now: u64,
    ) -> Result<ResolvedServer, Error> {
        let (to, delegated_until_ts) = self.delegation(name, before, now).await;
        let (endpoints, ttl) = self.endpoints(to.as_deref().unwrap_or(name)).await?;
        Ok(ResolvedServer {
            delegated: to.map(String::from),
            delegated_until_ts,
            endpoints,
            until_ts: after(now, ttl).min(delegated_until_ts),
        })
    }

    /// Where to connect for the server `name`, which delegates to `delegated` if that is given: its
    /// well-known file is not fetched.
    pub async fn target(
        &self,
        name: &ServerName,
        delegated: Option<OwnedServerName>,
    ) -> Result<Target, Error> {
        let to = delegated.as_deref().unwrap_or(name);
        let (endpoints, _) = self.endpoints(to).await?;
        Ok(target(
            to,
            &ResolvedServer {
                delegated: None,
                delegated_until_ts: 0,
                endpoints,
                until_ts: 0,
            },
        ))
    }

    /// The name to which `name` delegates, and until when that is cached.
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
        match well_known::fetch(&self.hosts, name).await {
            WellKnown::Delegates(to, ttl) => (Some(to), after(now, ttl)),
            WellKnown::Unreachable if known.is_some() => (known, after(now, UNCERTAIN_TTL)),
            WellKnown::None | WellKnown::Unreachable => (None, after(now, NO_DELEGATION_TTL)),
        }
    }

    /// The hosts of the server `name`, which does not delegate any further.
    async fn endpoints(&self, name: &ServerName) -> Result<(Vec<Endpoint>, Duration), Error> {
        let host = name.host();
        let matrix_port = self.hosts.ports.matrix;
        if name.is_ip_literal() || name.port().is_some() || is_local(host) {
            return self.single(host, name.port().unwrap_or(matrix_port)).await;
        }
        let mut is_certain = true;
        for service in SERVICES {
            match self.hosts.services(&format!("{service}.{host}")).await {
                Ok(found) if found.records.is_empty() => {}
                Ok(found) => return self.of_services(found).await,
                Err(_) => is_certain = false,
            }
        }
        let (endpoints, ttl) = self.single(host, matrix_port).await?;
        Ok((endpoints, if is_certain { ttl } else { UNCERTAIN_TTL }))
    }

    async fn single(&self, host: &str, port: u16) -> Result<(Vec<Endpoint>, Duration), Error> {
        let found = self.hosts.addresses(host).await?;
        let endpoint = Endpoint {
            priority: 0,
            weight: 0,
            port,
            addresses: found.records,
        };
        Ok((vec![endpoint], found.ttl.clamp(MIN_TTL, MAX_TTL)))
    }

    async fn of_services(
        &self,
        mut found: Records<Service>,
    ) -> Result<(Vec<Endpoint>, Duration), Error> {
        found.records.sort_by_key(|service| service.priority);
        let mut ttl = found.ttl;
        let mut endpoints = Vec::new();
        // A record without a host says that there is no such service.
        let services = found.records.into_iter().filter(|it| !it.host.is_empty());
        for service in services.take(MAX_HOSTS) {
            if let Ok(found) = self.hosts.addresses(&service.host).await {
                ttl = ttl.min(found.ttl);
                endpoints.push(Endpoint {
                    priority: service.priority,
                    weight: service.weight,
                    port: service.port,
                    addresses: found.records,
                });
            }
        }
        if endpoints.is_empty() {
            return Err(Error::Unresolvable);
        }
        Ok((endpoints, ttl.clamp(MIN_TTL, MAX_TTL)))
    }
}

/// Whether name servers do not know the host.
///
/// Source: RFC 6761, section 6.3.
fn is_local(host: &str) -> bool {
    host == "localhost" || host.ends_with(".localhost")
}
