//! The queue of each pusher, and what the tasks of all pushers share.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use smol::{
    channel::Sender as Channel,
    lock::{RwLock, Semaphore},
};

use super::{
    badge::Badges,
    gateway::Gateways,
    pending::{Marks, Pending, before},
};
use crate::{
    clock::Clock,
    executor::Executor,
    rooms,
    store::{Position, RoomNum, Snapshot, Store, UserNum, records::PusherState},
    users::pushers::{self, PusherKey},
};

/// What the tasks of all pushers share.
pub struct Queues {
    pub store: Store,
    pub clock: Clock,
    pub executor: Executor,
    pub gateways: Gateways,
    /// Wakes the task that looks up whom the changed rooms concern.
    pub wake_dispatch: Channel<()>,
    /// Wakes the task that saves states.
    pub wake_saving: Channel<()>,
    /// One scan at a time, of all pushers: clients must find a slot of the pool free.
    pub scans: Semaphore,
    /// Read-locked while a notification is under way and until its outcome is known.
    pub sending: RwLock<()>,
    pub state: Mutex<State>,
}

#[derive(Default)]
pub struct State {
    /// The users with pushers.
    pub users: HashSet<UserNum>,
    /// Those of them whose pushers still are to be resumed: after a start, or after effects were lost.
    pub unresumed: HashSet<UserNum>,
    /// Users whose membership in some room changed: their pushers may have a smaller badge to send.
    pub changed_members: BTreeSet<UserNum>,
    /// Rooms that changed, each with the position of the first change, whose members were not looked up yet.
    pub changed: BTreeMap<RoomNum, Position>,
    /// The same, while their members are looked up.
    pub dispatching: Option<Position>,
    /// The position of the last change.
    pub applied: Position,
    pub active: HashMap<Arc<PusherKey>, Active>,
    /// States that are to be saved.
    pub unsaved: HashMap<Arc<PusherKey>, PusherState>,
    pub badges: Badges,
    /// Whether the server stops: nothing more is sent.
    pub is_stopping: bool,
}

/// A pusher with a task.
pub struct Active {
    /// Where there may be something to send.
    pub marks: Marks,
    /// Whether the badge may have become smaller since it was last looked at.
    pub is_badge_due: bool,
    /// Marks that are being turned into the queue.
    pub collecting: Option<Marks>,
    pub queue: VecDeque<Pending>,
    /// Ends the backoff of its task.
    pub retry: Channel<()>,
}

impl State {
    /// Takes the rooms that changed. If there are none, those that `failed` are kept for the next change.
    pub fn take_changed(
        &mut self,
        failed: &mut BTreeMap<RoomNum, Position>,
    ) -> BTreeMap<RoomNum, Position> {
        let changed = std::mem::take(&mut self.changed);
        if changed.is_empty() {
            self.changed = std::mem::take(failed);
        }
        self.dispatching = changed.values().chain(failed.values()).min().copied();
        changed
    }

    /// The position up to which nothing is left to send for a pusher.
    pub fn cursor(&self, key: &PusherKey) -> Position {
        let active = self.active.get(key);
        let marked = active.and_then(|active| active.marks.clean_upto());
        let collecting = active.and_then(|active| active.collecting.as_ref()?.clean_upto());
        let queued = active.and_then(|active| active.queue.front());
        let changed = self.changed.values().min();
        let outstanding = [
            marked,
            collecting,
            queued.map(|pending| before(pending.position)),
            changed.map(|first| before(*first)),
            self.dispatching.map(before),
        ];
        let outstanding = outstanding.into_iter().flatten().min();
        outstanding.unwrap_or(self.applied).min(self.applied)
    }
}

impl Queues {
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn wake_dispatch(&self) {
        // A task that is woken already will see everything.
        let _ = self.wake_dispatch.try_send(());
    }

    pub fn load_users(&self) -> Result<(), rooms::Error> {
        let users = self.store.read(pushers::users)?;
        let mut state = self.lock();
        state.users = users.into_iter().collect();
        state.unresumed = state.users.clone();
        Ok(())
    }

    /// A pusher that is set again is tried at once: its app is in use, and its gateway may be another.
    pub fn pushers_changed(&self, user: UserNum) {
        let keys = self.store.read(|s| pushers::keys_of(s, user));
        let mut state = self.lock();
        // If they cannot be read, they are looked up for every change.
        if keys.is_ok_and(|keys| keys.is_empty()) {
            state.users.remove(&user);
        } else {
            state.users.insert(user);
        }
        for (key, active) in &state.active {
            if key.user == user {
                let _ = active.retry.try_send(());
            }
        }
    }

    /// The number of rooms that `user` has not read.
    pub async fn badge(&self, user: UserNum) -> Result<u32, rooms::Error> {
        let taken = self.lock().badges.get(user);
        let mut counting = taken.clone();
        let (badge, counted) = if self.store.read(|s| counting.is_fast(s, user))? {
            let badge = self.store.read(|s| counting.count(s, user))?;
            (badge, counting)
        } else {
            let _turn = self.scans.acquire().await;
            let scan = move |s: &Snapshot| counting.count(s, user).map(|badge| (badge, counting));
            self.store.scan_in_background("a badge", scan).await?
        };
        self.lock().badges.set(user, &taken, counted);
        Ok(badge)
    }
}
