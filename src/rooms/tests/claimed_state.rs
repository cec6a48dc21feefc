//! What another server claims to be the state before an event, against what is known here.

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
        event::{commit::MAX_CLAIMED_STATES, import, outlier, receive},
        room::heads,
        timeline,
    },
    store::{Place, Reader, Rows, Tx, records::Status},
};

const ALICE: &str = "@alice:a.example";
const BOB: &str = "@bob:b.example";
const CAROL: &str = "@carol:c.example";
const DAVE: &str = "@dave:d.example";
const ZOE: &str = "@zoe:here";
const MAX_DEPTH: u64 = (1 << 53) - 1;
const VERSIONS: [RoomVersionId; 4] = [
    RoomVersionId::V6,
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

fn topic_by(sender: &'static str, topic: &str) -> Action {
    Action::state(sender, "m.room.topic", "", json!({ "topic": topic }))
}

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
