//! How many connections each network has.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use super::peer;
use crate::rates::network;

/// The connections of every network that has any, so no more entries than connections.
#[derive(Debug)]
pub(super) struct NetworkConnections {
    max_per_network: usize,
    counts: Mutex<HashMap<IpAddr, usize>>,
}

/// One of the connections of a network, until it is dropped.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    connections: Arc<NetworkConnections>,
    network: IpAddr,
}

impl NetworkConnections {
    pub(super) fn new(max_per_network: usize) -> Arc<Self> {
        Arc::new(Self {
            max_per_network,
            counts: Mutex::default(),
        })
    }

    /// A permit for a connection from `address`, if its network has fewer than the maximum. An
    /// address that may be a proxy always gets one.
    pub(super) fn acquire(self: &Arc<Self>, address: IpAddr) -> Option<ConnectionPermit> {
        let network = network(address);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.get(&network).copied().unwrap_or_default();
        if count >= self.max_per_network && !peer::may_be_proxy(address) {
            return None;
        }
        counts.insert(network, count + 1);
        Some(ConnectionPermit {
            connections: self.clone(),
            network,
        })
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let counts = self.connections.counts.lock();
        let mut counts = counts.unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::{ConnectionPermit, NetworkConnections};

    #[test]
    fn a_network_gets_no_permit_beyond_its_maximum() {
        let connections = NetworkConnections::new(2);
        let acquire = |text: &str| connections.acquire(text.parse::<IpAddr>().unwrap());
        let first = acquire("2001:db8::1").unwrap();
        let _second = acquire("2001:db8::2").unwrap();
        assert!(acquire("2001:db8::3").is_none());
        let _other_network = acquire("2001:db8:0:1::1").unwrap();
        drop(first);
        let _third = acquire("2001:db8::3").unwrap();
        assert!(acquire("2001:db8::4").is_none());
    }

    #[test]
    fn a_local_proxy_has_no_maximum() {
        let connections = NetworkConnections::new(2);
        let acquire = || connections.acquire("127.0.0.1".parse().unwrap());
        let permits: Vec<Option<ConnectionPermit>> = (0..10).map(|_| acquire()).collect();
        assert!(permits.iter().all(Option::is_some));
    }

    #[test]
    fn a_network_without_connections_has_no_entry() {
        let connections = NetworkConnections::new(2);
        for n in 0..100_u8 {
            drop(connections.acquire([192, 0, 2, n].into()).unwrap());
        }
        assert!(connections.counts.lock().unwrap().is_empty());
    }
}
