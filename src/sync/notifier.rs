//! An index of what changed since the server started, and the syncs that wait for changes.
//!
//! - [`Notifier::apply`] gets the effects of every commit, in order, on the one thread. So the index
//!   and the published snapshot agree as long as nobody awaits in between.
//! - A token from this start looks only at rooms that changed since. For an older token, each of the
//!   user's rooms is looked at once.
//! - Users who share a room with the owner of a changed device are looked up at once if that takes few
//!   rows. Otherwise all waiting syncs are woken and look on the pool.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::Hash,
    sync::{Mutex, MutexGuard, PoisonError},
};

use smol::channel::{self, Receiver, Sender};

use super::token::SyncToken;
use crate::{
    rooms::{self, room, servers::shared_rooms, state::current},
    store::{self, Effect, Position, Reader, RoomNum, Rows, Store, UserNum},
    users,
};

/// The most rows that are read per commit to find the users who share rooms with the owners of changed
/// devices.
const MAX_SHARING_ROWS: usize = 1000;

#[derive(Debug)]
pub struct Notifier {
    store: Store,
    /// Random; differs with every start of the server.
    instance: u64,
    /// The position at which the database was last restored.
    restored: Position,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// The index has all changes after this position.
    complete_after: Position,
    last: Position,
    ephemeral: u64,
    rooms: ChangeIndex<RoomNum>,
    users: HashMap<UserNum, Position>,
    waiters: HashMap<UserNum, Vec<Sender<()>>>,
}

/// Keys by the position of their last change.
#[derive(Debug)]
struct ChangeIndex<K> {
    positions: HashMap<K, Position>,
    keys: BTreeMap<Position, Vec<K>>,
}

impl<K> Default for ChangeIndex<K> {
    fn default() -> Self {
        Self {
            positions: HashMap::new(),
            keys: BTreeMap::new(),
        }
    }
}

impl<K: Copy + Eq + Hash> ChangeIndex<K> {
    fn set(&mut self, key: K, position: Position) {
        if let Some(before) = self.positions.insert(key, position)
            && let Some(keys) = self.keys.get_mut(&before)
        {
            keys.retain(|other| *other != key);
            if keys.is_empty() {
                self.keys.remove(&before);
            }
        }
        self.keys.entry(position).or_default().push(key);
    }

    fn after(&self, position: Position) -> impl Iterator<Item = K> {
        let later = (
            std::ops::Bound::Excluded(position),
            std::ops::Bound::Unbounded,
        );
        self.keys
            .range(later)
            .flat_map(|(_, keys)| keys.iter().copied())
    }
}

/// A position in the stored and in the ephemeral stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamPosition {
    /// The last position in the published snapshot.
    pub stored: Position,
    /// The number of the last change of typing or presence, which are not stored.
    pub ephemeral: u64,
    /// The start of the server that counted `ephemeral`.
    pub instance: u64,
}

impl StreamPosition {
    /// The token of a response that ends here, with the to-device messages up to `to_device`.
    pub fn token(self, to_device: Position) -> SyncToken {
        SyncToken {
            position: self.stored,
            to_device,
            instance: self.instance,
            ephemeral: self.ephemeral,
        }
    }
}

impl Notifier {
    /// Must be made before anything is written to `store` after opening it.
    pub fn new(store: Store, instance: u64) -> Result<Self, rooms::Error> {
        let last = store.read(last_given)?;
        let inner = Inner {
            complete_after: last,
            last,
            ephemeral: 0,
            rooms: ChangeIndex::default(),
            users: HashMap::new(),
            waiters: HashMap::new(),
        };
        Ok(Self {
            restored: store.read(store::restored_position)?,
            store,
            instance,
            inner: Mutex::new(inner),
        })
    }

    /// Whether a token with this position is from before the database was restored. Its client may know changes
    /// that the database does not, so it has to begin anew.
    pub fn is_before_restore(&self, position: Position) -> bool {
        position < self.restored
    }

    /// Indexes what a commit changed and wakes the syncs of the affected users.
    pub fn apply(&self, effects: &[Effect]) {
        let mut affected: HashSet<UserNum> = HashSet::new();
        // The last change of each room: a commit may have thousands of receipts in one.
        let mut rooms: HashMap<RoomNum, Position> = HashMap::new();
        let mut rows = MAX_SHARING_ROWS;
        for effect in effects {
            match *effect {
                Effect::RoomChanged(room, position) => drop(rooms.insert(room, position)),
                Effect::UserChanged(user, position) => {
                    let mut inner = self.lock();
                    inner.users.insert(user, position);
                    inner.last = inner.last.max(position);
                    affected.insert(user);
                }
                Effect::DeviceListChanged(user, position) => {
                    let mut inner = self.lock();
                    inner.last = inner.last.max(position);
                    drop(inner);
                    affected.insert(user);
                    self.sharing_rooms(user, &mut rows, &mut affected);
                }
                Effect::Reopened => self.reset(&mut affected),
                Effect::DeviceGone(user, _) | Effect::AccountLocked(user) => {
                    affected.insert(user);
                }
                Effect::BackgroundJob
                | Effect::Outgoing
                | Effect::MediaGone
                | Effect::MembershipChanged(..)
                | Effect::PushersChanged(_)
                | Effect::ServerAddressed(_) => {}
            }
        }
        for (room, position) in rooms {
            let mut inner = self.lock();
            inner.rooms.set(room, position);
            inner.last = inner.last.max(position);
            drop(inner);
            affected.extend(self.members(room));
        }
        let mut inner = self.lock();
        affected.into_iter().for_each(|user| inner.wake(user));
    }

    /// Gives a number to an ephemeral change in `room` and wakes its local members.
    pub fn ephemeral_changed_in(&self, room: RoomNum) -> u64 {
        let members = self.members(room);
        self.ephemeral_changed_for(members)
    }

    /// Gives a number to an ephemeral change that `users` can see, and wakes them.
    pub fn ephemeral_changed_for(&self, users: impl IntoIterator<Item = UserNum>) -> u64 {
        let mut inner = self.lock();
        inner.ephemeral += 1;
        users.into_iter().for_each(|user| inner.wake(user));
        inner.ephemeral
    }

    pub fn wake(&self, users: impl IntoIterator<Item = UserNum>) {
        let mut inner = self.lock();
        users.into_iter().for_each(|user| inner.wake(user));
    }

    pub fn position(&self) -> StreamPosition {
        let inner = self.lock();
        StreamPosition {
            stored: inner.last,
            ephemeral: inner.ephemeral,
            instance: self.instance,
        }
    }

    /// The rooms that changed after `position`; `None` if the index does not reach back so far.
    pub fn rooms_after(&self, position: Position) -> Option<Vec<RoomNum>> {
        let inner = self.lock();
        (position >= inner.complete_after).then(|| inner.rooms.after(position).collect())
    }

    /// Whether the user's own data (account data, to-device messages) changed after `position`, or may
    /// have.
    pub fn user_changed_after(&self, user: UserNum, position: Position) -> bool {
        let inner = self.lock();
        position < inner.complete_after
            || inner.users.get(&user).is_some_and(|last| *last > position)
    }

    /// Resolves at the next change that affects `user`. Call this before looking for changes.
    pub fn subscribe(&self, user: UserNum) -> Receiver<()> {
        let (sender, receiver) = channel::bounded(1);
        let mut inner = self.lock();
        let waiters = inner.waiters.entry(user).or_default();
        // Syncs whose client has hung up.
        waiters.retain(|sender| !sender.is_closed());
        waiters.push(sender);
        receiver
    }

    fn reset(&self, affected: &mut HashSet<UserNum>) {
        let last = self.store.read(last_given);
        let mut inner = self.lock();
        // If the counter cannot be read, no token counts as covered by the index.
        let last = last.unwrap_or(Position::MAX);
        inner.complete_after = last;
        inner.last = inner.last.max(if last == Position::MAX {
            inner.last
        } else {
            last
        });
        inner.rooms = ChangeIndex::default();
        inner.users.clear();
        affected.extend(inner.waiters.keys());
    }

    fn members(&self, room: RoomNum) -> Vec<UserNum> {
        let members = self.store.read(|s| current::local_members(s, room));
        match members {
            Ok(members) => members.into_iter().map(|(user, _)| user).collect(),
            Err(error) => {
                let id = room::id_for_log(&self.store, room);
                log::error!(
                    "the members of {id} cannot be read; their /sync requests see its changes when \
                     they time out: {error}"
                );
                Vec::new()
            }
        }
    }

    /// Adds the local users who share a room with `user`, whose devices changed; all waiting users if
    /// that takes more than `rows` rows.
    fn sharing_rooms(&self, user: UserNum, rows: &mut usize, affected: &mut HashSet<UserNum>) {
        let sharing = self.store.read(|s| {
            let user_id = users::id_of(s, user)?;
            shared_rooms::local_users_sharing_within(s, user, &user_id, rows)
        });
        let sharing = sharing.unwrap_or_else(|error| {
            let id = users::id_for_log(&self.store, user);
            log::error!(
                "the rooms of {id}, whose devices changed, cannot be read; all waiting /sync \
                 requests look for themselves: {error}"
            );
            None
        });
        match sharing {
            Some(sharing) => affected.extend(sharing),
            None => affected.extend(self.lock().waiters.keys()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn wake(&mut self, user: UserNum) {
        for sender in self.waiters.remove(&user).into_iter().flatten() {
            // A full channel has been woken already; a closed one has no receiver any more.
            let _ = sender.try_send(());
        }
    }
}

/// An upper bound of the positions given so far; later ones are larger.
fn last_given(r: &impl Reader) -> Result<Position, rooms::Error> {
    let counters = r.counters().map_err(rooms::Error::from)?;
    let row = counters.get("position")?;
    Ok(row.map_or(Position::MIN, |row| Position(row.value())))
}
