//! Auth chains of which many events are missing, or of which some cannot be had.

use std::sync::atomic::{AtomicUsize, Ordering};

use ruma::{RoomVersionId, room_id, server_name};
use serde_json::json;
use smol::future::{self, FutureExt};

use super::{BOB, MAX_EVENTS, Peer, Server, messages, with_server};
use crate::{
    federation::inbound::{Error, EventFetcher, Room, event_source::FetchError},
    protocol::{
        history::{Action, History, Index},
        receive::Received,
    },
    rooms::{event::outlier, room},
    store::Tx,
};

const MALLORY: &str = "@mallory:c.example";

fn say() -> Action {
    Action::message(BOB, "m.room.message", json!({ "body": "x" }))
}

fn rename(number: usize) -> Action {
    let content = json!({ "membership": "join", "displayname": number.to_string() });
    Action::state(MALLORY, "m.room.member", MALLORY, content)
}

/// A history in which Mallory changes her name so many times after the first `known` events, then Bob writes,
/// then she; and `known`.
fn renames(version: &RoomVersionId, count: usize) -> (History, usize) {
    let mut history = messages(version, 1);
    history.then(Action::join(MALLORY));
    let known = history.events.len();
    for number in 0..count {
        history.then(rename(number));
    }
    for _ in 0..=MAX_EVENTS {
        history.then(say());
    }
    history.then(Action::message(MALLORY, "m.room.message", json!({})));
    (history, known)
}

fn count(of: &AtomicUsize) -> usize {
    of.load(Ordering::Relaxed)
}

/// Receives the last event, which must be processed.
async fn receive_last(server: &Server<'_>) {
    let last = server.peer.history.events.len() - 1;
    server.receive(&[last]).await;
    server.queue_processed().await;
    assert!(server.has(last));
}

#[test]
fn a_deep_auth_chain_takes_few_requests() {
    let cases = [
        (RoomVersionId::V12, 800, false),
        (RoomVersionId::V6, 800, true),
        (RoomVersionId::V11, 5_000, true),
    ];
    for (version, length, withholds_missing_events) in cases {
        let (history, known) = renames(&version, length);
        let mut peer = Peer::new(history);
        peer.withholds_missing_events = withholds_missing_events;
        with_server(&peer, known, async |server| {
            receive_last(server).await;
            assert!((known..known + length).all(|index| server.knows(index)));
            let counts = &peer.counts;
            assert!(count(&counts.event) <= 30, "{}", count(&counts.event));
            assert_eq!(count(&counts.event_auth), 1, "version {version}");
        });
    }
}

#[test]
fn the_auth_chain_comes_from_the_state_if_it_is_not_given_by_itself() {
    let (history, known) = renames(&RoomVersionId::V11, 800);
    let mut peer = Peer::new(history);
    peer.gives_auth_chains = false;
    with_server(&peer, known, async |server| {
        receive_last(server).await;
        assert!(server.knows(known));
        assert_eq!(count(&peer.counts.event_auth), 1);
        assert!(count(&peer.counts.state) >= 1);
    });
}

#[test]
fn the_deep_auth_chain_of_a_claimed_state_is_fetched() {
    let (history, known) = renames(&RoomVersionId::V11, 800);
    let last = history.events.len() - 1;
    let state = history.events[last].state_before.clone();
    let mut peer = Peer::new(history);
    peer.withholds_missing_events = true;
    peer.gives_auth_chains_of_states = false;
    with_server(&peer, known, async |server| {
        receive_last(server).await;
        assert!(state.values().all(|index| server.knows(*index)));
        let expected = peer.history.state_after_all(&[known - 1, last]);
        assert_eq!(server.current(), server.named(&expected));
        assert_eq!(count(&peer.counts.event_auth), 1);
    });
}

fn received(peer: &Peer, index: Index) -> Received {
    let event = &peer.history.events[index];
    Received {
        json: event.json.clone(),
        pdu: event.pdu.as_ref().clone(),
        redacted: false,
    }
}

#[test]
fn a_chain_beyond_the_budget_of_one_attempt_is_complete_after_several() {
    let (history, known) = renames(&RoomVersionId::V11, 100);
    let last = history.events.len() - 1;
    let peer = Peer::new(history);
    with_server(&peer, known, async |server| {
        let room = server.store.read(|s| Room::load(s, server.room));
        let room = room.expect("a room");
        let event = [received(&peer, last)];
        let mut stored = Vec::new();
        loop {
            let origin = server_name!("b.example").to_owned();
            let mut fetcher = EventFetcher::new(server.store, &peer, &room, origin);
            fetcher.budget.events = 30;
            let fetched = fetcher.fetch_auth_chains(&event).await;
            let renames = known..known + 100;
            stored.push(renames.filter(|index| server.knows(*index)).count());
            match fetched {
                Ok(()) => break,
                Err(error) => assert!(matches!(error, Error::Fetch(FetchError::Unavailable))),
            }
        }
        assert_eq!(stored, [30, 60, 100]);
    });
}

#[test]
fn of_a_server_that_gives_empty_auth_chains_few_are_requested() {
    let (history, known) = renames(&RoomVersionId::V11, 100);
    let last = history.events.len() - 1;
    let mut peer = Peer::new(history);
    peer.max_auth_chain = 0;
    with_server(&peer, known, async |server| {
        let room = server.store.read(|s| Room::load(s, server.room));
        let room = room.expect("a room");
        let origin = server_name!("b.example").to_owned();
        let mut fetcher = EventFetcher::new(server.store, &peer, &room, origin);
        let fetched = fetcher.fetch_auth_chains(&[received(&peer, last)]).await;
        assert_eq!(count(&peer.counts.event_auth), 3);
        fetched.expect("it is within the budget");
        assert!((known..known + 100).all(|index| server.knows(index)));
    });
}

#[test]
fn each_request_for_an_auth_chain_that_comes_from_the_state_counts_in_the_budget() {
    let (history, known) = renames(&RoomVersionId::V11, 60);
    let last = history.events.len() - 1;
    let mut peer = Peer::new(history);
    peer.gives_auth_chains = false;
    with_server(&peer, known, async |server| {
        let room = server.store.read(|s| Room::load(s, server.room));
        let room = room.expect("a room");
        let origin = server_name!("b.example").to_owned();
        let mut fetcher = EventFetcher::new(server.store, &peer, &room, origin);
        let allowed = fetcher.budget.requests;
        let fetched = fetcher.fetch_auth_chains(&[received(&peer, last)]).await;
        fetched.expect("it is within the budget");
        let counts = &peer.counts;
        let requests = [&counts.event, &counts.event_auth, &counts.state].map(count);
        assert_eq!(requests, [60, 1, 0]);
        // And one for the ids of the state.
        let spent = allowed - fetcher.budget.requests;
        assert_eq!(spent, requests.iter().sum::<usize>() + 1);
    });
}

#[test]
fn an_attempt_goes_on_where_the_one_before_ended() {
    let (history, known) = renames(&RoomVersionId::V11, 800);
    let last = history.events.len() - 1;
    let peer = Peer::new(history);
    with_server(&peer, known, async |server| {
        let room = server.store.read(|s| Room::load(s, server.room));
        let room = room.expect("a room");
        let event = received(&peer, last);
        let attempt = || {
            let origin = server_name!("b.example").to_owned();
            server
                .receiver
                .fetch_and_process(&room, origin, event.clone())
        };
        let is_interrupted = async {
            while !server.knows(known + 300) {
                future::yield_now().await;
            }
            true
        };
        let finished = async { attempt().await.is_err() };
        assert!(is_interrupted.or(finished).await);
        assert!(!server.knows(known + 500));
        let first = peer.counts.verified.swap(0, Ordering::Relaxed);
        attempt().await.expect("it is processed");
        assert!(server.has(last));
        assert!(first > 300 && count(&peer.counts.verified) < 600);
    });
}

/// A history in which a message, or a state event, of Mallory's cites an event that the peer does not give.
/// The peer, the index of the first event that is not known, and of Mallory's.
fn with_withheld_auth_event(version: &RoomVersionId, action: Action) -> (Peer, Index, Index) {
    let mut history = messages(version, 1);
    let joined = history.then(Action::join(MALLORY));
    let withheld = history.after(&[joined], rename(1));
    let end = history.after(&[joined], say());
    let (state, cited) = (
        history.events[end].state_after.clone(),
        history.events[withheld].state_after.clone(),
    );
    let bad = history.append_citing(&[end], state, &cited, action);
    assert!(!history.events[bad].pdu.rejected());
    for _ in 0..5 {
        history.then(say());
    }
    let mut peer = Peer::new(history);
    peer.withheld = Some(withheld);
    (peer, withheld, bad)
}

#[test]
fn an_event_whose_auth_chain_cannot_be_had_is_left_out_alone() {
    for version in [RoomVersionId::V6, RoomVersionId::V11, RoomVersionId::V12] {
        let message = Action::message(MALLORY, "m.room.message", json!({}));
        for action in [message, rename(2)] {
            let (peer, known, bad) = with_withheld_auth_event(&version, action);
            let last = peer.history.events.len() - 1;
            with_server(&peer, known, async |server| {
                server.receive(&[known + 1]).await;
                receive_last(server).await;
                assert!((bad + 1..=last).all(|index| server.has(index)));
                assert!(!server.knows(bad) && !server.knows(known));
                assert!(count(&peer.counts.event) < 30);
            });
        }
    }
}

#[test]
fn of_a_transaction_only_the_event_whose_auth_chain_cannot_be_had_stays_queued() {
    let message = Action::message(MALLORY, "m.room.message", json!({}));
    let (peer, known, bad) = with_withheld_auth_event(&RoomVersionId::V11, message);
    let last = peer.history.events.len() - 1;
    with_server(&peer, known, async |server| {
        server.receive(&[known + 1, bad, bad + 1, last]).await;
        while server.queued() > 1 {
            future::yield_now().await;
        }
        assert!(server.has(bad + 1) && server.has(last));
        assert!(!server.knows(bad));
    });
}

/// Receives the last event and fills the gap before it with all events but `bad`.
async fn backfill_without(server: &Server<'_>, bad: Index) {
    receive_last(server).await;
    let gap = server.gap().expect("a gap");
    let servers = vec![server_name!("b.example").to_owned()];
    let fetched = server.receiver.backfill(server.room, gap, servers).await;
    assert!(fetched.expect("no trouble"));
    assert!(server.has(bad + 1) && server.has(bad + 2));
    assert!(!server.knows(bad));
}

#[test]
fn backfill_goes_on_without_an_event_whose_auth_chain_cannot_be_had() {
    let message = Action::message(MALLORY, "m.room.message", json!({}));
    let (mut peer, known, bad) = with_withheld_auth_event(&RoomVersionId::V11, message);
    peer.withholds_missing_events = true;
    with_server(&peer, known, async |server| {
        backfill_without(server, bad).await;
    });
}

#[test]
fn backfill_goes_on_without_an_event_whose_auth_event_belongs_to_another_room() {
    let message = Action::message(MALLORY, "m.room.message", json!({}));
    let (mut peer, known, bad) = with_withheld_auth_event(&RoomVersionId::V11, message);
    peer.withholds_missing_events = true;
    with_server(&peer, known, async |server| {
        let foreign = received(&peer, known);
        let job = move |tx: &Tx| {
            let room = room::create(tx, room_id!("!other:b.example"), &RoomVersionId::V11)?;
            outlier::store_out_of_band(tx, room, &foreign)
        };
        server.store.write(job).await.expect("it is stored");
        backfill_without(server, bad).await;
    });
}
