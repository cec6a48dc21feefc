//! What is known of a server's keys.

use std::{collections::BTreeMap, time::Duration};

use ruma::{
    CanonicalJsonObject, ServerName,
    api::federation::discovery::ServerSigningKeys,
    serde::{Base64, Raw},
    signatures::{PublicKeyMap, PublicKeySet, verify_json},
};

use super::Wanted;
use crate::{
    rooms,
    store::{Reader, Rows, Tx, records::RemoteKey},
};

/// How long what a server tells of its keys holds at the most.
///
/// Source: server-server API, `GET /_matrix/key/v2/server`, `valid_until_ts`.
const LONGEST: Duration = Duration::from_hours(7 * 24);
/// How many keys of one server are kept.
const KEYS: usize = 64;
/// How many bytes are kept of what it said.
const LONGEST_JSON: usize = 32 * 1024;

/// A server's keys by their ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Known(pub BTreeMap<String, RemoteKey>);

impl Known {
    /// Whether all that is wanted of one event at least is there: of several keys with which the
    /// same is signed, one does.
    pub fn satisfies(&self, wanted: &[Wanted]) -> bool {
        let is_valid = |id: &String, at: u64| {
            let key = self.0.get(id);
            key.is_some_and(|key| at <= key.valid_until_ts)
        };
        let times = wanted.iter().map(|(_, at)| at);
        times.clone().all(|time| {
            let mut of_time = wanted.iter().filter(|(_, at)| at == time);
            of_time.any(|(id, at)| is_valid(id, *at))
        })
    }

    /// Whether a key is there that is valid at a time.
    pub fn has_valid_at(&self, at: u64) -> bool {
        self.0.values().any(|key| at <= key.valid_until_ts)
    }

    /// The keys that were valid at a time, or all.
    pub fn valid_at(&self, at: Option<u64>) -> PublicKeySet {
        let valid = self.0.iter();
        let valid = valid.filter(|(_, key)| at.is_none_or(|at| at <= key.valid_until_ts));
        valid
            .map(|(id, key)| (id.clone(), Base64::new(key.key.to_vec())))
            .collect()
    }

    /// What of this is not known, or not known to have been valid as long.
    pub fn unknown_to(mut self, known: &Self) -> Self {
        self.0.retain(|id, key| {
            let known = known.0.get(id);
            known.is_none_or(|known| known.valid_until_ts < key.valid_until_ts)
        });
        self
    }

    /// The same, where the server has told anew what it has told.
    pub fn with(mut self, told: Self) -> Self {
        self.0.extend(told.0);
        self
    }
}

/// What is stored of a server's keys.
pub(super) fn of(r: &impl Reader, server: &ServerName) -> Result<Known, rooms::Error> {
    let mut known = BTreeMap::new();
    for row in r.remote_keys()?.range((server.as_str(), "")..)? {
        let (key, record) = row?;
        let (of_server, id) = key.value();
        if of_server != server.as_str() {
            break;
        }
        known.insert(id.to_owned(), record.value().unpack()?);
    }
    Ok(Known(known))
}

/// What the server has last told, with its signature.
pub(super) fn told(r: &impl Reader, server: &ServerName) -> Result<Option<String>, rooms::Error> {
    let told = r.published_keys()?;
    let told = told.get(server.as_str())?;
    Ok(told.map(|told| told.value().to_owned()))
}

/// Stores what a server has told of its keys, and how it said it.
pub(super) fn put(
    tx: &Tx,
    server: &ServerName,
    told: &Known,
    json: &str,
) -> Result<(), rooms::Error> {
    let mut table = tx.remote_keys()?;
    for (id, key) in &told.0 {
        table.put((server.as_str(), id.as_str()), key)?;
    }
    if json.len() <= LONGEST_JSON {
        tx.published_keys()?.insert(server.as_str(), json)?;
    }
    Ok(())
}

/// Reads what a server tells of its keys, which it must have signed with them.
pub(super) fn parse(
    server: &ServerName,
    told: &Raw<ServerSigningKeys>,
    now_ms: u64,
) -> Result<Known, String> {
    let keys: ServerSigningKeys = told.deserialize().map_err(|error| error.to_string())?;
    if keys.server_name != server {
        return Err(format!("these are the keys of {}", keys.server_name));
    }
    let ids = keys.verify_keys.iter();
    let set: PublicKeySet = ids
        .map(|(id, key)| (id.to_string(), key.key.clone()))
        .collect();
    verify(server, told, set)?;
    let longest = now_ms.saturating_add(LONGEST.as_secs() * 1000);
    let until = u64::from(keys.valid_until_ts.get()).min(longest);
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
    Ok(Known(all.take(KEYS).collect()))
}

/// Checks that `signer` has signed what is told, whoever else may have.
pub(super) fn verify(
    signer: &ServerName,
    told: &Raw<ServerSigningKeys>,
    keys: PublicKeySet,
) -> Result<(), String> {
    let mut object: CanonicalJsonObject =
        serde_json::from_str(told.json().get()).map_err(|error| error.to_string())?;
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

    use super::{Known, parse};
    use crate::protocol::ServerKey;

    const NOW: u64 = 1_700_000_000_000;
    const HOUR: u64 = 3_600_000;

    fn told(key: &ServerKey, until: u64, old: Value) -> CanonicalJsonObject {
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

    fn read(object: &CanonicalJsonObject) -> Result<Known, String> {
        let raw = Raw::new(object).expect("JSON").cast_unchecked();
        parse(server_name!("a.example"), &raw, NOW)
    }

    #[test]
    fn a_key_is_valid_until_its_server_says_and_a_week_at_most() {
        let key = ServerKey::generate();
        let id = key.id().to_string();
        let known = read(&told(&key, NOW + HOUR, json!({}))).expect("keys");
        assert!(known.satisfies(&[(id.clone(), NOW + HOUR)]));
        assert!(!known.satisfies(&[(id.clone(), NOW + HOUR + 1)]));
        assert!(known.valid_at(Some(NOW + HOUR + 1)).is_empty());
        assert_eq!(known.valid_at(None).len(), 1);
        let known = read(&told(&key, NOW + 1000 * 24 * HOUR, json!({}))).expect("keys");
        assert!(known.satisfies(&[(id.clone(), NOW + 7 * 24 * HOUR)]));
        assert!(!known.satisfies(&[(id, NOW + 7 * 24 * HOUR + 1)]));
    }

    #[test]
    fn an_old_key_was_valid_until_it_expired() {
        let (key, before) = (ServerKey::generate(), ServerKey::generate());
        let old = json!({
            before.id().as_str(): { "key": before.public_key(), "expired_ts": NOW - HOUR },
        });
        let known = read(&told(&key, NOW + HOUR, old)).expect("keys");
        let id = before.id().to_string();
        assert!(known.satisfies(&[(id.clone(), NOW - HOUR)]));
        assert!(!known.satisfies(&[(id, NOW)]));
    }

    #[test]
    fn of_two_keys_with_which_the_same_is_signed_one_does() {
        let key = ServerKey::generate();
        let known = read(&told(&key, NOW + HOUR, json!({}))).expect("keys");
        let (id, other) = (key.id().to_string(), "ed25519:other".to_owned());
        assert!(known.satisfies(&[(other.clone(), NOW), (id.clone(), NOW)]));
        assert!(!known.satisfies(&[(other, NOW - 1), (id, NOW)]));
    }

    #[test]
    fn keys_that_another_has_signed_or_that_are_anothers_are_refused() {
        let (key, other) = (ServerKey::generate(), ServerKey::generate());
        let mut forged = told(&key, NOW, json!({}));
        let now: Value = json!(NOW + 1);
        forged.insert(
            "valid_until_ts".to_owned(),
            now.try_into().expect("a number"),
        );
        read(&forged).expect_err("changed");
        let mut forged = told(&key, NOW, json!({}));
        forged.remove("signatures");
        sign_json("a.example", &other, &mut forged).expect("it is signed");
        read(&forged).expect_err("signed by another key");
        let raw = Raw::new(&told(&key, NOW, json!({}))).expect("JSON");
        let others = parse(server_name!("b.example"), &raw.cast_unchecked(), NOW);
        others.expect_err("another's");
    }
}
