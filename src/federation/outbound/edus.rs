//! Ephemeral messages that wait for one server: memory only, and of each thing only the latest.

use std::collections::BTreeMap;

use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId,
    api::federation::transactions::edu::{
        Edu, PresenceContent, PresenceUpdate, ReceiptContent, ReceiptData, ReceiptMap,
        TypingContent,
    },
    events::receipt::{Receipt, ReceiptThread},
};

/// How many things of each kind may wait.
const WAITING: usize = 500;
/// How many ephemeral messages a transaction has at the most.
pub const EDUS: usize = 100;
/// How many receipts, or users' presence, one message tells at the most.
const IN_ONE: usize = 100;

/// Something that happened and is not stored as an event.
#[derive(Clone, Debug)]
pub enum Happening {
    /// A user begins to type, or stops.
    Typing(OwnedRoomId, OwnedUserId, bool),
    /// A user has read a room, or one of its threads.
    Read {
        /// The room.
        room: OwnedRoomId,
        /// The user.
        user: OwnedUserId,
        /// The thread, or what stands in its place.
        thread: ReceiptThread,
        /// Up to which event.
        event: OwnedEventId,
        /// When.
        ts: MilliSecondsSinceUnixEpoch,
    },
    /// How a user is.
    Presence(PresenceUpdate),
}

/// A thread's name, as a key.
type Thread = Option<String>;

/// Receipts by what they are of.
pub type Receipts = BTreeMap<(Thread, OwnedRoomId, OwnedUserId), ReceiptData>;

/// What waits.
#[derive(Debug, Default)]
pub struct Edus {
    typing: BTreeMap<(OwnedRoomId, OwnedUserId), bool>,
    read: Receipts,
    presence: BTreeMap<OwnedUserId, PresenceUpdate>,
}

impl Edus {
    /// Takes the place of what was said about the same before. What there is no room for is left
    /// unsaid.
    pub fn put(&mut self, happening: Happening) {
        match happening {
            Happening::Typing(room, user, typing) => {
                put(&mut self.typing, (room, user), typing);
            }
            Happening::Read {
                room,
                user,
                thread,
                event,
                ts,
            } => {
                let name = thread.as_str().map(ToOwned::to_owned);
                let mut receipt = Receipt::new(ts);
                receipt.thread = thread;
                let data = ReceiptData::new(receipt, vec![event]);
                put(&mut self.read, (name, room, user), data);
            }
            Happening::Presence(update) => {
                put(&mut self.presence, update.user_id.clone(), update);
            }
        }
    }

    /// The receipts that wait.
    pub fn receipts(&self) -> Receipts {
        self.read.clone()
    }

    /// Receipts wait once more that were taken out, unless there are newer ones.
    pub fn put_back(&mut self, receipts: Receipts) {
        for (key, data) in receipts {
            if !self.read.contains_key(&key) {
                put(&mut self.read, key, data);
            }
        }
    }

    /// Takes out `most` messages at the most.
    pub fn take(&mut self, most: usize) -> Vec<Edu> {
        let mut edus = Vec::new();
        while edus.len() < most
            && let Some(edu) = self.next()
        {
            edus.push(edu);
        }
        edus
    }

    fn next(&mut self) -> Option<Edu> {
        if let Some(((room, user), typing)) = self.typing.pop_first() {
            return Some(Edu::Typing(TypingContent::new(room, user, typing)));
        }
        if !self.read.is_empty() {
            return Some(Edu::Receipt(ReceiptContent::new(self.next_receipts())));
        }
        let mut push = Vec::new();
        while push.len() < IN_ONE
            && let Some((_, update)) = self.presence.pop_first()
        {
            push.push(update);
        }
        (!push.is_empty()).then(|| Edu::Presence(PresenceContent::new(push)))
    }

    /// Receipts of one thread's name: a message has no place for two of the same user and room.
    fn next_receipts(&mut self) -> BTreeMap<OwnedRoomId, ReceiptMap> {
        let mut receipts: BTreeMap<OwnedRoomId, ReceiptMap> = BTreeMap::new();
        let name = self.read.keys().next().map(|(name, ..)| name.clone());
        for _ in 0..IN_ONE {
            let entry = self.read.first_entry();
            let Some(entry) = entry.filter(|entry| Some(&entry.key().0) == name.as_ref()) else {
                break;
            };
            let ((_, room, user), data) = entry.remove_entry();
            let map = receipts.entry(room);
            let map = map.or_insert_with(|| ReceiptMap::new(BTreeMap::new()));
            map.read.insert(user, data);
        }
        receipts
    }
}

fn put<K: Ord, V>(waiting: &mut BTreeMap<K, V>, key: K, value: V) {
    if waiting.len() < WAITING || waiting.contains_key(&key) {
        waiting.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use ruma::{
        MilliSecondsSinceUnixEpoch,
        api::federation::transactions::edu::{Edu, PresenceUpdate},
        events::receipt::ReceiptThread,
        presence::PresenceState,
        uint,
    };
    use serde_json::{Value, json};

    use super::{EDUS, Edus, Happening, IN_ONE, WAITING};

    fn read(user: &str, thread: ReceiptThread, event: &str) -> Happening {
        Happening::Read {
            room: "!r:here".try_into().unwrap(),
            user: user.try_into().unwrap(),
            thread,
            event: event.try_into().unwrap(),
            ts: MilliSecondsSinceUnixEpoch(uint!(5)),
        }
    }

    fn presence(n: usize) -> Happening {
        let user = format!("@u{n}:here").try_into().unwrap();
        Happening::Presence(PresenceUpdate::new(user, PresenceState::Online, uint!(1)))
    }

    fn json_of(edus: &[Edu]) -> Value {
        serde_json::to_value(edus).unwrap()
    }

    #[test]
    fn only_the_latest_about_the_same_is_told() {
        let mut edus = Edus::default();
        for typing in [true, false] {
            let (room, user) = ("!r:here", "@a:here");
            let (room, user) = (room.try_into().unwrap(), user.try_into().unwrap());
            edus.put(Happening::Typing(room, user, typing));
        }
        edus.put(read("@a:here", ReceiptThread::Unthreaded, "$1"));
        edus.put(read("@a:here", ReceiptThread::Unthreaded, "$2"));
        edus.put(read("@b:here", ReceiptThread::Unthreaded, "$1"));
        let receipt = |event: &str| json!({ "data": { "ts": 5 }, "event_ids": [event] });
        let expected = json!([
            { "edu_type": "m.typing", "content": {
                "room_id": "!r:here", "user_id": "@a:here", "typing": false,
            } },
            { "edu_type": "m.receipt", "content": { "!r:here": { "m.read": {
                "@a:here": receipt("$2"), "@b:here": receipt("$1"),
            } } } },
        ]);
        assert_eq!(json_of(&edus.take(EDUS)), expected);
        assert!(edus.take(EDUS).is_empty());
    }

    #[test]
    fn receipts_of_two_threads_are_two_messages() {
        let mut edus = Edus::default();
        edus.put(read("@a:here", ReceiptThread::Main, "$1"));
        edus.put(read(
            "@a:here",
            ReceiptThread::Thread("$t".try_into().unwrap()),
            "$2",
        ));
        let told = json_of(&edus.take(EDUS));
        let of = |index: usize| &told[index]["content"]["!r:here"]["m.read"]["@a:here"];
        assert_eq!(of(0)["data"]["thread_id"], "$t");
        assert_eq!(of(1)["data"]["thread_id"], "main");
    }

    #[test]
    fn what_waits_has_an_end() {
        let mut edus = Edus::default();
        (0..2 * WAITING).for_each(|n| edus.put(presence(n)));
        let told = edus.take(EDUS);
        assert_eq!(told.len(), WAITING / IN_ONE);
        assert!(edus.take(EDUS).is_empty());
    }

    #[test]
    fn receipts_that_did_not_arrive_wait_unless_there_are_newer_ones() {
        let mut edus = Edus::default();
        edus.put(read("@a:here", ReceiptThread::Unthreaded, "$1"));
        edus.put(read("@b:here", ReceiptThread::Unthreaded, "$1"));
        let (receipts, _) = (edus.receipts(), edus.take(EDUS));
        edus.put(read("@a:here", ReceiptThread::Unthreaded, "$2"));
        edus.put_back(receipts);
        let told = json_of(&edus.take(EDUS));
        let read = &told[0]["content"]["!r:here"]["m.read"];
        assert_eq!(read["@a:here"]["event_ids"], json!(["$2"]));
        assert_eq!(read["@b:here"]["event_ids"], json!(["$1"]));
    }
}
