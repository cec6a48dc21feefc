//! Who is typing: memory only, gone with the server.
//!
//! Nothing ticks: what has run out is taken out when somebody looks, and whoever waits for changes
//! asks when the next one runs out.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::store::{RoomNum, UserNum};

/// How many rooms can have someone typing; beyond that typing is not shown.
const ROOMS: usize = 1000;
/// How many users of a room can be typing.
const USERS: usize = 50;
/// The longest that a client may ask for, in milliseconds.
const LONGEST_MS: u64 = 120_000;

/// Who is typing in which room.
#[derive(Debug, Default)]
pub struct Typing(Mutex<HashMap<RoomNum, InRoom>>);

#[derive(Debug, Default)]
struct InRoom {
    /// The number of the last change, as the hub counts them.
    changed: u64,
    /// Each with the time in milliseconds at which it runs out.
    users: Vec<(UserNum, u64)>,
}

impl Typing {
    /// `user` types in `room` for `for_ms` more milliseconds, or no longer. Whether that is news;
    /// then [`changed`](Self::changed) has to follow.
    pub fn set(&self, room: RoomNum, user: UserNum, for_ms: Option<u64>, now_ms: u64) -> bool {
        let mut rooms = self.lock();
        if for_ms.is_some() && !rooms.contains_key(&room) && rooms.len() >= ROOMS {
            rooms.retain(|_, room| room.users.iter().any(|(_, until)| *until > now_ms));
            if rooms.len() >= ROOMS {
                return false;
            }
        }
        if for_ms.is_none() && !rooms.contains_key(&room) {
            return false;
        }
        let users = &mut rooms.entry(room).or_default().users;
        let was = users.iter().position(|(typing, _)| *typing == user);
        match (was, for_ms) {
            (Some(at), Some(ms)) => users[at].1 = now_ms + ms.min(LONGEST_MS),
            (Some(at), None) => drop(users.remove(at)),
            (None, Some(ms)) if users.len() < USERS => {
                users.push((user, now_ms + ms.min(LONGEST_MS)));
            }
            (None, _) => return false,
        }
        was.is_some() != for_ms.is_some()
    }

    /// The last change in `room` has this number.
    pub fn changed(&self, room: RoomNum, number: u64) {
        if let Some(room) = self.lock().get_mut(&room) {
            room.changed = number;
        }
    }

    /// Takes out what has run out, and who is not in the room any more as `is_in` says; the rooms
    /// that this changes.
    pub fn expire(&self, now_ms: u64, is_in: impl Fn(RoomNum, UserNum) -> bool) -> Vec<RoomNum> {
        let mut changed = Vec::new();
        for (num, room) in self.lock().iter_mut() {
            let before = room.users.len();
            room.users
                .retain(|(user, until)| *until > now_ms && is_in(*num, *user));
            if room.users.len() < before {
                changed.push(*num);
            }
        }
        changed
    }

    /// When the next one runs out, in milliseconds since the epoch.
    pub fn next_end(&self) -> Option<u64> {
        self.lock()
            .values()
            .flat_map(|room| &room.users)
            .map(|(_, until)| *until)
            .min()
    }

    /// Who types in `room`, if that changed after the change of this number.
    pub fn changed_after(&self, room: RoomNum, number: u64) -> Option<Vec<UserNum>> {
        let rooms = self.lock();
        let room = rooms.get(&room).filter(|room| room.changed > number)?;
        Some(room.users.iter().map(|(user, _)| *user).collect())
    }

    /// The rooms in which something changed after the change of this number.
    pub fn rooms_after(&self, number: u64) -> Vec<RoomNum> {
        let rooms = self.lock();
        rooms
            .iter()
            .filter(|(_, room)| room.changed > number)
            .map(|(num, _)| *num)
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RoomNum, InRoom>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
