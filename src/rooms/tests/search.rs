//! What a search finds, compared with reading every event.

use std::collections::BTreeSet;

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use ruma::RoomVersionId;
use serde_json::json;

use super::{alice, draft, local, message, open_room, replica::Replica, send, with_store};
use crate::{
    protocol::history::{Action, History},
    rooms::{
        Error, event,
        search::{
            Indexer,
            candidates::{Order, candidates},
            index,
            words::{self, Terms},
        },
        timeline,
    },
    store::{Effect, Place, Position, Reader, RoomNum, Tx},
};

/// The places of the events with the terms, by the index and what is not indexed.
fn found(r: &impl Reader, room: RoomNum, terms: &str) -> Result<BTreeSet<Place>, Error> {
    let terms = Terms::new(terms);
    let found = candidates(r, &[room], &terms, Position::MAX, Order::Recent)?;
    let mut places = BTreeSet::new();
    for candidate in found {
        // Redacted events stay in the index.
        let event = event::load(r, candidate.event)?;
        let score = terms.score(&words::of_event(&event, None)?);
        if let Some(score) = score {
            assert_eq!(score, candidate.score);
            assert!(places.insert(candidate.place), "it is found once");
        }
    }
    Ok(places)
}

/// The same by reading everything.
fn expected(r: &impl Reader, room: RoomNum, terms: &str) -> Result<BTreeSet<Place>, Error> {
    let terms = Terms::new(terms);
    let mut places = BTreeSet::new();
    for (place, row) in timeline::forwards(r, room, Place::MIN, usize::MAX)? {
        let words = words::of_event(&event::load(r, row.event)?, None)?;
        if terms.score(&words).is_some() {
            places.insert(place);
        }
    }
    Ok(places)
}

#[test]
fn a_search_finds_the_events_with_all_words_whatever_part_of_the_room_is_indexed() {
    const WORDS: [&str; 8] = [
        "sea", "seal", "Harbour", "ship", "ships", "a", "東京", "ähre",
    ];
    const SEARCHES: [&str; 9] = [
        "sea",
        "seal ship",
        "harbour",
        "SHIP",
        "a",
        "京",
        "ähre sea",
        "ship a sea",
        "none",
    ];
    for seed in 0..6 {
        with_store(async |store| {
            let local = local();
            let job = move |tx: &Tx| {
                let mut rng = SmallRng::seed_from_u64(seed);
                let room = open_room(tx, &local, &RoomVersionId::V11)?;
                let mut sent = Vec::new();
                for step in 0..120 {
                    match rng.random_range(0..12) {
                        0 => drop(index::index_batch(tx, room.room)?),
                        1 if !sent.is_empty() => {
                            let mut redaction = draft(alice(), "m.room.redaction", None, json!({}));
                            let index = rng.random_range(0..sent.len());
                            redaction.redacts = Some(sent.swap_remove(index));
                            send(tx, &local, &room, redaction)?;
                        }
                        2 => {
                            let name = WORDS[rng.random_range(0..WORDS.len())];
                            let content = json!({ "name": format!("{name} {step}") });
                            send(
                                tx,
                                &local,
                                &room,
                                draft(alice(), "m.room.name", Some(""), content),
                            )?;
                        }
                        _ => {
                            let words = (0..rng.random_range(1..6))
                                .map(|_| WORDS[rng.random_range(0..WORDS.len())]);
                            let body = words.collect::<Vec<_>>().join(", ");
                            sent.push(message(tx, &local, &room, alice(), &body)?.id);
                        }
                    }
                }
                let mut all = 0;
                for terms in SEARCHES {
                    let expected = expected(tx, room.room, terms)?;
                    all += expected.len();
                    assert_eq!(
                        found(tx, room.room, terms)?,
                        expected,
                        "{terms}, seed {seed}"
                    );
                }
                assert!(all > 100);
                Ok::<_, Error>(())
            };
            store.write(job).await.expect("the job succeeds");
        });
    }
}

#[test]
fn the_indexer_indexes_what_is_there_at_the_start_and_in_batches_what_comes() {
    const BATCH: usize = 300;
    with_store(async |store| {
        let local = local();
        // Rooms of these versions have different ids.
        let say = |version: RoomVersionId| {
            let local = local.clone();
            move |tx: &Tx| {
                let room = open_room(tx, &local, &version)?;
                for number in 0..BATCH {
                    message(tx, &local, &room, alice(), &format!("needle {number}"))?;
                }
                Ok::<_, Error>(room.room)
            }
        };
        let before = store.write(say(RoomVersionId::V11)).await.expect("a room");
        let indexer = Indexer::default();
        let indexed = async |room| {
            while store.read(|s| index::is_behind(s, room)).expect("a read") {
                smol::future::yield_now().await;
            }
        };
        let follow = async {
            indexed(before).await;
            let after = store.write(say(RoomVersionId::V12)).await.expect("a room");
            for number in 0..BATCH {
                indexer.apply(&Effect::RoomChanged(after, Position(number as u64)));
            }
            indexed(after).await;
            for room in [before, after] {
                let found = store.read(|s| found(s, room, "needle"));
                assert_eq!(found.expect("a search").len(), BATCH);
            }
        };
        smol::future::or(indexer.run(store), follow).await;
    });
}

#[test]
fn events_that_are_backfilled_into_the_indexed_part_are_found() {
    const ALICE: &str = "@alice:a.example";
    let mut history = History::public(&RoomVersionId::V11, ALICE);
    let known = history.events.len();
    let say = |body: &str| Action::message(ALICE, "m.room.message", json!({ "body": body }));
    let missing = history.then(say("a needle in the gap"));
    let last = history.after(&[missing], say("the needle after it"));
    with_store(async |store| {
        let replica = Replica::new(store, &history, &RoomVersionId::V11).await;
        let room = replica.room;
        for index in 0..known {
            replica.receive(index, None).await.expect("it is taken");
        }
        let state = history.events[last].state_before.clone();
        let received = replica.receive(last, Some(&state)).await;
        received.expect("it is taken");
        let job = move |tx: &Tx| index::index_batch(tx, room);
        while store.write(job).await.expect("it is indexed") > 0 {}
        let needles = || {
            store
                .read(|s| found(s, room, "needle"))
                .expect("a search")
                .len()
        };
        assert_eq!(needles(), 1);
        replica.fill([missing]).await;
        assert_eq!(needles(), 2);
        while store
            .write(index::delete_batch)
            .await
            .expect("it is deleted")
        {}
        assert!(!store.read(index::exists).expect("a read"));
        assert_eq!(needles(), 2, "without an index everything is read");
    });
}
