//! Typing notifications, in memory only. There is no timer: [`Typing::expire`] removes what has expired,
//! and whoever waits for changes uses [`Typing::next_expiry`].

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::store::{RoomNum, UserNum};

/// Beyond these limits typing notifications are dropped.
const MAX_ROOMS: usize = 1000;
const MAX_USERS_PER_ROOM: usize = 50;
const MAX_ROOMS_PER_USER: usize = 10;
const MAX_TIMEOUT_MS: u64 = 120_000;
/// The least time between two EDUs to other servers for a user who keeps typing.
const RENEWAL_INTERVAL_MS: u64 = 20_000;

/// The typing users of all rooms.
#[derive(Debug, Default)]
pub struct Typing(Mutex<HashMap<RoomNum, InRoom>>);

#[derive(Debug, Default)]
struct InRoom {
    /// The ephemeral position of the last change.
    changed: u64,
    users: Vec<TypingUser>,
}

#[derive(Debug)]
struct TypingUser {
    user: UserNum,
    expires_ms: u64,
    /// When other servers last had to be notified.
    renewed_ms: u64,
}

/// The effect of [`Typing::set`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TypingUpdate {
    Unchanged,
    /// Nothing new for clients, but other servers must be notified again before they expire it.
    Renewed,
    /// A user started or stopped: [`Typing::changed`] must be called.
    Changed,
}

impl Typing {
    /// Sets that `user` is typing in `room` for `timeout_ms`, or stopped.
    pub fn set(
        &self,
        room: RoomNum,
        user: UserNum,
        timeout_ms: Option<u64>,
        now_ms: u64,
    ) -> TypingUpdate {
        let mut rooms = self.lock();
        if timeout_ms.is_some() && is_typing_in_too_many(&rooms, room, user, now_ms) {
            return TypingUpdate::Unchanged;
        }
        if timeout_ms.is_some() && !rooms.contains_key(&room) && rooms.len() >= MAX_ROOMS {
            rooms.retain(|_, room| room.users.iter().any(|typing| typing.expires_ms > now_ms));
            if rooms.len() >= MAX_ROOMS {
                return TypingUpdate::Unchanged;
            }
        }
        if timeout_ms.is_none() && !rooms.contains_key(&room) {
            return TypingUpdate::Unchanged;
        }
        let users = &mut rooms.entry(room).or_default().users;
        let was = users.iter().position(|typing| typing.user == user);
        let expires_ms = now_ms + timeout_ms.unwrap_or_default().min(MAX_TIMEOUT_MS);
        match (was, timeout_ms) {
            (Some(at), Some(_)) => {
                users[at].expires_ms = expires_ms;
                if now_ms < users[at].renewed_ms + RENEWAL_INTERVAL_MS {
                    return TypingUpdate::Unchanged;
                }
                users[at].renewed_ms = now_ms;
                TypingUpdate::Renewed
            }
            (Some(at), None) => {
                users.remove(at);
                TypingUpdate::Changed
            }
            (None, Some(_)) if users.len() < MAX_USERS_PER_ROOM => {
                users.push(TypingUser {
                    user,
                    expires_ms,
                    renewed_ms: now_ms,
                });
                TypingUpdate::Changed
            }
            (None, _) => TypingUpdate::Unchanged,
        }
    }

    /// Records the ephemeral position of a change in `room`.
    pub fn changed(&self, room: RoomNum, position: u64) {
        if let Some(room) = self.lock().get_mut(&room) {
            room.changed = position;
        }
    }

    /// Removes users whose typing has expired, or who are not in the room any more according to `is_in`.
    /// Returns the rooms that changed.
    pub fn expire(&self, now_ms: u64, is_in: impl Fn(RoomNum, UserNum) -> bool) -> Vec<RoomNum> {
        let mut changed = Vec::new();
        for (num, room) in self.lock().iter_mut() {
            let before = room.users.len();
            room.users
                .retain(|typing| typing.expires_ms > now_ms && is_in(*num, typing.user));
            if room.users.len() < before {
                changed.push(*num);
            }
        }
        changed
    }

    /// When the next user's typing expires, in milliseconds since the epoch.
    pub fn next_expiry(&self) -> Option<u64> {
        self.lock()
            .values()
            .flat_map(|room| &room.users)
            .map(|typing| typing.expires_ms)
            .min()
    }

    /// The users typing in `room`, if that changed after this ephemeral position.
    pub fn changed_after(&self, room: RoomNum, position: u64) -> Option<Vec<UserNum>> {
        let rooms = self.lock();
        let room = rooms.get(&room).filter(|room| room.changed > position)?;
        Some(room.users.iter().map(|typing| typing.user).collect())
    }

    /// The rooms that changed after this ephemeral position.
    pub fn rooms_after(&self, position: u64) -> Vec<RoomNum> {
        let rooms = self.lock();
        rooms
            .iter()
            .filter(|(_, room)| room.changed > position)
            .map(|(num, _)| *num)
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RoomNum, InRoom>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether `user` is typing in as many other rooms as one user may.
fn is_typing_in_too_many(
    rooms: &HashMap<RoomNum, InRoom>,
    room: RoomNum,
    user: UserNum,
    now_ms: u64,
) -> bool {
    let is_typing = |typing: &TypingUser| typing.user == user && typing.expires_ms > now_ms;
    let others = rooms.iter().filter(|(num, _)| **num != room);
    let of_user = others.filter(|(_, room)| room.users.iter().any(is_typing));
    of_user.take(MAX_ROOMS_PER_USER).count() == MAX_ROOMS_PER_USER
}

#[cfg(test)]
mod tests {
    use super::{MAX_ROOMS, MAX_ROOMS_PER_USER, Typing, TypingUpdate};
    use crate::store::{RoomNum, UserNum};

    #[test]
    fn a_user_typing_in_very_many_rooms_does_not_stop_the_typing_of_others() {
        let (typing, [eve, bob]) = (Typing::default(), [UserNum(1), UserNum(2)]);
        let set = |room: usize, user, now_ms| {
            typing.set(RoomNum(room as u32), user, Some(30_000), now_ms)
        };
        let changed =
            (0..MAX_ROOMS + 10).filter(|room| set(*room, eve, 0) == TypingUpdate::Changed);
        assert_eq!(changed.count(), MAX_ROOMS_PER_USER);
        assert_eq!(set(5000, bob, 0), TypingUpdate::Changed);
        assert_eq!(set(0, bob, 0), TypingUpdate::Changed);
        // The entries that she has are renewed, and free others when they expire.
        assert_eq!(set(0, eve, 25_000), TypingUpdate::Renewed);
        assert_eq!(set(6000, eve, 29_000), TypingUpdate::Unchanged);
        assert_eq!(set(6000, eve, 30_000), TypingUpdate::Changed);
    }
}
