//! The known keys of one server.

use std::{collections::BTreeMap, time::Duration};

use ruma::{
    CanonicalJsonObject, ServerName,
    api::federation::discovery::ServerSigningKeys,
    serde::{Base64, Raw},
    signatures::{PublicKeyMap, PublicKeySet, verify_json},
};

use crate::{
    clock::as_ms,
    protocol::depth::{MAX_DEPTH, is_too_deep},
    store::records::RemoteKey,
};

/// A key is valid for so long at most after it was fetched.
///
/// Source: server-server API, `GET /_matrix/key/v2/server`, `valid_until_ts`.
const MAX_VALIDITY: Duration = Duration::from_hours(7 * 24);
/// How many keys of one server are kept.
const MAX_KEYS: usize = 64;

/// A key by which something is to be checked.
#[derive(Clone, Debug)]
pub struct WantedKey {
    pub id: String,
    /// When it must have been valid, in milliseconds since the epoch.
    pub valid_at_ts: u64,
}

/// Keys by their ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct KnownKeys(pub BTreeMap<String, RemoteKey>);

impl KnownKeys {
    /// Whether there is one of the wanted keys for each time. An event can be signed with several keys of a
    /// server, of which one suffices.
    pub fn satisfies(&self, wanted: &[WantedKey]) -> bool {
        let is_valid = |wanted: &WantedKey| {
            let key = self.0.get(&wanted.id);
            key.is_some_and(|key| wanted.valid_at_ts <= key.valid_until_ts)
        };
        wanted.iter().all(|one| {
            let mut of_time = wanted
                .iter()
                .filter(|other| other.valid_at_ts == one.valid_at_ts);
            of_time.any(is_valid)
        })
    }

    pub fn has_valid_at(&self, ts: u64) -> bool {
        self.0.values().any(|key| ts <= key.valid_until_ts)
    }

    /// The keys that were valid at a time, or all.
    pub fn valid_at(&self, ts: Option<u64>) -> PublicKeySet {
        let valid = self.0.iter();
        let valid = valid.filter(|(_, key)| ts.is_none_or(|ts| ts <= key.valid_until_ts));
        valid
            .map(|(id, key)| (id.clone(), Base64::new(key.key.to_vec())))
            .collect()
    }

    /// The keys that `known` does not have, or not with as long a validity.
    pub fn new_to(mut self, known: &Self) -> Self {
        self.0.retain(|id, key| {
            let known = known.0.get(id);
            known.is_none_or(|known| known.valid_until_ts < key.valid_until_ts)
        });
        self
    }
}

/// Parses the keys that `server` publishes and has signed with them.
pub(super) fn parse(
    server: &ServerName,
    published: &Raw<ServerSigningKeys>,
    now_ms: u64,
) -> Result<KnownKeys, String> {
    if is_too_deep(published.json().get().as_bytes()) {
        return Err(format!("nested more than {MAX_DEPTH} levels deep"));
    }
    let keys: ServerSigningKeys = published.deserialize().map_err(|error| error.to_string())?;
    if keys.server_name != server {
        return Err(format!("these are the keys of {}", keys.server_name));
    }
    let ids = keys.verify_keys.iter();
    let set: PublicKeySet = ids
        .map(|(id, key)| (id.to_string(), key.key.clone()))
        .collect();
    verify(server, published, set)?;
    let max = now_ms.saturating_add(as_ms(MAX_VALIDITY));
    let until = u64::from(keys.valid_until_ts.get()).min(max);
    let current = keys.verify_keys.into_iter();
    let current = current.map(|(id, key)| (id.to_string(), key.key, until));
    let old = keys.old_verify_keys.into_iter();
    let old = old.map(|(id, key)| (id.to_string(), key.key, u64::from(key.expired_ts.get())));
    let all = old.chain(current).filter_map(|(id, key, valid_until_ts)| {
        let key = <[u8; 32]>::try_from(key.as_bytes()).ok()?;
        let is_usable = id.starts_with("ed25519:") && id.len() < 256;
        is_usable.then_some((
            id,
            RemoteKey {
                key,
                valid_until_ts,
            },
        ))
    });
    Ok(KnownKeys(all.take(MAX_KEYS).collect()))
}

/// Checks the signatures of `signer`, and of nobody else.
pub(super) fn verify(
    signer: &ServerName,
    published: &Raw<ServerSigningKeys>,
    keys: PublicKeySet,
) -> Result<(), String> {
    let mut object: CanonicalJsonObject =
        serde_json::from_str(published.json().get()).map_err(|error| error.to_string())?;
    if let Some(signatures) = object
        .get_mut("signatures")
        .and_then(|of| of.as_object_mut())
    {
        signatures.retain(|other, _| other == signer.as_str());
    }
    verify_json(&PublicKeyMap::from([(signer.to_string(), keys)]), &object)
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use ruma::{CanonicalJsonObject, serde::Raw, server_name, signatures::sign_json};
    use serde_json::{Value, json};

    use super::{KnownKeys, WantedKey, parse};
    use crate::protocol::ServerKey;

    const NOW: u64 = 1_700_000_000_000;
    const HOUR: u64 = 3_600_000;

    fn signed_keys(key: &ServerKey, until: u64, old: Value) -> CanonicalJsonObject {
        let keys = json!({
            "server_name": "a.example",
            "verify_keys": { key.id().as_str(): { "key": key.public_key() } },
            "old_verify_keys": old,
            "valid_until_ts": until,
        });
        let mut keys = serde_json::from_value(keys).expect("an object");
        sign_json("a.example", key, &mut keys).expect("it is signed");
        keys
    }

    fn wanted(id: &str, valid_at_ts: u64) -> WantedKey {
        WantedKey {
            id: id.to_owned(),
            valid_at_ts,
        }
    }

    fn read(object: &CanonicalJsonObject) -> Result<KnownKeys, String> {
        let raw = Raw::new(object).expect("JSON").cast_unchecked();
        parse(server_name!("a.example"), &raw, NOW)
    }

    #[test]
    fn a_key_is_valid_until_its_valid_until_ts_and_a_week_at_most() {
        let key = ServerKey::generate();
        let id = key.id().to_string();
        let known = read(&signed_keys(&key, NOW + HOUR, json!({}))).expect("keys");
        assert!(known.satisfies(&[wanted(&id, NOW + HOUR)]));
        assert!(!known.satisfies(&[wanted(&id, NOW + HOUR + 1)]));
        assert!(known.valid_at(Some(NOW + HOUR + 1)).is_empty());
        assert_eq!(known.valid_at(None).len(), 1);
        let known = read(&signed_keys(&key, NOW + 1000 * 24 * HOUR, json!({}))).expect("keys");
        assert!(known.satisfies(&[wanted(&id, NOW + 7 * 24 * HOUR)]));
        assert!(!known.satisfies(&[wanted(&id, NOW + 7 * 24 * HOUR + 1)]));
    }

    #[test]
    fn an_old_key_was_valid_until_it_expired() {
        let (key, before) = (ServerKey::generate(), ServerKey::generate());
        let old = json!({
            before.id().as_str(): { "key": before.public_key(), "expired_ts": NOW - HOUR },
        });
        let known = read(&signed_keys(&key, NOW + HOUR, old)).expect("keys");
        let id = before.id().to_string();
        assert!(known.satisfies(&[wanted(&id, NOW - HOUR)]));
        assert!(!known.satisfies(&[wanted(&id, NOW)]));
    }

    #[test]
    fn one_of_two_keys_that_sign_the_same_event_suffices() {
        let key = ServerKey::generate();
        let known = read(&signed_keys(&key, NOW + HOUR, json!({}))).expect("keys");
        let (id, other) = (key.id().to_string(), "ed25519:other");
        assert!(known.satisfies(&[wanted(other, NOW), wanted(&id, NOW)]));
        assert!(!known.satisfies(&[wanted(other, NOW - 1), wanted(&id, NOW)]));
    }

    #[test]
    fn keys_signed_by_another_key_or_for_another_server_are_rejected() {
        let (key, other) = (ServerKey::generate(), ServerKey::generate());
        let mut forged = signed_keys(&key, NOW, json!({}));
        let now: Value = json!(NOW + 1);
        forged.insert(
            "valid_until_ts".to_owned(),
            now.try_into().expect("a number"),
        );
        read(&forged).expect_err("changed");
        let mut forged = signed_keys(&key, NOW, json!({}));
        forged.remove("signatures");
        sign_json("a.example", &other, &mut forged).expect("it is signed");
        read(&forged).expect_err("signed by another key");
        let raw = Raw::new(&signed_keys(&key, NOW, json!({}))).expect("JSON");
        let others = parse(server_name!("b.example"), &raw.cast_unchecked(), NOW);
        others.expect_err("another's");
    }
}
