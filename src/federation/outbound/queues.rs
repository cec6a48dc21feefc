//! The queue of each destination, and what the tasks of all destinations share.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use ruma::api::federation::transactions::edu::Edu;
use smol::{
    channel::{Receiver, Sender as Channel},
    lock::Semaphore,
};

use super::{
    backoff,
    ephemeral_edus::{self, EphemeralEdus, MAX_EDUS},
    ledger::Ledger,
    outgoing_events,
    stored_edus::StoredEdus,
};
use crate::{
    clock::{Clock, as_ms},
    executor::Executor,
    federation::Client,
    rooms::{self, Local, servers},
    store::{self, EventNum, Position, ServerNum, Snapshot, Store, Tx, UserNum, records::Backoff},
};

/// How many events a transaction may have.
///
/// Source: server-server API, "Transactions".
pub const MAX_PDUS: usize = 50;
/// A destination with more events in its queue gets a cursor instead.
const MAX_QUEUED_EVENTS: usize = 200;
/// How many transactions are under way at once: to servers that share a room and answer, and to others.
const MAX_TRANSACTIONS: usize = 48;
const MAX_OTHER_TRANSACTIONS: usize = 16;
pub const MAX_ALL_TRANSACTIONS: usize = MAX_TRANSACTIONS + MAX_OTHER_TRANSACTIONS;
/// With so many destinations, one that fails gives way to a server that shares no room, or that one waits
/// until there are fewer.
pub const MAX_DESTINATIONS: usize = 4096;
const SAVE_SENT_INTERVAL: Duration = Duration::from_mins(1);
/// While the backoff of a server has no longer interval, it counts as reachable.
const MAX_INTERVAL_REACHABLE: Duration = Duration::from_mins(5);

/// What the tasks of all destinations share.
pub struct Queues {
    pub store: Store,
    pub local: Local,
    pub client: Client,
    pub clock: Clock,
    pub executor: Executor,
    /// Whether other servers receive the names of devices.
    pub device_names: bool,
    /// Wakes the task that relays new rows of `outgoing`.
    pub wake_relay: Channel<()>,
    pub relay_woken: Receiver<()>,
    /// Wakes the task that finds destinations with stored EDUs.
    pub wake_pending: Channel<()>,
    pub pending_woken: Receiver<()>,
    /// Wakes who waits for what servers have got.
    pub wake_waiting: Channel<()>,
    pub waiting_woken: Receiver<()>,
    /// One scan at a time, of all destinations: clients must find a slot of the pool free.
    pub scans: Semaphore,
    /// The first part of transaction ids, which no other run of this server uses.
    pub run_id: u64,
    pub transactions: AtomicU64,
    /// For servers that share a room and answer, and for others.
    pub turns: [Arc<Semaphore>; 2],
    pub ledger: Ledger,
    pub state: Mutex<State>,
}

#[derive(Default)]
pub struct State {
    /// The position of the last event that was relayed.
    pub relayed: Position,
    pub destinations: HashMap<ServerNum, Destination>,
    /// When the counter `sent` was saved, and what it was.
    pub saved: Option<(Position, Instant)>,
    pub changes: Changes,
    /// Whether a server has no destination because there were too many.
    pub is_overfull: bool,
}

/// Changes whose destinations are not known yet.
#[derive(Debug, Default)]
pub struct Changes {
    /// Local users whose devices changed. Each is looked up once after a burst of changes.
    pub users: BTreeSet<UserNum>,
    /// Servers for which there are stored EDUs.
    pub servers: BTreeSet<ServerNum>,
    /// Any server may have stored EDUs to receive.
    pub all: bool,
}

/// A server that has something to receive.
pub struct Destination {
    /// Empty if there is a cursor.
    pub events: VecDeque<(Position, EventNum)>,
    /// The first position that it may lack, as `destination_cursors` has it.
    pub cursor: Option<Position>,
    pub edus: EphemeralEdus,
    /// Whether the last transaction failed.
    pub is_failing: bool,
    /// Whether its task waits because of an error of this server.
    pub is_stuck: bool,
    /// Whether it gets an empty transaction if there is nothing else to send.
    pub announce_restart: bool,
    /// Notifies its task that the server has sent a request.
    pub alive: Channel<()>,
}

/// What goes into the next transaction, beside stored EDUs.
#[derive(Default)]
pub struct Next {
    pub events: Vec<(Position, EventNum)>,
    pub edus: Vec<Edu>,
    pub announce_restart: bool,
    /// The receipts among `edus`, which are queued again if the transaction fails.
    pub receipts: ephemeral_edus::Receipts,
}

impl Destination {
    pub fn new(cursor: Option<Position>, alive: Channel<()>) -> Self {
        Self {
            events: VecDeque::new(),
            cursor,
            edus: EphemeralEdus::default(),
            is_failing: false,
            is_stuck: false,
            announce_restart: false,
            alive,
        }
    }

    /// Whether its server does not answer, and nothing is only here.
    fn gives_way(&self) -> bool {
        self.is_failing && self.cursor.is_none() && self.events.is_empty() && self.edus.is_empty()
    }
}

/// The turns of all destinations.
pub fn turns() -> [Arc<Semaphore>; 2] {
    [MAX_TRANSACTIONS, MAX_OTHER_TRANSACTIONS].map(|max| Arc::new(Semaphore::new(max)))
}

impl Queues {
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held during a transaction to `server`, whose last one failed if it `is_failing`. What a transaction
    /// needs is allocated only then.
    pub fn turns(&self, server: ServerNum, is_failing: bool) -> Arc<Semaphore> {
        let shares_room = self.store.read(|s| servers::shares_room(s, server));
        let is_preferred = !is_failing && shares_room.unwrap_or(false);
        self.turns[usize::from(!is_preferred)].clone()
    }

    /// Whether this server federates with `server`.
    pub fn is_allowed(&self, server: ServerNum) -> Result<bool, rooms::Error> {
        let name = self.store.read(|s| servers::name(s, server))?;
        Ok(self.client.may_contact(&name))
    }

    pub fn transaction_id(&self) -> String {
        let count = self.transactions.fetch_add(1, Ordering::Relaxed);
        format!("{:x}.{count}", self.run_id)
    }

    /// Scans what grows. It waits until the pool has a free slot.
    pub async fn scan<T: Send + 'static>(
        &self,
        name: &'static str,
        scan: impl FnOnce(&Snapshot) -> Result<T, rooms::Error> + Send + 'static,
    ) -> Result<T, rooms::Error> {
        let _turn = self.scans.acquire().await;
        self.store.scan_in_background(name, scan).await
    }

    /// The stored EDUs that `server` receives next, at most `max`.
    pub async fn stored_edus(
        &self,
        server: ServerNum,
        max: usize,
    ) -> Result<StoredEdus, rooms::Error> {
        loop {
            let next = |s: &_| StoredEdus::next(s, server, max, self.device_names);
            let stored = self.store.read(next)?;
            if !stored.edus.is_empty() || !stored.advances() {
                return Ok(stored);
            }
            // None of the rows that were read is for this server.
            let job = move |tx: &Tx| stored.acknowledged(tx, server);
            self.store.write(job).await?;
        }
    }

    /// Takes what `server` receives next beside `stored` EDUs out of its queue, at most `max` events and
    /// EDUs in all. A destination that has nothing to receive is removed, and its task is to end.
    pub fn next(&self, server: ServerNum, max: usize, stored: usize) -> Next {
        let mut state = self.lock();
        let Some(destination) = state.destinations.get_mut(&server) else {
            return Next::default();
        };
        let left = max.saturating_sub(stored);
        let events = destination.events.iter().take(left.min(MAX_PDUS));
        let events: Vec<_> = events.copied().collect();
        let left = (left - events.len()).min(MAX_EDUS.saturating_sub(stored));
        let receipts = destination.edus.receipts();
        let next = Next {
            events,
            edus: destination.edus.take(left),
            announce_restart: std::mem::take(&mut destination.announce_restart),
            receipts,
        };
        if next.is_empty() && stored == 0 {
            state.destinations.remove(&server);
            if state.destinations.len() < MAX_DESTINATIONS / 2
                && std::mem::take(&mut state.is_overfull)
            {
                state.changes.all = true;
                let _ = self.wake_pending.try_send(());
            }
        }
        next
    }

    /// Whether `server` has answered lately, as far as is known, and nothing of this server keeps it from getting
    /// what waits. One failed transaction, as when it restarts, says little.
    pub fn is_reachable(&self, server: ServerNum) -> bool {
        let backoff = self.backoff(server);
        let is_silent = backoff.is_some_and(|it| it.interval_ms > as_ms(MAX_INTERVAL_REACHABLE));
        let state = self.lock();
        let destination = state.destinations.get(&server);
        let is_stuck = destination.is_some_and(|queue| queue.is_stuck);
        drop(state);
        !is_silent && !is_stuck && self.is_allowed(server).unwrap_or(false)
    }

    /// Whether `server` has got what there is for it up to `position`.
    pub fn has_sent(&self, server: ServerNum, position: Position) -> bool {
        let state = self.lock();
        let is_sent = |destination: &Destination| {
            let first = destination.events.front().map(|(first, _)| *first);
            first.is_none_or(|first| first > position)
                && destination.cursor.is_none_or(|cursor| cursor > position)
        };
        state.relayed >= position && state.destinations.get(&server).is_none_or(is_sent)
    }

    /// Updates the queue of `server` after a transaction with the contents of `next`.
    pub fn finish_transaction(&self, server: ServerNum, is_acknowledged: bool, next: Next) {
        self.wake_waiting();
        let mut state = self.lock();
        let Some(destination) = state.destinations.get_mut(&server) else {
            return;
        };
        destination.is_failing = !is_acknowledged;
        destination.is_stuck = false;
        if is_acknowledged {
            let last = next.events.last().map(|(position, _)| *position);
            let events = &mut destination.events;
            events.retain(|(position, _)| Some(*position) > last);
        } else {
            destination.edus.put_back(next.receipts);
        }
    }

    pub fn set_stuck(&self, server: ServerNum) {
        if let Some(destination) = self.lock().destinations.get_mut(&server) {
            destination.is_stuck = true;
        }
    }

    /// Removes the cursor of `server` in memory, unless events were relayed since `relayed`; whether it
    /// did.
    pub fn remove_cursor(&self, server: ServerNum, relayed: Position) -> bool {
        let mut state = self.lock();
        let is_caught_up = state.relayed == relayed;
        if is_caught_up && let Some(destination) = state.destinations.get_mut(&server) {
            destination.cursor = None;
        }
        drop(state);
        self.wake_waiting();
        is_caught_up
    }

    /// Stores that `server` may lack everything from `cursor` on. Its queue is emptied.
    pub async fn set_cursor(
        &self,
        server: ServerNum,
        cursor: Position,
    ) -> Result<(), rooms::Error> {
        let job = move |tx: &Tx| outgoing_events::set_cursor(tx, server, cursor);
        self.store.write(job).await?;
        if let Some(destination) = self.lock().destinations.get_mut(&server) {
            destination.events.clear();
            destination.cursor = Some(cursor);
        }
        self.wake_waiting();
        Ok(())
    }

    fn wake_waiting(&self) {
        // A full channel has woken them already.
        let _ = self.wake_waiting.try_send(());
    }

    /// Adds an event to the queue of `server`, or sets its cursor if the queue is full. The destination
    /// exists.
    pub async fn enqueue(
        &self,
        server: ServerNum,
        position: Position,
        event: EventNum,
    ) -> Result<(), rooms::Error> {
        let first = {
            let mut state = self.lock();
            let Some(destination) = state.destinations.get_mut(&server) else {
                return Ok(());
            };
            if destination.cursor.is_some() {
                return Ok(());
            }
            destination.events.push_back((position, event));
            if destination.events.len() <= MAX_QUEUED_EVENTS {
                return Ok(());
            }
            destination.events.front().map(|(first, _)| *first)
        };
        match first {
            Some(first) => self.set_cursor(server, first).await,
            None => Ok(()),
        }
    }

    /// Saves the counter `sent` and removes rows of `outgoing` that nobody needs, unless that was done
    /// lately.
    pub async fn save_sent(&self) -> Result<(), rooms::Error> {
        let sent = {
            let mut state = self.lock();
            let queues = state.destinations.values();
            let first = queues.filter_map(|destination| destination.events.front());
            let before_first = first
                .map(|(position, _)| Position(position.0.saturating_sub(1)))
                .min();
            let sent = before_first.unwrap_or(state.relayed);
            let is_due = state
                .saved
                .is_none_or(|(saved, at)| saved < sent && at.elapsed() > SAVE_SENT_INTERVAL);
            if !is_due {
                return Ok(());
            }
            state.saved = Some((sent, Instant::now()));
            sent
        };
        let job = move |tx: &Tx| outgoing_events::save_sent(tx, sent);
        self.store.write_deferred(job).await
    }

    pub fn backoff(&self, server: ServerNum) -> Option<Backoff> {
        let backoff = self.store.read(|s| backoff::load(s, server));
        backoff.unwrap_or_else(|error| {
            log::error!(
                "the backoff of {} cannot be read: {error}",
                self.name(server)
            );
            None
        })
    }

    pub fn save_backoff(&self, server: ServerNum, backoff: Backoff, now: u64) {
        self.write_backoff(server, move |tx| backoff::save(tx, server, &backoff, now));
    }

    pub fn clear_backoff(&self, server: ServerNum) {
        self.write_backoff(server, move |tx| backoff::clear(tx, server));
    }

    /// Whether there is space for another destination. If not, one that fails gives way, if all that it has
    /// to receive is stored: it comes back when there are fewer, or when its server sends a request.
    pub fn make_space(&self) -> bool {
        let mut state = self.lock();
        if state.destinations.len() < MAX_DESTINATIONS {
            return true;
        }
        state.is_overfull = true;
        let mut all = state.destinations.iter();
        let failing = all.find(|(_, destination)| destination.gives_way());
        let failing = failing.map(|(server, _)| *server);
        failing.is_some_and(|server| state.destinations.remove(&server).is_some())
    }

    /// For log lines.
    pub fn name(&self, server: ServerNum) -> String {
        let name = self.store.read(|s| servers::name(s, server));
        name.map_or_else(
            |_| "a server with an unreadable name".to_owned(),
            Into::into,
        )
    }

    /// Queues a write that nobody waits for.
    fn write_backoff(
        &self,
        server: ServerNum,
        job: impl Fn(&Tx) -> Result<(), rooms::Error> + Send + Sync + 'static,
    ) {
        let (store, name) = (self.store.clone(), self.name(server));
        let write = async move {
            match store.write_deferred(job).await {
                Ok(()) | Err(rooms::Error::Store(store::Error::Closed)) => {}
                Err(error) => log::debug!("the backoff of {name} cannot be stored: {error}"),
            }
        };
        self.executor.spawn(write).detach();
    }
}

impl Next {
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.edus.is_empty() && !self.announce_restart
    }
}
