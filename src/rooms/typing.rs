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
/// For how long another server need not hear again that somebody types, in milliseconds.
const AGAIN_MS: u64 = 20_000;

/// Who is typing in which room.
#[derive(Debug, Default)]
pub struct Typing(Mutex<HashMap<RoomNum, InRoom>>);

#[derive(Debug, Default)]
struct InRoom {
    /// The number of the last change, as the notifier counts them.
    changed: u64,
    users: Vec<Typist>,
}

#[derive(Debug)]
struct Typist {
    user: UserNum,
    /// When it runs out, in milliseconds since the epoch.
    until_ms: u64,
    /// When it was last said to be told.
    told_ms: u64,
}

/// What it means that a user types, or no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TypingUpdate {
    /// Nothing new.
    Unchanged,
    /// Nothing new, but those have to hear it once more who would forget it.
    Renewed,
    /// News; then [`Typing::changed`] has to follow.
    Changed,
}

impl Typing {
    /// `user` types in `room` for `for_ms` more milliseconds, or no longer.
    pub fn set(
        &self,
        room: RoomNum,
        user: UserNum,
        for_ms: Option<u64>,
        now_ms: u64,
    ) -> TypingUpdate {
        let mut rooms = self.lock();
        if for_ms.is_some() && !rooms.contains_key(&room) && rooms.len() >= ROOMS {
            rooms.retain(|_, room| room.users.iter().any(|typist| typist.until_ms > now_ms));
            if rooms.len() >= ROOMS {
                return TypingUpdate::Unchanged;
            }
        }
        if for_ms.is_none() && !rooms.contains_key(&room) {
            return TypingUpdate::Unchanged;
        }
        let users = &mut rooms.entry(room).or_default().users;
        let was = users.iter().position(|typist| typist.user == user);
        let until_ms = now_ms + for_ms.unwrap_or_default().min(LONGEST_MS);
        match (was, for_ms) {
            (Some(at), Some(_)) => {
                users[at].until_ms = until_ms;
                if now_ms < users[at].told_ms + AGAIN_MS {
                    return TypingUpdate::Unchanged;
                }
                users[at].told_ms = now_ms;
                TypingUpdate::Renewed
            }
            (Some(at), None) => {
                users.remove(at);
                TypingUpdate::Changed
            }
            (None, Some(_)) if users.len() < USERS => {
                users.push(Typist {
                    user,
                    until_ms,
                    told_ms: now_ms,
                });
                TypingUpdate::Changed
            }
            (None, _) => TypingUpdate::Unchanged,
        }
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
                .retain(|typist| typist.until_ms > now_ms && is_in(*num, typist.user));
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
            .map(|typist| typist.until_ms)
            .min()
    }

    /// Who types in `room`, if that changed after the change of this number.
    pub fn changed_after(&self, room: RoomNum, number: u64) -> Option<Vec<UserNum>> {
        let rooms = self.lock();
        let room = rooms.get(&room).filter(|room| room.changed > number)?;
        Some(room.users.iter().map(|typist| typist.user).collect())
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
