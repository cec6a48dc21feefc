//! Receiving from a server that has a complete random history.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use ruma::{
    EventId, OwnedEventId, RoomId, RoomVersionId, ServerName, server_name, signatures::PublicKeyMap,
};
use serde_json::{json, value::RawValue};
use smol::future;

use super::{
    Error, EventSource, PduOutcome, PduReceiver, RawPdu, Room, RoomQueues,
    event_fetcher::is_processed,
    event_source::{ClaimedState, FetchError},
};
use crate::{
    executor::Executor,
    pool::Pool,
    protocol::{
        Pdu, ServerKey,
        history::{Action, History, State},
        receive::{Incoming, ReceiveError, Received},
        versions,
    },
    rooms::{
        self, Local,
        event::{self, insert::Notify, receive},
        room,
        state::{self, current},
        timeline,
    },
    store::{
        EventNum, Options, Place, Reader, Records, RoomNum, Rows, Store, Tx, records::Waiting,
    },
};

const ALICE: &str = "@alice:a.example";
const BOB: &str = "@bob:b.example";

/// The limit of one response.
const MAX_EVENTS: usize = 10;

/// A peer that has all of a history.
#[derive(Clone)]
struct Peer {
    history: Arc<History>,
    /// Whether it gives anything.
    is_available: Arc<AtomicBool>,
    /// How requests fail if not.
    failure: FetchError,
    requests: Arc<AtomicUsize>,
    keys: Arc<PublicKeyMap>,
    /// The index of an event that it returns with a content nested 120 levels deep.
    deep: Option<usize>,
    /// The index of an event that it returns nested too deep even when it is redacted.
    refused: Option<usize>,
    /// The index of an event that it returns with all missing events and all states.
    unrelated: Option<usize>,
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
        _: &ServerName,
        _: &RoomId,
        earliest: Vec<OwnedEventId>,
        latest: Vec<OwnedEventId>,
    ) -> Result<Vec<RawPdu>, FetchError> {
        let mut found = Vec::new();
        let mut open: Vec<usize> = Vec::new();
        for id in &latest {
            open.extend(&self.history.events[self.find(id)?].prev);
        }
        while let Some(index) = open.pop() {
            if !earliest.contains(&self.id(index))
                && !found.contains(&index)
                && found.len() < MAX_EVENTS
            {
                found.push(index);
                open.extend(&self.history.events[index].prev);
            }
        }
        found.extend(self.unrelated);
        Ok(found.into_iter().map(|index| self.raw(index)).collect())
    }

    async fn state_ids(
        &self,
        _: &ServerName,
        _: &RoomId,
        event: &EventId,
    ) -> Result<ClaimedState<OwnedEventId>, FetchError> {
        let claimed = self.state_before(event)?;
        Ok(ClaimedState {
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
        })
    }

    async fn state(
        &self,
        _: &ServerName,
        _: &RoomId,
        event: &EventId,
    ) -> Result<ClaimedState<RawPdu>, FetchError> {
        let claimed = self.state_before(event)?;
        Ok(ClaimedState {
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
        })
    }

    async fn event(&self, _: &ServerName, event: &EventId) -> Result<RawPdu, FetchError> {
        Ok(self.raw(self.find(event)?))
    }

    async fn backfill(
        &self,
        _: &ServerName,
        _: &RoomId,
        upto: Vec<OwnedEventId>,
    ) -> Result<Vec<RawPdu>, FetchError> {
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
        Ok(found.into_iter().map(|index| self.raw(index)).collect())
    }

    async fn verify(&self, events: Vec<Incoming>) -> Vec<Result<Received, ReceiveError>> {
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
        let receiver = PduReceiver::new(store.clone(), local, peer.clone());
        let queues = RoomQueues::start(&executor, receiver.clone()).expect("the queues start");
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
        if taken
            .values()
            .any(|taken| matches!(taken, Ok(PduOutcome::Queued(_))))
        {
            self.queues.wake(self.room);
        }
        taken
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

#[test]
fn events_received_in_any_order_give_the_state_of_full_state_resolution() {
    for version in versions::SUPPORTED {
        let mut order: Vec<usize> = (8..60).collect();
        order.shuffle(&mut StdRng::seed_from_u64(3));
        receive_and_compare_state(History::random(&version, 21, 60), &order, 5);
    }
}

#[test]
fn a_chain_of_events_gives_the_state_of_full_state_resolution() {
    for version in versions::SUPPORTED {
        for seed in 0..3 {
            let order: Vec<usize> = (8..60).collect();
            receive_and_compare_state(History::random(&version, seed, 60), &order, 50);
        }
    }
}

/// Takes the events of a history in this order, so many at once, and compares the state at its end.
fn receive_and_compare_state(history: History, order: &[usize], together: usize) {
    let peer = Peer::new(history);
    let history = &peer.history;
    with_server(&peer, 8, async |server| {
        for some in order.chunks(together) {
            // Whether anybody here is in the room changes on the way.
            let raw = some.iter().map(|index| peer.raw(*index)).collect();
            let room = server.store.read(|s| Room::load(s, server.room));
            let (origin, room) = (server_name!("b.example"), room.expect("a room"));
            let taken = server
                .receiver
                .receive_in_room(origin, &room, raw, true)
                .await;
            server.queues.wake(server.room);
            assert!(taken.values().all(Result::is_ok), "{taken:?}");
        }
        server.queue_processed().await;
        for index in 0..history.events.len() {
            assert!(
                server.knows(index),
                "version {}, event {index}",
                history.version
            );
        }
        let ends = server
            .store
            .read(|s| room::heads(s, server.room))
            .expect("a room");
        let ends: Vec<usize> = ends
            .extremities
            .iter()
            .map(|num| server.index(*num))
            .collect();
        let expected = history.state_after_all(&ends);
        assert_eq!(
            server.current(),
            server.named(&expected),
            "version {}",
            history.version
        );
    });
}

#[test]
fn a_soft_failed_event_leaves_no_forward_extremity_behind_it() {
    const CAROL: &str = "@carol:c.example";
    let mut history = History::public(&RoomVersionId::V11, ALICE);
    history.then(Action::join(BOB));
    let joined = history.then(Action::join(CAROL));
    let say = |who| Action::message(who, "m.room.message", json!({ "body": "" }));
    let ban = history.after(&[joined], Action::member(ALICE, BOB, "ban"));
    let fork = history.after(&[joined], say(CAROL));
    let by_banned = history.after(&[fork], say(BOB));
    let behind = history.after(&[by_banned], say(CAROL));
    with_server(&Peer::new(history), joined + 1, async |server| {
        for index in [ban, fork, by_banned, behind] {
            server.receive(&[index]).await;
        }
        let ends = server.store.read(|s| room::heads(s, server.room));
        let ends = ends.expect("a room").extremities;
        let ends: Vec<usize> = ends.into_iter().map(|num| server.index(num)).collect();
        assert_eq!(ends, [ban, behind]);
    });
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

#[test]
fn a_few_missing_events_are_fetched_and_leave_no_gap() {
    let history = messages(&RoomVersionId::V12, 8);
    let last = history.events.len() - 1;
    with_server(&Peer::new(history), last - 7, async |server| {
        server.receive(&[last]).await;
        server.queue_processed().await;
        let rows = server
            .store
            .read(|s| timeline::forwards(s, server.room, Place::MIN, 100));
        let rows = rows.expect("a timeline");
        assert_eq!(rows.len(), last + 1);
        for (place, _) in rows {
            let gap = server.store.read(|s| timeline::gap(s, server.room, place));
            assert!(gap.expect("a read").is_none());
        }
    });
}

#[test]
fn of_the_missing_events_only_those_that_lead_to_the_received_event_are_processed() {
    let mut history = messages(&RoomVersionId::V11, 2);
    let end = history.events.len() - 1;
    let say = || Action::message(BOB, "m.room.message", json!({ "body": "x" }));
    let missing = history.append(&[end], say());
    let received = history.append(&[missing], say());
    let unrelated = history.append(&[end], say());
    let mut peer = Peer::new(history);
    peer.unrelated = Some(unrelated);
    with_server(&peer, end + 1, async |server| {
        server.receive(&[received]).await;
        server.queue_processed().await;
        assert!(server.has(missing) && server.has(received));
        assert!(!server.knows(unrelated));
    });
}

#[test]
fn many_missing_events_leave_a_gap_and_later_events_are_processed() {
    let history = messages(&RoomVersionId::V12, 50);
    let last = history.events.len() - 1;
    with_server(&Peer::new(history), last - 49, async |server| {
        server.receive(&[last - 1]).await;
        server.queue_processed().await;
        assert!(server.has(last - 1));
        assert!(!server.has(last - 30));
        let taken = server.receive(&[last]).await;
        assert!(
            taken
                .values()
                .all(|taken| matches!(taken, Ok(PduOutcome::Processed)))
        );
    });
}

#[test]
fn backfill_fills_a_gap_page_by_page_until_the_history_is_complete() {
    let mut most_pages = 0;
    for version in [RoomVersionId::V6, RoomVersionId::V12] {
        let mut history = History::random(&version, 5, 60);
        let end = history.append(&[59], Action::message(ALICE, "m.room.message", json!({})));
        let peer = Peer::new(history);
        with_server(&peer, 8, async |server| {
            server.receive(&[end]).await;
            server.queue_processed().await;
            let mut pages = 0;
            while let Some(gap) = server.gap() {
                let servers = vec![server_name!("b.example").to_owned()];
                let fetched = server.receiver.backfill(server.room, gap, servers).await;
                assert!(fetched.expect("no trouble"), "version {version}");
                pages += 1;
            }
            most_pages = most_pages.max(pages);
            let mut open = vec![end];
            while let Some(index) = open.pop() {
                let event = &peer.history.events[index];
                assert!(server.has(index) || event.pdu.rejected());
                open.extend(event.prev.iter().filter(|prev| **prev >= 8));
            }
        });
    }
    assert!(most_pages > 1);
}

#[test]
fn a_queued_event_is_processed_once_its_prev_events_are_available() {
    let history = messages(&RoomVersionId::V12, 8);
    let last = history.events.len() - 1;
    with_server(&Peer::new(history), last - 7, async |server| {
        server.peer.is_available.store(false, Ordering::Relaxed);
        let taken = server.receive(&[last]).await;
        assert!(
            taken
                .values()
                .all(|taken| matches!(taken, Ok(PduOutcome::Queued(_))))
        );
        while server.peer.requests.load(Ordering::Relaxed) == 0 {
            future::yield_now().await;
        }
        assert_eq!(server.queued(), 1);
        server.peer.is_available.store(true, Ordering::Relaxed);
        server.queues.wake(server.room);
        server.queue_processed().await;
        assert!(server.has(last));
    });
}

#[test]
fn queued_events_are_not_dropped_because_more_events_are_queued() {
    let history = messages(&RoomVersionId::V12, 40);
    let last = history.events.len() - 1;
    with_server(&Peer::new(history), last - 39, async |server| {
        server.peer.is_available.store(false, Ordering::Relaxed);
        for index in last - 12..=last {
            let requests = server.peer.requests.load(Ordering::Relaxed);
            server.receive(&[index]).await;
            while server.peer.requests.load(Ordering::Relaxed) == requests {
                future::yield_now().await;
            }
        }
        assert_eq!(server.queued(), 13);
        server.peer.is_available.store(true, Ordering::Relaxed);
        server.queues.wake(server.room);
        server.queue_processed().await;
        assert!((last - 12..=last).all(|index| server.has(index)));
    });
}

#[test]
fn one_round_makes_one_attempt_at_a_server_that_cannot_be_reached() {
    let history = messages(&RoomVersionId::V12, 40);
    let last = history.events.len() - 1;
    let peer = Peer {
        failure: FetchError::Unreachable,
        ..Peer::new(history)
    };
    with_server(&peer, last - 39, async |server| {
        server.peer.is_available.store(false, Ordering::Relaxed);
        let indices: Vec<usize> = (last - 12..=last).collect();
        server.receive(&indices).await;
        assert_eq!(server.queued(), 13);
        for _ in 0..1000 {
            future::yield_now().await;
        }
        assert_eq!(server.peer.requests.load(Ordering::Relaxed), 1);
        server.peer.is_available.store(true, Ordering::Relaxed);
        server.queues.wake(server.room);
        server.queue_processed().await;
        assert!(indices.iter().all(|index| server.has(*index)));
    });
}

#[test]
fn an_invalid_pdu_does_not_affect_the_others_of_its_transaction() {
    let history = messages(&RoomVersionId::V12, 4);
    let last = history.events.len() - 1;
    with_server(&Peer::new(history), last - 3, async |server| {
        let text = |index: usize| server.peer.raw(index).get().to_owned();
        let forged = text(last - 2).replace(r#""body":"1""#, r#""body":"one""#);
        let unsigned = text(last - 1).replace("ed25519:test", "ed25519:none");
        let elsewhere = text(last).replace("\"sender\":\"@bob:b", "\"sender\":\"@bob:z");
        let pdus = [
            text(last - 3),
            forged,
            unsigned,
            elsewhere,
            "{}".into(),
            "7".into(),
        ];
        let pdus = pdus.map(|text| RawValue::from_string(text).expect("JSON"));
        let taken = server
            .receiver
            .receive(server_name!("b.example"), pdus.into())
            .await;
        let taken: Vec<bool> = (last - 3..=last)
            .map(|index| {
                matches!(
                    taken.get(&server.peer.id(index)),
                    Some(Ok(PduOutcome::Processed))
                )
            })
            .collect();
        // The event with the wrong content hash is redacted.
        assert_eq!(taken, [true, true, false, false]);
        let redacted = server.store.read(|s| {
            let num = event::num_of(s, &server.peer.id(last - 2))?.expect("it is here");
            Ok::<_, rooms::Error>(event::load(s, num)?.json)
        });
        let redacted = String::from_utf8(redacted.expect("an event")).expect("JSON");
        assert!(redacted.contains(r#""content":{}"#), "{redacted}");
    });
}

fn nested(depth: usize) -> String {
    format!("{}{}", "[".repeat(depth), "]".repeat(depth))
}

#[test]
fn a_pdu_nested_too_deep_is_redacted_and_does_not_stop_the_events_after_it() {
    for version in versions::SUPPORTED {
        let history = messages(&version, 4);
        let last = history.events.len() - 1;
        let mut peer = Peer::new(history);
        peer.deep = Some(last - 2);
        with_server(&peer, last - 3, async |server| {
            server.receive(&[last - 3, last - 2]).await;
            assert!(server.has(last - 3) && server.has(last - 2));
            for index in [last - 1, last] {
                server.receive(&[index]).await;
                server.queue_processed().await;
                assert!(server.has(index), "version {version}");
            }
            let stored = server.store.read(|s| {
                let num = event::num_of(s, &server.peer.id(last - 2))?.expect("it is stored");
                Ok::<_, rooms::Error>(event::load(s, num)?.json)
            });
            let stored = String::from_utf8(stored.expect("an event")).expect("JSON");
            assert!(stored.contains(r#""content":{}"#), "{stored}");
        });
    }
}

#[test]
fn a_pdu_too_deep_even_when_redacted_is_refused_and_the_events_after_it_are_received() {
    for version in versions::SUPPORTED {
        let mut history = messages(&version, 1);
        let before = history.events.len() - 1;
        let topic = Action::state(ALICE, "m.room.topic", "", json!({ "topic": "x" }));
        let refused = history.then(topic);
        let say = || Action::message(BOB, "m.room.message", json!({ "body": "x" }));
        let after = [0, 1].map(|_| history.then(say()));
        let mut peer = Peer::new(history);
        peer.refused = Some(refused);
        with_server(&peer, before, async |server| {
            server.receive(&[before, refused]).await;
            assert!(server.has(before));
            for index in after {
                server.receive(&[index]).await;
                server.queue_processed().await;
                assert!(server.has(index), "version {version}");
            }
            assert!(!server.knows(refused));
        });
    }
}

#[test]
fn of_a_state_response_only_the_events_of_the_claimed_state_are_stored() {
    let mut history = messages(&RoomVersionId::V11, 0);
    let end = history.events.len() - 1;
    let say = || Action::message(BOB, "m.room.message", json!({ "body": "x" }));
    for number in 0..60 {
        history.then(Action::join(format!("@user{number}:c.example").leak()));
    }
    let member = history.events.len() - 1;
    for _ in 0..=MAX_EVENTS {
        history.then(say());
    }
    let received = history.then(say());
    let unrelated = history.append(&[end], say());
    let mut peer = Peer::new(history);
    peer.unrelated = Some(unrelated);
    with_server(&peer, end + 1, async |server| {
        server.receive(&[received]).await;
        server.queue_processed().await;
        assert!(server.has(received) && server.knows(member));
        assert!(!server.knows(unrelated));
    });
}

#[test]
fn a_corrupt_queued_event_does_not_stop_the_others_after_a_restart() {
    let history = messages(&RoomVersionId::V12, 8);
    let last = history.events.len() - 1;
    with_server(&Peer::new(history), last - 7, async |server| {
        server.peer.is_available.store(false, Ordering::Relaxed);
        server.receive(&[last]).await;
        let room = server.room;
        let deep = format!("{{\"content\":{{\"deep\":{}}}}}", nested(5000));
        let job = move |tx: &Tx| {
            let record = Waiting {
                origin: "b.example".to_owned(),
                json: deep.clone().into_bytes(),
            };
            tx.waiting()?.put((room, "$deep"), &record)
        };
        server.store.write(job).await.expect("it is stored");
        assert_eq!(server.queued(), 2);
        server.peer.is_available.store(true, Ordering::Relaxed);
        server.queues.wake(server.room);
        server.queue_processed().await;
        assert!(server.has(last));
    });
}

#[test]
fn a_pdu_received_twice_at_once_is_stored_once() {
    let history = messages(&RoomVersionId::V12, 4);
    let last = history.events.len() - 1;
    with_server(&Peer::new(history), last - 3, async |server| {
        let again = [
            last - 3,
            last - 3,
            last - 2,
            last - 2,
            last - 3,
            last - 1,
            last,
        ];
        let taken = server.receive(&again).await;
        assert!(
            taken
                .values()
                .all(|taken| matches!(taken, Ok(PduOutcome::Processed)))
        );
        let rows = server
            .store
            .read(|s| timeline::forwards(s, server.room, Place::MIN, 100));
        assert_eq!(rows.expect("a timeline").len(), last + 1);
    });
}

#[test]
fn pdus_of_a_server_denied_by_the_server_acl_are_dropped() {
    let version = RoomVersionId::V12;
    let mut history = History::public(&version, ALICE);
    history.then(Action::join(BOB));
    let list = json!({ "allow": ["*"], "deny": ["b.example"], "allow_ip_literals": true });
    history.then(Action::state(ALICE, "m.room.server_acl", "", list));
    let body = json!({ "msgtype": "m.text", "body": "hello" });
    let last = history.then(Action::message(BOB, "m.room.message", body));
    with_server(&Peer::new(history), last, async |server| {
        assert!(server.receive(&[last]).await.is_empty());
        assert!(!server.has(last));
        let raw = vec![server.peer.raw(last)];
        server
            .receiver
            .receive(server_name!("c.example"), raw)
            .await;
        assert!(server.has(last));
    });
}

#[test]
fn a_banned_users_event_on_an_old_branch_is_soft_failed() {
    let version = RoomVersionId::V12;
    let mut history = messages(&version, 2);
    let end = history.events.len() - 1;
    history.then(Action::member(ALICE, BOB, "ban"));
    let banned = history.events.len() - 1;
    // On the branch without the ban.
    let body = json!({ "msgtype": "m.text", "body": "still here" });
    let late = history.append(&[end], Action::message(BOB, "m.room.message", body));
    with_server(&Peer::new(history), banned + 1, async |server| {
        server.receive(&[late]).await;
        let status = server.store.read(|s| {
            let num = event::num_of(s, &server.peer.id(late))?.expect("it is here");
            Ok::<_, rooms::Error>(event::header(s, num)?.status)
        });
        let soft_failed = crate::store::records::Status::SoftFailed;
        assert_eq!(status.expect("an event"), soft_failed);
        let claimed = server.store.read(|s| {
            let ids = [server.peer.id(0), server.peer.id(1)];
            receive::claimed_state(s, server.room, &ids).map(drop)
        });
        assert!(claimed.is_ok());
    });
}

#[test]
fn events_of_a_server_that_is_not_in_the_room_are_not_queued() {
    let history = messages(&RoomVersionId::V12, 8);
    let last = history.events.len() - 1;
    with_server(&Peer::new(history), last - 7, async |server| {
        server.peer.is_available.store(false, Ordering::Relaxed);
        let pdus = vec![server.peer.raw(last)];
        let received = server.receiver.receive(server_name!("c.example"), pdus);
        let received = received.await;
        assert_eq!(received.len(), 1);
        assert!(received.values().all(Result::is_err), "{received:?}");
        assert_eq!(server.queued(), 0);
    });
}

#[test]
fn a_queued_event_keeps_its_origin_unless_the_server_of_its_sender_sends_it() {
    let history = messages(&RoomVersionId::V12, 2);
    let last = history.events.len() - 1;
    with_server(&Peer::new(history), last - 1, async |server| {
        let [b, c, d] = [
            server_name!("b.example"),
            server_name!("c.example"),
            server_name!("d.example"),
        ];
        for (origin, expected) in [(c, c), (d, c), (b, b), (d, b)] {
            server.enqueue(origin, last).await.expect("there is space");
            assert_eq!(server.origin(last), expected.as_str());
        }
        assert_eq!(server.queued(), 1);
    });
}

#[test]
fn a_full_queue_gives_each_server_its_share() {
    let history = messages(&RoomVersionId::V12, 210);
    let first = history.events.len() - 210;
    let peer = Peer::new(history);
    with_server(&peer, first, async |server| {
        let enqueue = async |origin, index| server.enqueue(origin, index).await;
        let [b, c, d] = [
            server_name!("b.example"),
            server_name!("c.example"),
            server_name!("d.example"),
        ];
        for index in 0..100 {
            enqueue(b, first + index).await.expect("there is space");
            enqueue(c, first + 100 + index)
                .await
                .expect("there is space");
        }
        enqueue(b, first + 200).await.expect_err("b has its share");
        enqueue(b, first).await.expect("it is queued already");
        enqueue(d, first + 201).await.expect("others have more");
        assert_eq!(server.queued(), 200);
    });
}
