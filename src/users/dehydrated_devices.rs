//! Dehydrated devices: a device that a user's clients leave here, sealed so that only they can wake it.
//! It has keys and is written to like any other, also while the user has no other device, and whoever
//! logs in next takes over what it was told.
//!
//! A user has at most one. It is a row of `devices` without tokens, so that it ends as every device
//! does; its messages are kept for as long as it is there, however often they are read.
//!
//! Source: MSC3814, which is not accepted yet, but which matrix-js-sdk uses.

use ruma::{CanonicalJsonObject, DeviceId, OwnedDeviceId, UserId};
use serde_json::value::RawValue;

use super::{
    Error, devices,
    keys::{self, one_time_keys},
    to_device,
};
use crate::store::{self, Position, Reader, Records, Rows, Tx, UserNum};

/// How large the sealed part of a device can be, in bytes.
const LARGEST: usize = 128 * 1024;

/// A device that a client leaves here.
#[derive(Clone, Debug)]
pub struct NewDevice {
    id: OwnedDeviceId,
    display_name: Option<String>,
    /// What the user's clients wake it with.
    data: String,
    keys: CanonicalJsonObject,
    one_time: one_time_keys::UploadedKeys,
    fallback: one_time_keys::UploadedKeys,
}

impl NewDevice {
    /// The device `id` of `user_id`, with its sealed part and its keys.
    ///
    /// # Errors
    /// [`Error::InvalidParam`], [`Error::BadJson`] or [`Error::TooLarge`] if one of them makes no sense.
    pub fn new(
        (user_id, id, display_name): (&UserId, OwnedDeviceId, Option<String>),
        (data, keys): (&RawValue, &RawValue),
        (one_time, fallback): (one_time_keys::UploadedKeys, one_time_keys::UploadedKeys),
    ) -> Result<Self, Error> {
        devices::check_id(&id)?;
        if let Some(name) = &display_name {
            devices::check_display_name(name)?;
        }
        if data.get().len() > LARGEST {
            return Err(Error::TooLarge(
                "a dehydrated device may have at most 128 KiB",
            ));
        }
        let keys = keys::device_keys::check(keys.get(), (user_id, &id))?;
        one_time_keys::check(&one_time)?;
        one_time_keys::check(&fallback)?;
        Ok(Self {
            id,
            display_name,
            data: data.get().to_owned(),
            keys,
            one_time,
            fallback,
        })
    }

    /// Keeps the device, instead of another that was left before.
    ///
    /// # Errors
    /// [`Error::InvalidParam`] if the user has logged in on a device of this id; whatever keys can be
    /// refused for.
    pub fn store(&self, tx: &Tx, user: UserNum, now_ms: u64) -> Result<(), Error> {
        let before = load(tx, user)?.map(|(id, _)| id);
        if let Some(other) = before.as_ref().filter(|before| **before != self.id) {
            devices::remove(tx, user, other)?;
        }
        let known = tx.devices()?.load((user, self.id.as_str()))?;
        let device = match known {
            // A client that heard no answer asks again: what was given out stays so.
            Some(device) if before.as_ref() == Some(&self.id) => device.num,
            Some(_) => return Err(Error::InvalidParam("you are logged in on this device")),
            None => {
                let name = self.display_name.as_ref();
                devices::create(tx, (user, &self.id), name, now_ms)?
            }
        };
        tx.dehydrated_devices()?
            .insert(user, (self.id.as_str(), self.data.as_str()))?;
        keys::device_keys::put(tx, (user, &self.id, device), &self.keys)?;
        one_time_keys::add(tx, device, &self.one_time)?;
        one_time_keys::put_fallback(tx, device, &self.fallback)
    }
}

/// The device that `user` has left here: its id and its sealed part, as JSON.
///
/// # Errors
/// If the table cannot be read.
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

/// Whether `device_id` is the device that `user` has left here.
///
/// # Errors
/// If the table cannot be read.
pub fn is_dehydrated(
    r: &impl Reader,
    user: UserNum,
    device_id: &DeviceId,
) -> Result<bool, store::Error> {
    let table = r.dehydrated_devices()?;
    let row = table.get(user)?;
    Ok(row.is_some_and(|row| row.value().0 == device_id.as_str()))
}

/// Removes the device that `user` has left here; its id.
///
/// # Errors
/// [`Error::NotFound`] if there is none.
pub fn remove(tx: &Tx, user: UserNum) -> Result<OwnedDeviceId, Error> {
    let (id, _) = load(tx, user)?.ok_or(NO_DEHYDRATED_DEVICE)?;
    devices::remove(tx, user, &id)?;
    Ok(id)
}

/// What the error says where there is none.
pub const NO_DEHYDRATED_DEVICE: Error = Error::NotFound("you have no dehydrated device");

/// What was sent to the device `device_id` of `user` after `after`, up to and including `upto`, as much
/// as one answer tells, and up to where that is; nothing if that is not the device that was left here.
///
/// # Errors
/// If the store cannot be read.
pub fn messages(
    r: &impl Reader,
    (user, device_id): (UserNum, &DeviceId),
    (after, upto): (Position, Position),
) -> Result<Option<to_device::PendingMessages>, store::Error> {
    if !is_dehydrated(r, user, device_id)? {
        return Ok(None);
    }
    let device = r.devices()?.load((user, device_id.as_str()))?;
    let device = device.ok_or(store::Error::corrupt(
        "devices",
        (user, device_id),
        "missing, but it is the user's dehydrated device",
    ))?;
    to_device::pending(r, device.num, after, upto).map(Some)
}

/// The device `device_id` of `user` ends.
pub(super) fn forget(tx: &Tx, user: UserNum, device_id: &DeviceId) -> Result<(), store::Error> {
    if is_dehydrated(tx, user, device_id)? {
        tx.dehydrated_devices()?.remove(user)?;
    }
    Ok(())
}
