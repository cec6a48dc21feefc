//! What changed since this start, and who waits for it.
//!
//! - Fed with the effects of every commit, in order, on the one thread, so what it says and what
//!   the published snapshot shows agree for as long as nobody awaits in between.
//! - A token from this start looks only at rooms that changed since; for one from before it, each
//!   of the user's rooms is looked at once.
//! - Whom changed devices concern is looked up for each change, as far as that takes little. Beyond,
//!   everybody who waits is woken, and looks on the pool.
//! - Its size follows from the rooms that changed and the local users who changed since this
//!   start, and from the syncs that wait; all three are capped by what the store and the edge hold.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::Hash,
    sync::{Mutex, MutexGuard, PoisonError},
};

use smol::channel::{self, Receiver, Sender};

use crate::{
    rooms::{self, state::current},
    store::{Effect, Position, Reader, RoomNum, Rows, Store, UserNum},
    users,
};

/// How many rows are read to find whom the changed devices of one commit concern.
const LOOKED_AT: usize = 1000;

/// The index of changes and the waiting syncs.
#[derive(Debug)]
pub struct Hub {
    store: Store,
    /// Tells this start of the server from others.
    start: u64,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// The index is complete for what came after this.
    since: Position,
    last: Position,
    ephemeral: u64,
    rooms: Latest<RoomNum>,
    users: HashMap<UserNum, Position>,
    waiting: HashMap<UserNum, Vec<Sender<()>>>,
}

/// Keys by their last position.
#[derive(Debug)]
struct Latest<K> {
    of: HashMap<K, Position>,
    order: BTreeMap<Position, Vec<K>>,
}

impl<K> Default for Latest<K> {
    fn default() -> Self {
        Self {
            of: HashMap::new(),
            order: BTreeMap::new(),
        }
    }
}

impl<K: Copy + Eq + Hash> Latest<K> {
    fn set(&mut self, key: K, position: Position) {
        if let Some(before) = self.of.insert(key, position)
            && let Some(keys) = self.order.get_mut(&before)
        {
            keys.retain(|other| *other != key);
            if keys.is_empty() {
                self.order.remove(&before);
            }
        }
        self.order.entry(position).or_default().push(key);
    }

    fn after(&self, position: Position) -> impl Iterator<Item = K> {
        let later = (
            std::ops::Bound::Excluded(position),
            std::ops::Bound::Unbounded,
        );
        self.order
            .range(later)
            .flat_map(|(_, keys)| keys.iter().copied())
    }
}

/// A point in the server's streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The last position that the published snapshot shows.
    pub position: Position,
    /// The last change of what is not stored.
    pub ephemeral: u64,
}

impl Hub {
    /// A hub over `store`, of which nothing has been written yet since it was opened. `start`
    /// tells this start from others.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn new(store: Store, start: u64) -> Result<Self, rooms::Error> {
        let since = store.read(last_given)?;
        let inner = Inner {
            since,
            last: since,
            ephemeral: 0,
            rooms: Latest::default(),
            users: HashMap::new(),
            waiting: HashMap::new(),
        };
        Ok(Self {
            store,
            start,
            inner: Mutex::new(inner),
        })
    }

    /// Takes in what a commit changed, and wakes those whom it concerns.
    pub fn apply(&self, effects: &[Effect]) {
        let mut concerned: HashSet<UserNum> = HashSet::new();
        let mut rows = LOOKED_AT;
        for effect in effects {
            match *effect {
                Effect::RoomChanged(room, position) => {
                    let mut inner = self.lock();
                    inner.rooms.set(room, position);
                    inner.last = inner.last.max(position);
                    drop(inner);
                    concerned.extend(self.members(room));
                }
                Effect::UserChanged(user, position) => {
                    let mut inner = self.lock();
                    inner.users.insert(user, position);
                    inner.last = inner.last.max(position);
                    concerned.insert(user);
                }
                Effect::DeviceListChanged(user, position) => {
                    let mut inner = self.lock();
                    inner.last = inner.last.max(position);
                    drop(inner);
                    concerned.insert(user);
                    self.sharing_rooms(user, &mut rows, &mut concerned);
                }
                Effect::Reopened => self.start_over(&mut concerned),
                Effect::DeviceGone(user, _) => drop(concerned.insert(user)),
                Effect::Errand
                | Effect::Outgoing
                | Effect::MediaGone
                | Effect::ServerAddressed(_) => {}
            }
        }
        let mut inner = self.lock();
        concerned.into_iter().for_each(|user| inner.wake(user));
    }

    /// Something changed in `room` that is not stored. The number by which it is known.
    pub fn ephemeral(&self, room: RoomNum) -> u64 {
        let members = self.members(room);
        self.ephemeral_for(members)
    }

    /// Something that is not stored changed for `users`. The number by which it is known.
    pub fn ephemeral_for(&self, users: impl IntoIterator<Item = UserNum>) -> u64 {
        let mut inner = self.lock();
        inner.ephemeral += 1;
        users.into_iter().for_each(|user| inner.wake(user));
        inner.ephemeral
    }

    /// This start of the server.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Where the streams are.
    pub fn now(&self) -> Now {
        let inner = self.lock();
        Now {
            position: inner.last,
            ephemeral: inner.ephemeral,
        }
    }

    /// The rooms that changed after `position`; `None` if that is before this start, when any may
    /// have.
    pub fn rooms_after(&self, position: Position) -> Option<Vec<RoomNum>> {
        let inner = self.lock();
        (position >= inner.since).then(|| inner.rooms.after(position).collect())
    }

    /// Whether something of the user's own changed after `position`, or may have.
    pub fn user_changed_after(&self, user: UserNum, position: Position) -> bool {
        let inner = self.lock();
        position < inner.since || inner.users.get(&user).is_some_and(|last| *last > position)
    }

    /// Hears of the next change that concerns `user`. Begin to watch before looking for changes.
    pub fn watch(&self, user: UserNum) -> Receiver<()> {
        let (sender, receiver) = channel::bounded(1);
        let mut inner = self.lock();
        let waiting = inner.waiting.entry(user).or_default();
        // Those who have gone away are swept out by those who come.
        waiting.retain(|sender| !sender.is_closed());
        waiting.push(sender);
        receiver
    }

    fn start_over(&self, concerned: &mut HashSet<UserNum>) {
        let last = self.store.read(last_given);
        let mut inner = self.lock();
        // If even that cannot be read, no token is known to be covered.
        let last = last.unwrap_or(Position::MAX);
        inner.since = last;
        inner.last = inner.last.max(if last == Position::MAX {
            inner.last
        } else {
            last
        });
        inner.rooms = Latest::default();
        inner.users.clear();
        concerned.extend(inner.waiting.keys());
    }

    fn members(&self, room: RoomNum) -> Vec<UserNum> {
        let members = self.store.read(|s| current::local_members(s, room));
        match members {
            Ok(members) => members.into_iter().map(|(user, _)| user).collect(),
            Err(error) => {
                log::error!("nobody can be told of a change: {error}");
                Vec::new()
            }
        }
    }

    /// Adds the local users whom it concerns when the devices of `user` change; all who wait, if there
    /// is more to look at than `rows`.
    fn sharing_rooms(&self, user: UserNum, rows: &mut usize, concerned: &mut HashSet<UserNum>) {
        let sharing = self.store.read(|s| {
            let user_id = users::id_of(s, user)?;
            current::sharing_rooms_within(s, (user, &user_id), rows)
        });
        let sharing = sharing.unwrap_or_else(|error| {
            log::error!("it is not known whom a changed device concerns: {error}");
            None
        });
        match sharing {
            Some(sharing) => concerned.extend(sharing),
            None => concerned.extend(self.lock().waiting.keys()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn wake(&mut self, user: UserNum) {
        for sender in self.waiting.remove(&user).into_iter().flatten() {
            // Full means woken already, closed means gone.
            let _ = sender.try_send(());
        }
    }
}

/// An upper bound of the positions that have been given; those given from now on are larger.
fn last_given(r: &impl Reader) -> Result<Position, rooms::Error> {
    let counters = r.counters().map_err(rooms::Error::from)?;
    let row = counters.get("position")?;
    Ok(row.map_or(Position::MIN, |row| Position(row.value())))
}
