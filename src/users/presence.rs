//! Who is online: memory only, gone with the server.
//!
//! A user is what the most present of their devices is. A device is what its last sync or request
//! said, until nothing has been heard of it for [`DEVICE_TIMEOUT_MS`]. Nothing ticks: whoever has fallen
//! silent is found when somebody looks, and whoever waits for changes asks when the next one would.
//!
//! Source: client-server API, "Presence".

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use ruma::presence::PresenceState;

use crate::store::{DeviceNum, UserNum};

/// After how long without a sync a device is offline, in milliseconds. Longer than the longest
/// sync.
const DEVICE_TIMEOUT_MS: u64 = 150_000;
/// After how long a user of another server is offline of whom it says nothing more, in
/// milliseconds.
const REMOTE_TIMEOUT_MS: u64 = 30 * 60_000;
/// The one device of a user of another server, as far as this one knows.
const REMOTE_DEVICE: DeviceNum = DeviceNum(0);
/// For how long after the last sign of life a user is currently active, in milliseconds.
const ACTIVE_MS: u64 = 60_000;
/// How many users are remembered; beyond that, those who are offline are forgotten.
const MAX_USERS: usize = 10_000;
/// How many devices of a user are remembered: those that were heard last.
const MAX_DEVICES_PER_USER: usize = 16;

/// Who is online.
#[derive(Debug, Default)]
pub struct Presence(Mutex<HashMap<UserNum, User>>);

/// How a user is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserPresence {
    /// Online, unavailable or offline.
    pub state: PresenceState,
    /// What the user wants to say about it.
    pub status_msg: Option<String>,
    /// When the user last did something, in milliseconds since the epoch.
    pub active_ms: u64,
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
    /// Whether the user did something just now.
    pub fn currently_active(&self, now_ms: u64) -> bool {
        self.state == PresenceState::Online && now_ms.saturating_sub(self.active_ms) < ACTIVE_MS
    }
}

impl Presence {
    /// A device of a user syncs and says how the user is. Whether that is news; then
    /// [`set_change_number`](Self::set_change_number) has to follow.
    pub fn synced(
        &self,
        (user, device): (UserNum, DeviceNum),
        state: &PresenceState,
        now_ms: u64,
    ) -> bool {
        // Who syncs without wanting to be seen changes nothing.
        if *state == PresenceState::Offline {
            return false;
        }
        let mut users = self.lock();
        let Some(user) = entry(&mut users, user, now_ms) else {
            return false;
        };
        if *state == PresenceState::Online {
            user.presence.active_ms = now_ms;
        }
        user.update_device(device, state.clone(), now_ms);
        user.update_state()
    }

    /// A user says how they are, on this device. Whether that is news; then
    /// [`set_change_number`](Self::set_change_number) has to follow.
    pub fn set(
        &self,
        (user, device): (UserNum, DeviceNum),
        state: PresenceState,
        status_msg: Option<String>,
        now_ms: u64,
    ) -> bool {
        let mut users = self.lock();
        let Some(user) = entry(&mut users, user, now_ms) else {
            return false;
        };
        user.presence.active_ms = now_ms;
        user.update_device(device, state, now_ms);
        let said = user.presence.status_msg != status_msg;
        user.presence.status_msg = status_msg;
        user.update_state() || said
    }

    /// Another server says how one of its users is, who was active at `active_ms`. Whether that is
    /// news; then [`set_change_number`](Self::set_change_number) has to follow.
    pub fn set_remote(
        &self,
        user: UserNum,
        (state, status_msg): (PresenceState, Option<String>),
        active_ms: u64,
        now_ms: u64,
    ) -> bool {
        let mut users = self.lock();
        let Some(user) = entry(&mut users, user, now_ms) else {
            return false;
        };
        user.presence.active_ms = active_ms;
        user.update_device(
            REMOTE_DEVICE,
            state,
            now_ms + REMOTE_TIMEOUT_MS - DEVICE_TIMEOUT_MS,
        );
        let said = user.presence.status_msg != status_msg;
        user.presence.status_msg = status_msg;
        user.update_state() || said
    }

    /// The last change of `user` has this number.
    pub fn set_change_number(&self, user: UserNum, number: u64) {
        if let Some(user) = self.lock().get_mut(&user) {
            user.changed = number;
        }
    }

    /// How `user` is; `None` if nothing was heard since this start.
    pub fn get(&self, user: UserNum) -> Option<UserPresence> {
        self.lock().get(&user).map(|user| user.presence.clone())
    }

    /// Those who changed after the change of this number.
    pub fn changed_after(&self, number: u64) -> Vec<(UserNum, UserPresence)> {
        let users = self.lock();
        let changed = users.iter().filter(|(_, user)| user.changed > number);
        changed
            .map(|(num, user)| (*num, user.presence.clone()))
            .collect()
    }

    /// Lets those devices be offline that have fallen silent; the users whom that changes.
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

    /// When the next device will have fallen silent, in milliseconds since the epoch.
    pub fn next_expiry(&self) -> Option<u64> {
        let users = self.lock();
        let devices = users.values().flat_map(|user| &user.devices);
        devices
            .map(|device| device.last_update_ms + DEVICE_TIMEOUT_MS)
            .min()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<UserNum, User>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Makes the user what the devices are; whether that is news.
    fn update_state(&mut self) -> bool {
        let any = |state| self.devices.iter().any(|device| device.state == state);
        let state = if any(PresenceState::Online) {
            PresenceState::Online
        } else if any(PresenceState::Unavailable) {
            PresenceState::Unavailable
        } else {
            PresenceState::Offline
        };
        let news = self.presence.state != state;
        self.presence.state = state;
        news
    }
}

/// What is known of `user`; `None` if there is no room for one more.
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
            active_ms: now_ms,
        },
        devices: Vec::new(),
        changed: 0,
    }))
}

#[cfg(test)]
mod tests {
    use ruma::presence::PresenceState;

    use super::{DEVICE_TIMEOUT_MS, Presence, REMOTE_TIMEOUT_MS};
    use crate::store::{DeviceNum, UserNum};

    const PHONE: (UserNum, DeviceNum) = (UserNum(1), DeviceNum(1));
    const LAPTOP: (UserNum, DeviceNum) = (UserNum(1), DeviceNum(2));

    #[test]
    fn who_is_elsewhere_is_what_their_server_says_as_long_as_it_says_something_now_and_then() {
        let presence = Presence::default();
        let user = UserNum(2);
        let online = || (PresenceState::Online, Some("out".to_owned()));
        assert!(presence.set_remote(user, online(), 500, 1_000));
        assert!(!presence.set_remote(user, online(), 600, 2_000));
        assert_eq!(presence.get(user).unwrap().active_ms, 600);
        assert_eq!(presence.next_expiry(), Some(2_000 + REMOTE_TIMEOUT_MS));
        assert!(presence.expire(2_000 + REMOTE_TIMEOUT_MS - 1).is_empty());
        assert_eq!(presence.expire(2_000 + REMOTE_TIMEOUT_MS), [user]);
        let offline = (PresenceState::Offline, None);
        assert!(presence.set_remote(user, offline, 600, 3_000_000));
    }

    #[test]
    fn who_falls_silent_is_offline_and_a_sync_brings_them_back() {
        let presence = Presence::default();
        assert!(presence.synced(PHONE, &PresenceState::Online, 1_000));
        assert!(!presence.synced(PHONE, &PresenceState::Online, 2_000));
        assert_eq!(presence.next_expiry(), Some(2_000 + DEVICE_TIMEOUT_MS));
        assert!(presence.expire(2_000 + DEVICE_TIMEOUT_MS - 1).is_empty());
        assert_eq!(presence.expire(2_000 + DEVICE_TIMEOUT_MS), [PHONE.0]);
        assert_eq!(presence.next_expiry(), None);
        assert!(presence.synced(PHONE, &PresenceState::Unavailable, 900_000));
    }

    #[test]
    fn a_sync_that_does_not_want_to_be_seen_changes_nothing() {
        let presence = Presence::default();
        assert!(!presence.synced(PHONE, &PresenceState::Offline, 1_000));
        assert_eq!(presence.get(PHONE.0), None);
    }

    #[test]
    fn an_idle_device_and_a_busy_one_do_not_take_turns() {
        let presence = Presence::default();
        assert!(presence.synced(LAPTOP, &PresenceState::Unavailable, 1_000));
        assert!(presence.synced(PHONE, &PresenceState::Online, 1_000));
        for now in [2_000, 3_000] {
            assert!(!presence.synced(LAPTOP, &PresenceState::Unavailable, now));
            assert!(!presence.synced(PHONE, &PresenceState::Online, now));
        }
        let state = presence.get(PHONE.0).map(|of| of.state);
        assert_eq!(state, Some(PresenceState::Online));
        presence.synced(LAPTOP, &PresenceState::Unavailable, 100_000);
        assert_eq!(presence.expire(3_000 + DEVICE_TIMEOUT_MS), [PHONE.0]);
        let state = presence.get(PHONE.0).map(|of| of.state);
        assert_eq!(state, Some(PresenceState::Unavailable));
    }
}
