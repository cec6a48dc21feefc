//! The devices of local users.

use ruma::{DeviceId, OwnedDeviceId};

use super::{Error, Users, dehydrated_devices, device_lists, keys, to_device};
use crate::store::{
    self, DeviceNum, Effect, Position, Reader, Records, Rows, Tx, UserNum, records::Device,
};

/// How many devices a user has at most. One more logs out the one that was silent for longest.
const MOST: usize = 512;
/// How long a device id or the name of a device can be, in bytes.
pub(super) const LONGEST: usize = 255;

/// Every device of `user`, in the order of their ids.
///
/// # Errors
/// If the table cannot be read.
pub fn all(
    reader: &impl Reader,
    user: UserNum,
) -> Result<Vec<(OwnedDeviceId, Device)>, store::Error> {
    let mut devices = Vec::new();
    for row in reader
        .devices()?
        .range((user, "")..(UserNum(user.0 + 1), ""))?
    {
        let (key, device) = row?;
        devices.push((key.value().1.into(), device.value().unpack()?));
    }
    Ok(devices)
}

/// The device `device_id` of `user`: kept with its tokens taken away if it exists, made if not. A
/// dehydrated one is another device than whoever logs in under its name.
pub(super) fn get_or_create(
    tx: &Tx,
    user: UserNum,
    device_id: &DeviceId,
    display_name: Option<&String>,
    now_ms: u64,
) -> Result<DeviceNum, Error> {
    if dehydrated_devices::is_dehydrated(tx, user, device_id)? {
        remove(tx, user, device_id)?;
    }
    let known = tx.devices()?.load((user, device_id.as_str()))?;
    if let Some(device) = known {
        remove_tokens(tx, device.num)?;
        return Ok(device.num);
    }
    create(tx, (user, device_id), display_name, now_ms)
}

/// Makes the device `device_id` of `user`, who has none of this id. A cross-signing key has its public key
/// as its name among the user's keys, which then no device can have (client-server API, "Cross-signing").
pub(super) fn create(
    tx: &Tx,
    (user, device_id): (UserNum, &DeviceId),
    display_name: Option<&String>,
    now_ms: u64,
) -> Result<DeviceNum, Error> {
    if keys::cross_signing::has_public_key(tx, user, device_id.as_str())? {
        return Err(Error::InvalidParam(
            "one of your cross-signing keys has this id; choose another device id",
        ));
    }
    make_room(tx, user)?;
    let device = Device {
        num: tx.next_device()?,
        display_name: display_name.cloned(),
        last_seen_ts: Some(now_ms),
        last_seen_ip: None,
    };
    tx.devices()?.put((user, device_id.as_str()), &device)?;
    tx.device_ids()?
        .insert(device.num, (user, device_id.as_str()))?;
    device_lists::device_changed(tx, user, device_id)?;
    Ok(device.num)
}

fn make_room(tx: &Tx, user: UserNum) -> Result<(), store::Error> {
    let devices = all(tx, user)?;
    if devices.len() < MOST {
        return Ok(());
    }
    let silent = devices
        .iter()
        .min_by_key(|(_, device)| (device.last_seen_ts, device.num));
    if let Some((device_id, _)) = silent {
        remove(tx, user, device_id)?;
    }
    Ok(())
}

/// Ends a device, with its tokens and all that other modules keep for it; whether there was one.
///
/// # Errors
/// If the tables cannot be written.
pub fn remove(tx: &Tx, user: UserNum, device_id: &DeviceId) -> Result<bool, store::Error> {
    let Some(device) = tx.devices()?.load((user, device_id.as_str()))? else {
        return Ok(false);
    };
    let num = device.num;
    remove_tokens(tx, num)?;
    tx.devices()?.remove((user, device_id.as_str()))?;
    tx.device_ids()?.remove(num)?;
    tx.transactions()?
        .remove_in((num, "")..(DeviceNum(num.0 + 1), ""), |_, _| true)?;
    dehydrated_devices::forget(tx, user, device_id)?;
    keys::device_keys::remove(tx, (user, device_id), num)?;
    keys::signatures::remove_of_device(tx, user, device_id)?;
    to_device::remove_until(tx, num, Position::MAX)?;
    tx.effect(Effect::DeviceGone(user, num));
    device_lists::device_changed(tx, user, device_id)?;
    Ok(true)
}

/// Ends every device of `user` but `keep`.
///
/// # Errors
/// If the tables cannot be written.
pub fn remove_all(tx: &Tx, user: UserNum, keep: Option<DeviceNum>) -> Result<(), store::Error> {
    for (device_id, device) in all(tx, user)? {
        if Some(device.num) != keep {
            remove(tx, user, &device_id)?;
        }
    }
    Ok(())
}

fn remove_tokens(tx: &Tx, device: DeviceNum) -> Result<(), store::Error> {
    let tokens = (device, [0; 32])..=(device, [255; 32]);
    let mut hashes = Vec::new();
    for row in tx.device_tokens()?.range(tokens.clone())? {
        hashes.push(row?.0.value().1);
    }
    for hash in hashes {
        tx.access_tokens()?.remove(hash)?;
        tx.refresh_tokens()?.remove(hash)?;
    }
    tx.device_tokens()?.remove_in(tokens, |_, ()| true)
}

impl Users {
    /// The devices of `user`, in the order of their ids.
    ///
    /// # Errors
    /// If the table cannot be read.
    pub fn devices(&self, user: UserNum) -> Result<Vec<(OwnedDeviceId, Device)>, Error> {
        Ok(self.store.read(|s| all(s, user))?)
    }

    /// The device `device_id` of `user`.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none.
    pub fn device(&self, user: UserNum, device_id: &DeviceId) -> Result<Device, Error> {
        let device = self
            .store
            .read(|s| s.devices()?.load((user, device_id.as_str())))?;
        device.ok_or(NO_DEVICE)
    }

    /// Gives a device another name.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such device, [`Error::InvalidParam`] if the name is too
    /// long.
    pub async fn rename_device(
        &self,
        user: UserNum,
        device_id: OwnedDeviceId,
        display_name: String,
    ) -> Result<(), Error> {
        check_display_name(&display_name)?;
        self.store
            .write(move |tx| {
                let key = (user, device_id.as_str());
                let mut device = tx.devices()?.load(key)?.ok_or(NO_DEVICE)?;
                device.display_name = Some(display_name.clone());
                tx.devices()?.put(key, &device)?;
                Ok(device_lists::device_changed(tx, user, &device_id)?)
            })
            .await
    }

    /// Ends those of `device_ids` that exist.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn remove_devices(
        &self,
        user: UserNum,
        device_ids: Vec<OwnedDeviceId>,
    ) -> Result<(), Error> {
        self.store
            .write_shrinking(move |tx| {
                for device_id in &device_ids {
                    remove(tx, user, device_id)?;
                }
                Ok(())
            })
            .await
    }

    /// Ends every device of `user`.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn remove_all_devices(&self, user: UserNum) -> Result<(), Error> {
        self.store
            .write_shrinking(move |tx| Ok(remove_all(tx, user, None)?))
            .await
    }
}

const NO_DEVICE: Error = Error::NotFound("you have no device with this id");

/// Whether a device can have this id, which a client chose.
pub(super) fn check_id(id: &DeviceId) -> Result<(), Error> {
    if id.as_str().is_empty() || id.as_str().len() > LONGEST {
        return Err(Error::InvalidParam("a device id has 1 to 255 bytes"));
    }
    Ok(())
}

pub(super) fn check_display_name(name: &str) -> Result<(), Error> {
    if name.len() > LONGEST {
        return Err(Error::InvalidParam(
            "the name of a device has at most 255 bytes",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        store::{EventNum, records::Transaction},
        users::{NewLogin, testing::with_server},
    };

    #[test]
    fn a_device_goes_with_its_tokens_and_transactions_and_tells_of_it() {
        with_server(async |server| {
            let refreshable = NewLogin {
                refreshable: true,
                ..NewLogin::default()
            };
            let login = server.register_with("alice", refreshable).await;
            let other = server.log_in("alice", NewLogin::default()).await;
            let session = server.session(&login).await;
            let stays = server.session(&other).await;
            let devices = [session.device, stays.device];
            let transactions = server.store.write(move |tx| {
                for device in devices {
                    let row = Transaction {
                        event: EventNum(1),
                        ts: 0,
                    };
                    tx.transactions()?.put((device, "send m1"), &row)?;
                }
                Ok::<_, store::Error>(())
            });
            transactions.await.unwrap();
            server.effects();

            let ids = vec![login.device_id.clone(), "NO SUCH".into()];
            let removed = server.users.remove_devices(session.user, ids);
            removed.await.unwrap();
            assert!(!server.lets_in(&login).await);
            assert!(server.lets_in(&other).await);
            let gone = Effect::DeviceGone(session.user, session.device);
            assert!(matches!(
                server.effects()[..],
                [first, Effect::DeviceListChanged(user, _)] if first == gone && user == session.user
            ));
            server.store.read(|s| {
                assert_eq!(s.devices().unwrap().len().unwrap(), 1);
                assert_eq!(s.device_ids().unwrap().len().unwrap(), 1);
                assert_eq!(s.access_tokens().unwrap().len().unwrap(), 1);
                assert_eq!(s.refresh_tokens().unwrap().len().unwrap(), 0);
                assert_eq!(s.device_tokens().unwrap().len().unwrap(), 1);
                let transactions = s.transactions().unwrap();
                assert!(!transactions.has((session.device, "send m1")).unwrap());
                assert!(transactions.has((stays.device, "send m1")).unwrap());
            });
        });
    }

    #[test]
    fn one_device_too_many_ends_the_one_that_was_silent_for_longest() {
        with_server(async |server| {
            let login = server.register("alice").await;
            let user = server.session(&login).await.user;
            let fill = server.store.write(move |tx| {
                for at in 1..MOST {
                    let device_id = format!("D{at}");
                    get_or_create(tx, user, device_id.as_str().into(), None, 1_000 + at as u64)?;
                }
                Ok::<_, Error>(())
            });
            fill.await.unwrap();
            let newest = server.log_in("alice", NewLogin::default()).await;
            assert_eq!(server.users.devices(user).unwrap().len(), MOST);
            assert!(server.users.device(user, "D1".into()).is_err());
            assert!(server.users.device(user, "D2".into()).is_ok());
            assert!(server.lets_in(&login).await && server.lets_in(&newest).await);
        });
    }

    #[test]
    fn a_device_can_be_renamed_by_its_owner_only() {
        with_server(async |server| {
            let login = server.register("alice").await;
            let alice = server.session(&login).await.user;
            let bob = server.register("bob").await;
            let bob = server.session(&bob).await.user;
            let rename = |user, name: &str| {
                server
                    .users
                    .rename_device(user, login.device_id.clone(), name.into())
            };
            rename(alice, "my phone").await.unwrap();
            assert!(matches!(rename(bob, "mine").await, Err(Error::NotFound(_))));
            assert!(matches!(
                rename(alice, &"x".repeat(256)).await,
                Err(Error::InvalidParam(_))
            ));
            let device = server.users.device(alice, &login.device_id).unwrap();
            assert_eq!(device.display_name.as_deref(), Some("my phone"));
        });
    }
}
