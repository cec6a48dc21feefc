use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use ruma::{OwnedUserId, RoomVersionId, UserId};
use serde_json::json;
use smol::future::zip;

use super::{alice, draft, local, open_room, send, with_store};
use crate::{
    protocol::versions,
    rooms::{
        Error, Local,
        event::{self, append::Appended},
        room::heads,
        state::{self, current},
        timeline,
    },
    store::{EventNum, Place, Reader, Rows, Snapshot, StateKeyNum, Store, Tx, records::Membership},
};

const USERS: usize = 6;
const STEPS: usize = 25;

fn user(n: usize) -> OwnedUserId {
    UserId::parse(format!("@user{n}:here")).expect("a user id")
}

/// An event of `sender`, allowed or not.
fn random_event(rng: &mut SmallRng, sender: &UserId) -> super::EventDraft {
    let other = user(rng.random_range(0..USERS));
    let member = |of: &UserId, membership: &str| {
        draft(
            sender,
            "m.room.member",
            Some(of.as_str()),
            json!({ "membership": membership }),
        )
    };
    match rng.random_range(0..10) {
        0 | 1 => member(sender, "join"),
        2 => member(sender, "leave"),
        3 => member(&other, "invite"),
        4 => member(&other, ["ban", "leave"][rng.random_range(0..2)]),
        5 => draft(
            sender,
            "m.room.topic",
            Some(""),
            json!({ "topic": rng.random::<u32>() }),
        ),
        6 => {
            let levels = json!({
                "users": { alice(): 100, other: rng.random_range(0..101) },
                "state_default": rng.random_range(0..51),
            });
            draft(sender, "m.room.power_levels", Some(""), levels)
        }
        _ => draft(sender, "m.room.message", None, json!({ "body": "hello" })),
    }
}

async fn act(store: &Store, local: &Local, room: &Appended, sender: OwnedUserId, seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    for _ in 0..STEPS {
        let event = random_event(&mut rng, &sender);
        let (local, room) = (local.clone(), room.clone());
        let job = move |tx: &Tx| send(tx, &local, &room, event.clone());
        match store.write(job).await {
            Ok(_) | Err(Error::Forbidden(_)) => {}
            Err(error) => panic!("seed {seed}: {error}"),
        }
    }
}

/// Compares all derived tables with the events of the timeline.
fn check(s: &Snapshot, room: &Appended, version: &RoomVersionId) -> Result<(), Error> {
    let rules = versions::rules(version).expect("a supported version");
    let mut model: BTreeMap<StateKeyNum, EventNum> = BTreeMap::new();
    let mut previous: Option<EventNum> = None;
    for (_, row) in timeline::forwards(s, room.room, Place::MIN, usize::MAX)? {
        let stored = event::load(s, row.event)?;
        let pdu = stored.pdu(rules)?;
        let prev = previous.map(|num| event::id(s, num)).transpose()?;
        assert_eq!(
            pdu.prev_events(),
            Vec::from_iter(prev),
            "one event behind the other"
        );
        let before = state::entries(s, room.room, stored.header.state_before)?;
        assert_eq!(
            BTreeMap::from_iter(before),
            model,
            "the state before each event is that after the one before it"
        );
        if let Some(key) = stored.header.state_key {
            model.insert(key, row.event);
        }
        previous = Some(row.event);
    }
    assert!(model.len() > USERS / 2, "the users got something done");
    let heads = heads(s, room.room)?;
    assert_eq!(heads.extremities, Vec::from_iter(previous));
    assert_eq!(BTreeMap::from_iter(current::all(s, room.room)?), model);
    assert_eq!(
        BTreeMap::from_iter(state::entries(s, room.room, heads.state)?),
        model
    );
    let mut joined = 0;
    for (user, event) in current::of_type(s, room.room, "m.room.member")? {
        let membership = current::membership_of(s, event)?;
        joined += u32::from(membership == Membership::Join);
        let user = s
            .user_nums()?
            .get(user.as_str())?
            .expect("members have numbers")
            .value();
        let row = current::local_membership(s, user, room.room)?.expect("a row for each member");
        assert_eq!((row.membership, row.event), (membership, event));
    }
    assert_eq!(heads.joined, joined);
    Ok(())
}

#[test]
fn concurrent_local_events_form_one_chain_and_derived_tables_are_right() {
    for (seed, version) in versions::SUPPORTED.into_iter().enumerate() {
        with_store(async |store| {
            let local = local();
            let job = {
                let (local, version) = (local.clone(), version.clone());
                move |tx: &Tx| open_room(tx, &local, &version)
            };
            let room = store.write(job).await.expect("the room is made");
            let seed = 100 * seed as u64;
            let mut all: std::pin::Pin<Box<dyn Future<Output = ()>>> =
                Box::pin(act(store, &local, &room, alice().to_owned(), seed));
            for n in 0..USERS {
                let one = act(store, &local, &room, user(n), seed + 1 + n as u64);
                all = Box::pin(async {
                    zip(all, one).await;
                });
            }
            all.await;
            let checked = store.read(|s| check(s, &room, &version));
            checked.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        });
    }
}
