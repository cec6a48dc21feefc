//! What a send_join response adds to a room in which this server was before.

use ruma::RoomVersionId;
use serde_json::json;

use super::{
    super::{replica::Replica, with_store},
    ALICE, BOB, CAROL, DAVE, VERSIONS, ZOE, closed_room, key, room, topic_by,
};
use crate::{
    protocol::history::{Action, History, Index, State},
    rooms::Error,
};

/// Zoe's server has left a room of alice's in which bob and carol are, dave is banned, and bob was a
/// moderator once; it was public and is invite-only.
fn left_room(version: &RoomVersionId) -> (History, Index) {
    let (mut history, _) = closed_room(version);
    history.then(Action::member(ALICE, ZOE, "invite"));
    history.then(Action::join(ZOE));
    let levels = history.levels(&[(ALICE, 100)], json!({}));
    history.then(Action::state(ALICE, "m.room.power_levels", "", levels));
    for topic in ["old", "new"] {
        history.then(topic_by(ALICE, topic));
    }
    let left = history.then(Action::member(ZOE, ZOE, "leave"));
    (history, left)
}

fn with_left_room(history: &History, left: Index, test: impl AsyncFnOnce(&Replica<'_>) -> ()) {
    with_store(async |store| {
        let replica = Replica::joined(store, history, left - 4).await;
        for index in left - 3..=left {
            replica.receive(index, None).await.expect("it is taken");
        }
        test(&replica).await;
    });
}

#[test]
fn a_rejoin_takes_over_what_has_changed_meanwhile() {
    for version in VERSIONS {
        let (mut history, left) = left_room(&version);
        let erin = "@erin:e.example";
        let public = json!({ "join_rule": "public" });
        history.then(Action::state(ALICE, "m.room.join_rules", "", public));
        history.then(Action::join(erin));
        for level in [25, 50] {
            let levels = [(ALICE, 100), (erin, 50), (CAROL, level)];
            let levels = history.levels(&levels, json!({}));
            history.then(Action::state(ALICE, "m.room.power_levels", "", levels));
        }
        history.then(Action::member(BOB, BOB, "leave"));
        history.then(Action::member(ALICE, DAVE, "leave"));
        let rule = json!({ "join_rule": "invite" });
        history.then(Action::state(ALICE, "m.room.join_rules", "", rule));
        let tombstone = json!({ "body": "", "replacement_room": "!other:a.example" });
        history.then(Action::state(ALICE, "m.room.tombstone", "", tombstone));
        history.then(Action::member(ALICE, ZOE, "invite"));
        history.then(Action::member(ALICE, ALICE, "leave"));
        let join = history.then(Action::join(ZOE));
        with_left_room(&history, left, async |replica| {
            let given = history.events[join].state_before.clone();
            let joined = replica.join(join, &given).await;
            joined.expect("the room is joined");
            let expected = replica.expected(&history.events[join].state_after);
            assert_eq!(replica.current(), expected, "version {version}");
        });
    }
}

#[test]
fn a_rejoin_takes_nothing_of_what_was_known_away() {
    for version in VERSIONS {
        let (mut history, left) = left_room(&version);
        // Bob's power of old.
        let old_levels = history.events.iter().position(|event| {
            let content = event.pdu.content().get();
            content.contains(BOB) && content.contains("50")
        });
        let known = State::clone(&history.events[left].state_after);
        history.then(Action::member(ALICE, ZOE, "invite"));
        let join = history.then(Action::join(ZOE));
        // Bob uses it again, and leaves out that he has lost it.
        let of_old = history.events[left - 4].state_before.clone();
        let built = history.build(&[join], &of_old, topic_by(BOB, "bob's"));
        let forged = history.push(&[join], of_old, built, true);
        for lie in 0..5 {
            let mut given = State::clone(&history.events[join].state_before);
            match lie {
                0 => given.retain(|(kind, key), _| {
                    let kept = ["m.room.create", "m.room.power_levels", "m.room.join_rules"];
                    kept.contains(&&*kind.to_string()) || [ALICE, ZOE].contains(&&**key)
                }),
                1 => drop(given.insert(key("m.room.join_rules", ""), 3)),
                2 => drop(given.insert(
                    key("m.room.power_levels", ""),
                    old_levels.expect("bob had power"),
                )),
                3 => drop(given.insert(key("m.room.topic", ""), left - 2)),
                _ => drop(given.insert(key("m.room.topic", ""), forged)),
            }
            with_left_room(&history, left, async |replica| {
                let joined = replica.join(join, &given).await;
                joined.expect("the room is joined");
                let mut expected = known.clone();
                expected.insert(key("m.room.member", ZOE), join);
                let expected = replica.expected(&expected);
                assert_eq!(replica.current(), expected, "version {version}, lie {lie}");
            });
        }
    }
}

/// Carol has sent a change of their display name to this server alone, before it left.
#[test]
fn a_rejoin_takes_over_a_ban_of_somebody_whose_membership_has_a_false_depth() {
    for version in VERSIONS {
        for depth in [1, 1_000_000_000, (1 << 53) - 1] {
            let (mut history, left) = left_room(&version);
            let name = json!({ "membership": "join", "displayname": "C" });
            let name = Action::state(CAROL, "m.room.member", CAROL, name);
            let state = history.events[left - 1].state_after.clone();
            let built = history.build_at(depth, &[left - 1], &[], &state, name);
            let renamed = history.push(&[left - 1], state, built, true);
            history.after(&[left], Action::member(ALICE, CAROL, "ban"));
            history.then(Action::member(ALICE, ZOE, "invite"));
            let join = history.then(Action::join(ZOE));
            with_store(async |store| {
                let replica = Replica::joined(store, &history, left - 4).await;
                for index in [left - 3, left - 2, left - 1, renamed, left] {
                    replica.receive(index, None).await.expect("it is taken");
                }
                let given = history.events[join].state_before.clone();
                let joined = replica.join(join, &given).await;
                joined.expect("the room is joined");
                let expected = replica.expected(&history.events[join].state_after);
                assert_eq!(replica.current(), expected, "version {version}");
            });
        }
    }
}

/// The other server gives the state from before the ban.
#[test]
fn a_rejoin_that_the_known_state_forbids_is_refused() {
    let (mut history, last) = room(&RoomVersionId::V11);
    history.then(Action::join(ZOE));
    let left = history.then(Action::member(ZOE, ZOE, "leave"));
    history.then(Action::member(ALICE, ZOE, "ban"));
    let before_ban = history.events[left].state_after.clone();
    let built = history.build(&[left], &before_ban, Action::join(ZOE));
    let join = history.push(&[left], before_ban.clone(), built, true);
    with_store(async |store| {
        let replica = Replica::joined(store, &history, last + 1).await;
        for index in [left, left + 1] {
            replica.receive(index, None).await.expect("it is taken");
        }
        let before = replica.current();
        let joined = replica.join(join, &before_ban).await;
        assert!(matches!(joined, Err(Error::Forbidden(_))), "{joined:?}");
        assert_eq!(replica.current(), before);
    });
}

/// The state after the second join, if `left_out` was not in the state that was given for the first one.
fn check_left_out(history: &History, [first, left, second]: [Index; 3], left_out: (&str, &str)) {
    let mut given = State::clone(&history.events[first].state_before);
    let was_given = given.remove(&key(left_out.0, left_out.1));
    was_given.expect("it is in the true state");
    with_store(async |store| {
        let replica = Replica::new(store, history, &history.version).await;
        let joined = replica.join(first, &given).await;
        joined.expect("the room is joined");
        replica.receive(left, None).await.expect("it is taken");
        let given = history.events[second].state_before.clone();
        let joined = replica.join(second, &given).await;
        joined.expect("the room is joined again");
        let expected = replica.expected(&history.events[second].state_after);
        assert_eq!(
            replica.current(),
            expected,
            "{} {left_out:?}",
            history.version
        );
    });
}

#[test]
fn a_rejoin_takes_over_what_another_server_left_out_at_the_first_join() {
    const ERIN: &str = "@erin:e.example";
    for version in VERSIONS {
        for is_closed in [false, true] {
            let (mut history, _) = room(&version);
            history.then(topic_by(ALICE, "topic"));
            history.then(Action::member(ALICE, ERIN, "invite"));
            history.then(Action::join(ERIN));
            if is_closed {
                let rule = json!({ "join_rule": "invite" });
                history.then(Action::state(ALICE, "m.room.join_rules", "", rule));
            }
            let levels = history.levels(&[(ALICE, 100), (CAROL, 25)], json!({}));
            history.then(Action::state(ALICE, "m.room.power_levels", "", levels));
            history.then(Action::member(ALICE, ZOE, "invite"));
            let first = history.then(Action::join(ZOE));
            let left = history.then(Action::member(ZOE, ZOE, "leave"));
            history.then(Action::member(ALICE, ZOE, "invite"));
            let second = history.then(Action::join(ZOE));
            let joins = [first, left, second];
            for user in [DAVE, ERIN] {
                check_left_out(&history, joins, ("m.room.member", user));
            }
            check_left_out(&history, joins, ("m.room.topic", ""));
            if !is_closed {
                check_left_out(&history, joins, ("m.room.member", BOB));
            }
        }
    }
}

#[test]
fn a_rejoin_takes_over_what_was_made_concurrently_with_the_last_known_power_levels() {
    for version in VERSIONS {
        let (mut history, _) = room(&version);
        let first = history.then(Action::join(ZOE));
        let levels = history.levels(&[(ALICE, 100), (CAROL, 25)], json!({}));
        let levels = history.then(Action::state(ALICE, "m.room.power_levels", "", levels));
        let left = history.then(Action::member(ZOE, ZOE, "leave"));
        let concurrent = history.after(&[first], Action::join("@erin:e.example"));
        let second = history.after(&[left, concurrent], Action::join(ZOE));
        with_store(async |store| {
            let replica = Replica::joined(store, &history, first).await;
            for index in [levels, left] {
                replica.receive(index, None).await.expect("it is taken");
            }
            let given = history.events[second].state_before.clone();
            let joined = replica.join(second, &given).await;
            joined.expect("the room is joined again");
            let expected = replica.expected(&history.events[second].state_after);
            assert_eq!(replica.current(), expected, "version {version}");
        });
    }
}

/// Bob has lost the power for it since.
#[test]
fn what_lacks_power_by_the_known_state_is_no_news_at_a_rejoin() {
    for version in VERSIONS {
        let (mut history, left) = left_room(&version);
        let of_old = history.events[left - 4].state_before.clone();
        let old_levels = history.events.iter().position(|event| {
            let content = event.pdu.content().get();
            content.contains(BOB) && content.contains("50")
        });
        let mut of_bob = State::clone(&of_old);
        of_bob.insert(
            key("m.room.power_levels", ""),
            old_levels.expect("bob had power"),
        );
        let action = Action::member(BOB, "@erin:e.example", "ban");
        let built = history.build(&[left - 4], &of_bob, action);
        let forged = history.push(&[left - 4], of_bob.into(), built, true);
        history.after(&[left], Action::member(ALICE, ZOE, "invite"));
        let join = history.then(Action::join(ZOE));
        let mut given = State::clone(&history.events[join].state_before);
        given.insert(key("m.room.member", "@erin:e.example"), forged);
        with_left_room(&history, left, async |replica| {
            let joined = replica.join(join, &given).await;
            joined.expect("the room is joined");
            let expected = replica.expected(&history.events[join].state_after);
            assert_eq!(replica.current(), expected, "version {version}");
        });
    }
}
