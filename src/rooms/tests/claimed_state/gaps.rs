//! What becomes of a claim, and of the room, when the gap before it is filled.

use std::sync::Arc;

use ruma::RoomVersionId;

use super::{
    ALICE, BOB, CAROL, DAVE, VERSIONS, closed_room, reduced, room, say, unknown, with_room,
};
use crate::{
    protocol::history::{Action, History, State},
    rooms::{room::heads, timeline},
    store::{Place, records::Status},
};

#[test]
fn claimed_state_is_dropped_when_the_gap_before_it_is_closed() {
    for version in VERSIONS {
        let (mut history, last) = room(&version);
        let claimed = reduced(&history, last);
        let honest = history.then(say(BOB));
        let lie = history.then(say(CAROL));
        let behind = history.then(say(CAROL));
        with_room(&history, last, async |replica, before| {
            replica
                .receive(lie, Some(&claimed))
                .await
                .expect("it is taken");
            replica.receive(behind, None).await.expect("it is taken");
            assert_eq!(replica.current(), before, "version {version}");
            replica.fill([honest]).await;
            assert_eq!(replica.current(), before, "version {version}");
            for index in [honest, lie, behind] {
                replica.check_state_before(index);
            }
            replica.check_current();
        });
    }
}

#[test]
fn an_event_in_a_gap_is_soft_failed_if_the_room_forbade_it_before_the_gap() {
    let (mut history, last) = room(&RoomVersionId::V11);
    // Before the ban.
    let fork = last - 1;
    let evasion = history.after(&[fork], say(DAVE));
    let state = history.events[last].state_after.clone();
    let built = history.build(&[evasion, last], &state, say(CAROL));
    let accomplice = history.push(&[evasion, last], state.clone(), built, true);
    with_room(&history, last, async |replica, before| {
        let taken = replica.receive(accomplice, Some(&state)).await;
        taken.expect("it is taken");
        replica.fill([evasion]).await;
        assert_eq!(replica.status(evasion), Status::SoftFailed);
        assert_eq!(replica.current(), before);
        let rows = replica
            .store
            .read(|s| timeline::forwards(s, replica.room, Place::MIN, 100))
            .expect("a timeline");
        let evasion = replica.num(evasion);
        assert!(rows.iter().all(|(_, row)| row.event != evasion));
    });
}

#[test]
fn an_event_in_a_gap_is_accepted_if_the_room_forbids_it_only_after_the_gap() {
    let mut history = History::public(&RoomVersionId::V11, ALICE);
    history.then(Action::join(BOB));
    let last = history.then(Action::join(DAVE));
    let before_ban = history.then(say(DAVE));
    let ban = history.then(Action::member(ALICE, DAVE, "ban"));
    let after_ban = history.then(say(BOB));
    with_room(&history, last, async |replica, _| {
        let state: Arc<State> = history.events[after_ban].state_before.clone();
        replica.store_outliers(state.values().copied()).await;
        let taken = replica.receive(after_ban, Some(&state)).await;
        taken.expect("it is taken");
        replica.fill([before_ban, ban]).await;
        assert_eq!(replica.status(before_ban), Status::Accepted);
        replica.check_current();
    });
}

#[test]
fn the_first_message_after_a_gap_is_accepted_if_its_sender_joined_in_the_gap() {
    for version in VERSIONS {
        let (mut history, last) = room(&version);
        history.then(Action::join("@erin:e.example"));
        let first = history.then(say("@erin:e.example"));
        let second = history.then(say("@erin:e.example"));
        let claimed = history.events[first].state_before.clone();
        with_room(&history, last, async |replica, _| {
            replica.store_outliers(claimed.values().copied()).await;
            let taken = replica.receive(first, Some(&claimed)).await;
            taken.expect("it is taken");
            replica.receive(second, None).await.expect("it is taken");
            for event in [first, second] {
                assert_eq!(replica.status(event), Status::Accepted);
            }
            let end = &history.events[second].state_after;
            assert_eq!(replica.current(), replica.expected(end));
        });
    }
}

#[test]
fn a_message_of_somebody_who_is_banned_is_not_accepted_with_a_claim_that_they_have_joined() {
    for version in VERSIONS {
        let (mut history, last) = room(&version);
        // Before the ban.
        let claimed = history.events[last].state_before.clone();
        let built = history.build_missing(&[last - 1], &[unknown()], &claimed, say(DAVE));
        let lie = history.push(&[last - 1], claimed.clone(), built, true);
        with_room(&history, last, async |replica, before| {
            let taken = replica.receive(lie, Some(&claimed)).await;
            taken.expect("it is taken");
            assert_eq!(replica.status(lie), Status::Outlier);
            assert_eq!(replica.current(), before);
        });
    }
}

/// Carol has left before the message that refers to an old event next to that.
#[test]
fn an_event_that_others_follow_on_is_no_extremity_when_one_on_it_is_rejected() {
    for version in VERSIONS {
        let (mut history, last) = closed_room(&version);
        let old = last - 4;
        let leave = history.after(&[old], Action::member(CAROL, CAROL, "leave"));
        let state = history.events[last].state_after.clone();
        let built = history.build(&[old, leave], &state, say(CAROL));
        let lie = history.push(&[old, leave], state.clone(), built, true);
        with_room(&history, last, async |replica, _| {
            let taken = replica.receive(lie, Some(&state)).await;
            taken.expect("it is taken");
            assert_eq!(replica.status(lie), Status::Accepted);
            replica.fill([leave]).await;
            let heads = replica.store.read(|s| heads(s, replica.room));
            let extremities = heads.expect("a room").extremities;
            assert!(replica.status(lie).is_rejected());
            assert!(
                !extremities.contains(&replica.num(old)),
                "version {version}"
            );
        });
    }
}
