//! Receiving from a server that has a complete random history.

mod auth_chains;
mod missing_events;
mod queue;
mod states;
mod transactions;

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use ruma::{
    EventId, OwnedEventId, RoomId, RoomVersionId, ServerName, server_name, signatures::PublicKeyMap,
};
use serde_json::{json, value::RawValue};
use smol::future;

use super::{
    Error, EventSource, PduOutcome, PduReceiver, RawPdu, Room, RoomQueues,
    event_fetcher::is_processed,
    event_source::{ClaimedState, FetchError, Fetched},
};
use crate::{
    clock::Clock,
    executor::Executor,
    federation::{event_graph::IdBudget, event_response::EventResponse},
    pool::Pool,
    protocol::{
        Pdu, ServerKey,
        history::{Action, History, State},
        receive::{Incoming, ReceiveError, Received},
    },
    rooms::{
        self, Local,
        event::{self, insert::Notify, receive},
        room,
        servers::server_acl::ServerAcls,
        state::{self, current},
    },
    store::{EventNum, Options, Place, Reader, Records, RoomNum, Rows, Store, Tx},
};

const ALICE: &str = "@alice:a.example";
const BOB: &str = "@bob:b.example";

/// The limit of one response.
const MAX_EVENTS: usize = 10;

/// How many requests a peer got, and how many events of its responses were verified.
#[derive(Default)]
struct Counts {
    event: AtomicUsize,
    event_auth: AtomicUsize,
    state: AtomicUsize,
    verified: AtomicUsize,
}

/// A peer that has all of a history.
#[derive(Clone)]
struct Peer {
    history: Arc<History>,
    /// Whether it gives anything.
    is_available: Arc<AtomicBool>,
    /// How requests fail if not.
    failure: FetchError,
    requests: Arc<AtomicUsize>,
    /// How many requests of each kind it got.
    counts: Arc<Counts>,
    keys: Arc<PublicKeyMap>,
    /// The index of an event that it returns with a content nested 120 levels deep.
    deep: Option<usize>,
    /// The index of an event that it returns nested too deep even when it is redacted.
    refused: Option<usize>,
    /// The index of an event that it returns with all missing events and all states.
    unrelated: Option<usize>,
    /// Whether it gives states and history, but no missing events.
    withholds_missing_events: bool,
    /// How many events of an auth chain it returns, the newest.
    max_auth_chain: usize,
    /// Whether it gives auth chains of events, and those of states.
    gives_auth_chains: bool,
    gives_auth_chains_of_states: bool,
    /// The index of an event that it does not give.
    withheld: Option<usize>,
    /// A server of which no request for missing events gets a response.
    silent: Option<&'static ServerName>,
}

impl Peer {
    fn new(history: History) -> Self {
        let keys = ["a.example", "b.example", "c.example"].map(|server| {
            let key = History::key(server);
            let keys = [(key.id().to_string(), key.public_key())];
            (server.to_owned(), keys.into())
        });
        Self {
            history: Arc::new(history),
            is_available: Arc::new(AtomicBool::new(true)),
            failure: FetchError::Unavailable,
            requests: Arc::default(),
            keys: Arc::new(keys.into_iter().collect()),
            deep: None,
            refused: None,
            unrelated: None,
            withholds_missing_events: false,
            counts: Arc::default(),
            max_auth_chain: usize::MAX,
            gives_auth_chains: true,
            gives_auth_chains_of_states: true,
            withheld: None,
            silent: None,
        }
    }

    fn raw(&self, index: usize) -> RawPdu {
        let mut json = String::from_utf8(self.history.events[index].json.clone()).expect("JSON");
        if self.deep == Some(index) {
            json = json.replace(
                "\"content\":{",
                &format!("\"content\":{{\"deep\":{},", nested(120)),
            );
        }
        if self.refused == Some(index) {
            json = json.replace(
                "\"hashes\":{",
                &format!("\"hashes\":{{\"deep\":{},", nested(100)),
            );
        }
        RawValue::from_string(json).expect("JSON")
    }

    fn find(&self, id: &EventId) -> Result<usize, FetchError> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if !self.is_available.load(Ordering::Relaxed) {
            return Err(self.failure);
        }
        self.history.index(id).ok_or(FetchError::Unavailable)
    }

    fn state_before(&self, id: &EventId) -> Result<ClaimedState<usize>, FetchError> {
        let state = self.history.events[self.find(id)?].state_before.clone();
        let mut open: Vec<usize> = state.values().copied().collect();
        let mut chain = BTreeMap::new();
        while let Some(index) = open.pop() {
            for auth in &self.history.events[index].auth {
                if chain.insert(*auth, ()).is_none() {
                    open.push(*auth);
                }
            }
        }
        if !self.gives_auth_chains_of_states {
            chain.clear();
        }
        chain.retain(|index, _| self.withheld != Some(*index));
        let create = Some(0).filter(|_| !chain.contains_key(&0));
        Ok(ClaimedState {
            state: state.values().copied().collect(),
            auth_chain: chain.into_keys().chain(create).collect(),
        })
    }

    fn id(&self, index: usize) -> OwnedEventId {
        self.history.events[index].pdu.event_id().to_owned()
    }
}

impl EventSource for Peer {
    async fn missing_events(
        &self,
        server: &ServerName,
        _: &RoomId,
        earliest: Vec<OwnedEventId>,
        latest: Vec<OwnedEventId>,
    ) -> Result<Fetched<Vec<RawPdu>>, FetchError> {
        if self.silent == Some(server) {
            self.requests.fetch_add(1, Ordering::Relaxed);
            future::pending::<()>().await;
        }
        if self.withholds_missing_events {
            return Ok(Vec::new().into());
        }
        let mut found = Vec::new();
        // The newest first.
        let mut open = BTreeSet::new();
        for id in &latest {
            open.extend(&self.history.events[self.find(id)?].prev);
        }
        while let Some(index) = open.pop_last() {
            if !earliest.contains(&self.id(index))
                && !found.contains(&index)
                && found.len() < MAX_EVENTS
            {
                found.push(index);
                open.extend(&self.history.events[index].prev);
            }
        }
        found.extend(self.unrelated);
        found.retain(|index| self.withheld != Some(*index));
        let pdus = found.into_iter().map(|index| self.raw(index));
        Ok(pdus.collect::<Vec<_>>().into())
    }

    async fn state_ids(
        &self,
        _: &ServerName,
        _: &RoomId,
        event: &EventId,
    ) -> Result<Fetched<ClaimedState<OwnedEventId>>, FetchError> {
        let claimed = self.state_before(event)?;
        let claimed = ClaimedState {
            state: claimed
                .state
                .into_iter()
                .map(|index| self.id(index))
                .collect(),
            auth_chain: claimed
                .auth_chain
                .into_iter()
                .map(|index| self.id(index))
                .collect(),
        };
        Ok(claimed.into())
    }

    async fn state(
        &self,
        _: &ServerName,
        _: &RoomId,
        event: &EventId,
    ) -> Result<Fetched<ClaimedState<RawPdu>>, FetchError> {
        self.counts.state.fetch_add(1, Ordering::Relaxed);
        let claimed = self.state_before(event)?;
        let claimed = ClaimedState {
            state: claimed
                .state
                .into_iter()
                .map(|index| self.raw(index))
                .collect(),
            auth_chain: claimed
                .auth_chain
                .into_iter()
                .chain(self.unrelated)
                .map(|index| self.raw(index))
                .collect(),
        };
        Ok(claimed.into())
    }

    async fn event(&self, _: &ServerName, event: &EventId) -> Result<Fetched<RawPdu>, FetchError> {
        self.counts.event.fetch_add(1, Ordering::Relaxed);
        let index = self.find(event)?;
        if self.withheld == Some(index) {
            return Err(FetchError::Unavailable);
        }
        Ok(self.raw(index).into())
    }

    async fn event_auth(
        &self,
        server: &ServerName,
        room: &Room,
        event: &EventId,
    ) -> Result<EventResponse, FetchError> {
        self.counts.event_auth.fetch_add(1, Ordering::Relaxed);
        let event = &self.history.events[self.find(event)?];
        if !self.gives_auth_chains {
            return Err(FetchError::Unavailable);
        }
        let chain = self.history.auth_chain(event.auth.iter().copied());
        let mut chain = BTreeSet::from_iter(chain);
        chain.retain(|index| self.withheld != Some(*index));
        let newest = chain.into_iter().rev().take(self.max_auth_chain);
        let newest = newest.map(|index| self.raw(index)).collect();
        self.auth_chain_of(server, room, newest).await
    }

    async fn auth_chain_of(
        &self,
        _server: &ServerName,
        room: &Room,
        pdus: Vec<RawPdu>,
    ) -> Result<EventResponse, FetchError> {
        let (directory, ids) = (env::temp_dir(), IdBudget::new(usize::MAX));
        let response = EventResponse::of(&pdus, &directory, room.rules, &ids);
        Ok(response.expect("it is written"))
    }

    async fn backfill(
        &self,
        _: &ServerName,
        _: &RoomId,
        upto: Vec<OwnedEventId>,
    ) -> Result<Fetched<Vec<RawPdu>>, FetchError> {
        let mut found = BTreeSet::new();
        let mut open = BTreeSet::new();
        for id in &upto {
            open.insert(self.find(id)?);
        }
        while let Some(index) = open.pop_last() {
            if found.len() < MAX_EVENTS {
                found.insert(index);
                open.extend(&self.history.events[index].prev);
            }
        }
        let pdus = found.into_iter().map(|index| self.raw(index));
        Ok(pdus.collect::<Vec<_>>().into())
    }

    async fn verify(&self, events: Vec<Incoming>) -> Vec<Result<Received, ReceiveError>> {
        let verified = &self.counts.verified;
        verified.fetch_add(events.len(), Ordering::Relaxed);
        let checked = events.into_iter().map(|event| event.verify(&self.keys));
        checked.collect()
    }
}

/// The server a.example, which receives a room's events.
struct Server<'a> {
    store: &'a Store,
    receiver: PduReceiver<Peer>,
    queues: RoomQueues<Peer>,
    peer: Peer,
    room: RoomNum,
}

/// Runs `test` on a server that has a room of the peer's and its first `known` events.
fn with_server<T>(peer: &Peer, known: usize, test: impl AsyncFnOnce(&Server<'_>) -> T) -> T {
    let directory = tempfile::tempdir().expect("a directory");
    let options = Options {
        directory: directory.path().to_owned(),
        cache: 4 << 20,
    };
    let store = Store::open(&options, Pool::default()).expect("the store opens");
    let executor = Executor::default();
    smol::block_on(executor.run(async {
        let publishing = executor.spawn(store.clone().publish(|_| {}));
        let local = Local::new(server_name!("a.example").to_owned(), ServerKey::generate());
        let (id, version) = (
            peer.history.create_event().room_id().to_owned(),
            peer.history.version.clone(),
        );
        let room = store
            .write(move |tx: &Tx| room::create(tx, &id, &version))
            .await;
        let room = room.expect("the room is made");
        let server_acls = ServerAcls::new(&Clock::default());
        let receiver = PduReceiver::new(store.clone(), local, server_acls, peer.clone());
        let queues = RoomQueues::new(&executor, receiver.clone());
        queues.resume();
        let server = Server {
            store: &store,
            receiver,
            queues,
            peer: peer.clone(),
            room,
        };
        for index in 0..known {
            server.store(index).await;
        }
        let result = test(&server).await;
        drop(server);
        store.close().await;
        publishing.await;
        result
    }))
}

impl Server<'_> {
    /// Stores the next event of the history.
    async fn store(&self, index: usize) {
        let handed = &self.peer.history.events[index];
        let id = handed.pdu.event_id().to_owned();
        let pdu = Pdu::parse(id, &handed.json, self.peer.history.rules, false).expect("an event");
        let (room, json) = (self.room, handed.json.clone());
        let decision = self
            .store
            .read(|s| receive::decide(s, room, Arc::new(pdu), json, None))
            .expect("a decision");
        let local = Local::new(server_name!("a.example").to_owned(), ServerKey::generate());
        let job = move |tx: &Tx| receive::commit(tx, &local, &decision, &Notify::default());
        self.store.write(job).await.expect("it is stored");
    }

    /// Receives events of the history from b.example.
    async fn receive(
        &self,
        indices: &[usize],
    ) -> BTreeMap<OwnedEventId, Result<PduOutcome, String>> {
        let raw = indices.iter().map(|index| self.peer.raw(*index)).collect();
        let taken = self.receiver.receive(server_name!("b.example"), raw).await;
        let taken = taken.expect("the store works");
        if taken
            .values()
            .any(|taken| matches!(taken, Ok(PduOutcome::Queued(_))))
        {
            self.wake();
        }
        taken
    }

    /// Works off what b.example has sent to the queue.
    fn wake(&self) {
        self.queues.wake(self.room, "b.example");
    }

    /// Puts an event of the history in the queue.
    async fn enqueue(&self, origin: &ServerName, index: usize) -> Result<(), Error> {
        let room = self.store.read(|s| Room::load(s, self.room))?;
        let event = &self.peer.history.events[index];
        let event = Received {
            json: event.json.clone(),
            pdu: Pdu::clone(&event.pdu),
            redacted: false,
        };
        self.receiver.enqueue(origin, &room, event).await
    }

    /// The server that counts as the origin of a queued event.
    fn origin(&self, index: usize) -> String {
        let id = self.peer.id(index);
        let row = self.store.read(|s| {
            let row = s.waiting()?.load((self.room, id.as_str()))?;
            Ok::<_, rooms::Error>(row)
        });
        row.expect("a read").expect("it is queued").origin
    }

    fn queued(&self) -> usize {
        let rows = self
            .store
            .read(|s| Ok::<_, rooms::Error>(s.waiting()?.prefix(self.room)?.count()));
        rows.expect("a read")
    }

    /// Runs the tasks until the queue is empty.
    async fn queue_processed(&self) {
        while self.queued() > 0 {
            future::yield_now().await;
        }
    }

    fn has(&self, index: usize) -> bool {
        let id = self.peer.id(index);
        self.store.read(|s| is_processed(s, &id)).expect("a read")
    }

    /// Whether the event is here, if only as an outlier.
    fn knows(&self, index: usize) -> bool {
        let id = self.peer.id(index);
        let num = self.store.read(|s| event::num_of(s, &id));
        num.expect("a read").is_some()
    }

    fn index(&self, num: EventNum) -> usize {
        let id = self.store.read(|s| event::id(s, num)).expect("an event");
        self.peer
            .history
            .index(&id)
            .expect("an event of the history")
    }

    /// The last gap.
    fn gap(&self) -> Option<Place> {
        let rows = self.store.read(|s| {
            let gaps = s.gaps()?;
            let rows = gaps.range((self.room, Place::MIN)..=(self.room, Place::MAX))?;
            let last = rows.last().transpose()?.map(|(key, _)| key.value().1);
            Ok::<_, rooms::Error>(last)
        });
        rows.expect("a read")
    }

    /// The current state, by event ids.
    fn current(&self) -> BTreeMap<(String, String), String> {
        let state = self.store.read(|s| {
            let entries = current::all(s, self.room)?;
            let name = |(key, num)| {
                Ok::<_, rooms::Error>((
                    state::key_name(s, self.room, key)?,
                    event::header(s, num)?.id,
                ))
            };
            entries.into_iter().map(name).collect::<Result<_, _>>()
        });
        state.expect("a state")
    }

    fn named(&self, state: &State) -> BTreeMap<(String, String), String> {
        let name = |((kind, key), index): (&(_, String), &usize)| {
            let kind: &ruma::events::StateEventType = kind;
            (
                (kind.to_string(), key.clone()),
                self.peer.id(*index).to_string(),
            )
        };
        state.iter().map(name).collect()
    }
}

/// A history that ends with `count` messages.
fn messages(version: &RoomVersionId, count: usize) -> History {
    let mut history = History::public(version, ALICE);
    history.then(Action::join(BOB));
    for number in 0..count {
        let body = json!({ "msgtype": "m.text", "body": number.to_string() });
        history.then(Action::message(BOB, "m.room.message", body));
    }
    history
}

fn nested(depth: usize) -> String {
    format!("{}{}", "[".repeat(depth), "]".repeat(depth))
}
