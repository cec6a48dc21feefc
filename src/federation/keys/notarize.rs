//! This server as a notary of the keys of other servers.
//!
//! Source: server-server API, "Querying Keys Through Another Server".

use std::{collections::BTreeMap, net::IpAddr, slice, time::Duration};

use ruma::{OwnedServerName, api::federation::discovery::ServerSigningKeys, serde::Raw};

use super::{
    fetch::Keys,
    known::{KnownKeys, WantedKey},
    own, stored,
};
use crate::{
    federation::transport::connect::with_timeout, protocol::signed_object::SignedObject, rooms,
};

/// How many servers one request may name.
const MAX_SERVERS: usize = 100;
/// How long all of them are waited for together.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Which keys of a server are wanted.
#[derive(Clone, Debug)]
pub enum Query {
    /// Any that are valid at that time, in milliseconds since the epoch.
    ValidAt(u64),
    /// All of these.
    These(Vec<WantedKey>),
}

impl Query {
    fn is_answered_by(&self, known: &KnownKeys) -> bool {
        match self {
            Self::ValidAt(ts) => known.has_valid_at(*ts),
            Self::These(wanted) => wanted
                .iter()
                .all(|key| known.satisfies(slice::from_ref(key))),
        }
    }
}

impl Keys {
    /// What servers publish, with this server's signature, for a client in `network`. Wanted keys that are
    /// not known are fetched.
    /// If they do not answer, what they published last is returned.
    pub async fn notarized(
        &self,
        wanted: BTreeMap<OwnedServerName, Query>,
        network: IpAddr,
    ) -> Result<Vec<Raw<ServerSigningKeys>>, rooms::Error> {
        let servers: Vec<_> = wanted.keys().take(MAX_SERVERS).cloned().collect();
        let fetches: Vec<_> = wanted
            .into_iter()
            .take(MAX_SERVERS)
            .map(|(server, query)| {
                let keys = self.clone();
                self.0.executor.spawn(async move {
                    let _permit = keys.0.notarize_permits.acquire(network).await;
                    let enough = |known: &KnownKeys| query.is_answered_by(known);
                    keys.of_server(&server, enough).await.map(drop)
                })
            })
            .collect();
        let all = async {
            for fetch in fetches {
                fetch.await?;
            }
            Ok::<_, rooms::Error>(())
        };
        if let Ok(fetched) = with_timeout(TIMEOUT, all).await {
            fetched?;
        }
        let notarized = servers.iter().map(|server| self.notarized_of(server));
        notarized.filter_map(Result::transpose).collect()
    }

    fn notarized_of(
        &self,
        server: &OwnedServerName,
    ) -> Result<Option<Raw<ServerSigningKeys>>, rooms::Error> {
        let (store, local) = (&self.0.store, &self.0.local);
        if server == local.server_name() {
            let now = self.0.clock.now_ms();
            return store.read(|s| own::published(s, local, now)).map(Some);
        }
        let Some(published) = store.read(|s| stored::published(s, server))? else {
            return Ok(None);
        };
        let published = SignedObject::parse(published.as_bytes())
            .map_err(|_| rooms::Error::corrupt("published_keys", server, "not JSON"))?;
        own::signed(published, local).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{KnownKeys, Query, WantedKey};
    use crate::store::records::RemoteKey;

    #[test]
    fn a_query_for_several_keys_needs_all_of_them_and_one_for_a_time_any_that_is_valid_then() {
        let key = |valid_until_ts| RemoteKey {
            key: [0; 32],
            valid_until_ts,
        };
        let known = KnownKeys(BTreeMap::from([
            ("ed25519:a".to_owned(), key(1000)),
            ("ed25519:b".to_owned(), key(2000)),
        ]));
        let wanted = |id: &str, valid_at_ts| WantedKey {
            id: id.to_owned(),
            valid_at_ts,
        };
        let is_answered = |query: Query| query.is_answered_by(&known);
        let (a, b) = (wanted("ed25519:a", 1000), wanted("ed25519:b", 1000));
        assert!(is_answered(Query::These(vec![a.clone(), b.clone()])));
        let other = wanted("ed25519:c", 1000);
        assert!(!is_answered(Query::These(vec![a, other])));
        let late = wanted("ed25519:a", 1001);
        assert!(!is_answered(Query::These(vec![late, b])));
        assert!(is_answered(Query::ValidAt(2000)));
        assert!(!is_answered(Query::ValidAt(2001)));
    }
}
