//! [`PushSender`]: starts and stops the tasks, and gives them what changed.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use smol::{
    Timer, channel, future,
    lock::{RwLock, Semaphore},
};

use super::{
    dispatch,
    gateway::{Gateways, UrlError},
    queues::{Queues, State},
    saving,
};
use crate::{
    clock::Clock,
    config::PushGateways,
    executor::Executor,
    federation::Client,
    rooms,
    store::{Effect, Position, Store},
};

/// How long notifications that are under way are waited for when the server stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Sends push notifications. Clones are the same.
#[derive(Clone)]
pub struct PushSender(pub(super) Arc<Queues>);

impl fmt::Debug for PushSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PushSender").finish_non_exhaustive()
    }
}

impl PushSender {
    /// `now` is the last position in the store; every effect from here on must be [applied](Self::apply).
    pub fn new(
        gateways: &PushGateways,
        now: Position,
        store: &Store,
        client: &Client,
        clock: &Clock,
        executor: &Executor,
    ) -> Result<Self, rooms::Error> {
        let (wake_dispatch, dispatch_woken) = channel::bounded(1);
        let (wake_saving, saving_woken) = channel::bounded(1);
        let sender = Self(Arc::new(Queues {
            store: store.clone(),
            clock: clock.clone(),
            executor: executor.clone(),
            gateways: Gateways::new(gateways.clone(), client.poster()),
            wake_dispatch,
            wake_saving,
            scans: Semaphore::new(1),
            sending: RwLock::new(()),
            state: Mutex::new(State {
                applied: now,
                ..State::default()
            }),
        }));
        sender.0.load_users()?;
        let weak = Arc::downgrade(&sender.0);
        executor
            .spawn(dispatch::run(weak.clone(), dispatch_woken))
            .detach();
        executor.spawn(saving::run(weak, saving_woken)).detach();
        Ok(sender)
    }

    /// Goes on with what was not sent when the server stopped.
    pub fn resume(&self) {
        let resume = dispatch::resume_all(Arc::downgrade(&self.0), HashMap::new());
        self.0.executor.spawn(resume).detach();
    }

    /// Checks the address of a gateway that a client wants to use.
    pub fn check_url(&self, url: &str) -> Result<(), UrlError> {
        self.0.gateways.parse(url).map(|_| ())
    }

    /// How many notifications are queued.
    pub fn queued(&self) -> usize {
        let state = self.0.lock();
        let queues = state.active.values();
        queues.map(|pusher| pusher.queue.len()).sum()
    }

    /// Must be called with every effect.
    pub fn apply(&self, effect: &Effect) {
        match *effect {
            Effect::RoomChanged(room, position) => {
                let mut state = self.0.lock();
                state.applied = state.applied.max(position);
                if state.users.is_empty() {
                    return;
                }
                let first = state.changed.entry(room).or_insert(position);
                *first = position.min(*first);
                drop(state);
                self.0.wake_dispatch();
            }
            Effect::MembershipChanged(user, room) => {
                let mut state = self.0.lock();
                if state.users.contains(&user) {
                    state.badges.room_changed(user, room);
                    state.changed_members.insert(user);
                    drop(state);
                    self.0.wake_dispatch();
                }
            }
            Effect::UserChanged(user, _) => self.0.lock().badges.rules_changed(user),
            Effect::PushersChanged(user) => self.0.pushers_changed(user),
            Effect::Reopened => self.reopened(),
            _ => {}
        }
    }

    /// Effects may have been lost, and tasks that failed because of the store may go on.
    fn reopened(&self) {
        let unsaved = {
            let mut state = self.0.lock();
            state.badges.clear();
            for active in state.active.values() {
                let _ = active.retry.try_send(());
            }
            let keys = state.unsaved.keys();
            let resumed = keys.filter(|key| !state.unresumed.contains(&key.user));
            resumed
                .map(|key| (key.clone(), state.cursor(key)))
                .collect()
        };
        if let Err(error) = self.0.load_users() {
            log::error!("push notifications are sent only after a restart: {error}");
        }
        let resume = dispatch::resume_all(Arc::downgrade(&self.0), unsaved);
        self.0.executor.spawn(resume).detach();
    }

    /// Sends nothing more, and saves what was sent. What is under way for long may be sent again after the next
    /// start.
    pub async fn stop(&self) {
        self.0.lock().is_stopping = true;
        let done = async { drop(self.0.sending.write().await) };
        let late = async {
            Timer::after(STOP_TIMEOUT).await;
        };
        future::or(done, late).await;
        saving::save(&self.0).await;
    }
}
