//! Identity keys of devices.

use ruma::{CanonicalJsonObject, DeviceId, OwnedDeviceId, UserId};

use super::{
    one_time_keys,
    signed_json::{
        is_map_of_strings, is_same, is_signatures, parse, parse_stored, put_signature,
        signatures_of, str_field, to_text,
    },
};
use crate::{
    store::{self, DeviceNum, Reader, Rows, Tx, UserNum},
    users::{Error, device_lists},
};

/// Of all devices of a user together: they are read and sent at once.
const MAX_BYTES_PER_USER: usize = 1024 * 1024;

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
    let algorithms = keys.get("algorithms").and_then(|value| value.as_array());
    if !algorithms.is_some_and(|algorithms| algorithms.iter().all(|name| name.is_string())) {
        return Err(Error::BadJson(
            "`algorithms` of device keys is a list of strings",
        ));
    }
    if !keys.get("keys").is_some_and(is_map_of_strings) {
        return Err(Error::BadJson(
            "`keys` of device keys is a map from the ids of the keys to strings",
        ));
    }
    if !keys.get("signatures").is_some_and(is_signatures) {
        return Err(Error::BadJson(
            "`signatures` of device keys is a map from users to maps from the ids of keys to strings",
        ));
    }
    Ok(keys)
}

/// Stores the keys of a device. If they are stored already, only new signatures of their user are added.
/// Other `keys` than before remove the one-time keys.
///
/// # Errors
/// [`Error::TooLarge`] if the keys of all devices of the user have too many bytes.
pub fn put(
    tx: &Tx,
    user: UserNum,
    device_id: &DeviceId,
    device: DeviceNum,
    keys: &CanonicalJsonObject,
) -> Result<(), Error> {
    if let Some(mut before) = of_device(tx, user, device_id)? {
        if is_same(&before, keys) {
            if !add_signatures(&mut before, keys) {
                return Ok(());
            }
            return Ok(put_row(tx, user, device_id, &before)?);
        }
        if before.get("keys") != keys.get("keys") {
            one_time_keys::remove_all(tx, device)?;
        }
    }
    let bytes = to_text(keys)?.len() + bytes_of_others(tx, user, device_id)?;
    if bytes > MAX_BYTES_PER_USER {
        return Err(Error::TooLarge(
            "the keys of all your devices have at most 1 MiB together",
        ));
    }
    Ok(put_row(tx, user, device_id, keys)?)
}

/// Of the keys of the user's other devices.
fn bytes_of_others(tx: &Tx, user: UserNum, device_id: &DeviceId) -> Result<usize, store::Error> {
    let mut bytes = 0;
    for row in tx.device_keys()?.prefix(user)? {
        let (key, keys) = row?;
        if key.value().1 != device_id.as_str() {
            bytes += keys.value().len();
        }
    }
    Ok(bytes)
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

#[cfg(test)]
mod tests {
    use ruma::CanonicalJsonObject;
    use serde_json::json;

    use super::{MAX_BYTES_PER_USER, put};
    use crate::{
        rooms::tests::with_store,
        store::{DeviceNum, Tx},
        users::Error,
    };

    fn keys(bytes: usize) -> CanonicalJsonObject {
        serde_json::from_value(json!({ "keys": { "ed25519:D": "k".repeat(bytes) } })).expect("JSON")
    }

    #[test]
    fn the_keys_of_all_devices_of_a_user_together_are_bounded() {
        let job = |tx: &Tx| {
            let user = tx.user_num("@alice:here")?;
            let put = |device: u32, bytes| {
                let id = format!("D{device}");
                put(
                    tx,
                    user,
                    id.as_str().into(),
                    DeviceNum(device),
                    &keys(bytes),
                )
            };
            let mut stored = 0;
            while put(stored, 30_000).is_ok() {
                stored += 1;
            }
            let refused = put(stored, 30_000);
            // Those of a device that has some are replaced.
            put(0, 29_000)?;
            Ok::<_, Error>((stored as usize, refused))
        };
        let (stored, refused) = with_store(async |store| store.write(job).await.expect("a device"));
        assert_eq!(stored, MAX_BYTES_PER_USER / 30_100);
        assert!(matches!(refused, Err(Error::TooLarge(_))), "{refused:?}");
    }
}
