//! Keys that are given out to those who begin an encrypted session with a device: each once, in the
//! order in which they came, and when there is none left a fallback key, again and again.

use std::collections::{BTreeMap, HashMap};

use ruma::CanonicalJsonValue;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::{Error, parse};
use crate::store::{
    self, DeviceNum, Effect, Position, Reader, Records, Rows, Tx, UserNum,
    records::{FallbackKey, OneTimeKey},
};

/// How many of them a device has at most.
const MOST: usize = 500;
/// How many algorithms it has fallback keys of.
const MOST_FALLBACK: usize = 8;
/// Of how many keys of a device it is remembered that they were given out, in case that its client
/// hands them in again.
const CLAIMED: usize = 500;
/// As many keys as one upload can have get an order of their own.
const ORDERS: u64 = 1 << 10;
/// The longest id, in bytes.
const LONGEST_ID: usize = 255;

/// What a client hands in.
pub type UploadedKeys = BTreeMap<String, Box<RawValue>>;

/// How many keys of each algorithm a device has left, and of which algorithms it has a fallback key
/// that was not used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyCounts {
    /// By algorithm.
    pub counts: BTreeMap<String, u64>,
    /// Algorithms.
    pub unused_fallback: Vec<String>,
}

/// Whether `keys` can be kept.
///
/// # Errors
/// [`Error::InvalidParam`] or [`Error::BadJson`] if one makes no sense; [`Error::TooLarge`].
pub fn check(keys: &UploadedKeys) -> Result<(), Error> {
    if keys.len() > MOST {
        return Err(Error::TooLarge(
            "a device may have at most 500 one-time keys",
        ));
    }
    for (id, json) in keys {
        let has_name = id.split_once(':').is_some_and(|(algorithm, name)| {
            !algorithm.is_empty() && !name.is_empty() && id.len() <= LONGEST_ID
        });
        if !has_name {
            return Err(Error::InvalidParam(
                "a key's id is its algorithm, a colon and a name",
            ));
        }
        // Some algorithms' keys are plain texts.
        if !json.get().starts_with('"') {
            parse(json.get())?;
        } else if json.get().len() > LONGEST_ID {
            return Err(Error::TooLarge(
                "a key that is a text has at most 255 bytes",
            ));
        }
    }
    Ok(())
}

/// Keeps `keys`, which were [checked](check), behind those that the device has. What was given out
/// already does not come back.
///
/// # Errors
/// [`Error::InvalidParam`] if one has the id of another, given out or not; [`Error::TooMany`].
pub fn add(tx: &Tx, device: DeviceNum, keys: &UploadedKeys) -> Result<(), Error> {
    if keys.is_empty() {
        return Ok(());
    }
    let known: BTreeMap<String, String> = all(tx, device)?
        .into_iter()
        .map(|key| (key.id, key.json))
        .collect();
    let claimed: HashMap<String, Hash> = recently_claimed(tx, device)?;
    let first = tx.next_position()?.0 * ORDERS;
    let mut count = known.len();
    for (order, (id, json)) in (first..).zip(keys) {
        match (known.get(id), claimed.get(id)) {
            (Some(before), _) if is_same(before, json.get()) => continue,
            (None, Some(before)) if *before == hash(json.get()) => continue,
            (None, None) => {}
            _ => return Err(Error::InvalidParam("another key has this id already")),
        }
        count += 1;
        if count > MOST {
            return Err(Error::TooMany(
                "a device may have at most 500 one-time keys",
            ));
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

/// Replaces the fallback keys of their algorithms by `keys`, which were [checked](check). One that is
/// there already stays as it is, used or not.
///
/// # Errors
/// [`Error::TooMany`] if they are of too many algorithms.
pub fn put_fallback(tx: &Tx, device: DeviceNum, keys: &UploadedKeys) -> Result<(), Error> {
    for (id, json) in keys {
        let algorithm = algorithm_of(id);
        let mut table = tx.fallback_keys()?;
        let before = table.load((device, algorithm))?;
        if before
            .as_ref()
            .is_some_and(|before| before.id == *id && is_same(&before.json, json.get()))
        {
            continue;
        }
        if before.is_none() && table.range(of_fallback(device))?.count() >= MOST_FALLBACK {
            return Err(Error::TooMany(
                "a device has fallback keys of eight algorithms at most",
            ));
        }
        let key = FallbackKey {
            id: id.clone(),
            json: json.get().to_owned(),
            used: false,
        };
        table.put((device, algorithm), &key)?;
    }
    Ok(())
}

/// Takes a key of the device's to give it out: its id and what was uploaded. Its device is told that
/// it has one less.
///
/// # Errors
/// If the tables cannot be written.
pub fn claim(
    tx: &Tx,
    (user, device): (UserNum, DeviceNum),
    algorithm: &str,
) -> Result<Option<(String, String)>, store::Error> {
    let range = (device, algorithm, 0)..=(device, algorithm, u64::MAX);
    let first = match tx.one_time_keys()?.range(range)?.next().transpose()? {
        Some((key, row)) => Some((key.value().2, row.value().unpack()?)),
        None => None,
    };
    if let Some((order, key)) = first {
        tx.one_time_keys()?.remove((device, algorithm, order))?;
        let given = (key.id.as_str(), hash(&key.json));
        tx.claimed_keys()?.insert((device, order), given)?;
        note(tx, user, device)?;
        return Ok(Some((key.id, key.json)));
    }
    let Some(mut key) = tx.fallback_keys()?.load((device, algorithm))? else {
        return Ok(None);
    };
    if !key.used {
        key.used = true;
        tx.fallback_keys()?.put((device, algorithm), &key)?;
        note(tx, user, device)?;
    }
    Ok(Some((key.id, key.json)))
}

/// Notes that the device has less to give out.
fn note(tx: &Tx, user: UserNum, device: DeviceNum) -> Result<(), store::Error> {
    let position = tx.next_position()?;
    tx.one_time_key_changes()?.insert(device, position)?;
    tx.effect(Effect::UserChanged(user, position));
    Ok(())
}

/// Whether something was claimed of the device after `position`.
///
/// # Errors
/// If the table cannot be read.
pub fn counts_changed_after(
    r: &impl Reader,
    device: DeviceNum,
    position: Position,
) -> Result<bool, store::Error> {
    let last = r
        .one_time_key_changes()?
        .get(device)?
        .map(|row| row.value());
    Ok(last.is_some_and(|last| last > position))
}

/// What the device has left to give out.
///
/// # Errors
/// If the tables cannot be read.
pub fn counts(r: &impl Reader, device: DeviceNum) -> Result<KeyCounts, store::Error> {
    let mut left = KeyCounts::default();
    for row in r.one_time_keys()?.range(of_device(device))? {
        let algorithm = row?.0.value().1.to_owned();
        *left.counts.entry(algorithm).or_default() += 1;
    }
    for row in r.fallback_keys()?.range(of_fallback(device))? {
        let (key, row) = row?;
        if !row.value().unpack()?.used {
            left.unused_fallback.push(key.value().1.to_owned());
        }
    }
    Ok(left)
}

/// Removes all of them, of a device that ends, or is known by other keys from now on.
pub(super) fn remove_all(tx: &Tx, device: DeviceNum) -> Result<(), store::Error> {
    tx.one_time_keys()?
        .remove_in(of_device(device), |_, _| true)?;
    tx.claimed_keys()?
        .remove_in((device, 0)..=(device, u64::MAX), |_, _| true)?;
    tx.fallback_keys()?
        .remove_in(of_fallback(device), |_, _| true)?;
    tx.one_time_key_changes()?.remove(device)?;
    Ok(())
}

fn all(r: &impl Reader, device: DeviceNum) -> Result<Vec<OneTimeKey>, store::Error> {
    let table = r.one_time_keys()?;
    let rows = table.range(of_device(device))?;
    rows.map(|row| row?.1.value().unpack()).collect()
}

type Hash = [u8; 32];

fn hash(json: &str) -> Hash {
    Sha256::digest(canonical(json)).into()
}

fn is_same(one: &str, other: &str) -> bool {
    one == other || canonical(one) == canonical(other)
}

/// The key, however a client has written it this time.
fn canonical(json: &str) -> String {
    let value = serde_json::from_str::<CanonicalJsonValue>(json);
    value.map_or_else(|_| json.to_owned(), |value| value.to_string())
}

/// What was given out, by its id, of the last keys; those before them are forgotten. No more come than
/// there are keys to give out, until some are handed in.
fn recently_claimed(tx: &Tx, device: DeviceNum) -> Result<HashMap<String, Hash>, store::Error> {
    let mut table = tx.claimed_keys()?;
    let mut claimed = Vec::new();
    for row in table.range((device, 0)..=(device, u64::MAX))? {
        let (key, given) = row?;
        let (id, hash) = given.value();
        claimed.push((key.value().1, id.to_owned(), hash));
    }
    let old = claimed.len().saturating_sub(CLAIMED);
    for (order, ..) in claimed.drain(..old) {
        table.remove((device, order))?;
    }
    Ok(claimed
        .into_iter()
        .map(|(_, id, hash)| (id, hash))
        .collect())
}

fn of_device(device: DeviceNum) -> std::ops::Range<(DeviceNum, &'static str, u64)> {
    (device, "", 0)..(DeviceNum(device.0 + 1), "", 0)
}

fn of_fallback(device: DeviceNum) -> std::ops::Range<(DeviceNum, &'static str)> {
    (device, "")..(DeviceNum(device.0 + 1), "")
}

fn algorithm_of(id: &str) -> &str {
    id.split_once(':').map_or(id, |(algorithm, _)| algorithm)
}
