//! Dehydrated devices (MSC3814): a device that a user's clients leave on the server, encrypted, so that the
//! user receives room keys while no other device exists. Whoever logs in next reads its messages.
//!
//! A user has at most one. It is a row of `devices` without tokens. Reading its messages does not remove
//! them. MSC3814 is not accepted yet; matrix-js-sdk uses it.

use ruma::{CanonicalJsonObject, DeviceId, OwnedDeviceId, UserId};
use serde_json::value::RawValue;

use super::{
    Error, devices,
    keys::{device_keys, one_time_keys},
    to_device::{self, PendingMessages},
};
use crate::store::{self, Position, Reader, Records, Rows, Tx, UserNum};

const MAX_DEVICE_DATA_BYTES: usize = 128 * 1024;

pub const NO_DEHYDRATED_DEVICE: Error = Error::NotFound("you have no dehydrated device");

/// The request to leave a device, as the client sent it.
pub struct Upload<'a> {
    pub device_id: OwnedDeviceId,
    pub display_name: Option<String>,
    pub device_data: &'a RawValue,
    pub device_keys: &'a RawValue,
    pub one_time_keys: one_time_keys::UploadedKeys,
    pub fallback_keys: one_time_keys::UploadedKeys,
}

/// A checked [`Upload`].
#[derive(Clone, Debug)]
pub struct NewDevice {
    id: OwnedDeviceId,
    display_name: Option<String>,
    data: String,
    keys: CanonicalJsonObject,
    one_time: one_time_keys::UploadedKeys,
    fallback: one_time_keys::UploadedKeys,
}

impl NewDevice {
    /// # Errors
    /// [`Error::InvalidParam`], [`Error::BadJson`] or [`Error::TooLarge`].
    pub fn new(user_id: &UserId, upload: Upload<'_>) -> Result<Self, Error> {
        devices::check_id(&upload.device_id)?;
        if let Some(name) = &upload.display_name {
            devices::check_display_name(name)?;
        }
        let data = upload.device_data.get();
        if !data.starts_with('{') {
            return Err(Error::BadJson("`device_data` is an object"));
        }
        if data.len() > MAX_DEVICE_DATA_BYTES {
            return Err(Error::TooLarge(
                "the data of a dehydrated device have at most 128 KiB",
            ));
        }
        let keys = device_keys::check(upload.device_keys.get(), user_id, &upload.device_id)?;
        one_time_keys::check(&upload.one_time_keys)?;
        one_time_keys::check(&upload.fallback_keys)?;
        Ok(Self {
            id: upload.device_id,
            display_name: upload.display_name,
            data: data.to_owned(),
            keys,
            one_time: upload.one_time_keys,
            fallback: upload.fallback_keys,
        })
    }

    /// Stores the device, in place of an earlier one.
    ///
    /// # Errors
    /// [`Error::InvalidParam`] if the user is logged in on a device of this id; those of the functions that
    /// store its keys.
    pub fn store(&self, tx: &Tx, user: UserNum, now_ms: u64) -> Result<(), Error> {
        let before = load(tx, user)?.map(|(id, _)| id);
        if let Some(other) = before.as_ref().filter(|before| **before != self.id) {
            devices::remove(tx, user, other)?;
        }
        let known = tx.devices()?.load((user, self.id.as_str()))?;
        let device = match known {
            // A repeated request: one-time keys that were claimed stay claimed.
            Some(device) if before.as_ref() == Some(&self.id) => device.num,
            Some(_) => return Err(Error::InvalidParam("you are logged in on this device")),
            None => devices::create(tx, user, &self.id, self.display_name.as_ref(), now_ms)?,
        };
        tx.dehydrated_devices()?
            .insert(user, (self.id.as_str(), self.data.as_str()))?;
        device_keys::put(tx, user, &self.id, device, &self.keys)?;
        one_time_keys::add(tx, device, &self.one_time)?;
        one_time_keys::put_fallback(tx, device, &self.fallback)
    }
}

/// The id and the `device_data` (JSON) of the dehydrated device of `user`.
pub fn load(
    r: &impl Reader,
    user: UserNum,
) -> Result<Option<(OwnedDeviceId, String)>, store::Error> {
    let table = r.dehydrated_devices()?;
    let row = table.get(user)?;
    Ok(row.map(|row| {
        let (id, data) = row.value();
        (id.into(), data.to_owned())
    }))
}

/// Removes the dehydrated device of `user`; its id.
///
/// # Errors
/// [`Error::NotFound`].
pub fn remove(tx: &Tx, user: UserNum) -> Result<OwnedDeviceId, Error> {
    let (id, _) = load(tx, user)?.ok_or(NO_DEHYDRATED_DEVICE)?;
    devices::remove(tx, user, &id)?;
    Ok(id)
}

/// The messages to `device_id` after `after`, up to and including `upto`; `None` if it is not the dehydrated
/// device of `user`.
pub fn messages(
    r: &impl Reader,
    user: UserNum,
    device_id: &DeviceId,
    after: Position,
    upto: Position,
) -> Result<Option<PendingMessages>, store::Error> {
    if load(r, user)?.is_none_or(|(id, _)| id != device_id) {
        return Ok(None);
    }
    let device = r.devices()?.load((user, device_id.as_str()))?;
    let device = device.ok_or_else(|| {
        store::Error::corrupt("devices", (user, device_id), "missing, but dehydrated")
    })?;
    to_device::pending(r, device.num, after, upto, to_device::MAX_SYNC_MESSAGES).map(Some)
}
