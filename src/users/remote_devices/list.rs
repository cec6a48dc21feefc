use std::collections::BTreeMap;

use ruma::{OwnedDeviceId, UserId, encryption::DeviceKeys, serde::Raw};

use super::response::DeviceListResponse;
use crate::{
    store::{
        self, Reader, Records, Rows, Tx, UserNum,
        records::{RemoteDevice, RemoteDeviceList},
    },
    users::num_of,
};

#[derive(Clone, Debug)]
pub struct Device {
    pub display_name: Option<String>,
    pub keys: Option<Raw<DeviceKeys>>,
}

pub fn is_tracked(r: &impl Reader, user: &UserId) -> Result<bool, store::Error> {
    let num = num_of(r, user)?;
    num.map_or(Ok(false), |num| r.remote_device_lists()?.has(num))
}

/// The row of the list of `user`, without the devices.
pub fn load(r: &impl Reader, user: &UserId) -> Result<Option<RemoteDeviceList>, store::Error> {
    match num_of(r, user)? {
        Some(user) => r.remote_device_lists()?.load(user),
        None => Ok(None),
    }
}

/// The devices in the list of `user`.
pub fn devices(
    r: &impl Reader,
    user: UserNum,
) -> Result<BTreeMap<OwnedDeviceId, Device>, store::Error> {
    let mut devices = BTreeMap::new();
    for row in r.remote_devices()?.prefix(user)? {
        let (key, device) = row?;
        let device: RemoteDevice = device.record(&key)?;
        let corrupt = |_| store::Error::corrupt("remote_devices", &key, "the keys are not JSON");
        let keys = device.keys.map(Raw::from_json_string).transpose();
        let device = Device {
            display_name: device.display_name,
            keys: keys.map_err(corrupt)?,
        };
        devices.insert(key.value().1.into(), device);
    }
    Ok(devices)
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
    Ok(load(r, user)?.map(|list| list.is_stale))
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

/// Marks all lists as stale.
pub fn mark_all_stale(tx: &Tx) -> Result<(), store::Error> {
    for user in tracked_users(tx)? {
        mark_stale(tx, user)?;
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
