//! The keys by which a device is known: to check what it signs, and to reach it.

use ruma::{CanonicalJsonObject, DeviceId, OwnedDeviceId, UserId};

use super::{
    Error, is_same, one_time_keys, parse, put_signature, signatures_of, stored, text, text_of,
};
use crate::{
    store::{self, DeviceNum, Reader, Rows, Tx, UserNum},
    users::device_lists,
};

/// The keys of a device, which its client hands in as `json`.
///
/// # Errors
/// [`Error::InvalidParam`] if they say that they are of another device; [`Error::BadJson`];
/// [`Error::TooLarge`].
pub fn check(
    json: &str,
    (user_id, device_id): (&UserId, &DeviceId),
) -> Result<CanonicalJsonObject, Error> {
    let keys = parse(json)?;
    let is_of = text_of(&keys, "user_id") == Some(user_id.as_str())
        && text_of(&keys, "device_id") == Some(device_id.as_str());
    if !is_of {
        return Err(Error::InvalidParam("these are the keys of another device"));
    }
    Ok(keys)
}

/// Keeps the keys of a device. Of the same keys only the signatures of their user that are new are taken;
/// keys to be given out that belong to other ones go.
///
/// # Errors
/// If the tables cannot be written.
pub fn put(
    tx: &Tx,
    (user, device_id, device): (UserNum, &DeviceId, DeviceNum),
    keys: &CanonicalJsonObject,
) -> Result<(), store::Error> {
    if let Some(mut before) = of_device(tx, user, device_id)? {
        if is_same(&before, keys) {
            if !add_signatures(&mut before, keys) {
                return Ok(());
            }
            return put_signed(tx, (user, device_id), &before);
        }
        if before.get("keys") != keys.get("keys") {
            one_time_keys::remove_all(tx, device)?;
        }
    }
    tx.device_keys()?
        .insert((user, device_id.as_str()), text(keys)?.as_str())?;
    device_lists::device_changed(tx, user, device_id)
}

/// Adds to `keys` what their user has signed of them in `signed`; whether anything was new.
fn add_signatures(keys: &mut CanonicalJsonObject, signed: &CanonicalJsonObject) -> bool {
    let Some(user) = text_of(signed, "user_id") else {
        return false;
    };
    let mut is_new = false;
    for (id, new) in signatures_of(signed, user) {
        let known = signatures_of(keys, user).any(|known| known == (id, new));
        if !known {
            put_signature(keys, user, (id, new.to_owned()));
            is_new = true;
        }
    }
    is_new
}

/// Keeps signatures on the keys of a device.
pub(super) fn put_signed(
    tx: &Tx,
    (user, device_id): (UserNum, &DeviceId),
    keys: &CanonicalJsonObject,
) -> Result<(), store::Error> {
    tx.device_keys()?
        .insert((user, device_id.as_str()), text(keys)?.as_str())?;
    device_lists::device_changed(tx, user, device_id)
}

/// The keys of a device, with the signatures that everybody may see.
///
/// # Errors
/// If the tables cannot be read.
pub fn of_device(
    r: &impl Reader,
    user: UserNum,
    device_id: &DeviceId,
) -> Result<Option<CanonicalJsonObject>, store::Error> {
    let table = r.device_keys()?;
    let key = (user, device_id.as_str());
    let row = table.get(key)?;
    row.map(|row| stored(row.value(), "device_keys", key))
        .transpose()
}

/// The keys of all devices of a user that have some.
///
/// # Errors
/// If the tables cannot be read.
pub fn of_user(
    r: &impl Reader,
    user: UserNum,
) -> Result<Vec<(OwnedDeviceId, CanonicalJsonObject)>, store::Error> {
    let mut found = Vec::new();
    let range = (user, "")..(UserNum(user.0 + 1), "");
    for row in r.device_keys()?.range(range)? {
        let (key, keys) = row?;
        let keys = stored(keys.value(), "device_keys", key.value())?;
        found.push((key.value().1.into(), keys));
    }
    Ok(found)
}

/// Removes all keys of a device that ends.
///
/// # Errors
/// If the tables cannot be written.
pub fn remove(
    tx: &Tx,
    (user, device_id): (UserNum, &DeviceId),
    device: DeviceNum,
) -> Result<(), store::Error> {
    tx.device_keys()?.remove((user, device_id.as_str()))?;
    one_time_keys::remove_all(tx, device)
}
