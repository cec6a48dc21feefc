use ruma::{DeviceId, OwnedDeviceId};

use crate::{
    store::{self, Reader, Records, Rows, UserNum, records::Device},
    users::{Error, Users},
};

/// Of a device id, and of the name of a device.
pub(in crate::users) const MAX_NAME_BYTES: usize = 255;

pub(super) const NO_DEVICE: Error = Error::NotFound("you have no device with this id");

/// The devices of `user`, in the order of their ids.
pub fn all(
    reader: &impl Reader,
    user: UserNum,
) -> Result<Vec<(OwnedDeviceId, Device)>, store::Error> {
    let mut devices = Vec::new();
    for row in reader.devices()?.prefix(user)? {
        let (key, device) = row?;
        devices.push((key.value().1.into(), device.record(&key)?));
    }
    Ok(devices)
}

/// All devices but the dehydrated one, on which nobody is logged in.
pub fn sessions(
    r: &impl Reader,
    user: UserNum,
) -> Result<Vec<(OwnedDeviceId, Device)>, store::Error> {
    let mut sessions = all(r, user)?;
    for index in (0..sessions.len()).rev() {
        if is_dehydrated(r, user, &sessions[index].0)? {
            sessions.remove(index);
        }
    }
    Ok(sessions)
}

/// Whether `device_id` is the dehydrated device of `user`.
pub(super) fn is_dehydrated(
    reader: &impl Reader,
    user: UserNum,
    device_id: &DeviceId,
) -> Result<bool, store::Error> {
    let table = reader.dehydrated_devices()?;
    let row = table.get(user)?;
    Ok(row.is_some_and(|row| row.value().0 == device_id.as_str()))
}

/// Checks a device id that a client chose.
pub(in crate::users) fn check_id(id: &DeviceId) -> Result<(), Error> {
    if id.as_str().is_empty() || id.as_str().len() > MAX_NAME_BYTES {
        return Err(Error::InvalidParam("a device id has 1 to 255 bytes"));
    }
    Ok(())
}

pub(in crate::users) fn check_display_name(name: &str) -> Result<(), Error> {
    if name.len() > MAX_NAME_BYTES {
        return Err(Error::InvalidParam(
            "the display name of a device has at most 255 bytes",
        ));
    }
    Ok(())
}

impl Users {
    /// The devices of `user`, in the order of their ids.
    pub fn devices(&self, user: UserNum) -> Result<Vec<(OwnedDeviceId, Device)>, Error> {
        Ok(self.store.read(|s| all(s, user))?)
    }

    /// The devices on which `user` is logged in: all but the dehydrated one.
    pub fn sessions(&self, user: UserNum) -> Result<Vec<(OwnedDeviceId, Device)>, Error> {
        Ok(self.store.read(|s| sessions(s, user))?)
    }

    /// # Errors
    /// [`Error::NotFound`].
    pub fn device(&self, user: UserNum, device_id: &DeviceId) -> Result<Device, Error> {
        let key = (user, device_id.as_str());
        let device = self.store.read(|s| s.devices()?.load(key))?;
        device.ok_or(NO_DEVICE)
    }
}
