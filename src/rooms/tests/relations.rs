//! The tables of relations, compared with what the stored events say.

use std::collections::{BTreeMap, BTreeSet};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use ruma::{OwnedUserId, RoomVersionId, UserId};
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use super::{
    alice, bob, draft, join, local, message, open_room, replica::Replica, send, with_store,
};
use crate::{
    protocol::{
        history::{Action, History},
        relation::Relation,
    },
    rooms::{
        Error, event,
        relations::{
            aggregations::Aggregator,
            related::{self, MAX_RELATIONS, RelatedBy, VisibleChildren},
        },
        timeline::{
            self,
            client_event::{Formatter, RoomIdField},
        },
    },
    store::{Place, Reader, RoomNum, Rows, Tx, UserNum, reads},
    users::account_data::ignored_users::IgnoredUsers,
};

/// What the tables hold, by ids.
#[derive(Debug, Default, PartialEq)]
struct Tables {
    /// (parent, kind, place, child, sender)
    relations: BTreeSet<(String, u8, Place, String, String)>,
    /// (parent, sender, time, edit)
    edits: BTreeSet<(String, String, u64, String)>,
    /// (root, sender, "" for all) → events
    thread_senders: BTreeMap<(String, String), u32>,
    /// Place of the newest event → root.
    thread_list: BTreeMap<Place, String>,
}

impl Tables {
    fn stored(r: &impl Reader, room: RoomNum) -> Result<Self, Error> {
        let mut tables = Self::default();
        let users = r.users()?;
        let name = |user| {
            let id = users.get(user);
            Ok::<_, Error>(id?.map_or_else(String::new, |id| id.value().to_owned()))
        };
        for row in r.relations()?.prefix(room)? {
            let (key, value) = row?;
            let ((_, parent, kind, place), (child, sender)) = (key.value(), value.value());
            let child = event::header(r, child)?.id;
            let row = (parent.to_owned(), kind, place, child, name(sender)?);
            tables.relations.insert(row);
        }
        for row in r.edits()?.prefix(room)? {
            let (key, _) = row?;
            let (_, parent, sender, time, id) = key.value();
            let row = (parent.to_owned(), name(sender)?, time, id.to_owned());
            tables.edits.insert(row);
        }
        for row in r.thread_senders()?.prefix(room)? {
            let (key, count) = row?;
            let (_, root, sender) = key.value();
            let key = (root.to_owned(), name(sender)?);
            tables.thread_senders.insert(key, count.value());
        }
        for row in r.thread_list()?.prefix(room)? {
            let (key, root) = row?;
            let (_, place) = key.value();
            tables.thread_list.insert(place, root.value().to_owned());
        }
        Ok(tables)
    }

    /// From the events of the timeline.
    fn expected(r: &impl Reader, room: RoomNum) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Event {
            sender: OwnedUserId,
            origin_server_ts: u64,
            content: Box<RawValue>,
        }
        let mut tables = Self::default();
        for (place, row) in timeline::forwards(r, room, Place::MIN, usize::MAX)? {
            let stored = event::load(r, row.event)?;
            let event = stored.parse::<Event>()?;
            let Some(relation) = Relation::of(&event.content) else {
                continue;
            };
            let (parent, sender) = (relation.event_id.to_string(), event.sender.to_string());
            let id = stored.header.id;
            let kind = match &*relation.rel_type {
                "m.reference" => 0,
                "m.replace" => 1,
                "m.thread" => 2,
                "m.annotation" => 3,
                _ => 4,
            };
            if kind == 1 {
                let edit = (
                    parent.clone(),
                    sender.clone(),
                    event.origin_server_ts,
                    id.clone(),
                );
                tables.edits.insert(edit);
            }
            if kind == 2 {
                for sender in [&*sender, ""] {
                    let key = (parent.clone(), sender.to_owned());
                    *tables.thread_senders.entry(key).or_default() += 1;
                }
                tables.thread_list.retain(|_, root| *root != parent);
                tables.thread_list.insert(place, parent.clone());
            }
            tables.relations.insert((parent, kind, place, id, sender));
        }
        Ok(tables)
    }
}

fn relating(sender: &UserId, rel_type: &str, parent: &str, unique: usize) -> super::EventDraft {
    let relation = json!({ "rel_type": rel_type, "event_id": parent, "key": unique.to_string() });
    let content = json!({ "body": "x", "m.new_content": {}, "m.relates_to": relation });
    draft(sender, "m.room.message", None, content)
}

#[test]
fn the_tables_of_relations_say_what_the_events_that_are_not_redacted_say() {
    for seed in 0..8 {
        with_store(async |store| {
            let local = local();
            let job = move |tx: &Tx| {
                let mut rng = SmallRng::seed_from_u64(seed);
                let room = open_room(tx, &local, &RoomVersionId::V11)?;
                join(tx, &local, &room, bob())?;
                let roots = [0, 1, 2].map(|_| message(tx, &local, &room, alice(), "root"));
                let roots = roots.into_iter().collect::<Result<Vec<_>, _>>()?;
                let mut children = Vec::new();
                for step in 0..60 {
                    let sender = [alice(), bob()][rng.random_range(0..2)];
                    if rng.random_bool(0.4) && !children.is_empty() {
                        let index = rng.random_range(0..children.len());
                        let mut redaction = draft(alice(), "m.room.redaction", None, json!({}));
                        redaction.redacts = Some(children.remove(index));
                        send(tx, &local, &room, redaction)?;
                    } else {
                        let rel_type = [
                            "m.reference",
                            "m.replace",
                            "m.thread",
                            "m.thread",
                            "m.annotation",
                            "org.x",
                        ][rng.random_range(0..6)];
                        let parent = &roots[rng.random_range(0..roots.len())].id;
                        let child = relating(sender, rel_type, parent.as_str(), step);
                        children.push(send(tx, &local, &room, child)?.id);
                    }
                    let stored = Tables::stored(tx, room.room)?;
                    assert_eq!(stored, Tables::expected(tx, room.room)?, "seed {seed}");
                }
                Ok::<_, Error>(())
            };
            store.write(job).await.expect("the job succeeds");
        });
    }
}

#[test]
fn children_that_come_before_their_parent_or_by_backfill_are_indexed() {
    const ALICE: &str = "@alice:a.example";
    const BOB: &str = "@bob:b.example";
    let mut history = History::public(&RoomVersionId::V11, ALICE);
    let joined = history.then(Action::join(BOB));
    let say = |content| Action::message(ALICE, "m.room.message", content);
    let id_of = |history: &History, index: usize| history.events[index].pdu.event_id().to_owned();
    let root = history.after(&[joined], say(json!({ "body": "root" })));
    let relation = json!({ "rel_type": "m.thread", "event_id": id_of(&history, root) });
    let reply = |body: &str| say(json!({ "body": body, "m.relates_to": relation }));
    let missing = history.after(&[root], reply("missing"));
    let redacted = history.after(&[missing], reply("redacted"));
    let redaction = json!({ "redacts": id_of(&history, redacted) });
    let redaction = Action::message(ALICE, "m.room.redaction", redaction);
    let redaction = history.after(&[redacted], redaction);
    let last = history.after(&[redaction], reply("last"));
    with_store(async |store| {
        let replica = Replica::new(store, &history, &RoomVersionId::V11).await;
        for index in 0..=joined {
            replica.receive(index, None).await.expect("it is taken");
        }
        let state = history.events[redaction].state_before.clone();
        for (index, claimed) in [(redaction, Some(&*state)), (last, None)] {
            let received = replica.receive(index, claimed).await;
            received.expect("it is taken");
        }
        replica.fill([root, missing, redacted]).await;
        let tables = store
            .read(|s| Tables::stored(s, replica.room))
            .expect("tables");
        let expected = store
            .read(|s| Tables::expected(s, replica.room))
            .expect("events");
        assert_eq!(tables, expected);
        let children: BTreeSet<String> = tables.relations.into_iter().map(|row| row.3).collect();
        let wanted = [missing, last].map(|index| id_of(&history, index).to_string());
        assert_eq!(children, BTreeSet::from(wanted));
    });
}

#[test]
fn a_filter_by_relations_reads_children_until_one_is_wanted_and_counts_them() {
    with_store(async |store| {
        let local = local();
        let job = move |tx: &Tx| {
            let room = open_room(tx, &local, &RoomVersionId::V11)?;
            join(tx, &local, &room, bob())?;
            let parent = message(tx, &local, &room, alice(), "root")?.id;
            for (unique, sender) in [alice(), bob(), bob(), bob()].into_iter().enumerate() {
                let child = relating(sender, "m.annotation", parent.as_str(), unique);
                send(tx, &local, &room, child)?;
            }
            let num = event::num_of(tx, &parent)?.expect("the parent");
            let parent = event::load(tx, num)?;
            let all = VisibleChildren {
                ignored: &BTreeSet::new(),
                upto: Place::MAX,
            };
            let read = |sender: &UserId| {
                let wanted = RelatedBy {
                    related_by_rel_types: vec!["m.annotation".to_owned()],
                    related_by_senders: vec![sender.to_owned()],
                };
                let mut rows_read = 0;
                let accepted = related::accepts(tx, &wanted, all, &parent, &mut rows_read)?;
                Ok::<_, Error>((accepted, rows_read))
            };
            assert_eq!(read(bob())?, (true, 1));
            assert_eq!(read(alice())?, (true, 4));
            assert_eq!(read(ruma::user_id!("@carol:here"))?, (false, 4));

            // The event of a child of any other type is loaded.
            for unique in [4, 5] {
                let other = relating(bob(), "org.example.a", parent.header.id.as_str(), unique);
                send(tx, &local, &room, other)?;
            }
            let read = |mut rows_read: usize| {
                let wanted = RelatedBy {
                    related_by_rel_types: vec!["org.example.b".to_owned()],
                    related_by_senders: Vec::new(),
                };
                let accepted = related::accepts(tx, &wanted, all, &parent, &mut rows_read)?;
                Ok::<_, Error>((accepted, rows_read))
            };
            assert_eq!(read(0)?, (false, 4));
            assert_eq!(read(MAX_RELATIONS)?, (false, MAX_RELATIONS));
            Ok::<_, Error>(())
        };
        store.write(job).await.expect("the job succeeds");
    });
}

/// The cost of aggregations does not grow with the number of reactions.
#[test]
fn an_event_with_10_000_reactions_takes_as_many_reads_as_one_with_ten() {
    with_store(async |store| {
        let local = local();
        let job = move |tx: &Tx| {
            let room = open_room(tx, &local, &RoomVersionId::V12)?;
            let mut counts = Vec::new();
            for reactions in [10, 10_000] {
                let event = message(tx, &local, &room, alice(), "hello")?;
                let mut rows = tx.relations()?;
                for number in 0..reactions {
                    let place = Place(event.place.0 + number);
                    let key = (room.room, event.id.as_str(), 3, place);
                    rows.insert(key, (event.num, UserNum(1)))?;
                }
                drop(rows);
                let stored = event::load(tx, event.num)?;
                let field = RoomIdField::Include;
                let mut formatter = Formatter::new(tx, room.room, alice(), None, 0, field)?;
                let ignored = IgnoredUsers::default();
                let aggregator = Aggregator::new(tx, &formatter, UserNum(1), ignored)?;
                let format = || aggregator.format(tx, &mut formatter, &stored);
                let (formatted, count) = reads::during(format);
                formatted?;
                counts.push(count);
            }
            assert!(counts[0] > 0);
            assert_eq!(counts[0], counts[1]);
            Ok::<_, Error>(())
        };
        store.write(job).await.expect("the events are formatted");
    });
}
