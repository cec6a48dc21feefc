//! What another server claims to be the state before an event, against what is known here.

mod before_join;
mod depths;
mod gaps;
mod rejoin;

use std::sync::Arc;

use ruma::{EventId, OwnedEventId, RoomVersionId, events::StateEventType};
use serde_json::json;

use super::{
    replica::{Named, Replica},
    with_store,
};
use crate::{
    protocol::history::{Action, History, Index, State},
    rooms::{
        Error,
        event::{commit::MAX_CLAIMED_STATES, outlier, receive},
    },
    store::{Reader, Rows, Tx, records::Status},
};

const ALICE: &str = "@alice:a.example";
const BOB: &str = "@bob:b.example";
const CAROL: &str = "@carol:c.example";
const DAVE: &str = "@dave:d.example";
const ZOE: &str = "@zoe:here";
const VERSIONS: [RoomVersionId; 7] = [
    RoomVersionId::V6,
    RoomVersionId::V7,
    RoomVersionId::V8,
    RoomVersionId::V9,
    RoomVersionId::V10,
    RoomVersionId::V11,
    RoomVersionId::V12,
];

/// A room of alice's with bob and carol, from which dave is banned.
fn room(version: &RoomVersionId) -> (History, Index) {
    let mut history = History::public(version, ALICE);
    for user in [BOB, CAROL, DAVE] {
        history.then(Action::join(user));
    }
    let last = history.then(Action::member(ALICE, DAVE, "ban"));
    (history, last)
}

fn say(sender: &'static str) -> Action {
    Action::message(sender, "m.room.message", json!({ "body": "x" }))
}

fn unknown() -> OwnedEventId {
    EventId::parse("$nobodyhasthisevent").expect("an event id")
}

/// The state that carol's server claims: nothing but what lets carol send messages.
fn reduced(history: &History, last: Index) -> State {
    let mut state = (*history.events[last].state_after).clone();
    state.retain(|(kind, key), _| *kind == StateEventType::RoomCreate || key == CAROL);
    state
}

/// Appends an event of which a prev_event does not exist.
fn append_with_unknown(history: &mut History, prev: &[Index], action: Action) -> Index {
    let state = history.events[0].state_after.clone();
    let cited = history.events.last().expect("an event").state_after.clone();
    let built = history.build_missing(prev, &[unknown()], &cited, action);
    history.push(prev, state, built, true)
}

fn with_room(history: &History, last: Index, test: impl AsyncFnOnce(&Replica<'_>, Named) -> ()) {
    with_store(async |store| {
        let replica = Replica::new(store, history, &history.version).await;
        for index in 0..=last {
            replica.receive(index, None).await.expect("it is taken");
        }
        let before = replica.current();
        test(&replica, before).await;
    });
}

/// A room that turns invite-only after bob and carol have joined it.
fn closed_room(version: &RoomVersionId) -> (History, Index) {
    let (mut history, _) = room(version);
    let levels = history.levels(&[(ALICE, 100), (BOB, 50)], json!({}));
    history.then(Action::state(ALICE, "m.room.power_levels", "", levels));
    let visibility = json!({ "history_visibility": "joined" });
    let kind = "m.room.history_visibility";
    history.then(Action::state(ALICE, kind, "", visibility));
    let rule = json!({ "join_rule": "invite" });
    let last = history.then(Action::state(ALICE, "m.room.join_rules", "", rule));
    (history, last)
}

fn key(kind: &str, state_key: &str) -> (StateEventType, String) {
    (kind.into(), state_key.to_owned())
}

/// Receives a lie with its claim, of which nothing reaches the room.
async fn expect_no_news(replica: &Replica<'_>, before: &Named, lie: Index, claimed: &State) {
    let taken = replica.receive(lie, Some(claimed)).await;
    taken.expect("it is taken");
    assert_eq!(replica.state_before(lie), *before);
    assert_eq!(replica.current(), *before);
}

/// Checks that the room stays as it is whatever carol's server claims, next to a known prev_event or
/// without one.
fn check_claim(claim: impl Fn(&History, &mut State)) {
    for version in VERSIONS {
        for follows in [true, false] {
            let (mut history, last) = closed_room(&version);
            let mut claimed = State::clone(&history.events[last].state_after);
            claim(&history, &mut claimed);
            let prev = if follows { vec![last] } else { vec![] };
            let lie = append_with_unknown(&mut history, &prev, say(CAROL));
            with_room(&history, last, async |replica, before| {
                expect_no_news(replica, &before, lie, &claimed).await;
            });
        }
    }
}

fn topic_by(sender: &'static str, topic: &str) -> Action {
    Action::state(sender, "m.room.topic", "", json!({ "topic": topic }))
}

#[test]
fn claimed_state_is_resolved_with_the_states_after_known_prev_events() {
    for version in VERSIONS {
        let (mut history, last) = room(&version);
        let claimed = reduced(&history, last);
        let lie = append_with_unknown(&mut history, &[last], say(CAROL));
        with_room(&history, last, async |replica, before| {
            replica
                .receive(lie, Some(&claimed))
                .await
                .expect("it is taken");
            assert_eq!(replica.status(lie), Status::Accepted);
            assert_eq!(replica.current(), before, "version {version}");
        });
    }
}

#[test]
fn claimed_state_before_a_rejected_event_reaches_no_other_event() {
    for version in VERSIONS {
        for follows in [true, false] {
            let (mut history, last) = room(&version);
            let claimed = reduced(&history, last);
            let prev = if follows { vec![last] } else { vec![] };
            let levels = Action::state(CAROL, "m.room.power_levels", "", json!({ "ban": 0 }));
            let rejected = append_with_unknown(&mut history, &prev, levels);
            let state = history.events[last].state_after.clone();
            let built = history.build(&[rejected], &state, say(CAROL));
            let lie = history.push(&[rejected], state, built, true);
            with_room(&history, last, async |replica, before| {
                for index in [rejected, lie] {
                    let taken = replica.receive(index, Some(&claimed)).await;
                    taken.expect("it is taken");
                }
                assert!(replica.status(rejected).is_rejected());
                assert_eq!(replica.current(), before, "version {version}");
            });
        }
    }
}

#[test]
fn a_second_create_event_of_a_room_is_refused() {
    let (mut history, last) = room(&RoomVersionId::V11);
    let content = json!({ "room_version": "11", "n": 1 });
    let create = Action::state(ALICE, "m.room.create", "", content);
    let built = history.build(&[], &State::new(), create);
    let forged = history.push(&[], Arc::default(), built, true);
    with_room(&history, last, async |replica, before| {
        let taken = replica.receive(forged, None).await;
        assert!(matches!(taken, Err(Error::Invalid(_))), "{taken:?}");
        let (room, rules) = (replica.room, history.rules);
        let received = replica.received(forged);
        let job = move |tx: &Tx| outlier::store(tx, room, rules, &received);
        let kept = replica.store.write(job).await;
        assert!(matches!(kept, Err(Error::Invalid(_))), "{kept:?}");
        assert_eq!(replica.current(), before);
    });
}

/// Otherwise each layer multiplies the work by the number of its prev_events.
#[test]
fn each_rejected_event_is_looked_through_once_however_often_others_refer_to_it() {
    let (mut history, last) = room(&RoomVersionId::V11);
    let mut top = last;
    for _ in 0..12 {
        top = history.append(&[top; 20], say(DAVE));
    }
    with_room(&history, last, async |replica, before| {
        for index in last + 1..=top {
            replica.receive(index, None).await.expect("it is decided");
            assert!(replica.status(index).is_rejected());
        }
        assert_eq!(replica.current(), before);
    });
}

#[test]
fn members_omitted_from_a_claim_stay_in_a_room_that_has_become_invite_only() {
    check_claim(|_, claimed| {
        claimed.remove(&key("m.room.member", BOB));
    });
}

#[test]
fn join_rules_omitted_from_a_claim_or_outdated_stay_as_they_are() {
    check_claim(|_, claimed| {
        claimed.remove(&key("m.room.join_rules", ""));
        claimed.remove(&key("m.room.member", BOB));
    });
    check_claim(|_, claimed| {
        claimed.insert(key("m.room.join_rules", ""), 3);
        claimed.remove(&key("m.room.member", BOB));
    });
}

#[test]
fn power_levels_and_history_visibility_omitted_from_a_claim_or_outdated_stay_as_they_are() {
    check_claim(|_, claimed| {
        claimed.remove(&key("m.room.power_levels", ""));
        claimed.remove(&key("m.room.history_visibility", ""));
    });
    check_claim(|_, claimed| {
        claimed.insert(key("m.room.power_levels", ""), 2);
    });
}

#[test]
fn an_outdated_membership_in_a_claim_replaces_no_later_one() {
    for version in VERSIONS {
        let (mut history, _) = room(&version);
        let left = history.then(Action::member(BOB, BOB, "leave"));
        history.then(Action::join(BOB));
        let rule = json!({ "join_rule": "invite" });
        let last = history.then(Action::state(ALICE, "m.room.join_rules", "", rule));
        let mut claimed = State::clone(&history.events[last].state_after);
        claimed.insert(key("m.room.member", BOB), left);
        let lie = append_with_unknown(&mut history, &[], say(CAROL));
        with_room(&history, last, async |replica, before| {
            expect_no_news(replica, &before, lie, &claimed).await;
        });
    }
}

#[test]
fn a_room_keeps_a_limited_number_of_claims() {
    let (mut history, last) = room(&RoomVersionId::V11);
    let claimed = State::clone(&history.events[last].state_after);
    let lies: Vec<Index> = (0..MAX_CLAIMED_STATES + 5)
        .map(|n| {
            let message = Action::message(CAROL, "m.room.message", json!({ "n": n }));
            let missing = EventId::parse(format!("$nobodyhasthis{n}")).expect("an event id");
            let state = history.events[0].state_after.clone();
            let cited = history.events[last].state_after.clone();
            let built = history.build_missing(&[], &[missing], &cited, message);
            history.push(&[], state, built, true)
        })
        .collect();
    with_room(&history, last, async |replica, before| {
        for lie in lies {
            let taken = replica.receive(lie, Some(&claimed)).await;
            taken.expect("it is taken");
        }
        let claims = replica.store.read(|s| {
            let claims = s.claimed_states()?;
            Ok::<_, Error>(claims.prefix(replica.room)?.count())
        });
        assert_eq!(claims.expect("read"), MAX_CLAIMED_STATES);
        assert_eq!(replica.current(), before);
    });
}

/// Dave is banned; his server makes a join for him that refers to the room before the ban.
#[test]
fn a_forged_event_in_a_claim_that_does_not_follow_the_known_state_is_no_news() {
    for version in VERSIONS {
        let (mut history, last) = room(&version);
        let before_ban = history.events[last].state_before.clone();
        let join = history.build(&[last], &before_ban, Action::join(DAVE));
        let join = history.push(&[last], before_ban, join, true);
        let mut claimed = State::clone(&history.events[last].state_after);
        claimed.insert(key("m.room.member", DAVE), join);
        let lie = append_with_unknown(&mut history, &[], say(CAROL));
        with_room(&history, last, async |replica, before| {
            replica.store_outliers([join]).await;
            expect_no_news(replica, &before, lie, &claimed).await;
        });
    }
}

/// The server was away while somebody joined the public room, got power, used it and lost it, and
/// the room became invite-only.
#[test]
fn a_true_claim_about_a_history_without_forks_is_accepted_whole() {
    for version in VERSIONS {
        let (mut history, last) = room(&version);
        let erin = "@erin:e.example";
        history.then(Action::join(erin));
        let levels = history.levels(&[(ALICE, 100), (erin, 50)], json!({}));
        history.then(Action::state(ALICE, "m.room.power_levels", "", levels));
        history.then(Action::state(
            erin,
            "m.room.topic",
            "",
            json!({ "topic": "x" }),
        ));
        let rule = json!({ "join_rule": "invite" });
        history.then(Action::state(ALICE, "m.room.join_rules", "", rule));
        let levels = history.levels(&[(ALICE, 100)], json!({}));
        history.then(Action::state(ALICE, "m.room.power_levels", "", levels));
        history.then(Action::member(BOB, BOB, "leave"));
        let end = history.then(say(ALICE));
        let claimed = history.events[end].state_before.clone();
        with_room(&history, last, async |replica, _| {
            replica.store_outliers(claimed.values().copied()).await;
            let taken = replica.receive(end, Some(&claimed)).await;
            taken.expect("it is taken");
            assert_eq!(replica.status(end), Status::Accepted);
            replica.check_state_before(end);
        });
    }
}

/// Two rooms; the liar's server claims events of one to be the state of the other.
#[test]
fn an_event_of_another_room_is_in_no_claimed_state_and_no_prev_event() {
    for version in VERSIONS {
        let (mut history, last) = room(&version);
        let mut other = History::public(&version, "@mallory:m.example");
        let foreign = other.then(say("@mallory:m.example"));
        let id = other.events[foreign].pdu.event_id().to_owned();
        let state = history.events[last].state_after.clone();
        let built = history.build_missing(&[last], &[id], &state, say(CAROL));
        let event = history.push(&[last], state, built, true);
        with_room(&history, last, async |replica, before| {
            let elsewhere = Replica::new(replica.store, &other, &version).await;
            for index in 0..=foreign {
                elsewhere.receive(index, None).await.expect("it is taken");
            }
            let taken = replica.receive(event, None).await;
            assert!(matches!(taken, Err(Error::Invalid(_))), "{taken:?}");
            let ids = elsewhere.ids(&other.events[foreign].state_after);
            let claimed = replica
                .store
                .read(|s| receive::claimed_state(s, replica.room, &ids));
            assert!(matches!(claimed, Err(Error::Invalid(_))), "{claimed:?}");
            assert_eq!(replica.current(), before, "version {version}");
        });
    }
}

/// Bob has banned dave, and is kicked later, which the claim says. Carol's next event also follows on
/// one from before the ban: resolved with that, neither the ban nor the join before it is allowed.
#[test]
fn a_ban_is_not_gone_when_a_claimed_state_is_resolved_with_an_older_one() {
    for version in VERSIONS {
        let mut history = History::public(&version, ALICE);
        for user in [BOB, CAROL, DAVE] {
            history.then(Action::join(user));
        }
        let levels = history.levels(&[(ALICE, 100), (BOB, 50)], json!({}));
        let old = history.then(Action::state(ALICE, "m.room.power_levels", "", levels));
        history.then(Action::member(BOB, DAVE, "ban"));
        let rule = json!({ "join_rule": "invite" });
        let last = history.then(Action::state(ALICE, "m.room.join_rules", "", rule));
        let kick = history.then(Action::member(ALICE, BOB, "leave"));
        let claimed = history.events[kick].state_after.clone();
        let revealing = append_with_unknown(&mut history, &[], say(CAROL));
        let built = history.build(&[old, last, revealing], &claimed, say(CAROL));
        let lie = history.push(&[old, last, revealing], claimed.clone(), built, true);
        with_room(&history, last, async |replica, _| {
            replica.store_outliers([kick]).await;
            for (event, claimed) in [(revealing, Some(&*claimed)), (lie, None)] {
                let taken = replica.receive(event, claimed).await;
                taken.expect("it is taken");
                assert_eq!(replica.status(event), Status::Accepted);
                assert_eq!(
                    replica.current(),
                    replica.expected(&history.events[kick].state_after)
                );
            }
        });
    }
}

/// Bob has banned carol while alice kicked her, and is no moderator any more. The kick is not here.
#[test]
fn a_concurrent_kick_in_a_claim_does_not_undo_a_ban_of_somebody_who_has_lost_power() {
    for version in VERSIONS {
        let (mut history, last) = closed_room(&version);
        let ban = history.then(Action::member(BOB, CAROL, "ban"));
        let levels = history.levels(&[(ALICE, 100)], json!({}));
        let end = history.then(Action::state(ALICE, "m.room.power_levels", "", levels));
        let kick = history.after(&[last], Action::member(ALICE, CAROL, "leave"));
        let mut claimed = State::clone(&history.events[end].state_after);
        assert_eq!(claimed[&key("m.room.member", CAROL)], ban);
        claimed.insert(key("m.room.member", CAROL), kick);
        let lie = append_with_unknown(&mut history, &[], say(ALICE));
        with_room(&history, end, async |replica, before| {
            replica.store_outliers([kick]).await;
            expect_no_news(replica, &before, lie, &claimed).await;
        });
    }
}
