//! What came before the join of this server adds nothing to what came since.

use ruma::RoomVersionId;
use serde_json::json;

use super::{
    super::{replica::Replica, with_store},
    ALICE, BOB, CAROL, VERSIONS, ZOE, closed_room, reduced, room, say, with_room,
};
use crate::{
    protocol::history::Action,
    rooms::{Error, event::import, room::heads, timeline},
    store::{Reader, Rows, Tx, records::Status},
};

#[test]
fn a_gap_from_before_a_join_changes_no_extremity_and_no_state_after_it() {
    let version = RoomVersionId::V11;
    let (mut history, last) = room(&version);
    let claimed = reduced(&history, last);
    let honest = history.then(say(BOB));
    let lie = history.then(say(CAROL));
    with_room(&history, last, async |replica, before| {
        let taken = replica.receive(lie, Some(&claimed)).await;
        taken.expect("it is taken");
        let id = history.create_event().room_id().to_owned();
        let begin = move |tx: &Tx| import::begin(tx, &id, &RoomVersionId::V11);
        replica.store.write(begin).await.expect("the join begins");
        let (room, gap) = (replica.room, replica.gaps()[0]);
        let (claims, gap) = replica
            .store
            .read(|s| {
                let claims = s.claimed_states()?.prefix(room)?.count();
                Ok::<_, Error>((claims, timeline::gap(s, room, gap)?.expect("a gap")))
            })
            .expect("a read");
        assert_eq!((claims, gap.opened), (0, None));
        replica.fill([honest]).await;
        let heads = replica.store.read(|s| heads(s, replica.room));
        assert_eq!(heads.expect("a room").extremities, []);
        assert_eq!(replica.current(), before);
    });
}

#[test]
fn an_event_that_is_older_than_what_is_known_stays_an_outlier() {
    for version in VERSIONS {
        let (mut history, _) = room(&version);
        let left = history.then(Action::member(BOB, BOB, "leave"));
        history.then(Action::join(BOB));
        let rule = json!({ "join_rule": "invite" });
        history.then(Action::state(ALICE, "m.room.join_rules", "", rule));
        history.then(Action::member(ALICE, ZOE, "invite"));
        let join = history.then(Action::join(ZOE));
        with_store(async |store| {
            let replica = Replica::joined(store, &history, join).await;
            let before = replica.current();
            for old in [0, 3, left] {
                let claimed = history.events[old].state_before.clone();
                let taken = replica.receive(old, Some(&claimed)).await;
                taken.expect("it is taken");
                assert!(replica.status(old).is_outlier(), "event {old}");
                assert_eq!(replica.current(), before, "version {version}");
            }
        });
    }
}

/// Bob's join of long ago, on a branch on which nothing follows, and what came before it.
#[test]
fn an_event_that_follows_only_on_history_from_before_the_join_is_not_live() {
    for version in VERSIONS {
        let (mut history, old) = room(&version);
        let again = json!({ "membership": "join", "displayname": "Bob" });
        let again = Action::state(BOB, "m.room.member", BOB, again);
        let branch = history.append(&[old], again);
        history.after(&[old], Action::member(ALICE, BOB, "leave"));
        let last = history.then(say(ALICE));
        let join = history.then(Action::join(ZOE));
        with_store(async |store| {
            let replica = Replica::joined(store, &history, join).await;
            let before = replica.current();
            replica.fill(old - 1..=last).await;
            assert_eq!(replica.status(old), Status::Accepted, "version {version}");
            replica.store_outliers([branch]).await;
            replica.receive(branch, None).await.expect("it is taken");
            assert_eq!(replica.status(branch), Status::Outlier, "version {version}");
            assert_eq!(replica.current(), before, "version {version}");
        });
    }
}

#[test]
fn the_create_event_is_not_live_in_a_room_that_was_joined() {
    for version in VERSIONS {
        let (mut history, _) = closed_room(&version);
        history.then(Action::member(ALICE, ZOE, "invite"));
        let join = history.then(Action::join(ZOE));
        with_store(async |store| {
            let replica = Replica::joined(store, &history, join).await;
            let before = replica.current();
            replica.receive(0, None).await.expect("it is taken");
            assert_eq!(replica.status(0), Status::Outlier, "version {version}");
            assert_eq!(replica.current(), before, "version {version}");
        });
    }
}
