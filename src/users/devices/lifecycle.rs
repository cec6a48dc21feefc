//! How devices are created, renamed and removed.

use ruma::{DeviceId, OwnedDeviceId};

use super::rows::{NO_DEVICE, all, check_display_name, is_dehydrated};
use crate::{
    store::{
        self, DeviceNum, Effect, Position, Reader, Records, Rows, Tx, UserNum, records::Device,
    },
    users::{
        Error, Users, account_data::local_notification_settings, auth::openid, device_lists, keys,
        pushers, to_device,
    },
};

/// One more removes the device that has not been used for the longest time.
const MAX_DEVICES_PER_USER: usize = 512;

/// The device on which `user` logs in. An existing one loses its tokens. A dehydrated device of this id is
/// replaced.
pub(in crate::users) fn get_or_create(
    tx: &Tx,
    user: UserNum,
    device_id: &DeviceId,
    display_name: Option<&String>,
    now_ms: u64,
) -> Result<DeviceNum, Error> {
    if is_dehydrated(tx, user, device_id)? {
        remove(tx, user, device_id)?;
    }
    let known = tx.devices()?.load((user, device_id.as_str()))?;
    if let Some(device) = known {
        remove_tokens(tx, device.num)?;
        return Ok(device.num);
    }
    create(tx, user, device_id, display_name, now_ms)
}

/// Creates the device `device_id` of `user`, who has none with this id.
///
/// # Errors
/// [`Error::InvalidParam`] if a cross-signing key of the user has this id: both are names in the same map of
/// keys (client-server API, "Cross-signing").
pub(in crate::users) fn create(
    tx: &Tx,
    user: UserNum,
    device_id: &DeviceId,
    display_name: Option<&String>,
    now_ms: u64,
) -> Result<DeviceNum, Error> {
    if keys::cross_signing::has_public_key(tx, user, device_id.as_str())? {
        return Err(Error::InvalidParam(
            "one of your cross-signing keys has this id; choose another device id",
        ));
    }
    evict_least_recently_seen(tx, user)?;
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

fn evict_least_recently_seen(tx: &Tx, user: UserNum) -> Result<(), store::Error> {
    let devices = all(tx, user)?;
    if devices.len() < MAX_DEVICES_PER_USER {
        return Ok(());
    }
    let oldest = devices
        .iter()
        .min_by_key(|(_, device)| (device.last_seen_ts, device.num));
    if let Some((device_id, _)) = oldest {
        remove(tx, user, device_id)?;
    }
    Ok(())
}

/// Removes a device with its tokens, keys, messages, pushers, notification settings and transaction ids; whether
/// there was one.
pub fn remove(tx: &Tx, user: UserNum, device_id: &DeviceId) -> Result<bool, store::Error> {
    let Some(device) = tx.devices()?.load((user, device_id.as_str()))? else {
        return Ok(false);
    };
    let num = device.num;
    remove_tokens(tx, num)?;
    to_device::remove_until(tx, num, Position::MAX)?;
    tx.devices()?.remove((user, device_id.as_str()))?;
    tx.device_ids()?.remove(num)?;
    tx.transactions()?.remove_prefix(num)?;
    tx.sliding_sync_states()?.remove_prefix(num)?;
    if is_dehydrated(tx, user, device_id)? {
        tx.dehydrated_devices()?.remove(user)?;
    }
    keys::device_keys::remove(tx, user, device_id, num)?;
    keys::signatures::remove_of_device(tx, user, device_id)?;
    pushers::remove_of_device(tx, user, num)?;
    local_notification_settings::remove(tx, user, device_id)?;
    tx.effect(Effect::DeviceGone(user, num));
    device_lists::device_changed(tx, user, device_id)?;
    Ok(true)
}

/// Removes every device of `user` but `keep`.
pub fn remove_all(tx: &Tx, user: UserNum, keep: Option<DeviceNum>) -> Result<(), store::Error> {
    for (device_id, device) in all(tx, user)? {
        if Some(device.num) != keep {
            remove(tx, user, &device_id)?;
        }
    }
    Ok(())
}

fn remove_tokens(tx: &Tx, device: DeviceNum) -> Result<(), store::Error> {
    let mut hashes = Vec::new();
    for row in tx.device_tokens()?.prefix(device)? {
        hashes.push(row?.0.value().1);
    }
    for hash in hashes {
        tx.access_tokens()?.remove(hash)?;
        tx.refresh_tokens()?.remove(hash)?;
    }
    tx.device_tokens()?.remove_prefix(device)?;
    openid::remove_of(tx, device)
}

impl Users {
    /// # Errors
    /// [`Error::NotFound`], or [`Error::InvalidParam`] if the name is too long.
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

    /// Removes those of `device_ids` that exist.
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

    pub async fn remove_all_devices(&self, user: UserNum) -> Result<(), Error> {
        self.store
            .write_shrinking(move |tx| Ok(remove_all(tx, user, None)?))
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        store::{EventNum, records::Transaction},
        users::{NewLogin, testing::with_server},
    };

    #[test]
    fn removing_a_device_removes_its_tokens_and_transactions_and_announces_it() {
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
            assert!(!server.is_logged_in(&login).await);
            assert!(server.is_logged_in(&other).await);
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
    fn one_device_too_many_removes_the_least_recently_seen() {
        with_server(async |server| {
            let login = server.register("alice").await;
            let user = server.session(&login).await.user;
            let fill = server.store.write(move |tx| {
                for at in 1..MAX_DEVICES_PER_USER {
                    let device_id = format!("D{at}");
                    get_or_create(tx, user, device_id.as_str().into(), None, 1_000 + at as u64)?;
                }
                Ok::<_, Error>(())
            });
            fill.await.unwrap();
            let newest = server.log_in("alice", NewLogin::default()).await;
            assert_eq!(
                server.users.devices(user).unwrap().len(),
                MAX_DEVICES_PER_USER
            );
            assert!(server.users.device(user, "D1".into()).is_err());
            assert!(server.users.device(user, "D2".into()).is_ok());
            assert!(server.is_logged_in(&login).await && server.is_logged_in(&newest).await);
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
