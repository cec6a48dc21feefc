//! Who is online: memory only, gone with the server.
//!
//! A user is what the last sync or the last request said, until nothing has been heard for
//! [`SILENCE_MS`]. Nothing ticks: whoever has fallen silent is found when somebody looks, and
//! whoever waits for changes asks when the next one would.
//!
//! Source: client-server API, "Presence".

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use ruma::presence::PresenceState;

use crate::store::UserNum;

/// After how long without a sync a user is offline, in milliseconds. Longer than the longest sync.
const SILENCE_MS: u64 = 150_000;
/// For how long after the last sign of life a user is currently active, in milliseconds.
const ACTIVE_MS: u64 = 60_000;
/// How many users are remembered; beyond that, those who are offline are forgotten.
const USERS: usize = 10_000;

/// Who is online.
#[derive(Debug, Default)]
pub struct Presence(Mutex<HashMap<UserNum, Of>>);

/// How a user is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Of {
    /// Online, unavailable or offline.
    pub state: PresenceState,
    /// What the user wants to say about it.
    pub status_msg: Option<String>,
    /// When the user last did something, in milliseconds since the epoch.
    pub active_ms: u64,
    heard_ms: u64,
    changed: u64,
}

impl Of {
    /// Whether the user did something just now.
    pub fn currently_active(&self, now_ms: u64) -> bool {
        self.state == PresenceState::Online && now_ms.saturating_sub(self.active_ms) < ACTIVE_MS
    }
}

impl Presence {
    /// A device of `user` syncs and says how the user is. Whether that is news; then
    /// [`changed`](Self::changed) has to follow.
    pub fn synced(&self, user: UserNum, state: &PresenceState, now_ms: u64) -> bool {
        // Who syncs without wanting to be seen changes nothing.
        if *state == PresenceState::Offline {
            return false;
        }
        let mut users = self.lock();
        make_room(&mut users);
        let of = users.entry(user).or_insert_with(|| Of::silent(now_ms));
        of.heard_ms = now_ms;
        if *state == PresenceState::Online {
            of.active_ms = now_ms;
        }
        let news = of.state != *state;
        of.state = state.clone();
        news
    }

    /// `user` says how they are. Whether that is news; then [`changed`](Self::changed) has to
    /// follow.
    pub fn set(
        &self,
        user: UserNum,
        state: PresenceState,
        status_msg: Option<String>,
        now_ms: u64,
    ) -> bool {
        let mut users = self.lock();
        make_room(&mut users);
        let of = users.entry(user).or_insert_with(|| Of::silent(now_ms));
        let news = (&of.state, &of.status_msg) != (&state, &status_msg);
        of.heard_ms = now_ms;
        of.active_ms = now_ms;
        (of.state, of.status_msg) = (state, status_msg);
        news
    }

    /// The last change of `user` has this number.
    pub fn changed(&self, user: UserNum, number: u64) {
        if let Some(of) = self.lock().get_mut(&user) {
            of.changed = number;
        }
    }

    /// How `user` is; `None` if nothing was heard since this start.
    pub fn of(&self, user: UserNum) -> Option<Of> {
        self.lock().get(&user).cloned()
    }

    /// Those who changed after the change of this number.
    pub fn changed_after(&self, number: u64) -> Vec<(UserNum, Of)> {
        let users = self.lock();
        let changed = users.iter().filter(|(_, of)| of.changed > number);
        changed.map(|(user, of)| (*user, of.clone())).collect()
    }

    /// Lets those be offline who have fallen silent; who they are.
    pub fn expire(&self, now_ms: u64) -> Vec<UserNum> {
        let mut silent = Vec::new();
        for (user, of) in self.lock().iter_mut() {
            if of.state != PresenceState::Offline && now_ms >= of.heard_ms + SILENCE_MS {
                of.state = PresenceState::Offline;
                silent.push(*user);
            }
        }
        silent
    }

    /// When the next one will have fallen silent, in milliseconds since the epoch.
    pub fn next_end(&self) -> Option<u64> {
        let users = self.lock();
        let here = users
            .values()
            .filter(|of| of.state != PresenceState::Offline);
        here.map(|of| of.heard_ms + SILENCE_MS).min()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<UserNum, Of>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Of {
    fn silent(now_ms: u64) -> Self {
        Self {
            state: PresenceState::Offline,
            status_msg: None,
            active_ms: now_ms,
            heard_ms: now_ms,
            changed: 0,
        }
    }
}

fn make_room(users: &mut HashMap<UserNum, Of>) {
    if users.len() >= USERS {
        users.retain(|_, of| of.state != PresenceState::Offline);
    }
}

#[cfg(test)]
mod tests {
    use ruma::presence::PresenceState;

    use super::{Presence, SILENCE_MS};
    use crate::store::UserNum;

    const ALICE: UserNum = UserNum(1);

    #[test]
    fn who_falls_silent_is_offline_and_a_sync_brings_them_back() {
        let presence = Presence::default();
        assert!(presence.synced(ALICE, &PresenceState::Online, 1_000));
        assert!(!presence.synced(ALICE, &PresenceState::Online, 2_000));
        assert_eq!(presence.next_end(), Some(2_000 + SILENCE_MS));
        assert!(presence.expire(2_000 + SILENCE_MS - 1).is_empty());
        assert_eq!(presence.expire(2_000 + SILENCE_MS), [ALICE]);
        assert_eq!(presence.next_end(), None);
        assert!(presence.synced(ALICE, &PresenceState::Unavailable, 900_000));
    }

    #[test]
    fn a_sync_that_does_not_want_to_be_seen_changes_nothing() {
        let presence = Presence::default();
        assert!(!presence.synced(ALICE, &PresenceState::Offline, 1_000));
        assert_eq!(presence.of(ALICE), None);
    }
}
