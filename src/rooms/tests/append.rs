use ruma::{RoomVersionId, room_id, signatures::reference_hash};
use serde_json::json;

use super::{
    alice, bob, content_of, draft, join, local, member, message, open_room, send, with_store,
};
use crate::{
    protocol::versions,
    rooms::{
        Error,
        event::{self, append, graph},
        room::heads,
        state::current,
        timeline,
    },
    store::{Place, Position, Reader, Records, Tx, records::Membership},
};

#[test]
fn the_auth_chain_of_an_event_has_the_create_event_in_every_room_version() {
    for version in versions::SUPPORTED {
        with_store(async |store| {
            let local = local();
            let job = move |tx: &Tx| {
                let room = open_room(tx, &local, &version)?;
                let event = message(tx, &local, &room, alice(), "one")?;
                let chain = graph::auth_chain(tx, room.room, [event.num])?;
                assert!(chain.contains(&room.num), "{version}");
                let of_create = graph::auth_chain(tx, room.room, [room.num])?;
                assert!(of_create.is_empty(), "{version}");
                Ok::<_, Error>(())
            };
            store.write(job).await.expect("the job succeeds");
        });
    }
}

#[test]
fn an_event_follows_on_at_most_ten_others_the_newest() {
    with_store(async |store| {
        let local = local();
        let job = move |tx: &Tx| {
            let room = open_room(tx, &local, &RoomVersionId::V11)?;
            let mut sent = Vec::new();
            for _ in 0..12 {
                sent.push(message(tx, &local, &room, alice(), "before")?);
            }
            let mut heads = heads(tx, room.room)?;
            heads.extremities = sent.iter().map(|event| event.num).collect();
            tx.room_heads()?.put(room.room, &heads)?;
            let last = message(tx, &local, &room, alice(), "after")?;
            let rules = versions::rules(&RoomVersionId::V11).expect("a supported version");
            let pdu = event::load(tx, last.num)?.pdu(rules)?;
            let mut prev: Vec<_> = pdu.prev_events().to_vec();
            prev.sort();
            let mut newest: Vec<_> = sent[2..].iter().map(|event| event.id.clone()).collect();
            newest.sort();
            assert_eq!(prev, newest);
            Ok::<_, Error>(())
        };
        store.write(job).await.expect("the job succeeds");
    });
}

#[test]
fn a_room_is_not_made_with_a_create_event_that_the_rules_forbid() {
    with_store(async |store| {
        let local = local();
        let job = move |tx: &Tx| {
            let content = json!({ "room_version": "10", "creator": alice() });
            let mut create = draft(alice(), "m.room.create", Some(""), content);
            // Until version 11 a create event is of the server in the room id.
            create.room_id = Some(room_id!("!room:elsewhere.example").to_owned());
            let sending = super::sending();
            let made = append::create(tx, &local, &RoomVersionId::V10, &create, &sending);
            assert!(matches!(made, Err(Error::Forbidden(_))), "{made:?}");
            Ok::<_, Error>(())
        };
        store.write(job).await.expect("the job succeeds");
    });
}

#[test]
fn events_of_one_room_follow_on_each_other_in_every_room_version() {
    for version in versions::SUPPORTED {
        with_store(async |store| {
            let local = local();
            let name = version.clone();
            let job = move |tx: &Tx| {
                let room = open_room(tx, &local, &name)?;
                join(tx, &local, &room, bob())?;
                let first = message(tx, &local, &room, bob(), "one")?;
                let second = message(tx, &local, &room, alice(), "two")?;
                assert_eq!(second.place, first.place.next());
                assert!(second.position > first.position && second.num > first.num);
                let heads = heads(tx, room.room)?;
                assert_eq!(heads.extremities, [second.num]);
                assert_eq!(
                    (heads.joined, heads.depth, heads.last_place),
                    (2, 6, second.place)
                );
                let rules = versions::rules(&name).expect("a supported version");
                let pdu = event::load(tx, second.num)?.pdu(rules)?;
                assert_eq!(pdu.prev_events(), [first.id]);
                assert_eq!(pdu.room_id(), room.room_id);
                Ok::<_, Error>(())
            };
            store
                .write(job)
                .await
                .unwrap_or_else(|error| panic!("version {version}: {error}"));
        });
    }
}

#[test]
fn until_version_2_an_event_names_others_with_their_reference_hashes() {
    for version in [RoomVersionId::V1, RoomVersionId::V2] {
        with_store(async |store| {
            let local = local();
            let job = move |tx: &Tx| {
                let room = open_room(tx, &local, &version)?;
                let first = message(tx, &local, &room, alice(), "one")?;
                let second = message(tx, &local, &room, alice(), "two")?;
                let rules = versions::rules(&version).expect("a supported version");
                let parsed = |num| {
                    let stored = event::load(tx, num)?;
                    let object = serde_json::from_slice(&stored.json).expect("canonical JSON");
                    Ok::<ruma::CanonicalJsonObject, Error>(object)
                };
                let hash = reference_hash(&parsed(first.num)?, rules).expect("an event");
                let second = serde_json::to_value(parsed(second.num)?).expect("JSON");
                let expected = json!([[first.id, { "sha256": hash }]]);
                assert_eq!(second["prev_events"], expected);
                let auth_events = second["auth_events"].as_array().expect("an array");
                assert!(auth_events.iter().all(|pair| pair[1]["sha256"].is_string()));
                Ok::<_, Error>(())
            };
            store.write(job).await.expect("events are made");
        });
    }
}

#[test]
fn an_event_of_a_user_outside_the_room_is_refused_and_changes_nothing() {
    with_store(async |store| {
        let local = local();
        let job = {
            let local = local.clone();
            move |tx: &Tx| open_room(tx, &local, &RoomVersionId::V12)
        };
        let room = store.write(job).await.expect("the room is made");
        let before = store
            .read(|s| heads(s, room.room))
            .expect("the room is there");
        let attempt = {
            let (local, room) = (local.clone(), room.clone());
            move |tx: &Tx| message(tx, &local, &room, bob(), "let me in")
        };
        assert!(matches!(
            store.write(attempt).await,
            Err(Error::Forbidden(_))
        ));
        assert_eq!(
            store
                .read(|s| heads(s, room.room))
                .expect("the room is there"),
            before
        );
    });
}

#[test]
fn memberships_of_local_users_follow_the_current_state() {
    with_store(async |store| {
        let local = local();
        let job = move |tx: &Tx| {
            let room = open_room(tx, &local, &RoomVersionId::V11)?;
            let bob_num = tx.user_num(bob().as_str())?;
            let of_bob = |tx: &Tx| -> Result<_, Error> {
                let row = tx.memberships()?.load((bob_num, room.room))?;
                let listed = current::local_members(tx, room.room)?;
                let listed = listed.into_iter().find(|(user, _)| *user == bob_num);
                let heads = heads(tx, room.room)?;
                let row = row.map(|row| row.membership);
                Ok((
                    row,
                    listed.map(|(_, membership)| membership),
                    heads.joined,
                    heads.invited,
                ))
            };
            use Membership::{Ban, Invite, Join, Leave};
            assert_eq!(of_bob(tx)?, (None, None, 1, 0));
            member(tx, &local, &room, alice(), bob(), "invite")?;
            assert_eq!(of_bob(tx)?, (Some(Invite), Some(Invite), 1, 1));
            join(tx, &local, &room, bob())?;
            assert_eq!(of_bob(tx)?, (Some(Join), Some(Join), 2, 0));
            member(tx, &local, &room, alice(), bob(), "ban")?;
            assert_eq!(of_bob(tx)?, (Some(Ban), None, 1, 0));
            assert!(matches!(
                join(tx, &local, &room, bob()),
                Err(Error::Forbidden(_))
            ));
            member(tx, &local, &room, alice(), bob(), "leave")?;
            assert_eq!(of_bob(tx)?, (Some(Leave), None, 1, 0));
            Ok::<_, Error>(())
        };
        store.write(job).await.expect("the job succeeds");
    });
}

#[test]
fn a_redaction_needs_power_or_the_same_sender() {
    for version in [RoomVersionId::V10, RoomVersionId::V12] {
        with_store(async |store| {
            let local = local();
            let job = move |tx: &Tx| {
                let room = open_room(tx, &local, &version)?;
                join(tx, &local, &room, bob())?;
                let of_alice = message(tx, &local, &room, alice(), "by alice")?;
                let of_bob = message(tx, &local, &room, bob(), "by bob")?;
                let redact = |sender, what: &crate::rooms::event::append::Appended| {
                    let mut redaction = draft(sender, "m.room.redaction", None, json!({}));
                    redaction.redacts = Some(what.id.clone());
                    send(tx, &local, &room, redaction)
                };
                assert!(matches!(redact(bob(), &of_alice), Err(Error::Forbidden(_))));
                assert!(!content_of(&event::load(tx, of_alice.num)?).is_empty());
                let redaction = redact(alice(), &of_bob)?;
                let redacted = event::load(tx, of_bob.num)?;
                assert!(content_of(&redacted).is_empty());
                assert_eq!(redacted.header.redacted_by, Some(redaction.num));
                redact(alice(), &of_alice)?;
                assert!(content_of(&event::load(tx, of_alice.num)?).is_empty());
                Ok::<_, Error>(())
            };
            store.write(job).await.expect("the job succeeds");
        });
    }
}

#[test]
fn a_position_maps_to_the_last_place_at_that_time() {
    with_store(async |store| {
        let local = local();
        let job = move |tx: &Tx| {
            let room = open_room(tx, &local, &RoomVersionId::V12)?;
            let other = append_elsewhere(tx, &local)?;
            let mut places = Vec::new();
            for body in ["a", "b", "c", "d", "e"] {
                let sent = message(tx, &local, &room, alice(), body)?;
                let between = message(tx, &local, &other, alice(), body)?;
                places.push((sent.position, sent.place));
                places.push((between.position, sent.place));
            }
            for (position, place) in places {
                assert_eq!(timeline::place_at(tx, room.room, position)?, Some(place));
            }
            assert_eq!(timeline::place_at(tx, room.room, Position(0))?, None);
            let newest = timeline::backwards(tx, room.room, Place::MAX, 1)?;
            assert_eq!(
                timeline::place_at(tx, room.room, Position::MAX)?,
                Some(newest[0].0)
            );
            Ok::<_, Error>(())
        };
        store.write(job).await.expect("the job succeeds");
    });
}

fn append_elsewhere(
    tx: &Tx,
    local: &crate::rooms::Local,
) -> Result<crate::rooms::event::append::Appended, Error> {
    open_room(tx, local, &RoomVersionId::V11)
}
