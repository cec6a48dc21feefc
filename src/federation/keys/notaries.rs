//! Asking others for the keys of servers that do not tell them themselves.
//!
//! A notary can make anything up about a server that is gone, so only those are asked that the
//! settings name.
//!
//! Source: server-server API, "Querying Keys Through Another Server".

use std::{collections::BTreeMap, mem, time::Duration};

use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedServerName, ServerName, UInt,
    api::federation::discovery::{
        ServerSigningKeys,
        get_remote_server_keys_batch::v2::{QueryCriteria, Request},
    },
    serde::Raw,
};

use super::{Keys, Known, Wanted, rest, stored};
use crate::{federation::Limits, rooms};

/// About how many servers a notary is asked at once.
const SERVERS: usize = 50;
const LIMITS: Limits = Limits {
    time: Duration::from_secs(30),
    size: 4 * 1024 * 1024,
};

impl Keys {
    /// What notaries say of keys that are `wanted` and not known; what is known then.
    pub(super) async fn by_notaries(
        &self,
        wanted: BTreeMap<OwnedServerName, Vec<Wanted>>,
        known: &mut BTreeMap<OwnedServerName, Known>,
    ) -> Result<(), rooms::Error> {
        let is_missing = |(server, wanted): &(OwnedServerName, Vec<Wanted>)| {
            let known = known.get(server);
            !known.is_some_and(|known| known.satisfies(wanted))
                && self.0.client.may_contact(server)
                && self.0.notaries_rest.get(server).is_none()
        };
        let mut missing: Vec<_> = wanted.into_iter().filter(is_missing).collect();
        for notary in &self.0.notaries {
            for some in missing.chunks(SERVERS) {
                for (server, told, json) in self.ask_notary(notary, some).await? {
                    let of_server = known.entry(server.clone()).or_default();
                    let new = told.unknown_to(of_server);
                    if new.0.is_empty() {
                        continue;
                    }
                    *of_server = mem::take(of_server).with(new.clone());
                    let put = move |tx: &_| stored::put(tx, &server, &new, &json);
                    self.0.store.write(put).await?;
                }
            }
            missing.retain(|(server, wanted)| {
                let known = known.get(server);
                !known.is_some_and(|known| known.satisfies(wanted))
            });
        }
        for (server, _) in missing {
            rest(&self.0.notaries_rest, &server);
        }
        Ok(())
    }

    /// What `notary` says of the keys of `servers`.
    async fn ask_notary(
        &self,
        notary: &ServerName,
        servers: &[(OwnedServerName, Vec<Wanted>)],
    ) -> Result<Vec<(OwnedServerName, Known, String)>, rooms::Error> {
        let now = self.0.clock.now_ms();
        let queries = servers.iter().map(|(server, wanted)| {
            let keys = wanted.iter().filter_map(|(id, at)| {
                let mut criteria = QueryCriteria::new();
                let at = MilliSecondsSinceUnixEpoch(UInt::new_saturating(*at));
                criteria.minimum_valid_until_ts = Some(at);
                Some((id.as_str().try_into().ok()?, criteria))
            });
            (server.clone(), keys.collect())
        });
        let request = Request::new(queries.collect());
        let answer = match self.0.client.send_within(notary, request, LIMITS).await {
            Ok(answer) => answer,
            Err(error) => {
                log::debug!("{notary} tells no keys of others: {error}");
                return Ok(Vec::new());
            }
        };
        let enough = |known: &Known| known.has_valid_at(now);
        let keys = self.of_server(notary, enough).await?.valid_at(Some(now));
        let read = |told: Raw<ServerSigningKeys>| {
            stored::verify(notary, &told, keys.clone())?;
            let told_of = told.get_field::<OwnedServerName>("server_name");
            let told_of = told_of.map_err(|error| error.to_string())?;
            let server = servers
                .iter()
                .find(|(server, _)| Some(server) == told_of.as_ref());
            let (server, _) = server.ok_or("keys that nobody asked for")?;
            let known = stored::parse(server, &told, now)?;
            Ok((server.clone(), known, told.into_json().to_string()))
        };
        let all = answer.server_keys.into_iter().map(read);
        let read = all.filter_map(|read: Result<_, String>| {
            read.map_err(|error| log::debug!("{notary} tells nonsense: {error}"))
                .ok()
        });
        Ok(read.collect())
    }
}
