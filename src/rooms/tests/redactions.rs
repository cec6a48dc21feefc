//! Redactions: whose power suffices, and those that come before the events that they redact.

use ruma::{EventId, RoomVersionId, UserId};
use serde_json::{Value, json};

use super::{
    alice, bob, content_of, draft, join, local, member, open_room, replica::Replica, send,
    with_store,
};
use crate::{
    protocol::{
        history::{Action, History, Index},
        versions,
    },
    rooms::{
        Error, Local,
        event::{
            self,
            append::Appended,
            insert::{Notify, Verdict},
            redaction,
        },
        room::heads,
    },
    store::{
        EventNum, Reader, Records, Rows, Tx,
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
    let is_redacted = stored.header.redacted_by.is_some();
    if stored.header.state_key.is_none() {
        assert_eq!(content_of(&stored).is_empty(), is_redacted);
    }
    stored.header.redacted_by
}

fn power_levels(users: &[(&str, i32)], history: &History) -> Value {
    let events = json!({ "m.room.encryption": 100, "m.room.server_acl": 100 });
    history.levels(
        users,
        json!({ "events": events, "state_default": 50, "redact": 50 }),
    )
}

/// State of alice and whether a moderator of another server, who has the power to redact and to set
/// the topic, redacts it.
fn state_of_alice(history: &History) -> Vec<(Action, bool)> {
    let set = |kind, key, content| Action::state(ALICE, kind, key, content);
    let levels = power_levels(&[(ALICE, 100), (BOB, 50)], history);
    vec![
        (
            set(
                "m.room.encryption",
                "",
                json!({ "algorithm": "m.megolm.v1.aes-sha2" }),
            ),
            false,
        ),
        (
            set("m.room.server_acl", "", json!({ "allow": ["*"] })),
            false,
        ),
        (set("m.room.topic", "", json!({ "topic": "x" })), true),
        (set("m.room.power_levels", "", levels), true),
        (
            set("m.room.join_rules", "", json!({ "join_rule": "public" })),
            true,
        ),
        (
            set(
                "m.room.member",
                ALICE,
                json!({ "membership": "join", "displayname": "A" }),
            ),
            true,
        ),
    ]
}

/// A room of alice's in which bob is a moderator.
fn moderated(version: &RoomVersionId) -> (History, Index) {
    let (mut history, _) = room(version);
    let levels = power_levels(&[(ALICE, 100), (BOB, 50)], &history);
    let last = history.then(Action::state(ALICE, "m.room.power_levels", "", levels));
    (history, last)
}

#[test]
fn moderator_of_another_server_redacts_only_state_that_they_may_set_and_what_the_rules_read() {
    for version in versions::SUPPORTED {
        let (mut history, _) = moderated(&version);
        let mut cases = vec![(0, false)];
        for (action, is_redacted) in state_of_alice(&history) {
            cases.push((history.then(action), is_redacted));
        }
        for (target, _) in &cases {
            history.then(redact(&history, BOB, *target));
        }
        with_store(async |store| {
            let replica = Replica::new(store, &history, &version).await;
            for index in 0..history.events.len() {
                replica.receive(index, None).await.expect("it is taken");
            }
            for (target, is_redacted) in cases {
                let kind = history.events[target].pdu.event_type();
                assert_eq!(
                    redacted_by(&replica, target).is_some(),
                    is_redacted,
                    "{kind} in version {version}"
                );
            }
        });
    }
}

#[test]
fn early_redaction_of_state_needs_the_power_to_set_it() {
    for version in versions::SUPPORTED {
        let (mut history, last) = moderated(&version);
        for (action, is_redacted) in state_of_alice(&history) {
            let target = history.after(&[last], action);
            let redaction = history.after(&[last], redact(&history, BOB, target));
            with_store(async |store| {
                let replica = Replica::new(store, &history, &version).await;
                for index in (0..=last).chain([redaction, target]) {
                    replica.receive(index, None).await.expect("it is taken");
                }
                let kind = history.events[target].pdu.event_type();
                assert_eq!(
                    redacted_by(&replica, target).is_some(),
                    is_redacted,
                    "{kind} in version {version}"
                );
            });
        }
    }
}

#[test]
fn early_redaction_of_a_moderator_does_not_displace_that_of_who_may_set_the_state() {
    let (mut history, last) = moderated(&RoomVersionId::V11);
    let content = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
    let target = Action::state(ALICE, "m.room.encryption", "", content);
    let target = history.after(&[last], target);
    let of_bob = history.after(&[last], redact(&history, BOB, target));
    let of_alice = history.after(&[last], redact(&history, ALICE, target));
    for order in [[of_bob, of_alice], [of_alice, of_bob]] {
        with_store(async |store| {
            let replica = Replica::new(store, &history, &RoomVersionId::V11).await;
            for index in (0..=last).chain(order).chain([target]) {
                replica.receive(index, None).await.expect("it is taken");
            }
            assert_eq!(redacted_by(&replica, target), Some(replica.num(of_alice)));
        });
    }
}

#[test]
fn create_event_is_not_redacted_even_by_its_sender() {
    for version in versions::SUPPORTED {
        let (mut history, _) = room(&version);
        history.then(redact(&history, ALICE, 0));
        with_store(async |store| {
            let replica = Replica::new(store, &history, &version).await;
            for index in 0..history.events.len() {
                replica.receive(index, None).await.expect("it is taken");
            }
            assert_eq!(redacted_by(&replica, 0), None);
        });
    }
}

/// Sends a redaction of a local user.
fn redact_locally(
    tx: &Tx,
    local: &Local,
    room: &Appended,
    sender: &UserId,
    target: &EventId,
) -> Result<Appended, Error> {
    let mut redaction = draft(sender, "m.room.redaction", None, json!({}));
    redaction.redacts = Some(target.to_owned());
    send(tx, local, room, redaction)
}

#[test]
fn local_user_redacts_state_of_others_only_with_the_power_to_set_it_and_never_what_is_protected() {
    for version in versions::SUPPORTED {
        with_store(async |store| {
            let local = local();
            let job = move |tx: &Tx| {
                let room = open_room(tx, &local, &version)?;
                join(tx, &local, &room, bob())?;
                let set = |kind: &str, content| {
                    send(tx, &local, &room, draft(alice(), kind, Some(""), content))
                };
                let creator_power = versions::rules(&version)
                    .expect("a supported version")
                    .authorization
                    .explicitly_privilege_room_creators;
                let mut users = json!({ bob(): 50 });
                if !creator_power {
                    users[alice().as_str()] = json!(100);
                }
                let events = json!({ "m.room.name": 100, "m.room.topic": 50 });
                let levels = json!({ "users": users, "events": events, "state_default": 50 });
                let levels = set("m.room.power_levels", levels)?;
                let name = set("m.room.name", json!({ "name": "x" }))?;
                let topic = set("m.room.topic", json!({ "topic": "x" }))?;
                let acl = set("m.room.server_acl", json!({ "allow": ["*"] }))?;
                let encryption = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
                let encryption = set("m.room.encryption", encryption)?;
                let member = member(tx, &local, &room, alice(), alice(), "join")?;
                let may = |sender, target: &Appended| match redact_locally(
                    tx, &local, &room, sender, &target.id,
                ) {
                    Ok(_) => Ok(true),
                    Err(Error::Forbidden(_)) => Ok(false),
                    Err(error) => Err(error),
                };
                for protected in [&room, &levels, &acl, &encryption] {
                    assert!(!may(alice(), protected)? && !may(bob(), protected)?);
                }
                assert!(!may(bob(), &name)?);
                for target in [&topic, &member] {
                    assert!(may(bob(), target)?);
                }
                assert!(may(alice(), &name)?);
                Ok::<_, Error>(())
            };
            store.write(job).await.expect("the job succeeds");
        });
    }
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
fn an_event_that_is_received_after_its_redaction_notifies_nobody() {
    let (mut history, last) = room(&RoomVersionId::V11);
    let target = history.after(&[last], say(BOB));
    let redaction = history.after(&[last], redact(&history, ALICE, target));
    let other = history.after(&[target, redaction], say(BOB));
    let verdict = Verdict {
        notify: true,
        highlight: true,
    };
    let notify = Notify {
        default: verdict,
        exceptions: Vec::new(),
    };
    with_store(async |store| {
        let replica = Replica::new(store, &history, &RoomVersionId::V11).await;
        for index in (0..=last).chain([redaction]) {
            replica.receive(index, None).await.expect("it is taken");
        }
        let mut totals = Vec::new();
        for index in [target, other] {
            let received = replica.receive_notifying(index, None, notify.clone());
            received.await.expect("it is taken");
            let heads = store.read(|s| heads(s, replica.room));
            totals.push(heads.expect("a room").main.notify);
        }
        assert!(redacted_by(&replica, target).is_some());
        assert_eq!(totals, [0, 1]);
    });
}

#[test]
fn redaction_received_before_its_target_is_applied_to_a_state_event_that_comes_as_an_outlier() {
    for version in VERSIONS {
        let (mut history, last) = room(&version);
        let topic = Action::state(ALICE, "m.room.topic", "", json!({ "topic": "x" }));
        let target = history.after(&[last], topic);
        let redaction = history.after(&[last], redact(&history, ALICE, target));
        let end = history.after(&[target], say(CAROL));
        with_store(async |store| {
            let replica = Replica::new(store, &history, &version).await;
            for index in (0..=last).chain([redaction]) {
                replica.receive(index, None).await.expect("it is taken");
            }
            replica.store_outliers([target]).await;
            let state = history.events[end].state_before.clone();
            assert!(state.values().any(|index| *index == target));
            replica
                .receive(end, Some(&state))
                .await
                .expect("it is taken");
            assert!(replica.status(target).is_outlier());
            assert_eq!(redacted_by(&replica, target), Some(replica.num(redaction)));
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
fn of_early_redactions_without_power_so_many_are_kept_and_one_with_power_displaces_one() {
    let version = RoomVersionId::V11;
    let (mut history, _) = room(&version);
    let senders: Vec<&'static str> = (0..12)
        .map(|n| &*format!("@user:s{n}.example").leak())
        .collect();
    for sender in &senders {
        history.then(Action::join(sender));
    }
    let last = history.events.len() - 1;
    let target = history.after(&[last], say(BOB));
    let without: Vec<Index> = senders
        .iter()
        .map(|sender| history.after(&[last], redact(&history, sender, target)))
        .collect();
    let with_power = history.after(&[last], redact(&history, ALICE, target));
    with_store(async |store| {
        let replica = Replica::new(store, &history, &version).await;
        let kept = || {
            let id = history.events[target].pdu.event_id().to_owned();
            let kept = replica.store.read(|s| {
                let early = s.early_redactions()?;
                early.load((replica.room, id.as_str()))
            });
            kept.expect("rows").expect("a row").redactions
        };
        for index in (0..=last).chain(without) {
            replica.receive(index, None).await.expect("it is taken");
        }
        assert_eq!(kept().len(), 10);
        replica
            .receive(with_power, None)
            .await
            .expect("it is taken");
        let kept = kept();
        assert_eq!(kept.len(), 10);
        assert_eq!(kept.iter().filter(|kept| kept.has_power).count(), 1);
    });
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
                    states: Vec::new(),
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

#[test]
fn a_redaction_that_redacted_nothing_is_withheld_from_clients() {
    for version in VERSIONS {
        let (mut history, _) = room(&version);
        let target = history.then(say(ALICE));
        let denied = history.then(redact(&history, BOB, target));
        let unknown = json!({ "redacts": format!("${}", "u".repeat(43)) });
        let unknown = history.then(Action::message(BOB, "m.room.redaction", unknown));
        let allowed = history.then(redact(&history, ALICE, target));
        with_store(async |store| {
            let replica = Replica::new(store, &history, &version).await;
            let is_withheld = |index| {
                let read = |s: &_| redaction::is_withheld(s, &event::load(s, replica.num(index))?);
                store.read(read).expect("an event")
            };
            for index in 0..allowed {
                replica.receive(index, None).await.expect("it is taken");
            }
            assert!(is_withheld(denied) && is_withheld(unknown), "{version}");
            assert!(!is_withheld(target), "{version}");
            replica.receive(allowed, None).await.expect("it is taken");
            assert!(!is_withheld(allowed) && is_withheld(unknown), "{version}");
        });
    }
}
