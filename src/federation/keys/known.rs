//! The known keys of one server.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ruma::{
    OwnedServerName, ServerName,
    api::federation::discovery::ServerSigningKeys,
    serde::{Base64, Raw},
    signatures::PublicKeySet,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    clock::as_ms,
    protocol::{
        depth::{MAX_DEPTH, is_too_deep},
        signed_object::SignedObject,
    },
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

    /// What a response with the text `json` has beyond `known`: other keys, a longer validity, and when a key
    /// has expired. `last_json` is what the server published last, as far as it is known: a key that has
    /// expired there is valid in older responses, which a notary may still have.
    pub fn new_to(mut self, known: &Self, json: &str, last_json: Option<&str>) -> Self {
        let expired = expired_keys(json);
        let known_expired = last_json.map(expired_keys).unwrap_or_default();
        self.0.retain(|id, key| match known.0.get(id) {
            None => true,
            Some(known) if expired.contains(id) => known.valid_until_ts != key.valid_until_ts,
            Some(_) if known_expired.contains(id) => false,
            Some(known) => known.valid_until_ts < key.valid_until_ts,
        });
        self
    }
}

/// The ids of the `old_verify_keys` of a response.
fn expired_keys(json: &str) -> BTreeSet<String> {
    let keys = serde_json::from_str::<PublishedKeys<'_>>(json);
    let keys = keys.map(|keys| {
        let old = keys.old_verify_keys.into_keys();
        old.filter(|id| !keys.verify_keys.contains_key(id))
            .collect()
    });
    keys.unwrap_or_default()
}

/// What is read of the keys that a server publishes. One that cannot be read does not hide the others.
#[derive(Deserialize)]
struct PublishedKeys<'a> {
    server_name: OwnedServerName,
    #[serde(borrow)]
    verify_keys: BTreeMap<String, &'a RawValue>,
    #[serde(borrow, default)]
    old_verify_keys: BTreeMap<String, &'a RawValue>,
    #[serde(borrow)]
    valid_until_ts: &'a RawValue,
}

#[derive(Deserialize)]
struct PublishedKey<'a> {
    key: Base64,
    #[serde(borrow)]
    expired_ts: Option<&'a RawValue>,
}

/// Parses the keys that `server` publishes and has signed with one of them.
pub(super) fn parse(
    server: &ServerName,
    published: &Raw<ServerSigningKeys>,
    now_ms: u64,
) -> Result<KnownKeys, String> {
    let published = signed_object(published)?;
    let keys: PublishedKeys<'_> =
        serde_json::from_str(published.text()).map_err(|error| error.to_string())?;
    if keys.server_name != server {
        return Err(format!("these are the keys of {}", keys.server_name));
    }
    let until = timestamp(keys.valid_until_ts).ok_or("valid_until_ts is not a number")?;
    let until = until.min(now_ms.saturating_add(as_ms(MAX_VALIDITY)));
    let current = keys.verify_keys.into_iter();
    let current = current.filter_map(|(id, json)| known_key(id, json, |_| Some(until)));
    let current = KnownKeys(current.take(MAX_KEYS).collect());
    if !published.is_signed_by(server, &current.valid_at(None)) {
        return Err("not signed with one of them".to_owned());
    }
    let old = keys.old_verify_keys.into_iter();
    let old = old.filter_map(|(id, json)| known_key(id, json, |key| timestamp(key.expired_ts?)));
    let mut known = current;
    for (id, key) in old.take(MAX_KEYS - known.0.len()) {
        known.0.entry(id).or_insert(key);
    }
    Ok(known)
}

/// Parses published keys for checking their signatures.
pub(super) fn signed_object(published: &Raw<ServerSigningKeys>) -> Result<SignedObject, String> {
    let json = published.json().get().as_bytes();
    if is_too_deep(json) {
        return Err(format!("nested more than {MAX_DEPTH} levels deep"));
    }
    SignedObject::parse(json).map_err(|error| error.to_string())
}

fn known_key(
    id: String,
    json: &RawValue,
    valid_until_ts: impl FnOnce(&PublishedKey<'_>) -> Option<u64>,
) -> Option<(String, RemoteKey)> {
    let published: PublishedKey<'_> = serde_json::from_str(json.get()).ok()?;
    let key = RemoteKey {
        key: published.key.as_bytes().try_into().ok()?,
        valid_until_ts: valid_until_ts(&published)?,
    };
    let is_usable = id.starts_with("ed25519:") && id.len() < 256;
    is_usable.then_some((id, key))
}

/// A time, which is a number of any size.
fn timestamp(json: &RawValue) -> Option<u64> {
    let ts: f64 = json.get().parse().ok()?;
    Some(ts as u64)
}

#[cfg(test)]
mod tests {
    use ruma::{CanonicalJsonObject, serde::Raw, server_name, signatures::sign_json};
    use serde_json::{Value, json};

    use super::{KnownKeys, MAX_KEYS, WantedKey, parse};
    use crate::protocol::{ServerKey, signed_object::SignedObject};

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
    fn keys_of_another_server_are_refused_whoever_signed_them() {
        let key = ServerKey::generate();
        let mut keys = signed_keys(&key, NOW + HOUR, json!({}));
        keys.insert("server_name".to_owned(), "b.example".into());
        for server in ["a.example", "b.example"] {
            sign_json(server, &key, &mut keys).expect("it is signed");
        }
        read(&keys).expect_err("they are not of a.example");
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
    fn keys_of_other_algorithms_and_with_too_long_ids_are_ignored() {
        let key = ServerKey::generate();
        let public = json!({ "key": key.public_key(), "expired_ts": NOW });
        let long = format!("ed25519:{}", "x".repeat(248));
        let old = json!({ "ed25519:old": public, "rsa:old": public, long: public });
        let known = read(&signed_keys(&key, NOW + HOUR, old)).expect("keys");
        assert_eq!(known.valid_at(None).len(), 2);
    }

    #[test]
    fn a_key_is_new_if_it_is_valid_for_longer_than_before() {
        let key = ServerKey::generate();
        let until = |ts| read(&signed_keys(&key, ts, json!({}))).expect("keys");
        let known = until(NOW + HOUR);
        let new_to = |known: &KnownKeys, ts| until(ts).new_to(known, "{}", None).0.len();
        let new = |ts| new_to(&known, ts);
        assert_eq!([NOW, NOW + HOUR, NOW + HOUR + 1].map(new), [0, 0, 1]);
        assert_eq!(new_to(&KnownKeys::default(), NOW + HOUR), 1);
    }

    #[test]
    fn a_key_that_has_expired_is_not_valid_for_longer_whoever_has_older_responses() {
        let [key, next] = [(); 2].map(|()| ServerKey::generate());
        let id = key.id().to_string();
        let before = signed_keys(&key, NOW + 24 * HOUR, json!({}));
        let expired_ts = json!({
            &id: { "key": key.public_key(), "expired_ts": NOW - HOUR },
        });
        let after = signed_keys(&next, NOW + HOUR, expired_ts);
        let json = |object: &CanonicalJsonObject| serde_json::to_string(object).unwrap();
        let (old_json, new_json) = (json(&before), json(&after));

        // A notary has the newer response.
        let mut known = read(&before).unwrap();
        let news = read(&after).unwrap();
        let news = news.new_to(&known, &new_json, Some(&old_json));
        known.0.extend(news.0);
        assert!(known.satisfies(&[wanted(&id, NOW - HOUR)]));
        assert!(!known.satisfies(&[wanted(&id, NOW - HOUR + 1)]));

        // A notary has the older response.
        let news = read(&before).unwrap();
        let news = news.new_to(&known, &old_json, Some(&new_json));
        assert_eq!(news, KnownKeys::default());
    }

    #[test]
    fn few_keys_of_a_server_are_kept_and_the_current_ones_first() {
        let key = ServerKey::generate();
        let id = key.id().to_string();
        let expired = json!({ "key": key.public_key(), "expired_ts": NOW - HOUR });
        let mut old = json!({ &id: expired.clone() });
        let known = read(&signed_keys(&key, NOW + HOUR, old.clone())).expect("keys");
        assert!(known.satisfies(&[wanted(&id, NOW + HOUR)]), "it is current");
        for number in 0..100 {
            // They sort before the current one.
            old[format!("ed25519:!{number}")] = expired.clone();
        }
        let known = read(&signed_keys(&key, NOW + HOUR, old)).expect("keys");
        assert!(known.0.len() <= MAX_KEYS, "{}", known.0.len());
        assert!(known.satisfies(&[wanted(&id, NOW + HOUR)]));
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
    fn numbers_that_canonical_json_forbids_do_not_make_keys_unusable() {
        let (key, server) = (ServerKey::generate(), server_name!("a.example"));
        let (id, public) = (key.id(), key.public_key());
        for (valid_until, expected) in [
            ("9007199254740992", 7 * 24 * HOUR),
            ("1e400", 7 * 24 * HOUR),
            ("1700003600000.5", HOUR),
        ] {
            let json = format!(
                r#"{{"server_name": "{server}", "valid_until_ts": {valid_until}, "x": 0.5,
                "verify_keys": {{"{id}": {{"key": "{public}", "y": 0.5}}, "ed25519:z": 0.5}},
                "old_verify_keys": {{"ed25519:o": {{"key": "{public}", "expired_ts": 0.5}}}}}}"#
            );
            let mut object = SignedObject::parse(json.as_bytes()).unwrap();
            object.sign(server, &key).unwrap();
            let raw = Raw::from_json(object.to_json().unwrap());
            let known = parse(server, &raw, NOW).unwrap();
            assert!(known.satisfies(&[wanted(id.as_str(), NOW + expected)]));
            assert!(!known.satisfies(&[wanted(id.as_str(), NOW + expected + 1)]));
            assert_eq!(known.valid_at(None).len(), 2);
        }
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
