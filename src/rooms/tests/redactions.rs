//! Redactions that come before the events that they redact.

use ruma::RoomVersionId;
use serde_json::json;

use super::{content_of, replica::Replica, with_store};
use crate::{
    protocol::history::{Action, History, Index},
    rooms::event,
    store::{
        EventNum, Reader, Rows, Tx,
        records::{EarlyRedaction, EarlyRedactions},
    },
};

const ALICE: &str = "@alice:a.example";
const BOB: &str = "@bob:b.example";
const CAROL: &str = "@carol:c.example";
const VERSIONS: [RoomVersionId; 2] = [RoomVersionId::V10, RoomVersionId::V11];

/// A room of alice's with bob and carol.
fn room(version: &RoomVersionId) -> (History, Index) {
    let mut history = History::public(version, ALICE);
    history.then(Action::join(BOB));
    let last = history.then(Action::join(CAROL));
    (history, last)
}

fn say(sender: &'static str) -> Action {
    Action::message(sender, "m.room.message", json!({ "body": "x" }))
}

fn redact(history: &History, sender: &'static str, target: Index) -> Action {
    let id = history.events[target].pdu.event_id();
    Action::message(sender, "m.room.redaction", json!({ "redacts": id }))
}

/// The event by which an event was redacted, if it was.
fn redacted_by(replica: &Replica<'_>, index: Index) -> Option<EventNum> {
    let stored = replica.store.read(|s| event::load(s, replica.num(index)));
    let stored = stored.expect("an event");
    assert_eq!(
        content_of(&stored).is_empty(),
        stored.header.redacted_by.is_some()
    );
    stored.header.redacted_by
}

#[test]
fn redaction_received_before_its_target_is_applied_on_backfill() {
    for version in VERSIONS {
        let (mut history, last) = room(&version);
        let target = history.after(&[last], say(BOB));
        let redaction = history.after(&[last], redact(&history, ALICE, target));
        let end = history.after(&[target], say(CAROL));
        with_store(async |store| {
            let replica = Replica::new(store, &history, &version).await;
            for index in (0..=last).chain([redaction]) {
                replica.receive(index, None).await.expect("it is taken");
            }
            let state = history.events[end].state_before.clone();
            replica
                .receive(end, Some(&state))
                .await
                .expect("it is taken");
            replica.fill([target]).await;
            assert_eq!(redacted_by(&replica, target), Some(replica.num(redaction)));
        });
    }
}

#[test]
fn a_later_early_redaction_without_power_does_not_displace_one_with_power() {
    for version in VERSIONS {
        let (mut history, last) = room(&version);
        let target = history.after(&[last], say(BOB));
        let with_power = history.after(&[last], redact(&history, ALICE, target));
        let without = history.after(&[last], redact(&history, CAROL, target));
        for order in [[with_power, without], [without, with_power]] {
            with_store(async |store| {
                let replica = Replica::new(store, &history, &version).await;
                for index in (0..=last).chain(order).chain([target]) {
                    replica.receive(index, None).await.expect("it is taken");
                }
                assert_eq!(redacted_by(&replica, target), Some(replica.num(with_power)));
            });
        }
    }
}

#[test]
fn of_early_redactions_without_power_that_of_the_senders_server_is_applied() {
    for version in VERSIONS {
        let (mut history, last) = room(&version);
        let target = history.after(&[last], say(BOB));
        let own = history.after(&[last], redact(&history, BOB, target));
        let other = history.after(&[last], redact(&history, CAROL, target));
        with_store(async |store| {
            let replica = Replica::new(store, &history, &version).await;
            for index in (0..=last).chain([own, other, target]) {
                replica.receive(index, None).await.expect("it is taken");
            }
            assert_eq!(redacted_by(&replica, target), Some(replica.num(own)));
        });
    }
}

#[test]
fn early_redactions_have_a_limit_beyond_which_those_without_power_are_evicted() {
    const MAX: u64 = 10_000;
    let (mut history, last) = room(&RoomVersionId::V11);
    let target = history.after(&[last], say(BOB));
    let redaction = history.after(&[last], redact(&history, ALICE, target));
    with_store(async |store| {
        let replica = Replica::new(store, &history, &RoomVersionId::V11).await;
        for index in 0..=last {
            replica.receive(index, None).await.expect("it is taken");
        }
        let room = replica.room;
        let fill = move |tx: &Tx| {
            for number in 0..MAX {
                let redaction = EarlyRedaction {
                    event: EventNum(1),
                    has_power: false,
                };
                let row = EarlyRedactions {
                    redactions: vec![redaction],
                };
                let id = format!("${number:043}");
                tx.early_redactions()?.put((room, id.as_str()), &row)?;
            }
            Ok::<_, crate::rooms::Error>(())
        };
        store.write(fill).await.expect("the table is full");
        replica.receive(redaction, None).await.expect("it is taken");
        let rows = store.read(|s| Ok::<_, crate::rooms::Error>(s.early_redactions()?.len()?));
        assert_eq!(rows.expect("a read"), MAX);
        replica.receive(target, None).await.expect("it is taken");
        assert!(redacted_by(&replica, target).is_some());
    });
}
