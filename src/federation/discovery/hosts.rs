//! The addresses of hosts, and of what answers for a domain on the web.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::dns::{Dns, Records, Service};
use crate::{
    config::Network,
    federation::{
        Error,
        transport::{
            connect::{Connector, Target, with_timeout},
            web_url::{Scheme, WebUrl},
        },
    },
};

/// How many addresses of a host are tried.
const MAX_ADDRESSES: usize = 4;
const DNS_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an address literal is cached.
const LITERAL_TTL: Duration = Duration::from_hours(24);

/// The ports of servers whose names have none.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    pub matrix: u16,
    pub http: u16,
    pub https: u16,
}

impl From<&Network> for Ports {
    fn from(network: &Network) -> Self {
        Self {
            matrix: network.matrix_port,
            http: network.http_port,
            https: network.https_port,
        }
    }
}

/// Looks up hosts, without a cache.
#[derive(Clone)]
pub struct Hosts {
    pub connector: Connector,
    dns: Dns,
    pub ports: Ports,
}

impl Hosts {
    pub fn new(connector: &Connector, dns: Dns, ports: Ports) -> Self {
        Self {
            connector: connector.clone(),
            dns,
            ports,
        }
    }

    /// Where to connect for `url`.
    pub async fn web_target(&self, url: &WebUrl) -> Result<Target, Error> {
        let WebUrl { host, port, .. } = url;
        let (default_port, tls_name) = match url.scheme {
            Scheme::Http => (self.ports.http, None),
            Scheme::Https => (self.ports.https, Some(without_brackets(host).to_owned())),
        };
        let found = self.addresses(host).await?;
        let addresses = found.records.into_iter();
        Ok(Target {
            addresses: addresses
                .map(|address| SocketAddr::new(address, port.unwrap_or(default_port)))
                .collect(),
            authority: port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")),
            tls_name,
        })
    }

    /// The addresses of a host; never none.
    pub async fn addresses(&self, host: &str) -> Result<Records<IpAddr>, Error> {
        if let Ok(address) = without_brackets(host).parse() {
            return Ok(Records {
                records: vec![address],
                ttl: LITERAL_TTL,
            });
        }
        let found = with_timeout(DNS_TIMEOUT, self.dns.addresses(host)).await?;
        let mut found = found.map_err(|error| {
            log::debug!("{host} cannot be resolved: {error}");
            Error::Unresolvable
        })?;
        found.records.truncate(MAX_ADDRESSES);
        if found.records.is_empty() {
            return Err(Error::Unresolvable);
        }
        Ok(found)
    }

    /// The SRV records at `name` (`_service._protocol.domain`).
    pub async fn services(&self, name: &str) -> Result<Records<Service>, Error> {
        let found = with_timeout(DNS_TIMEOUT, self.dns.services(name)).await?;
        found.map_err(|error| {
            log::debug!("the SRV records {name} cannot be resolved: {error}");
            Error::Unresolvable
        })
    }
}

/// A host as certificates and sockets have it.
pub fn without_brackets(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}
