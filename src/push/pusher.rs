//! The task of one pusher. It ends when there is nothing left to send.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Weak},
    time::Duration,
};

use ruma::push::HttpPusherData;
use smol::{channel::Receiver, future::FutureExt};

use super::{
    gateway::{Gateway, SendError},
    notification,
    pending::{self, Marks, Pending},
    queues::Queues,
    saving,
};
use crate::{
    clock::as_ms,
    federation::backoff,
    rooms::{self, unread::notify},
    store::{
        self, Snapshot, Tx,
        records::{Backoff, Pusher, PusherState},
    },
    users::{
        self,
        pushers::{self, PusherKey},
    },
};

/// What is queued for a gateway that has taken nothing for longer is dropped: old notifications help nobody.
/// New ones are tried as before.
///
/// Source: as in Synapse.
const GIVE_UP_AFTER: Duration = Duration::from_hours(24);
/// A notification that the gateway refuses so often is dropped.
const MAX_REFUSALS: u32 = 3;
/// Of an answer that is stored.
const MAX_ANSWER_CHARS: usize = 200;

/// Sends what is pending for the pusher `key`. `retried` ends a backoff.
pub async fn run(queues: Weak<Queues>, key: Arc<PusherKey>, retried: Receiver<()>) {
    let mut task = Task {
        key,
        state: None,
        wait: None,
        own_backoff: None,
        refusals: 0,
    };
    loop {
        if let Some(backoff) = task.wait.take() {
            let Some(clock) = queues.upgrade().map(|queues| queues.clock.clone()) else {
                return;
            };
            let was_woken = backoff::wait(&backoff, &clock, &retried).await;
            if was_woken && let Some(state) = &mut task.state {
                state.backoff = None;
            }
        }
        let Some(queues) = queues.upgrade() else {
            return;
        };
        // While it waits, a task is small: there can be many.
        let step = Box::pin(AssertUnwindSafe(task.step(&queues)).catch_unwind());
        match step.await.unwrap_or(Err(store::Error::Panicked.into())) {
            Ok(Step::Continue) => task.own_backoff = None,
            Ok(Step::Done) => {
                let mut state = queues.lock();
                let active = state.active.get(&task.key);
                let is_done =
                    active.is_none_or(|active| active.marks.is_empty() && !active.is_badge_due);
                if state.is_stopping {
                    return;
                }
                if is_done {
                    state.active.remove(&task.key);
                    return;
                }
            }
            Ok(Step::Removed) => {
                let mut state = queues.lock();
                state.active.remove(&task.key);
                state.unsaved.remove(&task.key);
                return;
            }
            Err(rooms::Error::Store(store::Error::Closed)) => return,
            Err(error) => {
                let user = users::id_for_log(&queues.store, task.key.user);
                let app = &task.key.app_id;
                log::error!("nothing is pushed to {app:?} of {user} for now: {error}");
                let now = queues.clock.now_ms();
                let next = backoff::next(task.own_backoff.as_ref(), now, rand::random());
                task.own_backoff = Some(next.clone());
                task.wait = Some(next);
            }
        }
    }
}

struct Task {
    key: Arc<PusherKey>,
    /// `None` until it is loaded.
    state: Option<PusherState>,
    /// What it waits for next.
    wait: Option<Backoff>,
    /// After an error of this server.
    own_backoff: Option<Backoff>,
    /// How often the gateway has refused the first notification of the queue.
    refusals: u32,
}

enum Step {
    Continue,
    /// There is nothing left to send.
    Done,
    /// The pusher was removed.
    Removed,
}

/// What a pusher sends next.
#[derive(Clone, Copy)]
enum Next {
    Event(Pending),
    /// The badge alone, which is smaller than the one that was sent last.
    Badge(u32),
}

/// What became of a request.
enum Outcome {
    Sent {
        badge: Option<u32>,
    },
    /// The user needs not be notified any more.
    Outdated,
    Rejected,
    Failed(SendError),
}

impl Task {
    async fn step(&mut self, queues: &Queues) -> Result<Step, rooms::Error> {
        if queues.lock().is_stopping {
            return Ok(Step::Done);
        }
        let (pusher, is_notified) = queues.store.read(|s| {
            let is_notified = notification::is_notified(s, self.key.user)?;
            Ok::<_, rooms::Error>((pushers::load(s, &self.key)?, is_notified))
        })?;
        let Some(pusher) = pusher else {
            return Ok(Step::Removed);
        };
        let Some(state) = self.state.as_mut() else {
            return self.load(queues);
        };
        if !is_notified {
            self.drop_all(queues);
            return Ok(Step::Done);
        }
        let after = state.cursor;
        self.collect(queues, after).await?;
        let data = notification::data(&self.key, &pusher)?;
        let Some(next) = self.next(queues, &data).await? else {
            return Ok(Step::Done);
        };
        let gateway = match queues.gateways.parse(&data.url) {
            Ok(gateway) => gateway,
            // The settings have changed.
            Err(error) => {
                self.failed(queues, error.to_string());
                return Ok(Step::Continue);
            }
        };
        let is_proven = self.state.as_ref().is_some_and(took_last);
        let _turn = queues.gateways.turn(&gateway, is_proven).await;
        let _sending = queues.sending.read().await;
        // The turn may have taken long.
        let is_current =
            queues.store.read(|s| pushers::load(s, &self.key))? == Some(pusher.clone());
        if queues.lock().is_stopping || !is_current {
            return Ok(Step::Continue);
        }
        match self.send(queues, &pusher, &data, &gateway, next).await {
            Ok(outcome) => self.finish(queues, &pusher, &gateway, next, outcome).await,
            Err(rooms::Error::Store(error)) if !error.is_caused_by_data() => Err(error.into()),
            Err(error @ rooms::Error::Pool(_)) => Err(error),
            Err(error) => {
                self.set_aside(queues, next, &error.to_string());
                Ok(Step::Continue)
            }
        }
    }

    fn load(&mut self, queues: &Queues) -> Result<Step, rooms::Error> {
        let unsaved = queues.lock().unsaved.get(&self.key).cloned();
        let state = match unsaved {
            Some(state) => Some(state),
            None => queues.store.read(|s| pushers::load_state(s, &self.key))?,
        };
        let Some(state) = state else {
            return Ok(Step::Removed);
        };
        self.wait.clone_from(&state.backoff);
        self.state = Some(state);
        Ok(Step::Continue)
    }

    /// Turns marks into the queue, without what is not later than `after`.
    async fn collect(&self, queues: &Queues, after: store::Position) -> Result<(), rooms::Error> {
        let (marks, now) = {
            let mut state = queues.lock();
            let now = state.applied;
            let Some(active) = state.active.get_mut(&self.key) else {
                return Ok(());
            };
            active.is_badge_due = false;
            let mut marks = std::mem::take(&mut active.marks);
            // Those of the last time, if they could not be read.
            marks.merge(active.collecting.take().unwrap_or_default());
            if marks.is_empty() {
                return Ok(());
            }
            active.collecting = Some(marks.clone());
            (marks, now)
        };
        let user = self.key.user;
        let mut pending = if marks.are_few(now) {
            queues.store.read(|s| pending::pending(s, user, &marks))?
        } else {
            let _turn = queues.scans.acquire().await;
            let scan = move |s: &Snapshot| pending::pending(s, user, &marks);
            queues
                .store
                .scan_in_background("unread events", scan)
                .await?
        };
        pending.retain(|pending| pending.position > after);
        if let Some(active) = queues.lock().active.get_mut(&self.key) {
            pending::merge(&mut active.queue, pending);
            active.collecting = None;
        }
        Ok(())
    }

    async fn next(
        &self,
        queues: &Queues,
        data: &HttpPusherData,
    ) -> Result<Option<Next>, rooms::Error> {
        let first = {
            let state = queues.lock();
            let active = state.active.get(&self.key);
            active.and_then(|active| active.queue.front().copied())
        };
        if let Some(pending) = first {
            return Ok(Some(Next::Event(pending)));
        }
        let sent = self.state.as_ref().and_then(|state| state.badge);
        let Some(sent) = sent.filter(|_| !notification::has_no_badge(data)) else {
            return Ok(None);
        };
        let badge = queues.badge(self.key.user).await?;
        Ok((badge < sent).then_some(Next::Badge(badge)))
    }

    /// Makes the notification, now that it is its turn, and sends it.
    async fn send(
        &self,
        queues: &Queues,
        pusher: &Pusher,
        data: &HttpPusherData,
        gateway: &Gateway,
        next: Next,
    ) -> Result<Outcome, rooms::Error> {
        let (body, badge) = match next {
            Next::Badge(badge) => {
                let body = notification::of_badge(&self.key, pusher, badge)?;
                (Some(body), Some(badge))
            }
            Next::Event(pending) => {
                let badge = match notification::has_no_badge(data) {
                    true => None,
                    false => Some(queues.badge(self.key.user).await?),
                };
                (self.body(queues, pusher, pending, badge).await?, badge)
            }
        };
        let Some(body) = body else {
            return Ok(Outcome::Outdated);
        };
        Ok(match queues.gateways.send(gateway, body).await {
            Ok(rejected) if rejected.contains(&self.key.pushkey) => Outcome::Rejected,
            Ok(_) => Outcome::Sent { badge },
            Err(error) => Outcome::Failed(error),
        })
    }

    async fn body(
        &self,
        queues: &Queues,
        pusher: &Pusher,
        pending: Pending,
        badge: Option<u32>,
    ) -> Result<Option<Vec<u8>>, rooms::Error> {
        let key = &self.key;
        if queues.store.read(|s| notify::is_fast_for(s, key.user))? {
            let body = |s: &_| notification::of_event(s, key, pusher, &pending, badge);
            return queues.store.read(body);
        }
        let (key, pusher) = (key.clone(), pusher.clone());
        let scan = move |s: &Snapshot| notification::of_event(s, &key, &pusher, &pending, badge);
        queues
            .store
            .scan_in_background("a notification", scan)
            .await
    }

    async fn finish(
        &mut self,
        queues: &Queues,
        pusher: &Pusher,
        gateway: &Gateway,
        next: Next,
        outcome: Outcome,
    ) -> Result<Step, rooms::Error> {
        match outcome {
            Outcome::Outdated => self.pop(queues, next),
            Outcome::Sent { badge } => {
                self.pop(queues, next);
                if let Some(state) = &mut self.state {
                    let now = queues.clock.now_ms();
                    state.badge = badge;
                    (state.backoff, state.failing_since_ts) = (None, None);
                    state.success_ts = Some(now);
                    state.answer = Some((now, "200".to_owned()));
                }
                self.save(queues);
            }
            Outcome::Rejected => {
                let (key, set_ts) = (self.key.clone(), pusher.set_ts);
                let job = move |tx: &Tx| pushers::remove_rejected(tx, &key, set_ts);
                if queues.store.write_shrinking(job).await? {
                    let user = users::id_for_log(&queues.store, self.key.user);
                    let (app, origin) = (&self.key.app_id, gateway.origin());
                    log::info!("{origin} rejects the pusher of {user} for {app:?}: it is removed");
                }
            }
            Outcome::Failed(SendError::Refused(status)) if self.refusals + 1 >= MAX_REFUSALS => {
                self.set_aside(
                    queues,
                    next,
                    &format!("{} answers {status}", gateway.origin()),
                );
            }
            Outcome::Failed(error) => {
                self.refusals += u32::from(matches!(error, SendError::Refused(_)));
                log::debug!("{} does not take a notification: {error}", gateway.origin());
                self.failed(queues, error.to_string());
            }
        }
        Ok(Step::Continue)
    }

    /// Takes what was sent, or is not to be sent, out of the queue.
    fn pop(&mut self, queues: &Queues, next: Next) {
        self.refusals = 0;
        if let Next::Event(pending) = next
            && let Some(active) = queues.lock().active.get_mut(&self.key)
        {
            active.queue.retain(|other| other.event != pending.event);
        }
    }

    /// Drops what cannot be sent, so that it does not stop what comes after it.
    fn set_aside(&mut self, queues: &Queues, next: Next, reason: &str) {
        let user = users::id_for_log(&queues.store, self.key.user);
        let app = &self.key.app_id;
        log::warn!("a notification for {app:?} of {user} is dropped: {reason}");
        self.pop(queues, next);
        if let Some(state) = &mut self.state {
            (state.backoff, state.failing_since_ts) = (None, None);
            if matches!(next, Next::Badge(_)) {
                state.badge = None;
            }
        }
        self.save(queues);
    }

    fn failed(&mut self, queues: &Queues, answer: String) {
        let now = queues.clock.now_ms();
        let Some(state) = &mut self.state else {
            return;
        };
        let since = *state.failing_since_ts.get_or_insert(now);
        let next = backoff::next(state.backoff.as_ref(), now, rand::random());
        self.wait = Some(next.clone());
        state.backoff = Some(next);
        state.answer = Some((now, answer.chars().take(MAX_ANSWER_CHARS).collect()));
        if now.saturating_sub(since) > as_ms(GIVE_UP_AFTER) {
            state.badge = None;
            let dropped = match queues.lock().active.get_mut(&self.key) {
                Some(active) => std::mem::take(&mut active.queue).len(),
                None => 0,
            };
            let user = users::id_for_log(&queues.store, self.key.user);
            let app = &self.key.app_id;
            log::info!(
                "the push gateway of {user} for {app:?} has not answered for a day: {dropped} notifications \
                 are dropped"
            );
        }
        self.save(queues);
    }

    /// Drops what is pending.
    fn drop_all(&self, queues: &Queues) {
        if let Some(active) = queues.lock().active.get_mut(&self.key) {
            active.queue.clear();
            (active.marks, active.collecting) = (Marks::default(), None);
            active.is_badge_due = false;
        }
        self.save(queues);
    }

    fn save(&self, queues: &Queues) {
        if let Some(state) = &self.state {
            saving::set(queues, &self.key, state);
        }
    }
}

/// Whether the gateway took the last notification of the pusher; not if there was none yet.
fn took_last(state: &PusherState) -> bool {
    state.success_ts.is_some() && state.failing_since_ts.is_none()
}
