//! Creates destinations and their tasks, and relays to them what is new.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, Weak, atomic::AtomicU64},
};

use ruma::ServerName;
use smol::{
    channel::{self, Receiver},
    lock::Semaphore,
};

use super::{
    destination,
    ephemeral_edus::EphemeralEdu,
    ledger::Ledger,
    outgoing_events, pending_destinations,
    queues::{Destination, MAX_ALL_TRANSACTIONS, Queues, turns},
};
use crate::{
    clock::Clock,
    executor::{Executor, Slices},
    federation::Client,
    rooms::{self, Local, deletion::run::OutgoingQueue, servers},
    store::{self, Effect, Position, ServerNum, Store, UserNum},
    users,
};

/// How many servers are looked up, and get tasks, before other tasks get their turn.
const SERVERS_PER_SLICE: usize = 32;
/// How many rows of `outgoing` are read at once.
const RELAY_BATCH: usize = 100;
/// How many servers receive a transaction after a start in any case.
pub(super) const MAX_RESTART_ANNOUNCEMENTS: usize = 200;

/// Sends transactions. Clones are the same.
#[derive(Clone)]
pub struct Sender(pub(super) Arc<Queues>);

impl Sender {
    /// A sender of no events and stored EDUs before [`resume`](Self::resume).
    pub fn new(
        store: &Store,
        local: &Local,
        client: &Client,
        device_names: bool,
        clock: &Clock,
        executor: &Executor,
    ) -> Self {
        let (wake_relay, relay_woken) = channel::bounded(1);
        let (wake_pending, pending_woken) = channel::bounded(1);
        let (wake_waiting, waiting_woken) = channel::bounded(1);
        Self(Arc::new(Queues {
            store: store.clone(),
            local: local.clone(),
            client: client.with_own_slots(MAX_ALL_TRANSACTIONS),
            clock: clock.clone(),
            executor: executor.clone(),
            device_names,
            wake_relay,
            relay_woken,
            wake_pending,
            pending_woken,
            wake_waiting,
            waiting_woken,
            scans: Semaphore::new(1),
            run_id: rand::random(),
            transactions: AtomicU64::new(0),
            turns: turns(),
            ledger: Ledger::new(store, clock, executor),
            state: Mutex::default(),
        }))
    }

    /// Goes on with what was not acknowledged when the server stopped.
    pub fn resume(&self) -> Result<(), rooms::Error> {
        let queues = &self.0;
        let (sent, cursors, others) = queues.store.read(|s| {
            let others = servers::all(s)?.into_iter();
            let others = others.filter(|(_, name)| queues.client.may_contact(name));
            let others: Vec<_> = others.map(|(server, _)| server).collect();
            let (sent, cursors) = (outgoing_events::sent(s)?, outgoing_events::cursors(s)?);
            Ok::<_, rooms::Error>((sent, cursors, others))
        })?;
        queues.lock().relayed = sent;
        for (server, cursor) in cursors {
            self.with_destination(server, |destination| destination.cursor = Some(cursor));
        }
        for server in others.into_iter().take(MAX_RESTART_ANNOUNCEMENTS) {
            self.with_destination(server, |destination| destination.announce_restart = true);
        }
        let pending = run_pending(Arc::downgrade(queues), queues.pending_woken.clone());
        queues.executor.spawn(pending).detach();
        let relay = run_relay(Arc::downgrade(queues), queues.relay_woken.clone());
        queues.executor.spawn(relay).detach();
        self.check_all_destinations();
        self.wake_relay();
        Ok(())
    }

    /// Must be called with every effect.
    pub fn apply(&self, effect: &Effect) {
        match effect {
            Effect::Outgoing => self.wake_relay(),
            // One commit may have thousands of these.
            Effect::ServerAddressed(server) => {
                self.0.lock().changes.servers.insert(*server);
                self.wake_pending();
            }
            Effect::DeviceListChanged(user, _) => self.device_list_changed(*user),
            Effect::Reopened => self.store_reopened(),
            _ => {}
        }
    }

    /// Effects may have been lost, and tasks that failed because of the store may go on.
    fn store_reopened(&self) {
        self.wake_relay();
        self.check_all_destinations();
        for destination in self.0.lock().destinations.values_mut() {
            if std::mem::take(&mut destination.is_stuck) {
                let _ = destination.alive.try_send(());
            }
        }
    }

    fn wake_relay(&self) {
        // A task that is woken already will see everything.
        let _ = self.0.wake_relay.try_send(());
    }

    fn wake_pending(&self) {
        let _ = self.0.wake_pending.try_send(());
    }

    /// `server` has sent a request, so it is up: its backoff ends.
    pub fn end_backoff(&self, server: &ServerName) {
        let Ok(Some(num)) = self.0.store.read(|s| servers::num(s, server)) else {
            return;
        };
        if self.0.backoff(num).is_some() {
            self.0.clear_backoff(num);
        }
    }

    /// Sends what waits for `server`, which is up. Called when its request has been handled: that may be an
    /// invitation, which makes the rejection of an earlier one void.
    pub fn wake(&self, server: &ServerName) {
        let Ok(Some(num)) = self.0.store.read(|s| servers::num(s, server)) else {
            return;
        };
        let mut state = self.0.lock();
        if let Some(destination) = state.destinations.get(&num) {
            let _ = destination.alive.try_send(());
        } else if state.is_overfull {
            state.changes.servers.insert(num);
            drop(state);
            self.wake_pending();
        }
    }

    /// Sends an EDU to each of `servers` that this server federates with. To a server that does not answer
    /// only receipts are sent, which do not become outdated. All of them get it even if the caller stops
    /// waiting.
    pub async fn send_edu(
        &self,
        servers: Vec<ServerNum>,
        edu: EphemeralEdu,
    ) -> Result<(), rooms::Error> {
        let sender = self.clone();
        let enqueue = async move { sender.enqueue_edu(servers, &edu).await };
        let result = self.0.executor.spawn_and_wait(enqueue).await;
        // The panic hook has logged it.
        result.unwrap_or(Ok(()))
    }

    pub(super) async fn enqueue_edu(
        &self,
        servers: Vec<ServerNum>,
        edu: &EphemeralEdu,
    ) -> Result<(), rooms::Error> {
        let mut slices = Slices::of(SERVERS_PER_SLICE);
        for server in servers {
            slices.step().await;
            if !self.0.is_allowed(server)? {
                continue;
            }
            self.with_destination(server, |destination| {
                if !destination.is_failing || matches!(edu, EphemeralEdu::Receipt { .. }) {
                    destination.edus.put(edu.clone());
                }
            });
        }
        Ok(())
    }

    /// Calls `update` with the destination `server`. A new one gets a task, which does not run before the
    /// lock on the state is released.
    pub(super) fn with_destination(
        &self,
        server: ServerNum,
        update: impl FnOnce(&mut Destination),
    ) {
        let mut state = self.0.lock();
        let destination = state.destinations.entry(server).or_insert_with(|| {
            let (alive, is_alive) = channel::bounded(1);
            let queues = Arc::downgrade(&self.0);
            let task = destination::run(queues, server, is_alive);
            self.0.executor.spawn(task).detach();
            Destination::new(None, alive)
        });
        update(destination);
    }

    /// The tasks of some servers run before those of the next are started.
    async fn wake_destinations(&self, servers: BTreeSet<ServerNum>) {
        let mut slices = Slices::of(SERVERS_PER_SLICE);
        for server in servers {
            self.wake_destination(server);
            slices.step().await;
        }
    }

    /// There are stored EDUs for `server`.
    fn wake_destination(&self, server: ServerNum) {
        match self.0.is_allowed(server) {
            Ok(true) if self.has_precedence(server) || self.0.make_space() => {
                self.with_destination(server, |_| {});
            }
            Ok(true) => {}
            Ok(false) => {}
            Err(error) => {
                let name = self.0.name(server);
                log::error!("the EDUs for {name} are sent only after a restart: {error}");
            }
        }
    }

    /// Whether `server` waits for no other destination: it has one, or shares a room.
    fn has_precedence(&self, server: ServerNum) -> bool {
        let has_destination = self.0.lock().destinations.contains_key(&server);
        let shares_room = || self.0.store.read(|s| servers::shares_room(s, server));
        has_destination || shares_room().unwrap_or(false)
    }

    /// The servers that share rooms with `user` receive the change, if it is a local user.
    fn device_list_changed(&self, user: UserNum) {
        match self.0.store.read(|s| users::id_of(s, user)) {
            Ok(user_id) if self.0.local.has(&user_id) => {
                self.0.lock().changes.users.insert(user);
                self.wake_pending();
            }
            Ok(_) => {}
            Err(error) => {
                let id = users::id_for_log(&self.0.store, user);
                log::error!("a device-list update of {id} is sent only after a restart: {error}");
            }
        }
    }

    /// Any server may have stored EDUs to receive.
    fn check_all_destinations(&self) {
        self.0.lock().changes.all = true;
        self.wake_pending();
    }

    /// Relays the next rows of `outgoing`; whether there were any.
    async fn relay(&self) -> Result<bool, rooms::Error> {
        let from = self.0.lock().relayed;
        let rows = self
            .0
            .store
            .read(|s| outgoing_events::after(s, from, RELAY_BATCH))?;
        let mut slices = Slices::of(SERVERS_PER_SLICE);
        for row in &rows {
            for server in &row.destinations {
                slices.step().await;
                if self.0.is_allowed(*server)? {
                    self.with_destination(*server, |_| {});
                    self.0.enqueue(*server, row.position, row.event).await?;
                }
            }
            self.0.lock().relayed = row.position;
        }
        Ok(!rows.is_empty())
    }
}

impl OutgoingQueue for Sender {
    fn is_reachable(&self, server: ServerNum) -> bool {
        self.0.is_reachable(server)
    }

    fn has_sent(&self, server: ServerNum, position: Position) -> bool {
        self.0.has_sent(server, position)
    }

    async fn changed(&self) {
        // It cannot fail: the queues have the sender.
        let _ = self.0.waiting_woken.recv().await;
    }
}

/// Relays events whenever it is woken, until the sender is dropped.
async fn run_relay(queues: Weak<Queues>, woken: Receiver<()>) {
    while woken.recv().await.is_ok() {
        let Some(sender) = queues.upgrade().map(Sender) else {
            return;
        };
        loop {
            match sender.relay().await {
                Ok(true) => {}
                Ok(false) => break,
                Err(rooms::Error::Store(store::Error::Closed)) => return,
                Err(error) => {
                    log::error!("no events are sent to other servers for now: {error}");
                    break;
                }
            }
        }
    }
}

/// Creates the destinations that have stored EDUs to receive, until the sender is dropped.
async fn run_pending(queues: Weak<Queues>, woken: Receiver<()>) {
    while woken.recv().await.is_ok() {
        let Some(sender) = queues.upgrade().map(Sender) else {
            return;
        };
        let mut changes = std::mem::take(&mut sender.0.lock().changes);
        let addressed = std::mem::take(&mut changes.servers);
        sender.wake_destinations(addressed).await;
        match pending_destinations::find(&sender.0, changes).await {
            Ok(servers) => sender.wake_destinations(servers).await,
            Err(error) => log::error!(
                "to-device messages and device-list updates are not sent to other servers for now: {error}"
            ),
        }
    }
}
