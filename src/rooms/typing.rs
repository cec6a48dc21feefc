//! Typing notifications, in memory only. There is no timer: [`Typing::expire`] removes what has expired,
//! and whoever waits for changes uses [`Typing::next_expiry`].

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use ruma::{OwnedServerName, ServerName};

use crate::store::{self, Position, Reader, RoomNum, Rows, Store, Tx, UserNum};

/// Beyond these limits typing notifications are dropped. A user who types in two rooms counts twice.
const MAX_TYPING: usize = 2000;
/// Beyond this, rooms are forgotten in which nobody types any more.
const MAX_ROOMS: usize = 2 * MAX_TYPING;
const MAX_USERS_PER_ROOM: usize = 50;
const MAX_ROOMS_PER_USER: usize = 10;
/// Of the users of one other server, and of all of them: local users keep the rest.
const MAX_TYPING_PER_SERVER: usize = 200;
const MAX_REMOTE_TYPING: usize = 1000;
const MAX_TIMEOUT_MS: u64 = 120_000;
/// The key of the stored rooms in `facts`.
const TYPING_ROOMS: &str = "typing_rooms";
/// The least time between two EDUs to other servers for a user who keeps typing.
const RENEWAL_INTERVAL_MS: u64 = 20_000;

/// The typing users of all rooms.
#[derive(Debug, Default)]
pub struct Typing {
    rooms: Mutex<HashMap<RoomNum, InRoom>>,
    /// The position up to which users who left their room are removed.
    checked: AtomicU64,
    /// The ephemeral position of a change that any room may have had.
    any_changed: AtomicU64,
}

#[derive(Debug, Default)]
struct InRoom {
    /// The ephemeral position of the last change.
    changed: u64,
    users: Vec<TypingUser>,
}

#[derive(Debug)]
struct TypingUser {
    user: UserNum,
    /// `None` for a local user.
    server: Option<OwnedServerName>,
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
    /// Sets that `user` is typing in `room` for `timeout_ms`, or stopped. `server` is the user's, if it is
    /// another one.
    pub fn set(
        &self,
        room: RoomNum,
        user: UserNum,
        server: Option<&ServerName>,
        timeout_ms: Option<u64>,
        now_ms: u64,
    ) -> TypingUpdate {
        let mut rooms = self.lock();
        let is_typing = rooms.get(&room).is_some_and(|room| room.is_typing(user));
        if !is_typing && (timeout_ms.is_none() || !has_share(&rooms, user, server, now_ms)) {
            return TypingUpdate::Unchanged;
        }
        if rooms.len() >= MAX_ROOMS && !rooms.contains_key(&room) {
            // Those of whom `expire` has not reported the end stay.
            rooms.retain(|_, room| !room.users.is_empty());
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
            (None, Some(_)) if has_place(users, server) => {
                users.push(TypingUser {
                    user,
                    server: server.map(ToOwned::to_owned),
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

    /// Says that users who left their room up to `position` are removed now. Returns what it said before.
    pub fn checked_until(&self, position: Position) -> Position {
        Position(self.checked.swap(position.0, Ordering::Relaxed))
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
        let room = rooms.get(&room);
        if !self.any_changed_after(position) {
            room.filter(|room| room.changed > position)?;
        }
        let users = room.into_iter().flat_map(|room| &room.users);
        Some(users.map(|typing| typing.user).collect())
    }

    /// The rooms that changed after this ephemeral position; `None` if that may be any.
    pub fn rooms_after(&self, position: u64) -> Option<Vec<RoomNum>> {
        if self.any_changed_after(position) {
            return None;
        }
        let rooms = self.lock();
        let changed = rooms.iter().filter(|(_, room)| room.changed > position);
        Some(changed.map(|(num, _)| *num).collect())
    }

    fn any_changed_after(&self, position: u64) -> bool {
        self.any_changed.load(Ordering::Relaxed) > position
    }

    /// Stores the rooms in which somebody types, when the server stops: after its start nobody does, and
    /// clients have to learn that.
    pub fn store_rooms(&self, tx: &Tx) -> Result<(), store::Error> {
        let rooms = self.lock();
        let rooms = rooms.iter().filter(|(_, room)| !room.users.is_empty());
        let nums: Vec<String> = rooms.map(|(num, _)| num.0.to_string()).collect();
        tx.facts()?.insert(TYPING_ROOMS, nums.join(" ").as_str())
    }

    /// Marks that nobody types any more in the stored rooms, or in any room if the server was killed before it
    /// stored them. `changed` gives each change its ephemeral position.
    pub async fn end_stored(
        &self,
        store: &Store,
        changed: impl Fn(Option<RoomNum>) -> u64,
    ) -> Result<(), store::Error> {
        let stored = store.read(|s| {
            let nums = s
                .facts()?
                .get(TYPING_ROOMS)?
                .map(|row| row.value().to_owned());
            Ok::<_, store::Error>(nums)
        })?;
        let Some(stored) = stored else {
            self.any_changed.store(changed(None), Ordering::Relaxed);
            return Ok(());
        };
        let remove = |tx: &Tx| tx.facts()?.remove(TYPING_ROOMS);
        store.write_shrinking(remove).await?;
        for num in stored.split(' ').filter_map(|num| num.parse().ok()) {
            let position = changed(Some(RoomNum(num)));
            self.lock().entry(RoomNum(num)).or_default().changed = position;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RoomNum, InRoom>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InRoom {
    fn is_typing(&self, user: UserNum) -> bool {
        self.users.iter().any(|typing| typing.user == user)
    }
}

/// Whether `user` may type in one more room.
fn has_share(
    rooms: &HashMap<RoomNum, InRoom>,
    user: UserNum,
    server: Option<&ServerName>,
    now_ms: u64,
) -> bool {
    let (mut all, mut remote, mut of_server, mut of_user) = (0, 0, 0, 0);
    let users = rooms.values().flat_map(|room| &room.users);
    for typing in users.filter(|typing| typing.expires_ms > now_ms) {
        all += 1;
        remote += usize::from(typing.server.is_some());
        of_server += usize::from(typing.server.as_deref() == server);
        of_user += usize::from(typing.user == user);
    }
    let of_others =
        server.is_none() || remote < MAX_REMOTE_TYPING && of_server < MAX_TYPING_PER_SERVER;
    all < MAX_TYPING && of_user < MAX_ROOMS_PER_USER && of_others
}

/// Whether one more user may type in the room of `users`: users of other servers have half of the places.
fn has_place(users: &[TypingUser], server: Option<&ServerName>) -> bool {
    let remote = users
        .iter()
        .filter(|typing| typing.server.is_some())
        .count();
    users.len() < MAX_USERS_PER_ROOM && (server.is_none() || remote < MAX_USERS_PER_ROOM / 2)
}

#[cfg(test)]
mod tests {
    use ruma::{OwnedServerName, ServerName, server_name};

    use super::{
        MAX_REMOTE_TYPING, MAX_ROOMS_PER_USER, MAX_TYPING, MAX_TYPING_PER_SERVER,
        MAX_USERS_PER_ROOM, Typing, TypingUpdate,
    };
    use crate::store::{RoomNum, UserNum};

    fn set(typing: &Typing, room: usize, user: UserNum, now_ms: u64) -> TypingUpdate {
        typing.set(RoomNum(room as u32), user, None, Some(30_000), now_ms)
    }

    #[test]
    fn a_user_typing_in_very_many_rooms_does_not_stop_the_typing_of_others() {
        let (typing, [eve, bob]) = (Typing::default(), [UserNum(1), UserNum(2)]);
        let set = |room, user, now_ms| set(&typing, room, user, now_ms);
        let changed =
            (0..MAX_TYPING + 10).filter(|room| set(*room, eve, 0) == TypingUpdate::Changed);
        assert_eq!(changed.count(), MAX_ROOMS_PER_USER);
        assert_eq!(set(5000, bob, 0), TypingUpdate::Changed);
        assert_eq!(set(0, bob, 0), TypingUpdate::Changed);
        // The entries that she has are renewed, and free others when they expire.
        assert_eq!(set(0, eve, 25_000), TypingUpdate::Renewed);
        assert_eq!(set(6000, eve, 29_000), TypingUpdate::Unchanged);
        assert_eq!(set(6000, eve, 30_000), TypingUpdate::Changed);
    }

    #[test]
    fn many_users_of_other_servers_stop_the_typing_of_neither_local_users_nor_a_third_server() {
        let typing = Typing::default();
        let server = |n: usize| -> OwnedServerName {
            ServerName::parse(format!("s{n}.example")).expect("a server name")
        };
        // Each user in a room of their own.
        let started = |server: &ServerName, first: usize| {
            let users = first..first + MAX_TYPING;
            let started = users.filter(|n| {
                let (room, user) = (RoomNum(*n as u32), UserNum(*n as u32));
                let update = typing.set(room, user, Some(server), Some(30_000), 0);
                update == TypingUpdate::Changed
            });
            started.count()
        };
        assert_eq!(started(&server(0), 10_000), MAX_TYPING_PER_SERVER);
        assert_eq!(started(&server(1), 20_000), MAX_TYPING_PER_SERVER);
        let others = (2..20)
            .map(|n| started(&server(n), 10_000 * n))
            .sum::<usize>();
        assert_eq!(others, MAX_REMOTE_TYPING - 2 * MAX_TYPING_PER_SERVER);
        assert_eq!(set(&typing, 5, UserNum(5), 0), TypingUpdate::Changed);
    }

    #[test]
    fn users_of_another_server_leave_local_users_half_of_the_places_in_a_room() {
        let (typing, room) = (Typing::default(), RoomNum(1));
        let server = server_name!("s.example");
        let started = (0..MAX_USERS_PER_ROOM as u32).filter(|n| {
            let update = typing.set(room, UserNum(*n), Some(server), Some(30_000), 0);
            update == TypingUpdate::Changed
        });
        assert_eq!(started.count(), MAX_USERS_PER_ROOM / 2);
        assert_eq!(set(&typing, 1, UserNum(1000), 0), TypingUpdate::Changed);
    }

    #[test]
    fn rooms_whose_end_of_typing_was_not_reported_are_not_forgotten() {
        let typing = Typing::default();
        for user in 0..super::MAX_ROOMS {
            let now_ms = 40_000 * user as u64;
            set(&typing, user, UserNum(user as u32), now_ms);
        }
        let now_ms = 40_000 * super::MAX_ROOMS as u64;
        set(&typing, super::MAX_ROOMS, UserNum(1), now_ms);
        let ended = typing.expire(now_ms, |_, _| true);
        assert!(ended.contains(&RoomNum(0)), "{}", ended.len());
    }
}
