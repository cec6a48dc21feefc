//! Unread counts, compared with a model that counts every event.

use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use ruma::{
    EventId, OwnedEventId,
    events::{
        StateEventType, TimelineEventType, receipt::ReceiptType, room::member::MembershipState,
    },
    push::{
        Action, HighlightTweakValue, NewPatternedPushRule, NewPushRule, NewSimplePushRule, Ruleset,
        Tweak,
    },
};
use serde_json::{Value, json};

use super::world::{World, with_world};
use crate::{
    protocol::build::{EventDraft, canonical_content},
    rooms::{
        self, Actor, Error,
        event::append::{self, Sending},
        membership::change::MembershipChange,
        room,
        state::current,
        unread::{
            self, Unread, notify,
            receipts::{self, MAIN, ReceiptKey},
        },
    },
    store::{
        Place, Reader, Records, RoomNum,
        records::{Counts, Membership},
    },
    users::account_data::{self, push_rules},
};

impl World<'_> {
    /// Sends a message event, as a client does.
    fn say(
        &self,
        user: &Actor,
        room: RoomNum,
        kind: &str,
        content: &Value,
    ) -> Result<(OwnedEventId, Place), Error> {
        let draft = EventDraft {
            room_id: Some(room::id(self.tx, room)?),
            sender: user.id.clone(),
            event_type: TimelineEventType::from(kind),
            state_key: None,
            content: canonical_content(content)?,
            text: None,
            redacts: None,
        };
        self.append(user, room, &draft)
    }

    /// Redacts `target`, as a client does.
    fn redact(
        &self,
        user: &Actor,
        room: RoomNum,
        target: &EventId,
    ) -> Result<(OwnedEventId, Place), Error> {
        let draft = EventDraft {
            room_id: Some(room::id(self.tx, room)?),
            sender: user.id.clone(),
            event_type: TimelineEventType::RoomRedaction,
            state_key: None,
            content: canonical_content(&json!({ "redacts": target }))?,
            text: None,
            redacts: Some(target.to_owned()),
        };
        self.append(user, room, &draft)
    }

    fn append(
        &self,
        user: &Actor,
        room: RoomNum,
        draft: &EventDraft,
    ) -> Result<(OwnedEventId, Place), Error> {
        let sending = Sending {
            notify: notify::evaluate_in(self.tx, &self.local, room, draft)?,
            ..user.sending()
        };
        let sent = append::append(self.tx, &self.local, draft, &sending)?;
        Ok((sent.id, sent.place))
    }

    fn text(&self, user: &Actor, room: RoomNum) -> Result<(OwnedEventId, Place), Error> {
        let content = json!({ "msgtype": "m.text", "body": "hello" });
        self.say(user, room, "m.room.message", &content)
    }

    fn unread(&self, user: &Actor, room: RoomNum) -> Result<Unread, Error> {
        let row = current::local_membership(self.tx, user.num, room)?;
        let row = row.expect("the user is in the room");
        let heads = room::heads(self.tx, room)?;
        unread::count(self.tx, room, &heads, user.num, row.since)
    }

    /// Sets the user's push rules to the default ones changed by `change`.
    fn rules(&self, user: &Actor, change: impl FnOnce(&mut Ruleset)) -> Result<(), Error> {
        let mut rules = Ruleset::new();
        change(&mut rules);
        let content = json!({ "global": rules }).to_string();
        let room = account_data::GLOBAL;
        account_data::put(self.tx, user.num, room, push_rules::EVENT_TYPE, &content)?;
        Ok(())
    }
}

fn counts(notify: u32, highlight: u32) -> Counts {
    Counts { notify, highlight }
}

/// An event of the model.
struct Sent {
    id: OwnedEventId,
    place: Place,
    sender: usize,
    /// The index of its thread root.
    thread: Option<usize>,
    is_message: bool,
    /// Whether it notifies and is highlighted, for each user.
    verdicts: Vec<(bool, bool)>,
}

/// A user's own push rules.
#[derive(Clone, Copy, PartialEq)]
enum Rules {
    TheServers,
    Quiet,
    Cake,
    NotFrom(usize),
}

/// A user of the model.
struct Known {
    joined: Option<Place>,
    rules: Rules,
    /// By kind and thread: `None` for unthreaded receipts, `Some(None)` for the main timeline.
    receipts: BTreeMap<(usize, Option<Option<usize>>), Place>,
}

struct Model<'w, 't> {
    world: &'w World<'t>,
    room: RoomNum,
    people: Vec<Actor>,
    known: Vec<Known>,
    sent: Vec<Sent>,
}

impl Model<'_, '_> {
    fn last_place(&self) -> Result<Place, Error> {
        Ok(room::heads(self.world.tx, self.room)?.last_place)
    }

    /// Sends a random event.
    fn send(&mut self, rng: &mut SmallRng, sender: usize) -> Result<(), Error> {
        let of = self.random_event(rng);
        let (kind, content, thread) = match rng.random_range(0..8) {
            0 => (
                "m.room.message",
                json!({ "msgtype": "m.notice", "body": "n" }),
                None,
            ),
            1 => {
                let whom = rng.random_range(0..self.people.len());
                let mentions = json!({ "user_ids": [self.people[whom].id] });
                let content = json!({ "msgtype": "m.text", "body": "you", "m.mentions": mentions });
                ("m.room.message", content, None)
            }
            2 => {
                let mentions = json!({ "room": true });
                let content = json!({ "msgtype": "m.text", "body": "all", "m.mentions": mentions });
                ("m.room.message", content, None)
            }
            3 | 4 if of.is_some_and(|of| self.sent[of].thread.is_none()) => {
                let root = of.expect("just looked at");
                let relation = json!({ "rel_type": "m.thread", "event_id": self.sent[root].id });
                let content =
                    json!({ "msgtype": "m.text", "body": "and", "m.relates_to": relation });
                ("m.room.message", content, Some(root))
            }
            5 if of.is_some() => {
                let of = of.expect("just looked at");
                let key = self.sent.len().to_string();
                let relation = json!({
                    "rel_type": "m.annotation", "event_id": self.sent[of].id, "key": key,
                });
                let content = json!({ "m.relates_to": relation });
                ("m.reaction", content, self.sent[of].thread)
            }
            6 => (
                "m.room.message",
                json!({ "msgtype": "m.text", "body": "cake" }),
                None,
            ),
            _ => (
                "m.room.message",
                json!({ "msgtype": "m.text", "body": "hi" }),
                None,
            ),
        };
        let (id, place) = self
            .world
            .say(&self.people[sender], self.room, kind, &content)?;
        let verdicts = (0..self.people.len())
            .map(|user| self.verdict(user, sender, kind, &content))
            .collect();
        self.sent.push(Sent {
            id,
            place,
            sender,
            thread,
            is_message: kind == "m.room.message",
            verdicts,
        });
        Ok(())
    }

    /// An independent implementation of the push rules.
    fn verdict(&self, user: usize, sender: usize, kind: &str, content: &Value) -> (bool, bool) {
        let mentions = &content["m.mentions"];
        let own_id = self.people[user].id.as_str();
        let named = mentions["user_ids"][0].as_str() == Some(own_id);
        // Only the first user may notify the room.
        let all = mentions["room"] == true && sender == 0;
        let is_text = kind == "m.room.message" && content["msgtype"] != "m.notice";
        match self.known[user].rules {
            _ if sender == user => (false, false),
            _ if named || all => (true, true),
            Rules::Cake if content["body"] == "cake" => (true, true),
            Rules::Quiet => (false, false),
            Rules::NotFrom(other) if other == sender => (false, false),
            _ => (is_text, false),
        }
    }

    fn random_event(&self, rng: &mut SmallRng) -> Option<usize> {
        let messages: Vec<usize> = (0..self.sent.len())
            .filter(|event| self.sent[*event].is_message)
            .collect();
        (!messages.is_empty()).then(|| messages[rng.random_range(0..messages.len())])
    }

    /// Moves a random receipt.
    fn read(&mut self, rng: &mut SmallRng, user: usize) -> Result<(), Error> {
        let Some(event) = self.random_event(rng) else {
            return Ok(());
        };
        let sent = &self.sent[event];
        let thread = (rng.random_range(0..3) > 0).then_some(sent.thread);
        let kind = rng.random_range(0..2);
        let of = ReceiptKey {
            kind: [ReceiptType::Read, ReceiptType::ReadPrivate][kind].clone(),
            thread: thread.map(|root| match root {
                Some(root) => self.sent[root].id.to_string(),
                None => MAIN.to_owned(),
            }),
        };
        let num = self.people[user].num;
        receipts::put(self.world.tx, self.room, num, &of, &sent.id, 0)?;
        let place = self.known[user]
            .receipts
            .entry((kind, thread))
            .or_insert(sent.place);
        *place = sent.place.max(*place);
        Ok(())
    }

    fn change_rules(&mut self, rng: &mut SmallRng, user: usize) -> Result<(), Error> {
        let other = rng.random_range(0..self.people.len());
        let rules = [
            Rules::TheServers,
            Rules::Quiet,
            Rules::Cake,
            Rules::NotFrom(other),
        ][rng.random_range(0..4)];
        let room = room::id(self.world.tx, self.room)?;
        let rule = match rules {
            Rules::TheServers => None,
            Rules::Quiet => Some(NewPushRule::Room(NewSimplePushRule::new(room, vec![]))),
            Rules::Cake => {
                let highlight = Action::SetTweak(Tweak::Highlight(HighlightTweakValue::Yes));
                let actions = vec![Action::Notify, highlight];
                let rule = NewPatternedPushRule::new("cake".into(), "cake".into(), actions);
                Some(NewPushRule::Content(rule))
            }
            Rules::NotFrom(other) => {
                let of = self.people[other].id.clone();
                Some(NewPushRule::Sender(NewSimplePushRule::new(of, vec![])))
            }
        };
        self.world.rules(&self.people[user], |all| {
            if let Some(rule) = rule {
                all.insert(rule, None, None).expect("a rule");
            }
        })?;
        self.known[user].rules = rules;
        Ok(())
    }

    /// Redacts a random message: the first user those of everybody, others their own.
    fn redact(&mut self, rng: &mut SmallRng, user: usize) -> Result<(), Error> {
        let Some(target) = self.random_event(rng) else {
            return Ok(());
        };
        if user != 0 && self.sent[target].sender != user {
            return Ok(());
        }
        let redacted = self.sent[target].id.clone();
        let (id, place) = self
            .world
            .redact(&self.people[user], self.room, &redacted)?;
        self.sent[target].verdicts.fill((false, false));
        self.sent.push(Sent {
            id,
            place,
            sender: user,
            thread: None,
            is_message: false,
            verdicts: vec![(false, false); self.people.len()],
        });
        Ok(())
    }

    fn step(&mut self, rng: &mut SmallRng) -> Result<(), Error> {
        let user = rng.random_range(0..self.people.len());
        let actor = self.people[user].clone();
        if self.known[user].joined.is_none() {
            self.world.join(&actor, self.room)?;
            self.known[user].joined = Some(self.last_place()?);
            return Ok(());
        }
        match rng.random_range(0..20) {
            0 if user != 0 => {
                self.world.leave(&actor, self.room)?;
                self.known[user].joined = None;
            }
            1 => self.change_rules(rng, user)?,
            2 => {
                // A new display name.
                let name = rng.random::<u32>().to_string();
                MembershipChange::new(&actor.id, MembershipState::Join, None)
                    .with("displayname", &name)
                    .send(self.world.tx, &self.world.local, self.room, &actor)?;
            }
            3 | 4 => self.redact(rng, user)?,
            5..=9 => self.read(rng, user)?,
            _ => self.send(rng, user)?,
        }
        Ok(())
    }

    /// The unread counts, counted one by one.
    fn recount(&self, user: usize) -> (Counts, BTreeMap<usize, Counts>) {
        let known = &self.known[user];
        let mut found: BTreeMap<Option<usize>, Counts> = BTreeMap::new();
        for event in &self.sent {
            let read = known.receipts.iter().any(|((_, thread), place)| {
                thread.is_none_or(|thread| thread == event.thread) && *place >= event.place
            });
            let wrote_later = self.sent.iter().any(|other| {
                other.sender == user && other.thread == event.thread && other.place >= event.place
            });
            if read || wrote_later || known.joined >= Some(event.place) {
                continue;
            }
            let (notify, highlight) = event.verdicts[user];
            let counts = found.entry(event.thread).or_default();
            counts.notify += u32::from(notify);
            counts.highlight += u32::from(highlight);
        }
        found.retain(|_, counts| *counts != Counts::default());
        let main = found.remove(&None).unwrap_or_default();
        let threads = found
            .into_iter()
            .filter_map(|(thread, counts)| Some((thread?, counts)));
        (main, threads.collect())
    }

    fn check(&self, seed: u64) -> Result<(), Error> {
        for (user, actor) in self.people.iter().enumerate() {
            if self.known[user].joined.is_none() {
                continue;
            }
            let unread = self.world.unread(actor, self.room)?;
            let mut threads = BTreeMap::new();
            for (root, counts) in unread.threads {
                let id = rooms::event::id(self.world.tx, root)?;
                let root = self.sent.iter().position(|event| event.id == id);
                threads.insert(root.expect("a root is a message"), counts);
            }
            assert_eq!(
                (unread.main, threads),
                self.recount(user),
                "seed {seed}: {} after {} events",
                actor.id,
                self.sent.len()
            );
        }
        Ok(())
    }
}

#[test]
fn unread_counts_equal_a_recount_of_every_event() {
    with_world(|world| {
        for seed in 0..40 {
            let mut rng = SmallRng::seed_from_u64(seed);
            let names = ["alice", "bob", "carol", "dave"].map(|name| format!("{name}{seed}"));
            let people = world.users(names.each_ref().map(|name| name.as_str()))?;
            let room = world.create(&people[0], &json!({ "preset": "public_chat" }))?;
            let known = |joined| Known {
                joined,
                rules: Rules::TheServers,
                receipts: BTreeMap::new(),
            };
            let mut model = Model {
                world,
                room,
                known: vec![
                    known(Some(Place(Place::FIRST.0 + 1))),
                    known(None),
                    known(None),
                    known(None),
                ],
                people: people.to_vec(),
                sent: Vec::new(),
            };
            for _ in 0..80 {
                model.step(&mut rng)?;
                model.check(seed)?;
            }
        }
        Ok(())
    });
}

#[test]
fn an_own_event_long_ago_still_counts_as_read() {
    with_world(|world| {
        let alice = world.user("alice")?;
        let room = world.create(&alice, &json!({ "preset": "public_chat" }))?;
        world.text(&alice, room)?;
        for n in 0..70 {
            let other = world.user(&format!("other{n}"))?;
            world.join(&other, room)?;
            world.text(&other, room)?;
        }
        assert_eq!(world.unread(&alice, room)?.main, counts(70, 0));
        world.text(&alice, room)?;
        assert_eq!(world.unread(&alice, room)?.main, counts(0, 0));
        Ok(())
    });
}

#[test]
fn an_invite_notifies_the_invitee_and_a_tombstone_every_member() {
    with_world(|world| {
        let [alice, bob, carol] = world.users(["alice", "bob", "carol"])?;
        let room = world.create(&alice, &json!({ "preset": "public_chat" }))?;
        world.join(&bob, room)?;
        world.invite(&alice, &carol, room)?;
        assert_eq!(world.unread(&bob, room)?.main, counts(0, 0));
        let row = current::local_membership(world.tx, carol.num, room)?.expect("invited");
        assert_eq!(row.membership, Membership::Invite);
        let last = room::heads(world.tx, room)?.last_place;
        let notified = unread::notified(world.tx, room, carol.num, unread::NO_THREAD, last)?;
        assert_eq!(notified.notify, 1);
        let tombstone = json!({ "body": "gone", "replacement_room": "!new:here" });
        world.set(&alice, room, ("m.room.tombstone", ""), &tombstone)?;
        assert_eq!(world.unread(&bob, room)?.main, counts(1, 1));
        let kind = StateEventType::RoomTombstone.to_string();
        assert_eq!(world.get(room, (&kind, ""))?["body"], "gone");
        Ok(())
    });
}

#[test]
fn events_of_ignored_users_do_not_notify_and_encrypted_events_do() {
    with_world(|world| {
        let [alice, bob] = world.users(["alice", "bob"])?;
        let room = world.create(&alice, &json!({ "preset": "public_chat" }))?;
        world.join(&bob, room)?;
        let encrypted = json!({ "algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "?" });
        world.say(&alice, room, "m.room.encrypted", &encrypted)?;
        assert_eq!(world.unread(&bob, room)?.main, counts(1, 0));
        let ignored = json!({ "ignored_users": { alice.id.as_str(): {} } }).to_string();
        account_data::put(
            world.tx,
            bob.num,
            account_data::GLOBAL,
            "m.ignored_user_list",
            &ignored,
        )?;
        world.text(&alice, room)?;
        assert_eq!(world.unread(&bob, room)?.main, counts(1, 0));
        Ok(())
    });
}

#[test]
fn a_reaction_to_a_reply_in_a_thread_is_in_the_thread() {
    with_world(|world| {
        let alice = world.user("alice")?;
        let room = world.create(&alice, &json!({ "preset": "public_chat" }))?;
        let (root, _) = world.text(&alice, room)?;
        let relate = |kind: &str, to: &EventId| json!({ "body": "x", "m.relates_to": { "rel_type": kind, "event_id": to, "key": "+" } });
        let reply = relate("m.thread", &root);
        let (reply, _) = world.say(&alice, room, "m.room.message", &reply)?;
        let thread_of = |place: Place| -> Result<_, Error> {
            let row = world.tx.timeline()?.load((room, place))?;
            Ok(row.expect("a row").thread)
        };
        let root_num = rooms::event::num_of(world.tx, &root)?;
        for (kind, to, thread) in [
            ("m.annotation", &reply, root_num),
            ("m.replace", &reply, root_num),
            ("m.annotation", &root, None),
        ] {
            let (_, place) = world.say(&alice, room, "m.reaction", &relate(kind, to))?;
            assert_eq!(thread_of(place)?, thread, "{kind}");
        }
        Ok(())
    });
}
