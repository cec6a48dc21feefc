//! Marks changed rooms for the pushers of their members.

use std::{
    collections::VecDeque,
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
        loop {
            let changed = {
                let mut state = queues.lock();
                state.dispatching = state.changed.values().min().copied();
                std::mem::take(&mut state.changed)
            };
            if changed.is_empty() {
                break;
            }
            let mut slices = Slices::of(MEMBERS_PER_SLICE);
            for (room, first) in changed {
                match dispatch(&queues, room, first, &mut slices).await {
                    Ok(()) => {}
                    Err(rooms::Error::Store(store::Error::Closed)) => return,
                    Err(error) => {
                        let id = room::id_for_log(&queues.store, room);
                        log::error!(
                            "notifications of {id} are pushed with its next change: {error}"
                        );
                    }
                }
            }
        }
    }
}

async fn dispatch(
    queues: &Arc<Queues>,
    room: RoomNum,
    first: Position,
    slices: &mut Slices,
) -> Result<(), rooms::Error> {
    for (user, _) in queues.store.read(|s| current::local_members(s, room))? {
        slices.step().await;
        {
            let mut state = queues.lock();
            if !state.users.contains(&user) {
                continue;
            }
            state.badges.room_changed(user, room);
        }
        for key in queues.store.read(|s| pushers::keys_of(s, user))? {
            mark(queues, key, |marks| marks.add(room, first));
        }
    }
    Ok(())
}

/// Goes on with all pushers from their cursors, after a start.
pub async fn resume_all(queues: Weak<Queues>) {
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
        if let Err(error) = resume(&queues, user) {
            let id = users::id_for_log(&queues.store, user);
            log::error!("what {id} was not notified of is pushed only after a restart: {error}");
        }
    }
}

fn resume(queues: &Arc<Queues>, user: UserNum) -> Result<(), rooms::Error> {
    for key in queues.store.read(|s| pushers::keys_of(s, user))? {
        let unsaved = {
            let state = queues.lock();
            state.unsaved.contains_key(&key).then(|| state.cursor(&key))
        };
        let cursor = match unsaved {
            Some(cursor) => Some(cursor),
            None => {
                let state = queues.store.read(|s| pushers::load_state(s, &key))?;
                state.map(|state| state.cursor)
            }
        };
        if let Some(cursor) = cursor {
            mark(queues, key, |marks| marks.add_all(cursor));
        }
    }
    Ok(())
}

/// Changes the marks of a pusher, which gets a task if it has none.
fn mark(queues: &Arc<Queues>, key: PusherKey, add: impl FnOnce(&mut Marks)) {
    let key = Arc::new(key);
    let mut state = queues.lock();
    let active = state.active.entry(key.clone()).or_insert_with(|| {
        let (retry, retried) = channel::bounded(1);
        let task = pusher::run(Arc::downgrade(queues), key, retried);
        queues.executor.spawn(task).detach();
        Active {
            marks: Marks::default(),
            collecting: None,
            queue: VecDeque::new(),
            retry,
        }
    });
    add(&mut active.marks);
}
