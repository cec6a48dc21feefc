//! Identity keys of devices.

use ruma::{CanonicalJsonObject, DeviceId, OwnedDeviceId, UserId};

use super::{
    one_time_keys,
    signed_json::{is_same, parse, parse_stored, put_signature, signatures_of, str_field, to_text},
};
use crate::{
    store::{self, DeviceNum, Reader, Rows, Tx, UserNum},
    users::{Error, device_lists},
};

/// Parses the uploaded keys of a device.
///
/// # Errors
/// [`Error::InvalidParam`] if they name another device; [`Error::BadJson`]; [`Error::TooLarge`].
pub fn check(
    json: &str,
    user_id: &UserId,
    device_id: &DeviceId,
) -> Result<CanonicalJsonObject, Error> {
    let keys = parse(json)?;
    if str_field(&keys, "user_id") != Some(user_id.as_str()) {
        return Err(Error::InvalidParam(
            "`user_id` of device keys is another user's",
        ));
    }
    if str_field(&keys, "device_id") != Some(device_id.as_str()) {
        return Err(Error::InvalidParam(
            "`device_id` of device keys is another device's",
        ));
    }
    let is_list = |field: &str| keys.get(field).is_some_and(|value| value.is_array());
    let is_map = |field: &str| keys.get(field).is_some_and(|value| value.is_object());
    if !is_list("algorithms") || !is_map("keys") || !is_map("signatures") {
        return Err(Error::BadJson(
            "device keys have a list `algorithms`, and maps `keys` and `signatures`",
        ));
    }
    Ok(keys)
}

/// Stores the keys of a device. If they are stored already, only new signatures of their user are added.
/// Other `keys` than before remove the one-time keys.
pub fn put(
    tx: &Tx,
    user: UserNum,
    device_id: &DeviceId,
    device: DeviceNum,
    keys: &CanonicalJsonObject,
) -> Result<(), store::Error> {
    if let Some(mut before) = of_device(tx, user, device_id)? {
        if is_same(&before, keys) {
            if !add_signatures(&mut before, keys) {
                return Ok(());
            }
            return put_row(tx, user, device_id, &before);
        }
        if before.get("keys") != keys.get("keys") {
            one_time_keys::remove_all(tx, device)?;
        }
    }
    put_row(tx, user, device_id, keys)
}

/// Adds to `keys` the signatures of their user that are on `signed`; whether there were new ones.
fn add_signatures(keys: &mut CanonicalJsonObject, signed: &CanonicalJsonObject) -> bool {
    let Some(user) = str_field(signed, "user_id") else {
        return false;
    };
    let mut is_new = false;
    for (id, new) in signatures_of(signed, user) {
        let known = signatures_of(keys, user).any(|known| known == (id, new));
        if !known {
            put_signature(keys, user, id, new.to_owned());
            is_new = true;
        }
    }
    is_new
}

/// Stores `keys` as they are.
pub(super) fn put_row(
    tx: &Tx,
    user: UserNum,
    device_id: &DeviceId,
    keys: &CanonicalJsonObject,
) -> Result<(), store::Error> {
    tx.device_keys()?
        .insert((user, device_id.as_str()), to_text(keys)?.as_str())?;
    device_lists::device_changed(tx, user, device_id)
}

/// The keys of a device, with the signatures that every user may see.
pub fn of_device(
    r: &impl Reader,
    user: UserNum,
    device_id: &DeviceId,
) -> Result<Option<CanonicalJsonObject>, store::Error> {
    let table = r.device_keys()?;
    let key = (user, device_id.as_str());
    let row = table.get(key)?;
    row.map(|row| parse_stored(row.value(), "device_keys", key))
        .transpose()
}

/// The keys of all devices of a user that have uploaded some.
pub fn of_user(
    r: &impl Reader,
    user: UserNum,
) -> Result<Vec<(OwnedDeviceId, CanonicalJsonObject)>, store::Error> {
    let mut found = Vec::new();
    for row in r.device_keys()?.prefix(user)? {
        let (key, keys) = row?;
        let keys = parse_stored(keys.value(), "device_keys", key.value())?;
        found.push((key.value().1.into(), keys));
    }
    Ok(found)
}

/// Removes the keys of a device, and its one-time and fallback keys.
pub(in crate::users) fn remove(
    tx: &Tx,
    user: UserNum,
    device_id: &DeviceId,
    device: DeviceNum,
) -> Result<(), store::Error> {
    tx.device_keys()?.remove((user, device_id.as_str()))?;
    one_time_keys::remove_all(tx, device)
}
