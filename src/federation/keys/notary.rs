//! Vouching for what other servers told of their keys.
//!
//! Source: server-server API, "Querying Keys Through Another Server".

use std::{collections::BTreeMap, slice, time::Duration};

use ruma::{OwnedServerName, api::federation::discovery::ServerSigningKeys, serde::Raw};

use super::{Keys, Known, Wanted, own, stored};
use crate::{federation::transport::connect::in_time, rooms};

/// How many servers one may ask about at once.
const SERVERS: usize = 100;
/// How long they are waited for, together.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is wanted to be known of a server's keys.
#[derive(Clone, Debug)]
pub enum Query {
    /// Whichever are valid at that time, in milliseconds since the epoch.
    ValidAt(u64),
    /// These.
    These(Vec<Wanted>),
}

impl Query {
    fn is_answered_by(&self, known: &Known) -> bool {
        match self {
            Self::ValidAt(at) => known.has_valid_at(*at),
            Self::These(wanted) => wanted
                .iter()
                .all(|key| known.satisfies(slice::from_ref(key))),
        }
    }
}

impl Keys {
    /// What servers told of their keys, with this server's signature. They are asked anew if that
    /// is not known which is wanted; what they told last counts if they do not answer.
    pub async fn vouched(
        &self,
        wanted: BTreeMap<OwnedServerName, Query>,
    ) -> Result<Vec<Raw<ServerSigningKeys>>, rooms::Error> {
        let servers: Vec<_> = wanted.keys().take(SERVERS).cloned().collect();
        let asking: Vec<_> = wanted
            .into_iter()
            .take(SERVERS)
            .map(|(server, query)| {
                let keys = self.clone();
                self.0.executor.spawn(async move {
                    let _slot = keys.0.vouching.acquire().await;
                    let enough = |known: &Known| query.is_answered_by(known);
                    keys.of_server(&server, enough).await.map(drop)
                })
            })
            .collect();
        let all = async {
            for one in asking {
                one.await?;
            }
            Ok::<_, rooms::Error>(())
        };
        // Who does not answer in time, or only later, is told of as before.
        if let Ok(asked) = in_time(PATIENCE, all).await {
            asked?;
        }
        let vouched = servers.iter().map(|server| self.vouched_for(server));
        vouched.filter_map(Result::transpose).collect()
    }

    fn vouched_for(
        &self,
        server: &OwnedServerName,
    ) -> Result<Option<Raw<ServerSigningKeys>>, rooms::Error> {
        let (store, local) = (&self.0.store, &self.0.local);
        if server == local.server_name() {
            let now = self.0.clock.now_ms();
            return store.read(|s| own::published(s, local, now)).map(Some);
        }
        let Some(told) = store.read(|s| stored::told(s, server))? else {
            return Ok(None);
        };
        let unfit = |_| rooms::Error::corrupt("published_keys", server, "not JSON");
        let told = serde_json::from_str(&told).map_err(unfit)?;
        own::signed(told, local).map(Some)
    }
}
