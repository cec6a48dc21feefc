//! Gaps: events with missing prev_events, and backfill.

use ruma::RoomVersionId;
use serde_json::json;

use super::{replica::Replica, with_store};
use crate::{
    protocol::{
        history::{Action, History},
        versions,
    },
    rooms::{
        Error,
        event::{commit::commit_heads, graph::StateWithAuthChain, outlier, receive},
        room::heads,
        state::overlay::StateOverlay,
        timeline,
    },
    store::{Place, Reader, Tx, records::RoomHeads},
};

const ALICE: &str = "@alice:a.example";

/// The gap that lists the event as missing.
fn gap_of(replica: &Replica<'_>, index: usize) -> Option<Place> {
    let id = replica.history.events[index].pdu.event_id();
    let gap = replica
        .store
        .read(|s| timeline::gap_of(s, replica.room, id));
    gap.expect("a read")
}

#[test]
fn an_event_that_two_gaps_lack_closes_both() {
    let version = RoomVersionId::V12;
    let mut history = History::public(&version, ALICE);
    let message = || Action::message(ALICE, "m.room.message", json!({ "body": "x" }));
    let known = history.events.len();
    let missing = history.then(message());
    let ends = [0, 1].map(|_| history.after(&[missing], message()));
    with_store(async |store| {
        let replica = Replica::new(store, &history, &version).await;
        for index in 0..known {
            replica.receive(index, None).await.expect("it is taken");
        }
        for end in ends {
            let claimed = history.events[end].state_before.clone();
            let received = replica.receive(end, Some(&claimed)).await;
            received.expect("it is taken");
        }
        assert_eq!(replica.gaps().len(), 2);
        replica.fill([missing]).await;
        assert!(replica.gaps().is_empty());
        assert_eq!(gap_of(&replica, missing), None);
    });
}

#[test]
fn a_room_is_as_deep_as_the_extremities_that_backfill_leaves() {
    let version = RoomVersionId::V12;
    let history = History::public(&version, ALICE);
    with_store(async |store| {
        let replica = Replica::new(store, &history, &version).await;
        for index in 0..history.events.len() {
            replica.receive(index, None).await.expect("it is taken");
        }
        let (room, local) = (replica.room, replica.local.clone());
        let before = store.read(|s| heads(s, room)).expect("a room");
        let job = move |tx: &Tx| {
            let heads = heads(tx, room)?;
            let shallow = RoomHeads {
                depth: 1,
                ..heads.clone()
            };
            tx.room_heads()?.put(room, &shallow)?;
            commit_heads(tx, &local, room, heads.extremities, heads.state)
        };
        store.write(job).await.expect("it is stored");
        let after = store.read(|s| heads(s, room)).expect("a room");
        assert_eq!(after.depth, before.depth);
    });
}

#[test]
fn states_after_backfill_are_those_of_full_resolution() {
    for version in versions::SUPPORTED {
        for seed in 10..12 {
            let history = History::random(&version, seed, 60);
            with_store(async |store| {
                let replica = Replica::new(store, &history, &version).await;
                let (start, end) = (12, 35);
                for index in 0..start {
                    replica.receive(index, None).await.expect("it is taken");
                }
                for index in end..history.events.len() {
                    let claimed = &history.events[index].state_before;
                    replica
                        .store_outliers(claimed.values().copied().chain([index]))
                        .await;
                    replica
                        .receive(index, Some(claimed))
                        .await
                        .expect("it is taken");
                }
                while !replica.gaps().is_empty() {
                    replica.fill(start..history.events.len()).await;
                }
                // Other servers send the events that lead to no gap.
                for index in start..end {
                    if replica.status(index).is_outlier() {
                        replica.receive(index, None).await.expect("it is taken");
                    }
                }
                for index in 0..end {
                    replica.check_state_before(index);
                }
                replica.check_current();
            });
        }
    }
}

#[test]
fn an_event_with_missing_prev_events_leaves_a_gap_that_backfill_moves_and_closes() {
    let version = RoomVersionId::V12;
    let mut history = History::public(&version, ALICE);
    let message = |body: &str| Action::message(ALICE, "m.room.message", json!({ "body": body }));
    let known = history.events.len();
    let missing: Vec<usize> = (0..5)
        .map(|n| history.then(message(&format!("{n}"))))
        .collect();
    let late = history.then(message("late"));
    with_store(async |store| {
        let replica = Replica::new(store, &history, &version).await;
        for index in 0..known {
            replica.receive(index, None).await.expect("it is taken");
        }
        let refused = replica.receive(late, None).await;
        assert!(matches!(refused, Err(Error::Missing)), "{refused:?}");
        let claimed = history.events[late].state_before.clone();
        replica
            .receive(late, Some(&claimed))
            .await
            .expect("it is taken");
        let [gap] = replica.gaps()[..] else {
            panic!("one gap");
        };
        assert_eq!(gap_of(&replica, missing[4]), Some(gap));
        assert_eq!(gap_of(&replica, missing[2]), None);
        replica.fill(missing[3..].iter().copied()).await;
        let [earlier] = replica.gaps()[..] else {
            panic!("it has moved");
        };
        assert_eq!(earlier, Place(gap.0 - 2));
        assert_eq!(gap_of(&replica, missing[4]), None);
        assert_eq!(gap_of(&replica, missing[2]), Some(earlier));
        replica.fill(missing[..3].iter().copied()).await;
        assert!(replica.gaps().is_empty());
        assert!((0..=late).all(|index| gap_of(&replica, index).is_none()));
        let all = store.read(|s| timeline::forwards(s, replica.room, Place::MIN, usize::MAX));
        let all: Vec<_> = all
            .expect("a timeline")
            .into_iter()
            .map(|(_, row)| row.event)
            .collect();
        let expected: Vec<_> = (0..=late).map(|index| replica.num(index)).collect();
        assert_eq!(all, expected);
        let extremities = store
            .read(|s| heads(s, replica.room))
            .expect("a room")
            .extremities;
        assert!(extremities.contains(&replica.num(late)));
    });
}

#[test]
fn the_state_before_a_missing_event_is_that_before_the_event_after_the_gap() {
    let version = RoomVersionId::V12;
    let mut history = History::public(&version, ALICE);
    let message = || Action::message(ALICE, "m.room.message", json!({ "body": "x" }));
    let known = history.events.len();
    let missing = history.then(message());
    let late = history.then(message());
    let unrelated = history.then(message());
    with_store(async |store| {
        let replica = Replica::new(store, &history, &version).await;
        for index in 0..known {
            replica.receive(index, None).await.expect("it is taken");
        }
        replica.store_outliers([missing, unrelated]).await;
        let claimed = history.events[late].state_before.clone();
        let taken = replica.receive(late, Some(&claimed)).await;
        taken.expect("it is taken");
        let before = |index: usize| {
            let id = history.events[index].pdu.event_id();
            let found = store.read(|s| StateWithAuthChain::before(s, replica.room, id));
            found.expect("a read").map(|found| found.state)
        };
        assert_eq!(before(missing), before(late));
        assert_eq!(before(late).map(|state| state.len()), Some(claimed.len()));
        assert_eq!(before(unrelated), None);
    });
}

#[test]
fn an_outlier_without_its_auth_events_is_refused() {
    let version = RoomVersionId::V12;
    let history = History::public(&version, ALICE);
    with_store(async |store| {
        let replica = Replica::new(store, &history, &version).await;
        // The create event authorizes the creator's join, but is not in its auth_events.
        for index in [1, history.events.len() - 1] {
            let received = replica.received(index);
            let (room, rules) = (replica.room, history.rules);
            let job = move |tx: &Tx| outlier::store(tx, room, rules, &received);
            assert!(matches!(store.write(job).await, Err(Error::Missing)));
        }
    });
}

#[test]
fn a_claimed_state_with_a_message_or_two_events_of_a_key_is_refused() {
    let version = RoomVersionId::V12;
    let mut history = History::public(&version, ALICE);
    let message = history.then(Action::message(
        ALICE,
        "m.room.message",
        json!({ "body": "x" }),
    ));
    with_store(async |store| {
        let replica = Replica::new(store, &history, &version).await;
        replica.store_outliers([message]).await;
        let claimed = |ids: &[usize]| {
            let id = |index: &usize| history.events[*index].pdu.event_id().to_owned();
            let ids: Vec<_> = ids.iter().map(id).collect();
            store.read(|s| receive::claimed_state(s, replica.room, &ids).map(|_: StateOverlay| ()))
        };
        assert!(matches!(claimed(&[message]), Err(Error::Invalid(_))));
        assert!(matches!(claimed(&[1, 1]), Err(Error::Invalid(_))));
        assert!(claimed(&[1]).is_ok());
    });
}
