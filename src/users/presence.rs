//! Presence (client-server API, "Presence"), in memory only.
//!
//! A user's state is the most active state of their devices. A device has the state of its last sync or
//! request, and goes offline after [`DEVICE_TIMEOUT_MS`]. No timer runs: readers call [`Presence::expire`], and
//! wait until [`Presence::next_expiry`].

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use ruma::presence::PresenceState;

use crate::store::{DeviceNum, UserNum};

/// Without a sync. Longer than the longest sync.
const DEVICE_TIMEOUT_MS: u64 = 150_000;
/// Without another EDU from the user's server.
const REMOTE_TIMEOUT_MS: u64 = 30 * 60_000;
/// Stands for all devices of a user of another server.
const REMOTE_DEVICE: DeviceNum = DeviceNum(0);
/// How long a user is `currently_active` after the last activity.
const CURRENTLY_ACTIVE_MS: u64 = 60_000;
/// Beyond that, users who are offline are evicted.
const MAX_USERS: usize = 10_000;
/// Beyond that, the device with the oldest update is evicted.
const MAX_DEVICES_PER_USER: usize = 16;

#[derive(Debug, Default)]
pub struct Presence {
    users: Mutex<HashMap<UserNum, User>>,
    /// The users whose changed presence has not been announced; `None` if no task announces them.
    unannounced: Mutex<Option<BTreeSet<UserNum>>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserPresence {
    pub state: PresenceState,
    pub status_msg: Option<String>,
    /// When the user was last active, in milliseconds since the epoch.
    pub last_active_ts: u64,
}

#[derive(Debug)]
struct User {
    presence: UserPresence,
    /// Those that are not offline.
    devices: Vec<Device>,
    /// The number of the last change, as the notifier counts them.
    changed: u64,
}

#[derive(Debug)]
struct Device {
    num: DeviceNum,
    state: PresenceState,
    last_update_ms: u64,
}

impl UserPresence {
    pub fn currently_active(&self, now_ms: u64) -> bool {
        self.state == PresenceState::Online
            && now_ms.saturating_sub(self.last_active_ts) < CURRENTLY_ACTIVE_MS
    }
}

impl Presence {
    /// A device syncs with `set_presence` = `state`. Whether that changes the user's presence; then the caller
    /// calls [`set_change_number`](Self::set_change_number).
    pub fn synced(
        &self,
        user: UserNum,
        device: DeviceNum,
        state: &PresenceState,
        now_ms: u64,
    ) -> bool {
        // `set_presence=offline` means that the sync does not affect the presence.
        if *state == PresenceState::Offline {
            return false;
        }
        let mut users = self.lock();
        let Some(user) = entry(&mut users, user, now_ms) else {
            return false;
        };
        if *state == PresenceState::Online {
            user.presence.last_active_ts = now_ms;
        }
        user.update_device(device, state.clone(), now_ms);
        user.update_state()
    }

    /// A device sets the presence (`PUT /presence/{userId}/status`). Whether that changes it; then the caller
    /// calls [`set_change_number`](Self::set_change_number).
    pub fn set(
        &self,
        user: UserNum,
        device: DeviceNum,
        state: PresenceState,
        status_msg: Option<String>,
        now_ms: u64,
    ) -> bool {
        let mut users = self.lock();
        let Some(user) = entry(&mut users, user, now_ms) else {
            return false;
        };
        user.presence.last_active_ts = now_ms;
        user.update_device(device, state, now_ms);
        let is_new_message = user.presence.status_msg != status_msg;
        user.presence.status_msg = status_msg;
        user.update_state() || is_new_message
    }

    /// Another server sends the presence of one of its users. Without `last_active_ts`, that of the last
    /// update stays. Whether that changes it; then the caller calls
    /// [`set_change_number`](Self::set_change_number).
    pub fn set_remote(
        &self,
        user: UserNum,
        state: PresenceState,
        status_msg: Option<String>,
        last_active_ts: Option<u64>,
        now_ms: u64,
    ) -> bool {
        let mut users = self.lock();
        let Some(user) = entry(&mut users, user, now_ms) else {
            return false;
        };
        if let Some(last_active_ts) = last_active_ts {
            user.presence.last_active_ts = last_active_ts;
        }
        user.update_device(
            REMOTE_DEVICE,
            state,
            now_ms + REMOTE_TIMEOUT_MS - DEVICE_TIMEOUT_MS,
        );
        let is_new_message = user.presence.status_msg != status_msg;
        user.presence.status_msg = status_msg;
        user.update_state() || is_new_message
    }

    pub fn set_change_number(&self, user: UserNum, number: u64) {
        if let Some(user) = self.lock().get_mut(&user) {
            user.changed = number;
        }
    }

    /// `None` if there was no update since the server started.
    pub fn get(&self, user: UserNum) -> Option<UserPresence> {
        self.lock().get(&user).map(|user| user.presence.clone())
    }

    /// The users whose presence changed after the change with this number.
    pub fn changed_after(&self, number: u64) -> Vec<(UserNum, UserPresence)> {
        let users = self.lock();
        let changed = users.iter().filter(|(_, user)| user.changed > number);
        changed
            .map(|(num, user)| (*num, user.presence.clone()))
            .collect()
    }

    /// Sets devices offline whose timeout has passed; the users whose presence that changes.
    pub fn expire(&self, now_ms: u64) -> Vec<UserNum> {
        let mut changed = Vec::new();
        for (num, user) in self.lock().iter_mut() {
            user.devices
                .retain(|device| now_ms < device.last_update_ms + DEVICE_TIMEOUT_MS);
            if user.update_state() {
                changed.push(*num);
            }
        }
        changed
    }

    /// When the next timeout passes, in milliseconds since the epoch.
    pub fn next_expiry(&self) -> Option<u64> {
        let users = self.lock();
        let devices = users.values().flat_map(|user| &user.devices);
        devices
            .map(|device| device.last_update_ms + DEVICE_TIMEOUT_MS)
            .min()
    }

    /// Whether the caller has to start the task that announces them.
    pub fn add_unannounced(&self, users: impl IntoIterator<Item = UserNum>) -> bool {
        let mut unannounced = self.lock_unannounced();
        let has_no_task = unannounced.is_none();
        unannounced.get_or_insert_default().extend(users);
        has_no_task
    }

    /// For the task that announces them; `None` ends it.
    pub fn take_unannounced(&self) -> Option<BTreeSet<UserNum>> {
        let mut unannounced = self.lock_unannounced();
        let users = unannounced.take().filter(|users| !users.is_empty())?;
        *unannounced = Some(BTreeSet::new());
        Some(users)
    }

    fn lock_unannounced(&self) -> MutexGuard<'_, Option<BTreeSet<UserNum>>> {
        let unannounced = self.unannounced.lock();
        unannounced.unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<UserNum, User>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl User {
    fn update_device(&mut self, num: DeviceNum, state: PresenceState, last_update_ms: u64) {
        self.devices.retain(|device| device.num != num);
        if state == PresenceState::Offline {
            return;
        }
        if self.devices.len() >= MAX_DEVICES_PER_USER {
            self.devices.remove(0);
        }
        self.devices.push(Device {
            num,
            state,
            last_update_ms,
        });
    }

    /// Computes the user's state from the devices; whether it has changed.
    fn update_state(&mut self) -> bool {
        let any = |state| self.devices.iter().any(|device| device.state == state);
        let state = if any(PresenceState::Online) {
            PresenceState::Online
        } else if any(PresenceState::Unavailable) {
            PresenceState::Unavailable
        } else {
            PresenceState::Offline
        };
        let is_changed = self.presence.state != state;
        self.presence.state = state;
        is_changed
    }
}

/// The entry of `user`, made if need be; `None` if all [`MAX_USERS`] are online.
fn entry(users: &mut HashMap<UserNum, User>, user: UserNum, now_ms: u64) -> Option<&mut User> {
    if users.len() >= MAX_USERS && !users.contains_key(&user) {
        users.retain(|_, user| !user.devices.is_empty());
        if users.len() >= MAX_USERS {
            return None;
        }
    }
    Some(users.entry(user).or_insert_with(|| User {
        presence: UserPresence {
            state: PresenceState::Offline,
            status_msg: None,
            last_active_ts: now_ms,
        },
        devices: Vec::new(),
        changed: 0,
    }))
}

#[cfg(test)]
mod tests {
    use ruma::presence::PresenceState;

    use super::{DEVICE_TIMEOUT_MS, MAX_USERS, Presence, REMOTE_TIMEOUT_MS};
    use crate::store::{DeviceNum, UserNum};

    const ALICE: UserNum = UserNum(1);
    const PHONE: DeviceNum = DeviceNum(1);
    const LAPTOP: DeviceNum = DeviceNum(2);

    #[test]
    fn the_presence_of_a_remote_user_expires_without_another_edu() {
        let presence = Presence::default();
        let user = UserNum(2);
        let set = |state, status_msg: &str, last_active_ts, now_ms| {
            let status_msg = Some(status_msg.to_owned());
            presence.set_remote(user, state, status_msg, last_active_ts, now_ms)
        };
        assert!(set(PresenceState::Online, "out", Some(500), 1_000));
        assert!(!set(PresenceState::Online, "out", Some(600), 1_500));
        assert!(!set(PresenceState::Online, "out", None, 2_000));
        assert_eq!(presence.get(user).unwrap().last_active_ts, 600);
        assert_eq!(presence.next_expiry(), Some(2_000 + REMOTE_TIMEOUT_MS));
        assert!(presence.expire(2_000 + REMOTE_TIMEOUT_MS - 1).is_empty());
        assert_eq!(presence.expire(2_000 + REMOTE_TIMEOUT_MS), [user]);
        assert!(set(PresenceState::Offline, "home", None, 3_000_000));
    }

    #[test]
    fn a_device_without_sync_goes_offline_and_a_sync_brings_it_back() {
        let presence = Presence::default();
        assert!(presence.synced(ALICE, PHONE, &PresenceState::Online, 1_000));
        assert!(!presence.synced(ALICE, PHONE, &PresenceState::Online, 2_000));
        assert_eq!(presence.next_expiry(), Some(2_000 + DEVICE_TIMEOUT_MS));
        assert!(presence.expire(2_000 + DEVICE_TIMEOUT_MS - 1).is_empty());
        assert_eq!(presence.expire(2_000 + DEVICE_TIMEOUT_MS), [ALICE]);
        assert_eq!(presence.next_expiry(), None);
        assert!(presence.synced(ALICE, PHONE, &PresenceState::Unavailable, 900_000));
    }

    #[test]
    fn at_most_so_many_users_are_online_and_who_is_offline_gives_way() {
        let presence = Presence::default();
        let sync = |user: usize, now_ms| {
            let (user, device) = (UserNum(user as u32), DeviceNum(user as u32));
            presence.synced(user, device, &PresenceState::Online, now_ms)
        };
        let online = (0..MAX_USERS + 10).filter(|user| sync(*user, 0));
        assert_eq!(online.count(), MAX_USERS);
        assert!(!sync(MAX_USERS, 1));
        assert!(presence.get(UserNum(0)).is_some());
        assert_eq!(presence.expire(DEVICE_TIMEOUT_MS).len(), MAX_USERS);
        assert!(sync(MAX_USERS, DEVICE_TIMEOUT_MS));
    }

    #[test]
    fn a_sync_with_set_presence_offline_changes_nothing() {
        let presence = Presence::default();
        assert!(!presence.synced(ALICE, PHONE, &PresenceState::Offline, 1_000));
        assert_eq!(presence.get(ALICE), None);
    }

    #[test]
    fn an_unavailable_and_an_online_device_make_the_user_online() {
        let presence = Presence::default();
        assert!(presence.synced(ALICE, LAPTOP, &PresenceState::Unavailable, 1_000));
        assert!(presence.synced(ALICE, PHONE, &PresenceState::Online, 1_000));
        for now in [2_000, 3_000] {
            assert!(!presence.synced(ALICE, LAPTOP, &PresenceState::Unavailable, now));
            assert!(!presence.synced(ALICE, PHONE, &PresenceState::Online, now));
        }
        let state = presence.get(ALICE).map(|of| of.state);
        assert_eq!(state, Some(PresenceState::Online));
        presence.synced(ALICE, LAPTOP, &PresenceState::Unavailable, 100_000);
        assert_eq!(presence.expire(3_000 + DEVICE_TIMEOUT_MS), [ALICE]);
        let state = presence.get(ALICE).map(|of| of.state);
        assert_eq!(state, Some(PresenceState::Unavailable));
    }
}
