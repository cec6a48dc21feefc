//! Sending to other servers what happens here.
//!
//! The table `outgoing` has every event that others are to get, by position. One task reads it as it
//! grows and hands each event to the servers that are to get it; a task for each server sends them in
//! order, one transaction at a time. A server that does not take them gets a row in `behind`, and its
//! task goes on from there, as patiently as the server is long gone: how long it rests is stored too.
//!
//! The number `sent` says up to where every server has everything or is in `behind`. It is written
//! now and then: what lies behind it at a start is sent again, and every server knows an event that it
//! has already.
//!
//! Messages to devices wait in the table `outbound_to_device` and go into whatever transaction is next, ahead
//! of typing, receipts and presence, which are in memory only.
//!
//! Who is to hear of changes of devices is found from `told_lists` at a start, and when the store was
//! opened again (`addressing.rs`).
//!
//! After a start every server in a room with users of this one is sent a transaction, an empty one if
//! need be: who had given up on this one hears that it is back.
//!
//! Source: server-server API, "Transactions".

mod addressing;
pub mod backoff;
mod destination;
mod durable;
mod edus;
pub mod rest;
mod rows;

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use ruma::{ServerName, api::federation::transactions::edu::Edu};
use smol::{
    Task,
    channel::{self, Receiver, Sender as Channel},
    lock::Semaphore,
};

pub use self::edus::Happening;
use self::{
    addressing::Unheard,
    destination::work,
    durable::Durable,
    edus::{EDUS, Edus},
};
use super::Client;
use crate::{
    clock::Clock,
    executor::Executor,
    rooms::{self, Local, servers},
    store::{self, Effect, EventNum, Position, ServerNum, Snapshot, Store, Tx, records::Rest},
};

/// How many events a transaction has at the most.
const PDUS: usize = 50;
/// How many rows of `outgoing` are read at once.
const ROWS: usize = 100;
/// How many events wait in memory for one server; one that has more to get is behind.
const WAITING: usize = 200;
/// How many servers are told at a start that this one is back.
const GREETED: usize = 200;
/// How often, at the most, it is noted how far everybody is.
const NOTED: Duration = Duration::from_mins(1);

/// Sends. Clones are the same.
#[derive(Clone)]
pub struct Sender(Arc<Parts>);

struct Parts {
    store: Store,
    local: Local,
    client: Client,
    clock: Clock,
    executor: Executor,
    wake: Channel<()>,
    /// Says that somebody is to be addressed.
    unheard: Channel<()>,
    /// One scan at a time, of all servers: clients are to find a slot of the pool free.
    scans: Semaphore,
    /// Names this start's transactions.
    start: u64,
    transactions: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The last position that was handed out.
    handed: Position,
    destinations: HashMap<ServerNum, Destination>,
    noted: Option<(Position, Instant)>,
    /// Of what servers may not have heard.
    unheard: Unheard,
}

/// A server that has something to get.
struct Destination {
    /// What it gets next. Empty if it is behind.
    waiting: VecDeque<(Position, EventNum)>,
    /// From where on it lacks everything, as `behind` has it.
    behind: Option<Position>,
    /// What it is told beside events.
    edus: Edus,
    /// Whether it did not take the last transaction.
    fails: bool,
    /// Whether it waits because something went wrong here.
    is_stuck: bool,
    /// Whether it is to hear that this server is back, if there is nothing else to say.
    greets: bool,
    /// Says that it is there.
    alive: Channel<()>,
    task: Task<()>,
}

/// What a server gets next.
#[derive(Default)]
struct Next {
    events: Vec<(Position, EventNum)>,
    edus: Vec<Edu>,
    greets: bool,
    /// The receipts among them, for the case that it does not get them.
    receipts: edus::Receipts,
}

impl Sender {
    /// Goes on with what others had not got when the server stopped.
    pub fn start(
        (store, local): (&Store, &Local),
        (client, clock): (&Client, &Clock),
        executor: &Executor,
    ) -> Result<Self, rooms::Error> {
        let (wake, woken) = channel::bounded(1);
        let (unheard, is_unheard) = channel::bounded(1);
        let sender = Self(Arc::new(Parts {
            store: store.clone(),
            local: local.clone(),
            client: client.clone(),
            clock: clock.clone(),
            executor: executor.clone(),
            wake,
            unheard,
            scans: Semaphore::new(1),
            start: rand::random(),
            transactions: AtomicU64::new(0),
            state: Mutex::default(),
        }));
        let (sent, behind, others) = store.read(|s| {
            let others = servers::all(s)?.into_iter();
            let others = others.filter(|(_, name)| client.may_ask(name));
            let others: Vec<_> = others.map(|(server, _)| server).collect();
            Ok::<_, rooms::Error>((rows::sent(s)?, rows::behind(s)?, others))
        })?;
        let mut state = sender.lock();
        state.handed = sent;
        for (server, from) in behind {
            let destination = sender.destination(server, Some(from));
            state.destinations.insert(server, destination);
        }
        for server in others.into_iter().take(GREETED) {
            let new = || sender.destination(server, None);
            let destination = state.destinations.entry(server).or_insert_with(new);
            destination.greets = true;
        }
        drop(state);
        let weak = Arc::downgrade(&sender.0);
        let addressing = executor.spawn(async move {
            addressing::work(&weak, &is_unheard).await;
        });
        addressing.detach();
        sender.look_at_all();
        let weak = Arc::downgrade(&sender.0);
        let handing = executor.spawn(async move {
            hand_out(&weak, &woken).await;
        });
        handing.detach();
        sender.wake();
        Ok(sender)
    }

    /// To be told of every effect.
    pub fn apply(&self, effect: &Effect) {
        match effect {
            Effect::Outgoing => self.wake(),
            Effect::ServerAddressed(server) => self.address(*server),
            Effect::DeviceListChanged(user, _) => self.list_changed(*user),
            Effect::Reopened => self.start_over(),
            _ => {}
        }
    }

    /// The store may have what nobody was told of, and those that failed at it may go on.
    fn start_over(&self) {
        self.wake();
        self.look_at_all();
        for destination in self.lock().destinations.values_mut() {
            if std::mem::take(&mut destination.is_stuck) {
                let _ = destination.alive.try_send(());
            }
        }
    }

    /// What `server` is to get next of what lasts, `most` messages or one more.
    async fn durable(&self, server: ServerNum, most: usize) -> Result<Durable, rooms::Error> {
        loop {
            let durable = self.0.store.read(|s| Durable::next(s, server, most))?;
            if !durable.edus.is_empty() || !durable.is_to_be_noted() {
                return Ok(durable);
            }
            // Nothing of what was looked at is for it.
            let job = move |tx: &Tx| durable.taken(tx, server);
            self.0.store.write(job).await?;
        }
    }

    /// Reads what grows, however busy the pool is.
    async fn scan<T: Send + 'static>(
        &self,
        name: &'static str,
        scan: impl FnOnce(&Snapshot) -> Result<T, rooms::Error> + Send + 'static,
    ) -> Result<T, rooms::Error> {
        let _turn = self.0.scans.acquire().await;
        self.0.store.scan_whenever(name, scan).await
    }

    fn wake(&self) {
        // Who is woken already looks at everything.
        let _ = self.0.wake.try_send(());
    }

    /// `server` has shown that it is there.
    pub fn alive(&self, server: &ServerName) {
        let Ok(Some(num)) = self.0.store.read(|s| servers::num(s, server)) else {
            return;
        };
        if self.rest(num).is_some() {
            self.end_rest(num);
        }
        if let Some(destination) = self.lock().destinations.get(&num) {
            let _ = destination.alive.try_send(());
        }
    }

    /// How long `server` rests, if it does.
    fn rest(&self, server: ServerNum) -> Option<Rest> {
        let rest = self.0.store.read(|s| rest::of(s, server));
        rest.unwrap_or_else(|error| {
            log::error!("cannot read whether a server rests: {error}");
            None
        })
    }

    fn note_rest(&self, server: ServerNum, rest: Rest, now: u64) {
        self.write_soon(move |tx: &Tx| rest::put(tx, server, &rest, now));
    }

    fn end_rest(&self, server: ServerNum) {
        self.write_soon(move |tx: &Tx| rest::end(tx, server));
    }

    /// Writes what nobody waits for.
    fn write_soon(&self, job: impl Fn(&Tx) -> Result<(), rooms::Error> + Send + Sync + 'static) {
        let store = self.0.store.clone();
        let write = async move {
            match store.write_soon(job).await {
                Ok(()) | Err(rooms::Error::Store(store::Error::Closed)) => {}
                Err(error) => log::debug!("cannot note how long a server rests: {error}"),
            }
        };
        self.0.executor.spawn(write).detach();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A server with its task, which does not begin before the lock on the state is released.
    fn destination(&self, server: ServerNum, behind: Option<Position>) -> Destination {
        let (alive, is_alive) = channel::bounded(1);
        let sender = Arc::downgrade(&self.0);
        let task = self.0.executor.spawn(async move {
            work(&sender, server, &is_alive).await;
        });
        Destination {
            waiting: VecDeque::new(),
            behind,
            edus: Edus::default(),
            fails: false,
            is_stuck: false,
            greets: false,
            alive,
            task,
        }
    }

    /// Tells `to` something that is not stored, as soon as may be. To a server that does not answer
    /// only what it can still use later is told.
    pub fn tell(&self, to: &[ServerNum], happening: &Happening) -> Result<(), rooms::Error> {
        for server in to {
            let name = self.0.store.read(|s| servers::name(s, *server))?;
            if !self.0.client.may_ask(&name) {
                continue;
            }
            let mut state = self.lock();
            let new = || self.destination(*server, None);
            let destination = state.destinations.entry(*server).or_insert_with(new);
            if !destination.fails || matches!(happening, Happening::Read { .. }) {
                destination.edus.put(happening.clone());
            }
        }
        Ok(())
    }

    /// What `server` gets next beside so much that is `durable`, `most` of everything together. If that is
    /// nothing, its task is about to end, and the next event makes a new one.
    fn next(&self, server: ServerNum, most: usize, durable: usize) -> Next {
        let mut state = self.lock();
        let Some(destination) = state.destinations.get_mut(&server) else {
            return Next::default();
        };
        let room = most.saturating_sub(durable);
        let events = destination.waiting.iter().take(room.min(PDUS));
        let events: Vec<_> = events.copied().collect();
        let receipts = destination.edus.receipts();
        let room = (room - events.len()).min(EDUS.saturating_sub(durable));
        let edus = destination.edus.take(room);
        let greets = std::mem::take(&mut destination.greets);
        if events.is_empty()
            && edus.is_empty()
            && durable == 0
            && !greets
            && let Some(destination) = state.destinations.remove(&server)
        {
            destination.task.detach();
        }
        Next {
            events,
            edus,
            greets,
            receipts,
        }
    }

    /// Notes that the task of `server` cannot go on.
    fn is_stuck(&self, server: ServerNum) {
        if let Some(destination) = self.lock().destinations.get_mut(&server) {
            destination.is_stuck = true;
        }
    }

    /// Notes whether `server` has taken `next`.
    fn taken(&self, server: ServerNum, taken: bool, next: Next) {
        let mut state = self.lock();
        let Some(destination) = state.destinations.get_mut(&server) else {
            return;
        };
        destination.fails = !taken;
        destination.is_stuck = false;
        if taken {
            let last = next.events.last().map(|(position, _)| *position);
            let waiting = &mut destination.waiting;
            waiting.retain(|(position, _)| Some(*position) > last);
        } else {
            destination.edus.put_back(next.receipts);
        }
    }

    /// Whether nothing was handed out since `handed`: then `server` is not behind any more.
    fn is_up_to_date(&self, server: ServerNum, handed: Position) -> bool {
        let mut state = self.lock();
        let is_up_to_date = state.handed == handed;
        if is_up_to_date && let Some(destination) = state.destinations.get_mut(&server) {
            destination.behind = None;
        }
        is_up_to_date
    }

    /// Hands out the next rows; whether there were any.
    async fn hand_on(&self) -> Result<bool, rooms::Error> {
        let from = self.lock().handed;
        let rows = self.0.store.read(|s| rows::after(s, from, ROWS))?;
        for (position, event, to) in &rows {
            for server in to {
                self.hand(*server, (*position, *event)).await?;
            }
            self.lock().handed = *position;
        }
        Ok(!rows.is_empty())
    }

    async fn hand(
        &self,
        server: ServerNum,
        (position, event): (Position, EventNum),
    ) -> Result<(), rooms::Error> {
        let name = self.0.store.read(|s| servers::name(s, server))?;
        if !self.0.client.may_ask(&name) {
            return Ok(());
        }
        let first = {
            let mut state = self.lock();
            let new = || self.destination(server, None);
            let destination = state.destinations.entry(server).or_insert_with(new);
            if destination.behind.is_some() {
                return Ok(());
            }
            destination.waiting.push_back((position, event));
            if destination.waiting.len() <= WAITING {
                return Ok(());
            }
            destination.waiting.front().map(|(first, _)| *first)
        };
        match first {
            Some(first) => self.fall_behind(server, first).await,
            None => Ok(()),
        }
    }

    /// Notes that a server lacks everything from `from` on.
    async fn fall_behind(&self, server: ServerNum, from: Position) -> Result<(), rooms::Error> {
        let job = move |tx: &Tx| rows::fall_behind(tx, server, from);
        self.0.store.write(job).await?;
        if let Some(destination) = self.lock().destinations.get_mut(&server) {
            destination.waiting.clear();
            destination.behind = Some(from);
        }
        Ok(())
    }

    /// Notes how far everybody is, unless that was noted lately, and forgets what nobody needs.
    async fn note(&self) -> Result<(), rooms::Error> {
        let upto = {
            let mut state = self.lock();
            let waits = state.destinations.values();
            let first = waits.filter_map(|destination| destination.waiting.front());
            let first = first
                .map(|(position, _)| Position(position.0.saturating_sub(1)))
                .min();
            let upto = first.unwrap_or(state.handed);
            let is_news = state
                .noted
                .is_none_or(|(noted, at)| noted < upto && at.elapsed() > NOTED);
            if !is_news {
                return Ok(());
            }
            state.noted = Some((upto, Instant::now()));
            upto
        };
        self.0
            .store
            .write_soon(move |tx: &Tx| rows::note(tx, upto))
            .await
    }

    fn transaction_id(&self) -> String {
        let count = self.0.transactions.fetch_add(1, Ordering::Relaxed);
        format!("{:x}.{count}", self.0.start)
    }
}

/// Hands out what there is and what comes, until the sender is gone.
async fn hand_out(sender: &std::sync::Weak<Parts>, woken: &Receiver<()>) {
    while woken.recv().await.is_ok() {
        let Some(parts) = sender.upgrade() else {
            return;
        };
        let sender = Sender(parts);
        loop {
            match sender.hand_on().await {
                Ok(true) => {}
                Ok(false) => break,
                Err(rooms::Error::Store(store::Error::Closed)) => return,
                Err(error) => {
                    log::error!("cannot send to other servers: {error}");
                    break;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
