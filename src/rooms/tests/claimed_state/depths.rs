//! Events of false depths: the sender of an event chooses it.

use serde_json::json;

use super::{
    super::{replica::Replica, with_store},
    ALICE, BOB, CAROL, VERSIONS, ZOE, append_with_unknown, closed_room, expect_no_news, key, room,
    say, topic_by, unknown, with_room,
};
use crate::{
    protocol::history::{Action, History, Index, State},
    store::records::Status,
};

const MAX_DEPTH: u64 = (1 << 53) - 1;
/// Also one that is right.
const DEPTHS: [u64; 4] = [1, 9, 1_000_000_000, MAX_DEPTH];

/// Carol changes their display name.
fn rename_at(history: &mut History, depth: u64, last: Index) -> Index {
    let state = history.events[last].state_after.clone();
    let join = json!({ "membership": "join", "displayname": "C" });
    let join = Action::state(CAROL, "m.room.member", CAROL, join);
    let built = history.build_at(depth, &[last], &[], &state, join);
    history.push(&[last], state, built, true)
}

/// Appends messages to `last`: the clocks of these tests are coarse.
fn pass_time(history: &mut History, last: Index) {
    for n in 0..8 {
        let content = json!({ "n": n, "after": history.events.len() });
        history.after(&[last], Action::message(ALICE, "m.room.message", content));
    }
}

/// Checks that the event `claimed` replaces `known`, which is received after `last`, if it comes in the claim
/// of a message of `sender`.
fn check_claim_is_news(
    mut history: History,
    last: Index,
    known: Index,
    claimed: Index,
    sender: &'static str,
) {
    let state = history.events[claimed].state_after.clone();
    let message = append_with_unknown(&mut history, &[], say(sender));
    with_room(&history, last, async |replica, _| {
        replica.receive(known, None).await.expect("it is taken");
        replica.store_outliers([claimed]).await;
        let taken = replica.receive(message, Some(&state)).await;
        taken.expect("it is taken");
        let expected = replica.expected(&state);
        assert_eq!(replica.current(), expected, "version {}", history.version);
    });
}

/// Both topics are of the greatest depth, and the claim has the other one.
#[test]
fn at_the_greatest_depth_the_later_event_by_time_is_news() {
    for version in VERSIONS {
        for is_known in [0, 1] {
            let (mut history, last) = closed_room(&version);
            let state = history.events[last].state_after.clone();
            let topics = ["one", "other"].map(|name| {
                let topic = topic_by(ALICE, name);
                let built = history.build_at(MAX_DEPTH, &[last], &[], &state, topic);
                let topic = history.push(&[last], state.clone(), built, true);
                pass_time(&mut history, last);
                topic
            });
            let (known, other) = (topics[is_known], topics[1 - is_known]);
            let claimed = history.events[other].state_after.clone();
            let lie = append_with_unknown(&mut history, &[last], say(CAROL));
            with_room(&history, last, async |replica, _| {
                replica.receive(known, None).await.expect("it is taken");
                replica.store_outliers([other]).await;
                let taken = replica.receive(lie, Some(&claimed)).await;
                taken.expect("it is taken");
                let state = &history.events[topics[1]].state_after;
                assert_eq!(replica.current(), replica.expected(state), "{version}");
            });
        }
    }
}

/// Carol has changed their display name, which only this server knows. The ban does not follow that.
#[test]
fn a_ban_replaces_a_membership_of_a_false_depth_that_it_does_not_follow() {
    for version in VERSIONS {
        for depth in DEPTHS {
            let (mut history, last) = closed_room(&version);
            let renamed = rename_at(&mut history, depth, last);
            let state = history.events[last].state_after.clone();
            let lie = append_with_unknown(&mut history, &[last], say(CAROL));
            let ban = history.build(&[lie], &state, Action::member(ALICE, CAROL, "ban"));
            let ban = history.push(&[lie], state.clone(), ban, true);
            with_room(&history, last, async |replica, _| {
                replica.receive(renamed, None).await.expect("it is taken");
                for (event, claimed) in [(lie, Some(&*state)), (ban, None)] {
                    let taken = replica.receive(event, claimed).await;
                    taken.expect("it is taken");
                    assert_eq!(replica.status(event), Status::Accepted);
                }
                let expected = replica.expected(&history.events[ban].state_after);
                assert_eq!(replica.current(), expected, "version {version}");
            });
        }
    }
}

/// The ban follows the membership, which everybody knows of then, or only this server knows it.
#[test]
fn a_ban_in_a_claim_replaces_a_membership_of_any_depth() {
    for version in VERSIONS {
        for depth in DEPTHS {
            for follows in [false, true] {
                let (mut history, last) = closed_room(&version);
                let renamed = rename_at(&mut history, depth, last);
                let prev = if follows { renamed } else { last };
                let ban = history.after(&[prev], Action::member(ALICE, CAROL, "ban"));
                check_claim_is_news(history, last, renamed, ban, BOB);
            }
        }
    }
}

/// Bob gives himself power levels of a false depth, which only this server knows, and loses his power.
#[test]
fn a_demotion_in_a_claim_replaces_power_levels_of_a_false_depth() {
    for version in VERSIONS {
        for depth in DEPTHS {
            let (mut history, last) = closed_room(&version);
            let state = history.events[last].state_after.clone();
            let levels = history.levels(&[(ALICE, 100), (BOB, 50)], json!({ "kick": 50 }));
            let levels = Action::state(BOB, "m.room.power_levels", "", levels);
            let built = history.build_at(depth, &[last], &[], &state, levels);
            let kept = history.push(&[last], state, built, true);
            let levels = history.levels(&[(ALICE, 100)], json!({}));
            let levels = Action::state(ALICE, "m.room.power_levels", "", levels);
            let demotion = history.after(&[last], levels);
            check_claim_is_news(history, last, kept, demotion, CAROL);
        }
    }
}

/// Bob was banned once, before this server came, and joined again with an event of a false depth.
#[test]
fn an_old_ban_in_a_claim_does_not_replace_a_membership_that_follows_it() {
    for version in VERSIONS {
        let (mut history, _) = room(&version);
        let ban = history.then(Action::member(ALICE, BOB, "ban"));
        let last = history.then(Action::member(ALICE, BOB, "leave"));
        let state = history.events[last].state_after.clone();
        let built = history.build_at(1, &[last], &[], &state, Action::join(BOB));
        history.push(&[last], state, built, true);
        let join = history.then(Action::join(ZOE));
        let mut claimed = State::clone(&history.events[join].state_after);
        claimed.insert(key("m.room.member", BOB), ban);
        let lie = append_with_unknown(&mut history, &[], say(CAROL));
        with_store(async |store| {
            let replica = Replica::joined(store, &history, join).await;
            let before = replica.current();
            expect_no_news(&replica, &before, lie, &claimed).await;
        });
    }
}

/// The second topic has a smaller depth and an earlier time than the first, which stood in the state at the
/// join. The first also comes as an event of its own.
#[test]
fn a_claim_does_not_bring_back_what_was_replaced_here() {
    for version in VERSIONS {
        for comes_again in [false, true] {
            let (mut history, _) = room(&version);
            history.then(say(ALICE));
            let old = history.then(topic_by(ALICE, "old"));
            let join = history.then(Action::join(ZOE));
            let state = history.events[join].state_after.clone();
            let built = history.build_at(1, &[join], &[], &state, topic_by(ALICE, "new"));
            let new = history.push(&[join], state, built, true);
            let time = |index: Index| history.events[index].pdu.origin_server_ts();
            assert!(time(new) < time(old));
            let mut claimed = State::clone(&history.events[new].state_after);
            claimed.insert(key("m.room.topic", ""), old);
            let lie = append_with_unknown(&mut history, &[], say(CAROL));
            with_store(async |store| {
                let replica = Replica::joined(store, &history, join).await;
                replica.receive(new, None).await.expect("it is taken");
                let before = replica.current();
                if comes_again {
                    let taken = replica.receive(old, Some(&claimed)).await;
                    taken.expect("it is taken");
                    assert_eq!(replica.status(old), Status::Outlier);
                }
                expect_no_news(&replica, &before, lie, &claimed).await;
            });
        }
    }
}

/// Bob's topic is of a false depth, and only this server knows it. Alice's is later.
#[test]
fn a_change_in_a_claim_replaces_an_earlier_one_of_a_false_depth() {
    for version in VERSIONS {
        for depth in DEPTHS {
            let (mut history, last) = closed_room(&version);
            let state = history.events[last].state_after.clone();
            let built = history.build_at(depth, &[last], &[], &state, topic_by(BOB, "bob's"));
            let known = history.push(&[last], state, built, true);
            pass_time(&mut history, last);
            let topic = history.after(&[last], topic_by(ALICE, "alice's"));
            check_claim_is_news(history, last, known, topic, CAROL);
        }
    }
}

/// Only this server knows the first one.
#[test]
fn of_two_concurrent_display_names_the_later_one_in_a_claim_is_news() {
    for version in VERSIONS {
        for depth in DEPTHS {
            let (mut history, last) = closed_room(&version);
            let known = rename_at(&mut history, depth, last);
            pass_time(&mut history, last);
            let content = json!({ "membership": "join", "displayname": "Carol" });
            let name = Action::state(CAROL, "m.room.member", CAROL, content);
            let name = history.after(&[last], name);
            check_claim_is_news(history, last, known, name, BOB);
        }
    }
}

/// As a server can ask for in the template of the join.
#[test]
fn what_is_less_deep_than_the_join_can_be_news() {
    for version in VERSIONS {
        let (mut history, last) = room(&version);
        let state = history.events[last].state_after.clone();
        let built = history.build_at(MAX_DEPTH, &[last], &[], &state, Action::join(ZOE));
        let join = history.push(&[last], state, built, true);
        history.after(&[last], Action::member(ALICE, CAROL, "ban"));
        let rule = json!({ "join_rule": "invite" });
        let closed = history.then(Action::state(ALICE, "m.room.join_rules", "", rule));
        let mut claimed = State::clone(&history.events[closed].state_after);
        claimed.insert(key("m.room.member", ZOE), join);
        let message = append_with_unknown(&mut history, &[], say(BOB));
        with_store(async |store| {
            let replica = Replica::joined(store, &history, join).await;
            replica.store_outliers([closed, closed - 1]).await;
            let taken = replica.receive(message, Some(&claimed)).await;
            taken.expect("it is taken");
            assert_eq!(replica.current(), replica.expected(&claimed), "{version}");
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
