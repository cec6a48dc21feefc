//! Fetches the keys of servers that do not answer from notaries.
//!
//! A notary can forge the keys of a server that is gone, so only those are used that the owner has chosen.
//!
//! Source: server-server API, "Querying Keys Through Another Server".

use std::{collections::BTreeMap, time::Duration};

use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedServerName, ServerName, UInt,
    api::federation::discovery::{
        ServerSigningKeys,
        get_remote_server_keys_batch::v2::{QueryCriteria, Request},
    },
    serde::Raw,
    signatures::PublicKeySet,
};

use super::{
    fetch::Keys,
    known::{self, KnownKeys, WantedKey},
    stored,
};
use crate::{federation::Limits, rooms};

/// How many servers one request to a notary may name.
const MAX_SERVERS: usize = 50;
const LIMITS: Limits = Limits {
    timeout: Duration::from_secs(30),
    max_bytes: 4 * 1024 * 1024,
};

/// Keys of a server, and the signed JSON that has them.
type NotarizedKeys = (OwnedServerName, KnownKeys, String);

impl Keys {
    /// Adds to `known` what notaries have of the `wanted` keys that are missing there.
    pub(super) async fn add_from_notaries(
        &self,
        wanted: BTreeMap<OwnedServerName, Vec<WantedKey>>,
        known: &mut BTreeMap<OwnedServerName, KnownKeys>,
    ) -> Result<(), rooms::Error> {
        let mut missing: Vec<_> = wanted
            .into_iter()
            .filter(|(server, wanted)| {
                !is_satisfied(known, server, wanted)
                    && self.0.client.may_contact(server)
                    && self.0.notaries_failed.get(server).is_none()
            })
            .collect();
        for notary in &self.0.notaries {
            for servers in missing.chunks(MAX_SERVERS) {
                for (server, keys, json) in self.query_notary(notary, servers).await? {
                    let of_server = known.entry(server.clone()).or_default();
                    let last = self.0.store.read(|s| stored::published(s, &server))?;
                    let new = keys.new_to(of_server, &json, last.as_deref());
                    if !new.0.is_empty() {
                        of_server.0.extend(new.0.clone());
                        self.save(&server, new, json).await;
                    }
                }
            }
            missing.retain(|(server, wanted)| !is_satisfied(known, server, wanted));
        }
        for (server, _) in missing {
            self.notaries_failed(server);
        }
        Ok(())
    }

    /// What `notary` has of the keys of `servers`.
    async fn query_notary(
        &self,
        notary: &ServerName,
        servers: &[(OwnedServerName, Vec<WantedKey>)],
    ) -> Result<Vec<NotarizedKeys>, rooms::Error> {
        let now = self.0.clock.now_ms();
        let queries = servers.iter().map(|(server, wanted)| {
            let keys = wanted.iter().filter_map(|key| {
                let mut criteria = QueryCriteria::new();
                let ts = MilliSecondsSinceUnixEpoch(UInt::new_saturating(key.valid_at_ts));
                criteria.minimum_valid_until_ts = Some(ts);
                Some((key.id.as_str().try_into().ok()?, criteria))
            });
            (server.clone(), keys.collect())
        });
        let request = Request::new(queries.collect());
        let response = self
            .0
            .client
            .send_with_limits(notary, request, LIMITS)
            .await;
        let response = match response {
            Ok(response) => response,
            Err(error) => {
                log::debug!("the notary {notary} does not answer: {error}");
                return Ok(Vec::new());
            }
        };
        let enough = |known: &KnownKeys| known.has_valid_at(now);
        let notary_keys = self.of_server(notary, enough).await?.valid_at(Some(now));
        let all = response.server_keys.into_iter();
        let parsed = all.filter_map(|keys| {
            parse(notary, &notary_keys, servers, keys, now)
                .map_err(|error| {
                    log::debug!("a response of the notary {notary} is invalid: {error}")
                })
                .ok()
        });
        Ok(parsed.collect())
    }
}

fn is_satisfied(
    known: &BTreeMap<OwnedServerName, KnownKeys>,
    server: &ServerName,
    wanted: &[WantedKey],
) -> bool {
    known
        .get(server)
        .is_some_and(|known| known.satisfies(wanted))
}

/// Parses keys of one of `servers`, which that server and the notary must have signed.
fn parse(
    notary: &ServerName,
    notary_keys: &PublicKeySet,
    servers: &[(OwnedServerName, Vec<WantedKey>)],
    keys: Raw<ServerSigningKeys>,
    now_ms: u64,
) -> Result<NotarizedKeys, String> {
    if !known::signed_object(&keys)?.is_signed_by(notary, notary_keys) {
        return Err("not signed by the notary".to_owned());
    }
    let name = keys.get_field::<OwnedServerName>("server_name");
    let name = name.map_err(|error| error.to_string())?;
    let server = servers
        .iter()
        .find(|(server, _)| Some(server) == name.as_ref());
    let (server, _) = server.ok_or("keys that were not requested")?;
    let known = known::parse(server, &keys, now_ms)?;
    Ok((server.clone(), known, keys.into_json().to_string()))
}

#[cfg(test)]
mod tests {
    use ruma::{
        CanonicalJsonObject, OwnedServerName, serde::Raw, server_name, signatures::sign_json,
    };
    use serde_json::json;

    use super::{PublicKeySet, parse};
    use crate::protocol::ServerKey;

    const NOW: u64 = 1_700_000_000_000;

    #[test]
    fn keys_are_accepted_from_a_notary_only_of_a_requested_server_and_signed_by_both() {
        let [key, notary_key, other_key] = [(); 3].map(|()| ServerKey::generate());
        let notary = server_name!("notary.example");
        let notary_keys =
            PublicKeySet::from([(notary_key.id().to_string(), notary_key.public_key())]);
        let keys_of = |server: &str, signers: &[(&str, &ServerKey)]| {
            let keys = json!({
                "server_name": server,
                "verify_keys": { key.id().as_str(): { "key": key.public_key() } },
                "old_verify_keys": {},
                "valid_until_ts": NOW + 1000,
            });
            let mut keys: CanonicalJsonObject = serde_json::from_value(keys).expect("an object");
            for (name, key) in signers {
                sign_json(name, *key, &mut keys).expect("it is signed");
            }
            Raw::new(&keys).expect("JSON").cast_unchecked()
        };
        let requested: [(OwnedServerName, _); 1] =
            [(server_name!("a.example").to_owned(), Vec::new())];
        let accepts = |server, signers: &[(&str, &ServerKey)]| {
            let keys = keys_of(server, signers);
            parse(notary, &notary_keys, &requested, keys, NOW).is_ok()
        };
        let (own, by_notary) = (("a.example", &key), ("notary.example", &notary_key));
        assert!(accepts("a.example", &[own, by_notary]));
        assert!(!accepts("a.example", &[own]));
        assert!(!accepts("a.example", &[by_notary]));
        assert!(!accepts(
            "a.example",
            &[own, ("notary.example", &other_key)]
        ));
        assert!(!accepts(
            "a.example",
            &[("a.example", &other_key), by_notary]
        ));
        assert!(!accepts(
            "b.example",
            &[own, ("b.example", &key), by_notary]
        ));
    }
}
