//! Marks changed rooms for the pushers of their members.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Weak},
};

use smol::channel::{self, Receiver};

use super::{
    pending::Marks,
    pusher,
    queues::{Active, Queues},
};
use crate::{
    executor::Slices,
    rooms::{self, room, state::current},
    store::{self, Position, RoomNum, UserNum},
    users::{
        self,
        pushers::{self, PusherKey},
    },
};

/// How many members are looked up, and their pushers get tasks, before other tasks get their turn.
const MEMBERS_PER_SLICE: usize = 32;

/// Dispatches whenever it is woken, until the sender is dropped.
pub async fn run(queues: Weak<Queues>, woken: Receiver<()>) {
    while woken.recv().await.is_ok() {
        let Some(queues) = queues.upgrade() else {
            return;
        };
        let mut failed = BTreeMap::new();
        loop {
            let (changed, members) = {
                let mut state = queues.lock();
                let changed = state.take_changed(&mut failed);
                (changed, std::mem::take(&mut state.changed_members))
            };
            if changed.is_empty() && members.is_empty() {
                break;
            }
            let mut slices = Slices::of(MEMBERS_PER_SLICE);
            for user in members {
                slices.step().await;
                // A member who left is not looked up with the room.
                if let Err(error) = wake(&queues, user) {
                    let id = users::id_for_log(&queues.store, user);
                    log::error!("the badge of {id} is pushed with the next notification: {error}");
                }
            }
            for (room, first) in changed {
                match dispatch(&queues, room, first, &mut slices).await {
                    Ok(()) => {}
                    Err(rooms::Error::Store(store::Error::Closed)) => return,
                    // To keep the room would stop the cursors of all pushers: it would fail again.
                    Err(rooms::Error::Store(error)) if error.is_caused_by_data() => {
                        let id = room::id_for_log(&queues.store, room);
                        log::error!("a change of {id} is pushed to nobody: {error}");
                    }
                    Err(error) => {
                        let id = room::id_for_log(&queues.store, room);
                        log::error!(
                            "notifications of {id} are pushed with the next change of any room: {error}"
                        );
                        let earliest = failed.entry(room).or_insert(first);
                        *earliest = first.min(*earliest);
                    }
                }
            }
        }
    }
}

/// Marks `room` for the pushers of its members. An error at one member does not stop the members after it.
async fn dispatch(
    queues: &Arc<Queues>,
    room: RoomNum,
    first: Position,
    slices: &mut Slices,
) -> Result<(), rooms::Error> {
    let mut result = Ok(());
    for (user, _) in queues.store.read(|s| current::local_members(s, room))? {
        slices.step().await;
        {
            let mut state = queues.lock();
            if !state.users.contains(&user) {
                continue;
            }
            state.badges.room_changed(user, room);
        }
        match queues.store.read(|s| pushers::keys_of(s, user)) {
            Ok(keys) => keys
                .into_iter()
                .for_each(|key| mark(queues, key, |active| active.marks.add(room, first))),
            Err(error) => result = Err(error.into()),
        }
    }
    result
}

/// Goes on with all pushers from their cursors, after a start or after effects were lost. The cursors that were
/// not saved then are in `unsaved`: later effects move them past what is to be sent.
pub async fn resume_all(queues: Weak<Queues>, unsaved: HashMap<Arc<PusherKey>, Position>) {
    let users: Vec<UserNum> = match queues.upgrade() {
        Some(queues) => queues.lock().users.iter().copied().collect(),
        None => return,
    };
    let mut slices = Slices::of(MEMBERS_PER_SLICE);
    for user in users {
        slices.step().await;
        let Some(queues) = queues.upgrade() else {
            return;
        };
        match resume(&queues, user, &unsaved) {
            Ok(()) => drop(queues.lock().unresumed.remove(&user)),
            Err(error) => {
                let id = users::id_for_log(&queues.store, user);
                log::error!(
                    "what {id} was not notified of is pushed only after a restart: {error}"
                );
            }
        }
    }
    if let Some(queues) = queues.upgrade() {
        let _ = queues.wake_saving.try_send(());
    }
}

fn resume(
    queues: &Arc<Queues>,
    user: UserNum,
    unsaved: &HashMap<Arc<PusherKey>, Position>,
) -> Result<(), rooms::Error> {
    for key in queues.store.read(|s| pushers::keys_of(s, user))? {
        let cursor = match unsaved.get(&key) {
            Some(cursor) => Some(*cursor),
            None => {
                let state = queues.store.read(|s| pushers::load_state(s, &key))?;
                state.map(|state| state.cursor)
            }
        };
        if let Some(cursor) = cursor {
            mark(queues, key, |active| active.marks.add_all(cursor));
        }
    }
    Ok(())
}

/// Has the pushers of `user` look at the badge.
fn wake(queues: &Arc<Queues>, user: UserNum) -> Result<(), store::Error> {
    let keys = queues.store.read(|s| pushers::keys_of(s, user))?;
    keys.into_iter()
        .for_each(|key| mark(queues, key, |active| active.is_badge_due = true));
    Ok(())
}

/// Changes what a pusher has to do, which gets a task if it has none.
fn mark(queues: &Arc<Queues>, key: PusherKey, add: impl FnOnce(&mut Active)) {
    let key = Arc::new(key);
    let mut state = queues.lock();
    let active = state.active.entry(key.clone()).or_insert_with(|| {
        let (retry, retried) = channel::bounded(1);
        let task = pusher::run(Arc::downgrade(queues), key, retried);
        queues.executor.spawn(task).detach();
        Active {
            marks: Marks::default(),
            is_badge_due: false,
            collecting: None,
            queue: VecDeque::new(),
            retry,
        }
    });
    add(active);
}
