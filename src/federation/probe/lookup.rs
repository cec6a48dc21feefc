//! Names and addresses.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use ruma::{OwnedServerName, ServerName};
use rustls::client::WebPkiServerVerifier;
use smol::lock::OnceCell;

use crate::{
    clock::Clock,
    config::{Config, Network},
    executor::Executor,
    federation::{
        discovery::{
            dns::{Dns, Error as DnsError, Family, Service, SystemFiles},
            hosts::{Hosts, Ports},
            resolver::Discovery,
        },
        transport::{
            address::is_public,
            connect::{Connector, with_timeout},
            tls::{Authorities, TlsError},
        },
    },
    pool::Pool,
};

const DNS_TIMEOUT: Duration = Duration::from_secs(10);
const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(30);

/// Clones are the same.
#[derive(Clone)]
pub struct Probe(pub(super) Arc<ProbeInner>);

pub(super) struct ProbeInner {
    dns: Dns,
    discovery: Discovery,
    ports: Ports,
    pub(super) authorities: Authorities,
    pub(super) verifier: OnceCell<Arc<WebPkiServerVerifier>>,
    pub(super) clock: Clock,
    pub(super) pool: Pool,
    pub(super) executor: Executor,
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probe").finish_non_exhaustive()
    }
}

/// Where a server is by the resolver that is used for other servers.
#[derive(Clone, Debug)]
pub struct Found {
    /// The name that its certificate must have.
    pub host: String,
    /// The `Host` header.
    pub authority: String,
    pub addresses: Vec<SocketAddr>,
}

impl Probe {
    /// # Errors
    /// If the file of the setting `extra_ca` is invalid.
    pub fn new(
        config: &Config,
        clock: &Clock,
        pool: &Pool,
        executor: &Executor,
    ) -> Result<Self, TlsError> {
        let authorities = Authorities::load(config.extra_ca.as_deref())?;
        let without_hosts = Network {
            hosts: PathBuf::new(),
            ..config.network.clone()
        };
        let dns = Dns::new(SystemFiles::from(&without_hosts), pool);
        let ports = Ports::from(&config.network);
        let connector = Connector::new(authorities.clone(), true, pool, executor);
        Ok(Self(Arc::new(ProbeInner {
            discovery: Discovery::new(Hosts::new(&connector, dns.clone(), ports)),
            dns,
            ports,
            authorities,
            verifier: OnceCell::new(),
            clock: clock.clone(),
            pool: pool.clone(),
            executor: executor.clone(),
        })))
    }

    /// The port of HTTPS.
    pub fn https_port(&self) -> u16 {
        self.0.ports.https
    }

    /// The port of servers whose names have none.
    pub fn matrix_port(&self) -> u16 {
        self.0.ports.matrix
    }

    /// The addresses of `host` in one family; of an address, itself.
    pub async fn addresses(&self, family: Family, host: &str) -> Result<Vec<IpAddr>, DnsError> {
        let literal = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = literal.parse::<IpAddr>() {
            let is_of_family = address.is_ipv6() == (family == Family::V6);
            return Ok(is_of_family.then_some(address).into_iter().collect());
        }
        in_time(self.0.dns.addresses_in(family, host)).await
    }

    pub async fn is_alias(&self, host: &str) -> Result<bool, DnsError> {
        in_time(self.0.dns.is_alias(host)).await
    }

    /// The SRV records at `name` (`_service._protocol.domain`).
    pub async fn services(&self, name: &str) -> Result<Vec<Service>, DnsError> {
        let found = in_time(self.0.dns.services(name)).await?;
        Ok(found.records)
    }

    /// Resolves the server `name`, which delegates to `delegated` if that is given.
    pub async fn discover(
        &self,
        name: &ServerName,
        delegated: Option<OwnedServerName>,
    ) -> Option<Found> {
        let discovery = Box::pin(self.0.discovery.target(name, delegated));
        let target = with_timeout(DISCOVERY_TIMEOUT, discovery).await;
        let target = target.ok()?.ok()?;
        Some(Found {
            host: target.tls_name.unwrap_or_default(),
            authority: target.authority,
            addresses: target.addresses,
        })
    }
}

/// Whether `address` can be reached from everywhere.
pub fn is_public_address(address: IpAddr) -> bool {
    is_public(address)
}

async fn in_time<T>(look_up: impl Future<Output = Result<T, DnsError>>) -> Result<T, DnsError> {
    let found = with_timeout(DNS_TIMEOUT, look_up).await;
    found.unwrap_or_else(|error| Err(DnsError::NoResponse(error.to_string())))
}
