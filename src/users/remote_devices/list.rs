use std::collections::BTreeMap;

use ruma::{
    OwnedDeviceId, UserId,
    encryption::{CrossSigningKey, DeviceKeys},
    serde::Raw,
};

use super::response::DeviceListResponse;
use crate::{
    store::{
        self, Reader, Records, Rows, Tx, UserNum,
        records::{RemoteDevice, RemoteDeviceList},
    },
    users::num_of,
};

#[derive(Clone, Debug)]
pub struct DeviceList {
    /// In milliseconds since the epoch; 0 if it never was fetched.
    pub fetched_ts: u64,
    /// Whether it may lack changes.
    pub is_stale: bool,
    pub master_key: Option<Raw<CrossSigningKey>>,
    pub self_signing_key: Option<Raw<CrossSigningKey>>,
    pub devices: BTreeMap<OwnedDeviceId, Device>,
}

#[derive(Clone, Debug)]
pub struct Device {
    pub display_name: Option<String>,
    pub keys: Option<Raw<DeviceKeys>>,
}

pub fn is_tracked(r: &impl Reader, user: &UserId) -> Result<bool, store::Error> {
    let num = num_of(r, user)?;
    num.map_or(Ok(false), |num| r.remote_device_lists()?.has(num))
}

pub fn load(r: &impl Reader, user: &UserId) -> Result<Option<DeviceList>, store::Error> {
    let Some(num) = num_of(r, user)? else {
        return Ok(None);
    };
    let Some(list) = r.remote_device_lists()?.load(num)? else {
        return Ok(None);
    };
    let mut devices = BTreeMap::new();
    for row in r.remote_devices()?.prefix(num)? {
        let (key, device) = row?;
        let device: RemoteDevice = device.record(&key)?;
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

/// Whether the stored list of `user` is not stale and the same as that of `response`.
pub fn is_same(
    r: &impl Reader,
    user: UserNum,
    response: &DeviceListResponse,
) -> Result<bool, store::Error> {
    let list = r.remote_device_lists()?.load(user)?;
    let has_same_keys = list.is_some_and(|list| {
        !list.is_stale
            && list.master_key == response.master_key
            && list.self_signing_key == response.self_signing_key
    });
    if !has_same_keys {
        return Ok(false);
    }
    let mut expected = response.devices.iter();
    for row in r.remote_devices()?.prefix(user)? {
        let (key, device) = row?;
        let device = device.record(&key)?;
        if expected.next() != Some((&key.value().1.into(), &device)) {
            return Ok(false);
        }
    }
    Ok(expected.next().is_none())
}

/// Stores a list that was fetched at `now_ms`. `is_stale` if it has changed meanwhile.
pub fn replace(
    tx: &Tx,
    user: &UserId,
    response: &DeviceListResponse,
    now_ms: u64,
    is_stale: bool,
) -> Result<(), store::Error> {
    remove(tx, user)?;
    let list = RemoteDeviceList {
        stream_id: response.stream_id,
        fetched_ts: now_ms.max(1),
        is_stale,
        master_key: response.master_key.clone(),
        self_signing_key: response.self_signing_key.clone(),
    };
    let user = tx.user_num(user.as_str())?;
    tx.remote_device_lists()?.put(user, &list)?;
    let mut table = tx.remote_devices()?;
    for (id, device) in &response.devices {
        table.put((user, id.as_str()), device)?;
    }
    Ok(())
}

/// Begins to track the list of `user`, as stale and empty, if it is not tracked yet.
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

/// Whether the list of `user` is stale; `None` if it is not tracked.
pub fn is_stale(r: &impl Reader, user: &UserId) -> Result<Option<bool>, store::Error> {
    let Some(num) = num_of(r, user)? else {
        return Ok(None);
    };
    let list = r.remote_device_lists()?.load(num)?;
    Ok(list.map(|list| list.is_stale))
}

/// At most `limit` users whose lists are stale. Reads all lists.
pub fn stale_users(r: &impl Reader, limit: usize) -> Result<Vec<UserNum>, store::Error> {
    let (table, mut stale) = (r.remote_device_lists()?, Vec::new());
    for row in table.all()? {
        let (user, list) = row?;
        if list.record(&user)?.is_stale {
            stale.push(user.value());
        }
        if stale.len() >= limit {
            break;
        }
    }
    Ok(stale)
}

pub fn tracked_users(r: &impl Reader) -> Result<Vec<UserNum>, store::Error> {
    let table = r.remote_device_lists()?;
    let rows = table.all()?;
    rows.map(|row| Ok(row?.0.value())).collect()
}

/// Marks the list of `user` as stale: it is fetched again before it is used.
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

/// Removes the list of `user`, which is not tracked any more.
pub fn remove(tx: &Tx, user: &UserId) -> Result<(), store::Error> {
    if let Some(num) = num_of(tx, user)? {
        tx.remote_device_lists()?.remove(num)?;
        tx.remote_devices()?.remove_prefix(num)?;
    }
    Ok(())
}
