use std::{collections::BTreeMap, sync::Arc};

use ruma::{RoomVersionId, room_id, signatures::hash_and_sign_event};
use serde_json::{Value, json};

use super::{local, replica::Replica, with_store};
use crate::{
    protocol::{
        build::BuiltEvent,
        history::{Action, History},
        receive::{Incoming, Received},
        versions,
    },
    rooms::{
        Error, Local,
        event::{self, insert::Notify, outlier, receive},
        room::{self, heads},
        state::{self, current},
    },
    store::{EventNum, NodeNum, RoomNum, Snapshot, Store, Tx, records::Status},
};

const ALICE: &str = "@alice:a.example";

/// A state by (type, state key) and event id.
type Named = BTreeMap<(String, String), String>;

async fn receive_event(
    store: &Store,
    local: &Local,
    room: RoomNum,
    history: &History,
    index: usize,
) -> Result<Status, Error> {
    let event = &history.events[index];
    let mut pdu = (*event.pdu).clone();
    if pdu.rejected() {
        let rules = history.rules;
        let id = pdu.event_id().to_owned();
        pdu = crate::protocol::Pdu::parse(id, &event.json, rules, false)
            .expect("an event of the history");
    }
    let decision =
        store.read(|s| receive::decide(s, room, Arc::new(pdu), event.json.clone(), None))?;
    let status = decision.status();
    let local = local.clone();
    let job = move |tx: &Tx| receive::commit(tx, &local, &decision, &Notify::default());
    store.write(job).await?;
    Ok(status)
}

fn named(s: &Snapshot, room: RoomNum, root: NodeNum) -> Result<Named, Error> {
    let entries = state::entries(s, room, root)?;
    entries
        .into_iter()
        .map(|(key, num)| Ok((state::key_name(s, room, key)?, event::header(s, num)?.id)))
        .collect()
}

fn expected(history: &History, state: &crate::protocol::history::State) -> Named {
    let name = |index: &usize| history.events[*index].pdu.event_id().to_string();
    let named = state
        .iter()
        .map(|((kind, key), index)| ((kind.to_string(), key.clone()), name(index)));
    named.collect()
}

fn check(
    s: &Snapshot,
    room: RoomNum,
    history: &History,
    nums: &BTreeMap<EventNum, usize>,
    index: usize,
) -> Result<(), Error> {
    let num = event::num_of(s, history.events[index].pdu.event_id())?.expect("it was stored");
    let header = event::header(s, num)?;
    let before = named(s, room, header.state_before)?;
    assert_eq!(
        before,
        expected(history, &history.events[index].state_before),
        "event {index}"
    );
    let rejected = matches!(
        header.status,
        Status::RejectedByAuthEvents | Status::RejectedByState
    );
    assert_eq!(
        rejected,
        history.events[index].pdu.rejected(),
        "event {index}"
    );
    let heads = heads(s, room)?;
    let ends: Vec<usize> = heads.extremities.iter().map(|num| nums[num]).collect();
    let now = named(s, room, heads.state)?;
    assert_eq!(
        now,
        expected(history, &history.state_after_all(&ends)),
        "after event {index}"
    );
    let table: Named = current::all(s, room)?
        .into_iter()
        .map(|(key, num)| Ok((state::key_name(s, room, key)?, event::header(s, num)?.id)))
        .collect::<Result<_, Error>>()?;
    assert_eq!(
        table, now,
        "the table of the current state is the current state"
    );
    Ok(())
}

#[test]
fn states_of_a_forked_history_are_those_of_full_resolution() {
    let mut seen = BTreeMap::new();
    for version in versions::SUPPORTED {
        for seed in 0..2 {
            let history = History::random(&version, seed, 80);
            for status in statuses_of(&history) {
                *seen.entry(format!("{status:?}")).or_insert(0) += 1;
            }
        }
    }
    for status in ["Accepted", "SoftFailed", "RejectedByAuthEvents"] {
        assert!(
            seen.contains_key(status),
            "the histories have no event that is {status}: {seen:?}"
        );
    }
}

/// An event of Alice's server that was changed after it was built, and signed again.
fn sign_changed(
    history: &History,
    built: &BuiltEvent,
    change: fn(&mut Value),
) -> Option<BuiltEvent> {
    let mut event = serde_json::from_slice(&built.json).expect("JSON");
    change(&mut event);
    let mut object = serde_json::from_value(event).expect("canonical JSON");
    let (server, key) = ("a.example", History::key("a.example"));
    hash_and_sign_event(server, &key, &mut object, &history.rules.redaction).expect("signable");
    let json = serde_json::to_vec(&object).expect("JSON");
    let incoming = Incoming::parse(&json, history.rules).ok()?;
    let public = [(key.id().to_string(), key.public_key())];
    let received = incoming.verify(&[(server.to_owned(), public.into())].into());
    let Received { json, pdu, .. } = received.expect("valid signatures");
    Some(BuiltEvent { json, pdu })
}

#[test]
fn an_event_with_a_long_state_key_or_type_is_rejected_and_followed_before_version_11() {
    let changes: [fn(&mut Value); 3] = [
        |event| event["state_key"] = "ü".repeat(255).into(),
        |event| event["type"] = "ü".repeat(255).into(),
        |event| event["state_key"] = "ü".repeat(256).into(),
    ];
    for version in versions::SUPPORTED {
        for (number, change) in changes.into_iter().enumerate() {
            let mut history = History::public(&version, ALICE);
            let last = history.events.len() - 1;
            let state = history.state_after_all(&[last]);
            let topic = Action::state(ALICE, "m.room.topic", "", json!({ "topic": "birds" }));
            let built = history.build(&[last], &state, topic);
            let changed = sign_changed(&history, &built, change);
            let limits_bytes = history.rules.authorization.use_room_create_sender;
            assert_eq!(
                changed.is_some(),
                !limits_bytes && number < 2,
                "{version} {number}"
            );
            let Some(changed) = changed else { continue };
            let rejected = history.push(&[last], state, changed, false);
            let next = Action::message(ALICE, "m.room.message", json!({ "body": "next" }));
            history.after(&[rejected], next);
            let statuses = statuses_of(&history);
            assert_eq!(statuses[rejected], Status::RejectedByAuthEvents);
            assert_eq!(statuses[rejected + 1], Status::Accepted);
        }
    }
}

/// The statuses of the events when they are received in order. The states are those of the history.
fn statuses_of(history: &History) -> Vec<Status> {
    let mut statuses = Vec::new();
    with_store(async |store| {
        let (local, id) = (local(), history.create_event().room_id().to_owned());
        let (version, of) = (history.version.clone(), &history.version);
        let made = store.write(move |tx: &Tx| room::create(tx, &id, &version));
        let room = made.await.expect("the room is made");
        let mut nums = BTreeMap::new();
        for (index, event) in history.events.iter().enumerate() {
            let status = receive_event(store, &local, room, history, index).await;
            statuses.push(status.unwrap_or_else(|error| panic!("{of}, {index}: {error}")));
            let check = |s: &Snapshot| {
                let num = event::num_of(s, event.pdu.event_id())?.expect("it was stored");
                nums.insert(num, index);
                check(s, room, history, &nums, index)
            };
            let checked = store.read(check);
            checked.unwrap_or_else(|error| panic!("{of}, {index}: {error}"));
        }
    });
    statuses
}

#[test]
fn of_two_events_with_the_same_id_the_first_stays() {
    for version in [RoomVersionId::V1, RoomVersionId::V2] {
        let mut history = History::public(&version, ALICE);
        let end = history.events.len() - 1;
        let state = history.events[end].state_after.clone();
        let topic = |topic: &str| json!({ "topic": topic });
        let action = Action::state(ALICE, "m.room.topic", "", topic("first"));
        let first = history.build(&[end], &state, action);
        let changed = sign_changed(&history, &first, |event| {
            event["content"]["topic"] = "second".into();
        });
        let second = Received::from(changed.expect("a valid event"));
        with_store(async |store| {
            let replica = Replica::new(store, &history, &version).await;
            for index in 0..=end {
                replica.receive(index, None).await.expect("it is received");
            }
            let (room, local, rules) = (replica.room, replica.local.clone(), history.rules);
            let id = first.pdu.event_id().to_owned();
            let outlier = Received::from(first);
            let job = move |tx: &Tx| outlier::store(tx, room, rules, &outlier);
            store.write(job).await.expect("an outlier is stored");
            let (pdu, json) = (Arc::new(second.pdu.clone()), second.json.clone());
            let decision = store.read(|s| receive::decide(s, room, pdu, json, None));
            let decision = decision.expect("it is decided");
            let job = move |tx: &Tx| receive::commit(tx, &local, &decision, &Notify::default());
            let num = store.write(job).await.expect("it is stored");
            let stored = store.read(|s| event::load(s, num)).expect("an event");
            let pdu = stored.pdu(history.rules).expect("an event");
            assert_eq!(
                (pdu.event_id(), stored.header.status),
                (&*id, Status::Accepted)
            );
            assert_eq!(
                pdu.content_field::<String>("topic").as_deref(),
                Some("first")
            );

            let other = room_id!("!other:a.example");
            let job = move |tx: &Tx| {
                let room = room::create(tx, other, &version)?;
                outlier::store_out_of_band(tx, room, &second)
            };
            let stored = store.write(job).await;
            assert!(matches!(stored, Err(Error::Invalid(_))), "{stored:?}");
        });
    }
}

#[test]
fn a_decision_is_stale_once_the_room_has_changed() {
    let version = RoomVersionId::V12;
    let mut history = History::public(&version, ALICE);
    let base = history.events.len() - 1;
    let action = || Action::message(ALICE, "m.room.message", json!({ "body": "x" }));
    history.append(&[base], action());
    history.append(
        &[base],
        Action::message(ALICE, "m.room.message", json!({ "body": "y" })),
    );
    with_store(async |store| {
        let local = local();
        let id = history.create_event().room_id().to_owned();
        let made = store
            .write(move |tx: &Tx| room::create(tx, &id, &RoomVersionId::V12))
            .await;
        let room = made.expect("the room is made");
        for index in 0..=base {
            receive_event(store, &local, room, &history, index)
                .await
                .expect("it is taken");
        }
        let decide = |index: usize| {
            let event = &history.events[index];
            store.read(|s| receive::decide(s, room, event.pdu.clone(), event.json.clone(), None))
        };
        let late = decide(base + 2).expect("a decision");
        receive_event(store, &local, room, &history, base + 1)
            .await
            .expect("it is taken");
        let job = {
            let local = local.clone();
            move |tx: &Tx| receive::commit(tx, &local, &late, &Notify::default())
        };
        assert!(matches!(store.write(job).await, Err(Error::Stale)));
        receive_event(store, &local, room, &history, base + 2)
            .await
            .expect("decided again it is taken");
        let extremities = store.read(|s| heads(s, room)).expect("a room").extremities;
        assert_eq!(extremities.len(), 2);
    });
}
