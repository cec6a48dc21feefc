//! What is kept of the devices of other servers' users. Only the caller knows whether there is anybody
//! whom that concerns, and notes the change in [`device_lists`](super::device_lists).
//!
//! A list that somebody wanted and that its server has not told yet is kept too: stale and empty.

mod response;

use std::collections::BTreeMap;

use ruma::{
    DeviceId, OwnedDeviceId, UserId,
    api::federation::transactions::edu::{DeviceListUpdateContent, SigningKeyUpdateContent},
    encryption::{CrossSigningKey, DeviceKeys},
    serde::Raw,
};
use serde_json::Value;

pub use self::response::DeviceListResponse;
use super::{devices::LONGEST, num_of};
use crate::store::{
    self, Reader, Records, Rows, Tx, UserNum,
    records::{RemoteDevice, RemoteDeviceList},
};

/// How many devices of one user are kept.
const MOST: usize = 512;
/// How long they can be together, in bytes.
const MOST_BYTES: usize = 512 * 1024;
/// How long the keys of a device, or a cross-signing key, can be, in bytes.
const LONGEST_KEYS: usize = 16 * 1024;

/// The devices of a user.
#[derive(Clone, Debug)]
pub struct DeviceList {
    /// When they were fetched, in milliseconds since the epoch; 0 if they never were.
    pub fetched_ts: u64,
    /// Whether something has changed since that is not known.
    pub is_stale: bool,
    /// The user's master key.
    pub master_key: Option<Raw<CrossSigningKey>>,
    /// The key with which the user signs devices.
    pub self_signing_key: Option<Raw<CrossSigningKey>>,
    /// The devices.
    pub devices: BTreeMap<OwnedDeviceId, Device>,
}

/// A device.
#[derive(Clone, Debug)]
pub struct Device {
    /// Its name.
    pub display_name: Option<String>,
    /// Its keys, as its user's server tells them.
    pub keys: Option<Raw<DeviceKeys>>,
}

/// What became of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateOutcome {
    /// It told nothing new, or nothing that makes sense.
    Duplicate,
    /// No list is kept that it could change.
    NotTracked,
    /// The list has it.
    Applied,
    /// The list lacks others.
    Stale,
}

/// Whether anything is kept of `user`.
///
/// # Errors
/// If the tables cannot be read.
pub fn is_tracked(r: &impl Reader, user: &UserId) -> Result<bool, store::Error> {
    let num = num_of(r, user)?;
    num.map_or(Ok(false), |num| r.remote_device_lists()?.has(num))
}

/// What is kept of `user`.
///
/// # Errors
/// If the tables cannot be read.
pub fn load(r: &impl Reader, user: &UserId) -> Result<Option<DeviceList>, store::Error> {
    let Some(num) = num_of(r, user)? else {
        return Ok(None);
    };
    let Some(list) = r.remote_device_lists()?.load(num)? else {
        return Ok(None);
    };
    let mut devices = BTreeMap::new();
    for row in r
        .remote_devices()?
        .range((num, "")..(UserNum(num.0 + 1), ""))?
    {
        let (key, device) = row?;
        let device: RemoteDevice = device.value().unpack()?;
        let device = Device {
            display_name: device.display_name,
            keys: device.keys.map(|keys| raw(num, keys)).transpose()?,
        };
        devices.insert(key.value().1.into(), device);
    }
    Ok(Some(DeviceList {
        fetched_ts: list.fetched_ts,
        is_stale: list.is_stale,
        master_key: list.master_key.map(|key| raw(num, key)).transpose()?,
        self_signing_key: list.self_signing_key.map(|key| raw(num, key)).transpose()?,
        devices,
    }))
}

fn raw<T>(user: UserNum, json: String) -> Result<Raw<T>, store::Error> {
    Raw::from_json_string(json)
        .map_err(|_| store::Error::corrupt("remote_device_lists", user, "a key is not JSON"))
}

/// Whether an update of a device makes sense.
pub fn is_valid_update(update: &DeviceListUpdateContent) -> bool {
    let (user, id) = (&update.user_id, &update.device_id);
    let keys = update.keys.as_ref();
    id.as_str().len() <= LONGEST && keys.is_none_or(|keys| are_valid_device_keys(user, id, keys))
}

/// Whether an update of cross-signing keys makes sense.
pub fn is_valid_signing_key_update(update: &SigningKeyUpdateContent) -> bool {
    let keys = [&update.master_key, &update.self_signing_key];
    let mut keys = keys.into_iter().flatten();
    keys.all(|key| is_valid_cross_signing_key(&update.user_id, key))
}

/// Takes an update of one device, which [`is_valid_update`], into the list of its user.
///
/// Its user's server counts its updates up. An update that begins a new sequence, or is no later than the
/// list and yet says something else, shows that the server counts anew; one that comes after others which
/// the list has not got, that these are lost. Then the list is stale.
///
/// # Errors
/// If the tables cannot be written.
pub fn apply_update(
    tx: &Tx,
    update: &DeviceListUpdateContent,
) -> Result<UpdateOutcome, store::Error> {
    let user = tx.user_num(update.user_id.as_str())?;
    let Some(mut list) = tx.remote_device_lists()?.load(user)? else {
        return Ok(UpdateOutcome::NotTracked);
    };
    if list.is_stale {
        return Ok(UpdateOutcome::Stale);
    }
    let (id, last) = (u64::from(update.stream_id), list.stream_id);
    let mut before = update.prev_id.iter();
    let is_in_sequence =
        !update.prev_id.is_empty() && before.all(|before| u64::from(*before) <= last);
    if is_in_sequence && id <= last && is_contained(tx, user, update)? {
        return Ok(UpdateOutcome::Duplicate);
    }
    if !is_in_sequence || id <= last {
        list.is_stale = true;
        tx.remote_device_lists()?.put(user, &list)?;
        return Ok(UpdateOutcome::Stale);
    }
    list.stream_id = id;
    tx.remote_device_lists()?.put(user, &list)?;
    let device = update.device_id.as_str();
    if update.deleted == Some(true) {
        tx.remote_devices()?.remove((user, device))?;
    } else {
        put(tx, user, device, &updated(update))?;
    }
    Ok(UpdateOutcome::Applied)
}

/// Whether the list says the same as `update`.
fn is_contained(
    r: &impl Reader,
    user: UserNum,
    update: &DeviceListUpdateContent,
) -> Result<bool, store::Error> {
    let device = r
        .remote_devices()?
        .load((user, update.device_id.as_str()))?;
    let Some(device) = device else {
        // Whole lists have only devices with keys.
        return Ok(update.deleted == Some(true) || update.keys.is_none());
    };
    let keys = |keys: Option<String>| {
        let keys = keys.map(|keys| serde_json::from_str::<Value>(&keys));
        keys.and_then(Result::ok)
    };
    let told = updated(update);
    let is_same = device.display_name == told.display_name && keys(device.keys) == keys(told.keys);
    Ok(update.deleted != Some(true) && is_same)
}

fn updated(update: &DeviceListUpdateContent) -> RemoteDevice {
    RemoteDevice {
        display_name: update.device_display_name.as_deref().map(shortened),
        keys: update.keys.as_ref().map(text),
    }
}

/// Takes new cross-signing keys, which are [proper](is_valid_signing_key_update), into the list of their user.
///
/// # Errors
/// If the tables cannot be written.
pub fn apply_signing_key_update(
    tx: &Tx,
    update: &SigningKeyUpdateContent,
) -> Result<UpdateOutcome, store::Error> {
    let user = tx.user_num(update.user_id.as_str())?;
    let Some(mut list) = tx.remote_device_lists()?.load(user)? else {
        return Ok(UpdateOutcome::NotTracked);
    };
    if list.is_stale {
        return Ok(UpdateOutcome::Stale);
    }
    if let Some(key) = &update.master_key {
        list.master_key = Some(text(key));
    }
    if let Some(key) = &update.self_signing_key {
        list.self_signing_key = Some(text(key));
    }
    tx.remote_device_lists()?.put(user, &list)?;
    Ok(UpdateOutcome::Applied)
}

/// Keeps what the server of `user` says at `now_ms` that the user's devices are; `is_stale` if it is known
/// already that it is not so any more.
///
/// # Errors
/// If the tables cannot be written.
pub fn replace(
    tx: &Tx,
    user: &UserId,
    told: &DeviceListResponse,
    (now_ms, is_stale): (u64, bool),
) -> Result<(), store::Error> {
    remove(tx, user)?;
    let list = RemoteDeviceList {
        stream_id: told.stream_id,
        fetched_ts: now_ms.max(1),
        is_stale,
        master_key: told.master_key.clone(),
        self_signing_key: told.self_signing_key.clone(),
    };
    let user = tx.user_num(user.as_str())?;
    tx.remote_device_lists()?.put(user, &list)?;
    let mut table = tx.remote_devices()?;
    for (id, device) in &told.devices {
        table.put((user, id.as_str()), device)?;
    }
    Ok(())
}

/// Notes that the list of `user` is wanted, if none is kept.
///
/// # Errors
/// If the tables cannot be written.
pub fn track(tx: &Tx, user: &UserId) -> Result<(), store::Error> {
    let user = tx.user_num(user.as_str())?;
    let mut lists = tx.remote_device_lists()?;
    if lists.has(user)? {
        return Ok(());
    }
    let list = RemoteDeviceList {
        stream_id: 0,
        fetched_ts: 0,
        is_stale: true,
        master_key: None,
        self_signing_key: None,
    };
    lists.put(user, &list)
}

/// Whether what is kept of `user` is stale; nothing if nothing is kept.
///
/// # Errors
/// If the tables cannot be read.
pub fn is_stale(r: &impl Reader, user: &UserId) -> Result<Option<bool>, store::Error> {
    let Some(num) = num_of(r, user)? else {
        return Ok(None);
    };
    let list = r.remote_device_lists()?.load(num)?;
    Ok(list.map(|list| list.is_stale))
}

/// Whose lists are stale, so many at the most. Grows with how many are kept.
///
/// # Errors
/// If the table cannot be read.
pub fn stale_users(r: &impl Reader, most: usize) -> Result<Vec<UserNum>, store::Error> {
    let (table, mut stale) = (r.remote_device_lists()?, Vec::new());
    for row in table.range(UserNum::MIN..)? {
        let (user, list) = row?;
        if list.value().unpack()?.is_stale {
            stale.push(user.value());
        }
        if stale.len() >= most {
            break;
        }
    }
    Ok(stale)
}

/// Whose lists are kept.
///
/// # Errors
/// If the table cannot be read.
pub fn tracked_users(r: &impl Reader) -> Result<Vec<UserNum>, store::Error> {
    let table = r.remote_device_lists()?;
    let rows = table.range(UserNum::MIN..)?;
    rows.map(|row| Ok(row?.0.value())).collect()
}

/// What is kept of `user` may not be what is: it is fetched anew before it is used again.
///
/// # Errors
/// If the table cannot be written.
pub fn mark_stale(tx: &Tx, user: UserNum) -> Result<(), store::Error> {
    let list = tx.remote_device_lists()?.load(user)?;
    if let Some(list) = list.filter(|list| !list.is_stale) {
        let list = RemoteDeviceList {
            is_stale: true,
            ..list
        };
        tx.remote_device_lists()?.put(user, &list)?;
    }
    Ok(())
}

/// Keeps nothing of `user` any more.
///
/// # Errors
/// If the tables cannot be written.
pub fn remove(tx: &Tx, user: &UserId) -> Result<(), store::Error> {
    if let Some(num) = num_of(tx, user)? {
        tx.remote_device_lists()?.remove(num)?;
        let devices = (num, "")..(UserNum(num.0 + 1), "");
        tx.remote_devices()?.remove_in(devices, |_, _| true)?;
    }
    Ok(())
}

/// Keeps `device` if there is room for it. Grows with how many devices the user has.
fn put(tx: &Tx, user: UserNum, id: &str, device: &RemoteDevice) -> Result<(), store::Error> {
    let mut devices = tx.remote_devices()?;
    let (mut others, mut bytes) = (0, size(id, device));
    for row in devices.range((user, "")..(UserNum(user.0 + 1), ""))? {
        let (key, other) = row?;
        let other_id = key.value().1;
        if other_id != id {
            others += 1;
            bytes += size(other_id, &other.value().unpack()?);
        }
    }
    if others < MOST && bytes <= MOST_BYTES {
        devices.put((user, id), device)?;
    } else if devices.has((user, id))? {
        // What was kept of it is not so any more.
        devices.remove((user, id))?;
    }
    Ok(())
}

/// How much is kept of a device, in bytes.
fn size(id: &str, device: &RemoteDevice) -> usize {
    let texts = [&device.display_name, &device.keys];
    id.len() + texts.into_iter().flatten().map(String::len).sum::<usize>()
}

fn shortened(name: &str) -> String {
    name[..name.floor_char_boundary(LONGEST)].to_owned()
}

/// Whether `keys` are those of this device, and not too long.
pub fn are_valid_device_keys(user: &UserId, device: &DeviceId, keys: &Raw<DeviceKeys>) -> bool {
    let is_short = keys.json().get().len() <= LONGEST_KEYS;
    is_short
        && keys
            .deserialize()
            .is_ok_and(|keys| keys.user_id == user && keys.device_id == device)
}

/// Whether `key` is one of `user`, and not too long.
pub fn is_valid_cross_signing_key(user: &UserId, key: &Raw<CrossSigningKey>) -> bool {
    let is_short = key.json().get().len() <= LONGEST_KEYS;
    is_short && key.deserialize().is_ok_and(|key| key.user_id == user)
}

fn text<T>(raw: &Raw<T>) -> String {
    raw.json().get().to_owned()
}
