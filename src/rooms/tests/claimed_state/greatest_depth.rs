//! Events of the greatest depth, than which nothing is later.

use serde_json::json;

use super::{ALICE, BOB, CAROL, VERSIONS, closed_room, say, topic_by, unknown, with_room};
use crate::{protocol::history::Action, store::records::Status};

const MAX_DEPTH: u64 = (1 << 53) - 1;

/// What can be no later than anything is no news, and neither is what follows it.
#[test]
fn nothing_is_later_than_an_event_of_the_greatest_depth() {
    for version in VERSIONS {
        let (mut history, last) = closed_room(&version);
        let state = history.events[last].state_after.clone();
        let topic = topic_by(ALICE, "deep");
        let built = history.build_at(MAX_DEPTH, &[last], &[], &state, topic);
        let deep = history.push(&[last], state, built, true);
        let state = history.events[deep].state_after.clone();
        let topic = topic_by(ALICE, "next");
        let built = history.build_at(MAX_DEPTH, &[deep], &[], &state, topic);
        let next = history.push(&[deep], state.clone(), built, true);
        let claimed = history.events[next].state_after.clone();
        let built = history.build_at(MAX_DEPTH, &[next], &[], &claimed, say(CAROL));
        let message = history.push(&[next], claimed.clone(), built, true);
        // A ban by somebody without power.
        let ban = Action::member(CAROL, BOB, "ban");
        let built = history.build_at(MAX_DEPTH, &[], &[unknown()], &state, ban);
        let forged = history.push(&[], state, built, true);
        with_room(&history, deep, async |replica, before| {
            replica.store_outliers([next]).await;
            let taken = replica.receive(forged, Some(&claimed)).await;
            taken.expect("it is taken");
            assert_eq!(replica.status(forged), Status::RejectedOutlier);
            let taken = replica.receive(message, Some(&claimed)).await;
            taken.expect("it is taken");
            assert_eq!(replica.status(message), Status::Accepted);
            assert_eq!(replica.current(), before, "version {version}");
            replica.fill([next]).await;
            replica.check_state_before(message);
            replica.check_current();
        });
    }
}

/// Carol has a membership of the greatest depth, and sends a message on an event that does not exist.
#[test]
fn a_liar_of_the_greatest_depth_can_be_banned() {
    for version in VERSIONS {
        let (mut history, last) = closed_room(&version);
        let state = history.events[last].state_after.clone();
        let join = json!({ "membership": "join", "displayname": "C" });
        let join = Action::state(CAROL, "m.room.member", CAROL, join);
        let built = history.build_at(MAX_DEPTH, &[last], &[], &state, join);
        let join = history.push(&[last], state, built, true);
        let state = history.events[join].state_after.clone();
        let built = history.build_at(MAX_DEPTH, &[join], &[unknown()], &state, say(CAROL));
        let lie = history.push(&[join], state.clone(), built, true);
        let ban = Action::member(ALICE, CAROL, "ban");
        let built = history.build_at(MAX_DEPTH, &[lie], &[], &state, ban);
        let ban = history.push(&[lie], state.clone(), built, true);
        with_room(&history, join, async |replica, _| {
            for event in [lie, ban] {
                let taken = replica.receive(event, Some(&state)).await;
                taken.expect("it is taken");
                assert_eq!(replica.status(event), Status::Accepted);
            }
            let state = &history.events[ban].state_after;
            assert_eq!(replica.current(), replica.expected(state));
        });
    }
}
