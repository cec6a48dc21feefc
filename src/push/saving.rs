//! Saves the states of pushers, some time after they changed and all in one job: a job costs the card more than
//! what it writes.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use smol::{Timer, channel::Receiver};

use super::queues::{Queues, State};
use crate::{
    store::{self, Tx, records::PusherState},
    users::pushers::{self, PusherKey},
};

/// What was sent in this time before the server was killed is sent again after its start.
const INTERVAL: Duration = Duration::from_secs(30);

/// Saves whenever it was woken some time ago, until the sender is dropped.
pub async fn run(queues: Weak<Queues>, woken: Receiver<()>) {
    while woken.recv().await.is_ok() {
        Timer::after(INTERVAL).await;
        match queues.upgrade() {
            Some(queues) => save(&queues).await,
            None => return,
        }
    }
}

/// Saves what is unsaved.
pub async fn save(queues: &Queues) {
    let states: Vec<(Arc<PusherKey>, PusherState)> = {
        let mut state = queues.lock();
        let State {
            unsaved, unresumed, ..
        } = &mut *state;
        // What was pending before a pusher is resumed does not hold its cursor back yet.
        let unsaved = unsaved.extract_if(|key, _| !unresumed.contains(&key.user));
        let unsaved: Vec<_> = unsaved.collect();
        let with_cursor = |(key, unsaved): (Arc<PusherKey>, PusherState)| {
            let cursor = state.cursor(&key);
            (key, PusherState { cursor, ..unsaved })
        };
        unsaved.into_iter().map(with_cursor).collect()
    };
    if states.is_empty() {
        return;
    }
    let job = {
        let states = states.clone();
        move |tx: &Tx| {
            for (key, state) in &states {
                pushers::save_state(tx, key, state)?;
            }
            Ok::<_, store::Error>(())
        }
    };
    if let Err(error) = queues.store.write(job).await {
        log::debug!(
            "the states of {} pushers are not saved now: {error}",
            states.len()
        );
        let mut state = queues.lock();
        for (key, unsaved) in states {
            state.unsaved.entry(key).or_insert(unsaved);
        }
        let _ = queues.wake_saving.try_send(());
    }
}

/// Keeps `state` until it is saved.
pub fn set(queues: &Queues, key: &Arc<PusherKey>, state: &PusherState) {
    queues.lock().unsaved.insert(key.clone(), state.clone());
    let _ = queues.wake_saving.try_send(());
}
