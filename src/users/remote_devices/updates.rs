//! `m.device_list_update` and `m.signing_key_update` (server-server API, "Device Management").

use ruma::{
    UserId,
    api::federation::transactions::edu::{DeviceListUpdateContent, SigningKeyUpdateContent},
};
use serde_json::Value;

use super::check::{
    MAX_DEVICES, MAX_LIST_BYTES, are_valid_device_keys, device_bytes, is_valid_cross_signing_key,
    to_text, truncate_name,
};
use crate::{
    store::{
        self, Reader, Records, Rows, Tx, UserNum,
        records::{RemoteDevice, RemoteDeviceList},
    },
    users::devices::MAX_NAME_BYTES,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateOutcome {
    /// The list has the update already.
    Duplicate,
    NotTracked,
    Applied,
    /// Other updates are missing: the list has to be fetched again.
    Stale,
}

pub fn is_valid_update(update: &DeviceListUpdateContent) -> bool {
    let (user, id) = (&update.user_id, &update.device_id);
    let keys = update.keys.as_ref();
    id.as_str().len() <= MAX_NAME_BYTES
        && keys.is_none_or(|keys| are_valid_device_keys(user, id, keys))
}

pub fn is_valid_signing_key_update(update: &SigningKeyUpdateContent) -> bool {
    let keys = [&update.master_key, &update.self_signing_key];
    let mut keys = keys.into_iter().flatten();
    keys.all(|key| is_valid_cross_signing_key(&update.user_id, key))
}

/// Changes a list that is tracked and not stale.
fn update_list(
    tx: &Tx,
    user_id: &UserId,
    change: impl FnOnce(UserNum, &mut RemoteDeviceList) -> Result<UpdateOutcome, store::Error>,
) -> Result<UpdateOutcome, store::Error> {
    let user = tx.user_num(user_id.as_str())?;
    let Some(mut list) = tx.remote_device_lists()?.load(user)? else {
        return Ok(UpdateOutcome::NotTracked);
    };
    if list.is_stale {
        return Ok(UpdateOutcome::Stale);
    }
    let outcome = change(user, &mut list)?;
    if outcome != UpdateOutcome::Duplicate {
        tx.remote_device_lists()?.put(user, &list)?;
    }
    Ok(outcome)
}

/// Applies a [valid](is_valid_update) update of one device to the list of its user.
///
/// The list becomes stale if the update is not the next one: if `prev_id` is empty or has updates that the list
/// lacks, or if `stream_id` is not greater than that of the list and the content differs.
pub fn apply_update(
    tx: &Tx,
    update: &DeviceListUpdateContent,
) -> Result<UpdateOutcome, store::Error> {
    update_list(tx, &update.user_id, |user, list| {
        let (id, last) = (u64::from(update.stream_id), list.stream_id);
        let mut before = update.prev_id.iter();
        let is_in_sequence =
            !update.prev_id.is_empty() && before.all(|before| u64::from(*before) <= last);
        if is_in_sequence && id <= last && is_contained(tx, user, update)? {
            return Ok(UpdateOutcome::Duplicate);
        }
        if !is_in_sequence || id <= last {
            list.is_stale = true;
            return Ok(UpdateOutcome::Stale);
        }
        list.stream_id = id;
        let device = update.device_id.as_str();
        if update.deleted == Some(true) {
            tx.remote_devices()?.remove((user, device))?;
        } else {
            put(tx, user, device, &updated(update))?;
        }
        Ok(UpdateOutcome::Applied)
    })
}

/// Whether the list has the content of `update`.
fn is_contained(
    r: &impl Reader,
    user: UserNum,
    update: &DeviceListUpdateContent,
) -> Result<bool, store::Error> {
    let device = r
        .remote_devices()?
        .load((user, update.device_id.as_str()))?;
    let Some(device) = device else {
        // Fetched lists have only devices with keys.
        return Ok(update.deleted == Some(true) || update.keys.is_none());
    };
    let keys = |keys: Option<String>| {
        let keys = keys.map(|keys| serde_json::from_str::<Value>(&keys));
        keys.and_then(Result::ok)
    };
    let updated = updated(update);
    let is_same =
        device.display_name == updated.display_name && keys(device.keys) == keys(updated.keys);
    Ok(update.deleted != Some(true) && is_same)
}

fn updated(update: &DeviceListUpdateContent) -> RemoteDevice {
    RemoteDevice {
        display_name: update.device_display_name.as_deref().map(truncate_name),
        keys: update.keys.as_ref().map(to_text),
    }
}

/// Applies a [valid](is_valid_signing_key_update) update of cross-signing keys to the list of their user.
pub fn apply_signing_key_update(
    tx: &Tx,
    update: &SigningKeyUpdateContent,
) -> Result<UpdateOutcome, store::Error> {
    update_list(tx, &update.user_id, |_, list| {
        if let Some(key) = &update.master_key {
            list.master_key = Some(to_text(key));
        }
        if let Some(key) = &update.self_signing_key {
            list.self_signing_key = Some(to_text(key));
        }
        Ok(UpdateOutcome::Applied)
    })
}

/// Stores `device` unless the list is full. Reads all devices of the user.
fn put(tx: &Tx, user: UserNum, id: &str, device: &RemoteDevice) -> Result<(), store::Error> {
    let mut devices = tx.remote_devices()?;
    let (mut others, mut bytes) = (0, device_bytes(id, device));
    for row in devices.prefix(user)? {
        let (key, other) = row?;
        let other_id = key.value().1;
        if other_id != id {
            others += 1;
            bytes += device_bytes(other_id, &other.record(&key)?);
        }
    }
    if others < MAX_DEVICES && bytes <= MAX_LIST_BYTES {
        devices.put((user, id), device)
    } else {
        // What the list has of it is outdated.
        devices.remove((user, id)).map(drop)
    }
}
