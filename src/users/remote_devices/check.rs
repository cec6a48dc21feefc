//! Limits and checks of what other servers send.

use ruma::{
    DeviceId, UserId,
    encryption::{CrossSigningKey, DeviceKeys},
    serde::Raw,
};

use crate::{store::records::RemoteDevice, users::devices::MAX_NAME_BYTES};

/// Devices of one user.
pub(super) const MAX_DEVICES: usize = 512;
/// Of all devices of one user.
pub(super) const MAX_LIST_BYTES: usize = 512 * 1024;
/// Of the keys of a device, and of a cross-signing key.
const MAX_KEYS_BYTES: usize = 16 * 1024;

/// Whether `keys` are of this device, and not too long.
pub fn are_valid_device_keys(user: &UserId, device: &DeviceId, keys: &Raw<DeviceKeys>) -> bool {
    keys.json().get().len() <= MAX_KEYS_BYTES
        && keys
            .deserialize()
            .is_ok_and(|keys| keys.user_id == user && keys.device_id == device)
}

/// Whether `key` is of `user`, and not too long.
pub fn is_valid_cross_signing_key(user: &UserId, key: &Raw<CrossSigningKey>) -> bool {
    key.json().get().len() <= MAX_KEYS_BYTES
        && key.deserialize().is_ok_and(|key| key.user_id == user)
}

/// What counts towards [`MAX_LIST_BYTES`].
pub(super) fn device_bytes(id: &str, device: &RemoteDevice) -> usize {
    let texts = [&device.display_name, &device.keys];
    id.len() + texts.into_iter().flatten().map(String::len).sum::<usize>()
}

pub(super) fn truncate_name(name: &str) -> String {
    name[..name.floor_char_boundary(MAX_NAME_BYTES)].to_owned()
}

pub(super) fn to_text<T>(raw: &Raw<T>) -> String {
    raw.json().get().to_owned()
}
