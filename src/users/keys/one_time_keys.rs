//! One-time keys and fallback keys (client-server API, "One-time and fallback keys"). A one-time key is
//! claimed once, in the order of upload; a fallback key is returned when none is left, any number of times.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, value::RawValue};
use sha2::{Digest, Sha256};

use super::signed_json::{is_signatures, parse, str_field};
use crate::{
    store::{
        self, DeviceNum, Effect, Position, Reader, Records, Rows, Tx, UserNum,
        records::{FallbackKey, OneTimeKey},
    },
    users::Error,
};

const MAX_KEYS_PER_DEVICE: usize = 500;
const MAX_FALLBACK_ALGORITHMS: usize = 8;
/// Claimed keys of a device that are remembered, so that a client which uploads one again does not offer it
/// again.
const MAX_REMEMBERED_CLAIMS: usize = 500;
/// The order of a key is the position of its upload, times this, plus its place in the upload.
const ORDERS_PER_UPLOAD: u64 = 1 << 10;
/// Of a key id, and of a key that is a plain string.
const MAX_ID_BYTES: usize = 255;

/// Clients upload keys of this algorithm.
const REQUIRED_ALGORITHM: &str = "signed_curve25519";

/// Uploaded keys, by key id (`algorithm:name`).
pub type UploadedKeys = BTreeMap<String, Box<RawValue>>;

/// What a device has left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyCounts {
    /// One-time keys, by algorithm.
    pub counts: BTreeMap<String, u64>,
    /// The algorithms whose fallback key has not been used.
    pub unused_fallback: Vec<String>,
}

/// Checks uploaded keys.
///
/// # Errors
/// [`Error::InvalidParam`], [`Error::BadJson`] or [`Error::TooLarge`].
pub fn check(keys: &UploadedKeys) -> Result<(), Error> {
    if keys.len() > MAX_KEYS_PER_DEVICE {
        return Err(Error::TooLarge("a device has at most 500 one-time keys"));
    }
    for (id, json) in keys {
        let has_name = id.split_once(':').is_some_and(|(algorithm, name)| {
            !algorithm.is_empty() && !name.is_empty() && id.len() <= MAX_ID_BYTES
        });
        if !has_name {
            return Err(Error::InvalidParam(
                "the id of a key is its algorithm, a colon and a name, of at most 255 bytes",
            ));
        }
        // The keys of the algorithm `curve25519` are strings.
        if !json.get().starts_with('"') {
            let key = parse(json.get())?;
            if str_field(&key, "key").is_none()
                || key
                    .get("signatures")
                    .is_some_and(|value| !is_signatures(value))
            {
                return Err(Error::BadJson(
                    "`key` of a one-time key is a string, and `signatures` a map from users to maps from the ids of keys to strings",
                ));
            }
        } else if json.get().len() > MAX_ID_BYTES {
            return Err(Error::TooLarge(
                "a one-time key that is a string has at most 255 bytes",
            ));
        }
    }
    Ok(())
}

/// Adds [checked](check) keys after those that the device has. A repeated upload changes nothing; a key that
/// was claimed does not come back.
///
/// # Errors
/// [`Error::InvalidParam`] if another key has the same id, claimed or not; [`Error::TooMany`].
pub fn add(tx: &Tx, device: DeviceNum, keys: &UploadedKeys) -> Result<(), Error> {
    if keys.is_empty() {
        return Ok(());
    }
    let known: BTreeMap<String, String> = all(tx, device)?
        .into_iter()
        .map(|key| (key.id, key.json))
        .collect();
    let claimed: HashMap<String, Hash> = recently_claimed(tx, device)?;
    let first = tx.next_position()?.0 * ORDERS_PER_UPLOAD;
    let mut count = known.len();
    for (order, (id, json)) in (first..).zip(keys) {
        match (known.get(id), claimed.get(id)) {
            (Some(before), _) if is_same(before, json.get()) => continue,
            (None, Some(before)) if *before == hash(json.get()) => continue,
            (None, None) => {}
            _ => {
                return Err(Error::InvalidParam(
                    "you have uploaded another one-time key with the same id",
                ));
            }
        }
        count += 1;
        if count > MAX_KEYS_PER_DEVICE {
            return Err(Error::TooMany("a device has at most 500 one-time keys"));
        }
        let key = OneTimeKey {
            id: id.clone(),
            json: json.get().to_owned(),
        };
        tx.one_time_keys()?
            .put((device, algorithm_of(id), order), &key)?;
    }
    Ok(())
}

/// Stores [checked](check) fallback keys, in place of those of the same algorithms. A key that was used
/// stays used, also if it is signed anew.
///
/// # Errors
/// [`Error::TooMany`].
pub fn put_fallback(tx: &Tx, device: DeviceNum, keys: &UploadedKeys) -> Result<(), Error> {
    for (id, json) in keys {
        let algorithm = algorithm_of(id);
        let mut table = tx.fallback_keys()?;
        let before = table.load((device, algorithm))?;
        let is_same = |before: &FallbackKey| before.id == *id && is_same(&before.json, json.get());
        let used = before
            .as_ref()
            .is_some_and(|before| before.used && is_same(before));
        if before.is_none() && table.prefix(device)?.count() >= MAX_FALLBACK_ALGORITHMS {
            return Err(Error::TooMany(
                "a device has fallback keys of at most 8 algorithms",
            ));
        }
        let key = FallbackKey {
            id: id.clone(),
            json: json.get().to_owned(),
            used,
        };
        table.put((device, algorithm), &key)?;
    }
    Ok(())
}

/// Which keys may be claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claimable {
    /// The fallback key when no other is left.
    All,
    FallbackOnly,
}

/// Claims a key of the device: its id and its JSON. The device learns that it has one less.
pub fn claim(
    tx: &Tx,
    user: UserNum,
    device: DeviceNum,
    algorithm: &str,
    claimable: Claimable,
) -> Result<Option<(String, String)>, store::Error> {
    let first = tx
        .one_time_keys()?
        .prefix((device, algorithm))?
        .next()
        .filter(|_| claimable == Claimable::All)
        .transpose()?
        .map(|(key, row)| Ok::<_, store::Error>((key.value().2, row.record(&key)?)))
        .transpose()?;
    if let Some((order, key)) = first {
        tx.one_time_keys()?.remove((device, algorithm, order))?;
        let claimed = (key.id.as_str(), hash(&key.json));
        tx.claimed_keys()?.insert((device, order), claimed)?;
        log_change(tx, user, device)?;
        return Ok(Some((key.id, key.json)));
    }
    let Some(mut key) = tx.fallback_keys()?.load((device, algorithm))? else {
        return Ok(None);
    };
    if !key.used {
        key.used = true;
        tx.fallback_keys()?.put((device, algorithm), &key)?;
        log_change(tx, user, device)?;
    }
    Ok(Some((key.id, key.json)))
}

/// Logs that the [`counts`] of the device have changed.
fn log_change(tx: &Tx, user: UserNum, device: DeviceNum) -> Result<(), store::Error> {
    let position = tx.next_position()?;
    tx.one_time_key_changes()?.insert(device, position)?;
    tx.effect(Effect::UserChanged(user, position));
    Ok(())
}

/// Whether a key of the device was claimed after `position`.
pub fn counts_changed_after(
    r: &impl Reader,
    device: DeviceNum,
    position: Position,
) -> Result<bool, store::Error> {
    let changes = r.one_time_key_changes()?;
    let last = changes.get(device)?;
    Ok(last.is_some_and(|last| last.value() > position))
}

/// NOTSPEC: the count of [`REQUIRED_ALGORITHM`] is there even if it is 0, as in Synapse. Some clients take a
/// missing count for an unchanged one.
pub fn counts(r: &impl Reader, device: DeviceNum) -> Result<KeyCounts, store::Error> {
    let mut counts = KeyCounts {
        counts: BTreeMap::from([(REQUIRED_ALGORITHM.to_owned(), 0)]),
        ..KeyCounts::default()
    };
    for row in r.one_time_keys()?.prefix(device)? {
        let algorithm = row?.0.value().1.to_owned();
        *counts.counts.entry(algorithm).or_default() += 1;
    }
    for row in r.fallback_keys()?.prefix(device)? {
        let (key, row) = row?;
        if !row.record(&key)?.used {
            counts.unused_fallback.push(key.value().1.to_owned());
        }
    }
    Ok(counts)
}

/// For a database that was restored: a key that it has may have been claimed since. All one-time keys go, and fallback
/// keys count as used. Each device learns that and uploads new ones; until then its fallback key is claimed.
pub fn expire_all(tx: &Tx) -> Result<(), store::Error> {
    tx.one_time_keys()?
        .remove_in::<(DeviceNum, &str, u64)>(.., |_, _| true)?;
    let mut used = Vec::new();
    for row in tx.fallback_keys()?.all()? {
        let (place, key) = row?;
        let key = key.record(&place)?;
        let (device, algorithm) = place.value();
        used.push((
            device,
            algorithm.to_owned(),
            FallbackKey { used: true, ..key },
        ));
    }
    for (device, algorithm, key) in used {
        tx.fallback_keys()?.put((device, &*algorithm), &key)?;
    }
    let mut devices = Vec::new();
    for row in tx.device_ids()?.all()? {
        let (device, owner) = row?;
        devices.push((device.value(), owner.value().0));
    }
    for (device, user) in devices {
        log_change(tx, user, device)?;
    }
    Ok(())
}

/// Removes all one-time and fallback keys of a device.
pub(super) fn remove_all(tx: &Tx, device: DeviceNum) -> Result<(), store::Error> {
    tx.one_time_keys()?.remove_prefix(device)?;
    tx.claimed_keys()?.remove_prefix(device)?;
    tx.fallback_keys()?.remove_prefix(device)?;
    tx.one_time_key_changes()?.remove(device)?;
    Ok(())
}

fn all(r: &impl Reader, device: DeviceNum) -> Result<Vec<OneTimeKey>, store::Error> {
    let table = r.one_time_keys()?;
    let rows = table.prefix(device)?;
    rows.map(|row| {
        let (key, one_time_key) = row?;
        one_time_key.record(&key)
    })
    .collect()
}

type Hash = [u8; 32];

fn hash(json: &str) -> Hash {
    Sha256::digest(public_key(json)).into()
}

fn is_same(one: &str, other: &str) -> bool {
    one == other || public_key(one) == public_key(other)
}

/// The key itself: a client may sign it again, and changes `unsigned` as it likes.
fn public_key(json: &str) -> String {
    match serde_json::from_str(json) {
        Ok(Value::String(key)) => key,
        Ok(Value::Object(mut object)) => match object.remove("key") {
            Some(Value::String(key)) => key,
            _ => json.to_owned(),
        },
        _ => json.to_owned(),
    }
}

/// The hashes of the last claimed keys, by key id. Removes older ones: between two uploads no more can be
/// claimed than a device has.
fn recently_claimed(tx: &Tx, device: DeviceNum) -> Result<HashMap<String, Hash>, store::Error> {
    let mut table = tx.claimed_keys()?;
    let mut claimed = Vec::new();
    for row in table.prefix(device)? {
        let (key, value) = row?;
        let (id, hash) = value.value();
        claimed.push((key.value().1, id.to_owned(), hash));
    }
    let old = claimed.len().saturating_sub(MAX_REMEMBERED_CLAIMS);
    for (order, ..) in claimed.drain(..old) {
        table.remove((device, order))?;
    }
    Ok(claimed
        .into_iter()
        .map(|(_, id, hash)| (id, hash))
        .collect())
}

fn algorithm_of(id: &str) -> &str {
    id.split_once(':').map_or(id, |(algorithm, _)| algorithm)
}
