//! What is fetched before a received event, and what stays missing.

use ruma::{RoomVersionId, server_name};
use serde_json::json;

use super::{ALICE, BOB, MAX_EVENTS, Peer, messages, with_server};
use crate::{
    federation::inbound::{PduOutcome, missing_events::MAX_REQUESTS},
    protocol::history::{Action, History},
    rooms::timeline,
    store::Place,
};

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
    let fetched = MAX_REQUESTS * MAX_EVENTS;
    let history = messages(&RoomVersionId::V12, fetched + 30);
    let last = history.events.len() - 1;
    let known = last - fetched - 29;
    with_server(&Peer::new(history), known, async |server| {
        server.receive(&[last - 1]).await;
        server.queue_processed().await;
        assert!(server.has(last - 1));
        assert!(server.has(last - fetched));
        assert!(!server.has(known));
        let taken = server.receive(&[last]).await;
        assert!(
            taken
                .values()
                .all(|taken| matches!(taken, Ok(PduOutcome::Processed)))
        );
    });
}

#[test]
fn missing_events_of_many_bytes_leave_a_gap_sooner() {
    let mut history = messages(&RoomVersionId::V11, 1);
    let known = history.events.len();
    for _ in 0..MAX_REQUESTS * MAX_EVENTS {
        let body = json!({ "body": "x".repeat(60_000) });
        history.then(Action::message(BOB, "m.room.message", body));
    }
    let last = history.events.len() - 1;
    with_server(&Peer::new(history), known, async |server| {
        server.receive(&[last]).await;
        server.queue_processed().await;
        assert!(server.has(last));
        let fetched = (known..last).filter(|index| server.has(*index)).count();
        // 4 MiB, and what the last response has beyond them.
        assert!((1..=70).contains(&fetched), "{fetched}");
    });
}

#[test]
fn backfill_fills_a_gap_page_by_page_until_the_history_is_complete() {
    let mut most_pages = 0;
    for version in [RoomVersionId::V6, RoomVersionId::V12] {
        let mut history = History::random(&version, 5, 60);
        let end = history.after(&[59], Action::message(BOB, "m.room.message", json!({})));
        let mut peer = Peer::new(history);
        peer.withholds_missing_events = true;
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
fn an_event_with_a_long_auth_chain_arrives() {
    for version in [RoomVersionId::V6, RoomVersionId::V11, RoomVersionId::V12] {
        let mut history = messages(&version, 0);
        let known = history.events.len();
        for number in 0..80 {
            let content = json!({ "users": { ALICE: 100 }, "users_default": 0, "kick": number });
            let content = match version {
                RoomVersionId::V12 => json!({ "users_default": 0, "kick": number }),
                _ => content,
            };
            history.then(Action::state(ALICE, "m.room.power_levels", "", content));
        }
        for _ in 0..=MAX_EVENTS {
            history.then(Action::message(
                BOB,
                "m.room.message",
                json!({ "body": "x" }),
            ));
        }
        let received = history.events.len() - 1;
        let mut peer = Peer::new(history);
        for max_auth_chain in [usize::MAX, 10] {
            peer.max_auth_chain = max_auth_chain;
            with_server(&peer, known, async |server| {
                server.receive(&[received]).await;
                server.queue_processed().await;
                assert!(server.has(received), "version {version}");
            });
        }
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
