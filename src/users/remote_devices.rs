//! What is kept of the devices of other servers' users. Only the caller knows whether there is anybody
//! whom that concerns, and notes the change in [`device_lists`](super::device_lists).

use std::collections::BTreeMap;

use ruma::{
    DeviceId, OwnedDeviceId, UserId,
    api::federation::{
        device::get_devices,
        transactions::edu::{DeviceListUpdateContent, SigningKeyUpdateContent},
    },
    encryption::{CrossSigningKey, DeviceKeys},
    serde::Raw,
};

use super::{devices::LONGEST, num_of};
use crate::store::{
    self, Reader, Records, Rows, Tx, UserNum,
    records::{RemoteDevice, RemoteList},
};

/// How many devices of one user are kept.
const MOST: usize = 512;
/// How long the keys of a device, or a cross-signing key, can be, in bytes.
const LONGEST_KEYS: usize = 16 * 1024;

/// The devices of a user.
#[derive(Clone, Debug)]
pub struct Devices {
    /// When they were fetched, in milliseconds since the epoch.
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
pub enum Followed {
    /// It told nothing new, or nothing that makes sense.
    No,
    /// No list is kept that it could change.
    NotKept,
    /// The list has it.
    Yes,
    /// The list lacks others.
    Stale,
}

/// Whether anything is kept of `user`.
///
/// # Errors
/// If the tables cannot be read.
pub fn has(r: &impl Reader, user: &UserId) -> Result<bool, store::Error> {
    let num = num_of(r, user)?;
    num.map_or(Ok(false), |num| r.remote_lists()?.has(num))
}

/// What is kept of `user`.
///
/// # Errors
/// If the tables cannot be read.
pub fn load(r: &impl Reader, user: &UserId) -> Result<Option<Devices>, store::Error> {
    let Some(num) = num_of(r, user)? else {
        return Ok(None);
    };
    let Some(list) = r.remote_lists()?.load(num)? else {
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
            keys: device.keys.map(raw).transpose()?,
        };
        devices.insert(key.value().1.into(), device);
    }
    Ok(Some(Devices {
        fetched_ts: list.fetched_ts,
        is_stale: list.is_stale,
        master_key: list.master_key.map(raw).transpose()?,
        self_signing_key: list.self_signing_key.map(raw).transpose()?,
        devices,
    }))
}

fn raw<T>(json: String) -> Result<Raw<T>, store::Error> {
    Raw::from_json_string(json).map_err(|_| store::Error::Corrupt("keys that are no JSON"))
}

/// Takes an update of one device into the list of its user.
///
/// # Errors
/// If the tables cannot be written.
pub fn follow(tx: &Tx, update: &DeviceListUpdateContent) -> Result<Followed, store::Error> {
    let id = &update.device_id;
    let keys = update.keys.as_ref();
    if id.as_str().len() > LONGEST || keys.is_some_and(|keys| !fits(&update.user_id, id, keys)) {
        return Ok(Followed::No);
    }
    let user = tx.user_num(update.user_id.as_str())?;
    let Some(mut list) = tx.remote_lists()?.load(user)? else {
        return Ok(Followed::NotKept);
    };
    let stream_id = u64::from(update.stream_id);
    if !list.is_stale && stream_id <= list.stream_id {
        return Ok(Followed::No);
    }
    let before = list.stream_id;
    let is_next = match &update.prev_id[..] {
        [] => before == 0,
        ids => ids.iter().any(|id| u64::from(*id) == before),
    };
    if list.is_stale || !is_next {
        list.is_stale = true;
        tx.remote_lists()?.put(user, &list)?;
        return Ok(Followed::Stale);
    }
    list.stream_id = stream_id;
    tx.remote_lists()?.put(user, &list)?;
    if update.deleted == Some(true) {
        tx.remote_devices()?.remove((user, id.as_str()))?;
    } else {
        put(tx, user, id, (update.device_display_name.as_ref(), keys))?;
    }
    Ok(Followed::Yes)
}

/// Takes new cross-signing keys into the list of their user.
///
/// # Errors
/// If the tables cannot be written.
pub fn follow_keys(tx: &Tx, update: &SigningKeyUpdateContent) -> Result<Followed, store::Error> {
    let keys = [&update.master_key, &update.self_signing_key];
    if keys
        .into_iter()
        .flatten()
        .any(|key| !is_of(&update.user_id, key))
    {
        return Ok(Followed::No);
    }
    let user = tx.user_num(update.user_id.as_str())?;
    let Some(mut list) = tx.remote_lists()?.load(user)? else {
        return Ok(Followed::NotKept);
    };
    if let Some(key) = &update.master_key {
        list.master_key = Some(text(key));
    }
    if let Some(key) = &update.self_signing_key {
        list.self_signing_key = Some(text(key));
    }
    tx.remote_lists()?.put(user, &list)?;
    Ok(Followed::Yes)
}

/// Keeps what the server of `user` says at `now_ms` that the user's devices are.
///
/// # Errors
/// If the tables cannot be written.
pub fn replace(
    tx: &Tx,
    user: &UserId,
    told: &get_devices::v1::Response,
    now_ms: u64,
) -> Result<(), store::Error> {
    forget(tx, user)?;
    let key = |key: &Option<Raw<CrossSigningKey>>| {
        let key = key.as_ref().filter(|key| is_of(user, key));
        key.map(text)
    };
    let list = RemoteList {
        stream_id: told.stream_id.into(),
        fetched_ts: now_ms,
        is_stale: false,
        master_key: key(&told.master_key),
        self_signing_key: key(&told.self_signing_key),
    };
    let num = tx.user_num(user.as_str())?;
    tx.remote_lists()?.put(num, &list)?;
    for device in told.devices.iter().take(MOST) {
        let id = &device.device_id;
        if id.as_str().len() <= LONGEST && fits(user, id, &device.keys) {
            let about = (device.device_display_name.as_ref(), Some(&device.keys));
            put(tx, num, id, about)?;
        }
    }
    Ok(())
}

/// Whose lists are kept.
///
/// # Errors
/// If the table cannot be read.
pub fn all(r: &impl Reader) -> Result<Vec<UserNum>, store::Error> {
    let table = r.remote_lists()?;
    let rows = table.range(UserNum::MIN..)?;
    rows.map(|row| Ok(row?.0.value())).collect()
}

/// What is kept of `user` may not be what is: it is fetched anew before it is used again.
///
/// # Errors
/// If the table cannot be written.
pub fn outdate(tx: &Tx, user: UserNum) -> Result<(), store::Error> {
    let list = tx.remote_lists()?.load(user)?;
    if let Some(list) = list.filter(|list| !list.is_stale) {
        let list = RemoteList {
            is_stale: true,
            ..list
        };
        tx.remote_lists()?.put(user, &list)?;
    }
    Ok(())
}

/// Keeps nothing of `user` any more.
///
/// # Errors
/// If the tables cannot be written.
pub fn forget(tx: &Tx, user: &UserId) -> Result<(), store::Error> {
    if let Some(num) = num_of(tx, user)? {
        tx.remote_lists()?.remove(num)?;
        let devices = (num, "")..(UserNum(num.0 + 1), "");
        tx.remote_devices()?.remove_in(devices, |_, _| true)?;
    }
    Ok(())
}

fn put(
    tx: &Tx,
    user: UserNum,
    id: &DeviceId,
    (name, keys): (Option<&String>, Option<&Raw<DeviceKeys>>),
) -> Result<(), store::Error> {
    let mut devices = tx.remote_devices()?;
    let others = devices.range((user, "")..(UserNum(user.0 + 1), ""))?;
    if others.count() >= MOST && !devices.has((user, id.as_str()))? {
        return Ok(());
    }
    let device = RemoteDevice {
        display_name: name.map(|name| name[..name.floor_char_boundary(LONGEST)].to_owned()),
        keys: keys.map(text),
    };
    devices.put((user, id.as_str()), &device)
}

/// Whether `keys` are those of this device, and not too long.
fn fits(user: &UserId, device: &DeviceId, keys: &Raw<DeviceKeys>) -> bool {
    let is_short = keys.json().get().len() <= LONGEST_KEYS;
    is_short
        && keys
            .deserialize()
            .is_ok_and(|keys| keys.user_id == user && keys.device_id == device)
}

fn is_of(user: &UserId, key: &Raw<CrossSigningKey>) -> bool {
    let is_short = key.json().get().len() <= LONGEST_KEYS;
    is_short && key.deserialize().is_ok_and(|key| key.user_id == user)
}

fn text<T>(raw: &Raw<T>) -> String {
    raw.json().get().to_owned()
}
