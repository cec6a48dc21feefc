//! The networks from which a user has logged in. Wrong passwords from elsewhere do not keep them out there.

use std::net::{IpAddr, Ipv6Addr};

use smol::future::poll_once;

use crate::{
    rates,
    store::{self, Reader, Rows, Tx, UserNum},
    users::{Error, Users, accounts::usernames},
};

/// Of a user. The one that was used least recently is forgotten.
const MAX_NETWORKS: usize = 16;

/// As in the key of a row.
fn network(address: IpAddr) -> [u8; 16] {
    let network = match rates::network(address) {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    Ipv6Addr::octets(&network)
}

/// Records that `user` is logged in at `address`.
pub(super) fn record(
    tx: &Tx,
    user: UserNum,
    address: IpAddr,
    now_ms: u64,
) -> Result<(), store::Error> {
    let network = network(address);
    let mut known = Vec::new();
    for row in tx.login_networks()?.prefix(user)? {
        let (key, seen_ts) = row?;
        known.push((seen_ts.value(), key.value().1));
    }
    let is_known = known.iter().any(|(_, known)| *known == network);
    if !is_known
        && known.len() >= MAX_NETWORKS
        && let Some((_, oldest)) = known.iter().min()
    {
        tx.login_networks()?.remove((user, *oldest))?;
    }
    tx.login_networks()?.insert((user, network), now_ms)?;
    Ok(())
}

pub(in crate::users) fn remove_of(tx: &Tx, user: UserNum) -> Result<(), store::Error> {
    tx.login_networks()?.remove_prefix(user)
}

impl Users {
    /// Whether `user`, a user id or a localpart, has logged in from the network of `address` before.
    pub fn has_logged_in_from(&self, user: &str, address: IpAddr) -> Result<bool, Error> {
        for user_id in usernames::candidates(user, &self.options.server_name) {
            if let Some((user, _)) = self.account(&user_id)? {
                let key = (user, network(address));
                return Ok(self.store.read(|s| s.login_networks()?.has(key))?);
            }
        }
        Ok(false)
    }

    /// Queues a write that nobody waits for: `user` has logged in from `address`.
    pub async fn record_login_network(&self, user: UserNum, address: IpAddr) {
        let now_ms = self.clock.now_ms();
        let job = move |tx: &Tx| record(tx, user, address, now_ms);
        poll_once(self.store.write_deferred(job)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::users::testing::with_server;

    #[test]
    fn the_networks_used_last_are_known_until_the_account_is_deactivated() {
        with_server(async |server| {
            let login = server.register("alice").await;
            let user = server.session(&login).await.user;
            let address = |n: usize| format!("2001:db8:{n}::1").parse::<IpAddr>().unwrap();
            let log_in = async |n: usize| {
                server.users.record_login_network(user, address(n)).await;
                server.clock.advance(Duration::from_secs(1));
            };
            for n in 0..MAX_NETWORKS {
                log_in(n).await;
            }
            log_in(0).await;
            log_in(99).await;
            server.store.write(|tx| tx.next_position()).await.unwrap();
            let known =
                |name: &str, n: usize| server.users.has_logged_in_from(name, address(n)).unwrap();
            assert!(known("alice", 0) && known(login.user_id.as_str(), 2) && known("alice", 99));
            assert!(!known("alice", 1), "the one used least recently");
            assert!(!known("alice", 100) && !known("bob", 0));
            server.deactivate(user, false).await;
            assert_eq!(server.store.read(|s| s.login_networks()?.len()).unwrap(), 0);
        });
    }
}
