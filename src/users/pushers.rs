//! Pushers: who is notified through which push gateway ([client-server API, "Push Notifications"]).
//!
//! A pusher belongs to a user, and to the device that set it: it is removed with that device. `pusher_users`
//! finds the pushers of other users with the same app id and pushkey, which a new one replaces. What a pusher
//! has sent is in `pusher_states`, a row that only the sender (`push/`) writes after the first time.
//!
//! [client-server API, "Push Notifications"]: https://spec.matrix.org/v1.19/client-server-api/#push-notifications

use super::{Error, Users};
use crate::store::{
    self, DeviceNum, Effect, Reader, Records, Rows, Tx, UserNum,
    records::{Pusher, PusherState},
};

/// One more replaces the pusher that was set longest ago.
const MAX_PUSHERS_PER_USER: usize = 50;
/// Source: client-server API, `POST /pushers/set`.
const MAX_APP_ID_CHARS: usize = 64;
/// The same.
const MAX_PUSHKEY_BYTES: usize = 512;
const MAX_NAME_BYTES: usize = 255;
/// Of `data`, which goes into every notification.
const MAX_DATA_BYTES: usize = 8 * 1024;

/// The identity of a pusher: of one user, each (`app_id`, `pushkey`) is one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PusherKey {
    pub user: UserNum,
    pub app_id: String,
    pub pushkey: String,
}

impl PusherKey {
    fn row(&self) -> (UserNum, &str, &str) {
        (self.user, &self.app_id, &self.pushkey)
    }
}

pub fn load(r: &impl Reader, key: &PusherKey) -> Result<Option<Pusher>, store::Error> {
    r.pushers()?.load(key.row())
}

pub fn load_state(r: &impl Reader, key: &PusherKey) -> Result<Option<PusherState>, store::Error> {
    r.pusher_states()?.load(key.row())
}

/// Stores the state of a pusher, unless it was removed meanwhile.
pub fn save_state(tx: &Tx, key: &PusherKey, state: &PusherState) -> Result<(), store::Error> {
    if tx.pushers()?.has(key.row())? {
        tx.pusher_states()?.put(key.row(), state)?;
    }
    Ok(())
}

/// The pushers of `user`.
pub fn of_user(r: &impl Reader, user: UserNum) -> Result<Vec<(PusherKey, Pusher)>, store::Error> {
    let table = r.pushers()?;
    let rows = table.prefix(user)?.map(|row| {
        let (key, pusher) = row?;
        Ok((owned(key.value()), pusher.record(&key)?))
    });
    rows.collect()
}

/// The identities of the pushers of `user`.
pub fn keys_of(r: &impl Reader, user: UserNum) -> Result<Vec<PusherKey>, store::Error> {
    let table = r.pushers()?;
    let rows = table.prefix(user)?.map(|row| Ok(owned(row?.0.value())));
    rows.collect()
}

/// The users with pushers. A lookup for each.
pub fn users(r: &impl Reader) -> Result<Vec<UserNum>, store::Error> {
    r.pushers()?.first_parts()
}

fn owned((user, app_id, pushkey): (UserNum, &str, &str)) -> PusherKey {
    PusherKey {
        user,
        app_id: app_id.to_owned(),
        pushkey: pushkey.to_owned(),
    }
}

/// Removes a pusher; whether there was one.
pub fn remove(tx: &Tx, key: &PusherKey) -> Result<bool, store::Error> {
    if !tx.pushers()?.remove(key.row())? {
        return Ok(false);
    }
    tx.pusher_states()?.remove(key.row())?;
    tx.pusher_users()?
        .remove((key.app_id.as_str(), key.pushkey.as_str(), key.user))?;
    tx.effect(Effect::PushersChanged(key.user));
    Ok(true)
}

/// Removes the pusher that its gateway rejects, unless it was set again at another time than `set_ts`.
pub fn remove_rejected(tx: &Tx, key: &PusherKey, set_ts: u64) -> Result<bool, store::Error> {
    match load(tx, key)? {
        Some(pusher) if pusher.set_ts == set_ts => remove(tx, key),
        _ => Ok(false),
    }
}

pub(in crate::users) fn remove_of_device(
    tx: &Tx,
    user: UserNum,
    device: DeviceNum,
) -> Result<(), store::Error> {
    for (key, pusher) in of_user(tx, user)? {
        if pusher.device == device {
            remove(tx, &key)?;
        }
    }
    Ok(())
}

fn put(tx: &Tx, key: &PusherKey, pusher: &Pusher, append: bool) -> Result<(), Error> {
    if !append {
        let mut replaced = Vec::new();
        for row in tx
            .pusher_users()?
            .prefix((key.app_id.as_str(), key.pushkey.as_str()))?
        {
            let (_, _, user) = row?.0.value();
            if user != key.user {
                replaced.push(PusherKey {
                    user,
                    ..key.clone()
                });
            }
        }
        for other in replaced {
            remove(tx, &other)?;
        }
    }
    if load(tx, key)?.is_none() {
        remove_oldest(tx, key.user)?;
        let state = PusherState {
            // What came before is not sent.
            cursor: tx.next_position()?,
            badge: None,
            backoff: None,
            failing_since_ts: None,
            success_ts: None,
            answer: None,
        };
        tx.pusher_states()?.put(key.row(), &state)?;
        tx.pusher_users()?
            .insert((key.app_id.as_str(), key.pushkey.as_str(), key.user), ())?;
    }
    tx.pushers()?.put(key.row(), pusher)?;
    tx.effect(Effect::PushersChanged(key.user));
    Ok(())
}

/// Makes space for another pusher of `user`.
fn remove_oldest(tx: &Tx, user: UserNum) -> Result<(), store::Error> {
    let pushers = of_user(tx, user)?;
    if pushers.len() < MAX_PUSHERS_PER_USER {
        return Ok(());
    }
    let oldest = pushers.iter().min_by_key(|(_, pusher)| pusher.set_ts);
    if let Some((key, _)) = oldest {
        remove(tx, key)?;
    }
    Ok(())
}

fn check(key: &PusherKey, pusher: &Pusher) -> Result<(), Error> {
    if key.app_id.is_empty() || key.app_id.chars().count() > MAX_APP_ID_CHARS {
        return Err(Error::InvalidParam("`app_id` has 1 to 64 characters"));
    }
    // It is in log lines.
    if key.app_id.contains(char::is_control) {
        return Err(Error::InvalidParam("`app_id` has no control characters"));
    }
    if key.pushkey.is_empty() || key.pushkey.len() > MAX_PUSHKEY_BYTES {
        return Err(Error::InvalidParam("`pushkey` has 1 to 512 bytes"));
    }
    let names = [
        &pusher.app_display_name,
        &pusher.device_display_name,
        &pusher.lang,
    ];
    let names = names.into_iter().chain(&pusher.profile_tag);
    if names.into_iter().any(|name| name.len() > MAX_NAME_BYTES) {
        return Err(Error::InvalidParam(
            "`app_display_name`, `device_display_name`, `lang` and `profile_tag` have at most 255 bytes",
        ));
    }
    if pusher.data.len() > MAX_DATA_BYTES {
        return Err(Error::InvalidParam("`data` has at most 8 KiB"));
    }
    Ok(())
}

impl Users {
    pub fn pushers(&self, user: UserNum) -> Result<Vec<(PusherKey, Pusher)>, Error> {
        Ok(self.store.read(|s| of_user(s, user))?)
    }

    /// Sets a pusher of the device that it names. Without `append`, those of other users with the same
    /// `app_id` and `pushkey` are removed.
    ///
    /// # Errors
    /// [`Error::InvalidParam`] for what is too long, or has characters that are not allowed; [`Error::UnknownToken`] if the device was removed
    /// meanwhile.
    pub async fn set_pusher(
        &self,
        key: PusherKey,
        pusher: Pusher,
        append: bool,
    ) -> Result<(), Error> {
        check(&key, &pusher)?;
        let job = move |tx: &Tx| {
            if !tx.device_ids()?.has(pusher.device)? {
                return Err(Error::UnknownToken { soft_logout: false });
            }
            put(tx, &key, &pusher, append)
        };
        self.store.write(job).await
    }

    pub async fn remove_pusher(&self, key: PusherKey) -> Result<(), Error> {
        let job = move |tx: &Tx| Ok(remove(tx, &key).map(|_| ())?);
        self.store.write_shrinking(job).await
    }
}
