//! The ephemeral EDUs that are queued for one server, in memory: of each user and subject only the latest.

use std::collections::BTreeMap;

use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId,
    api::federation::transactions::edu::{
        Edu, PresenceContent, PresenceUpdate, ReceiptContent, ReceiptData, ReceiptMap,
        TypingContent,
    },
    events::receipt::{Receipt, ReceiptThread},
};

/// How many updates of each kind are queued.
const MAX_QUEUED: usize = 500;
/// How many EDUs a transaction may have.
///
/// Source: server-server API, "Transactions".
pub const MAX_EDUS: usize = 100;
/// How many receipts or presence updates go into one EDU.
const MAX_PER_EDU: usize = 100;

/// An update for other servers that is not stored.
#[derive(Clone, Debug)]
pub enum EphemeralEdu {
    /// The user starts or stops typing.
    Typing(OwnedRoomId, OwnedUserId, bool),
    Receipt {
        room: OwnedRoomId,
        user: OwnedUserId,
        thread: ReceiptThread,
        event: OwnedEventId,
        ts: MilliSecondsSinceUnixEpoch,
    },
    Presence(PresenceUpdate),
}

/// As `thread_id` has it.
type Thread = Option<String>;

pub type Receipts = BTreeMap<(Thread, OwnedRoomId, OwnedUserId), ReceiptData>;

#[derive(Debug, Default)]
pub struct EphemeralEdus {
    typing: BTreeMap<(OwnedRoomId, OwnedUserId), bool>,
    receipts: Receipts,
    presence: BTreeMap<OwnedUserId, PresenceUpdate>,
}

impl EphemeralEdus {
    /// Replaces an earlier update of the same subject. An update that exceeds the limit is dropped.
    pub fn put(&mut self, edu: EphemeralEdu) {
        match edu {
            EphemeralEdu::Typing(room, user, typing) => {
                put(&mut self.typing, (room, user), typing);
            }
            EphemeralEdu::Receipt {
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
                put(&mut self.receipts, (name, room, user), data);
            }
            EphemeralEdu::Presence(update) => {
                put(&mut self.presence, update.user_id.clone(), update);
            }
        }
    }

    pub fn receipts(&self) -> Receipts {
        self.receipts.clone()
    }

    /// Queues receipts again, unless there are newer ones.
    pub fn put_back(&mut self, receipts: Receipts) {
        for (key, data) in receipts {
            if !self.receipts.contains_key(&key) {
                put(&mut self.receipts, key, data);
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.typing.is_empty() && self.receipts.is_empty() && self.presence.is_empty()
    }

    /// Takes at most `max` EDUs out of the queue.
    pub fn take(&mut self, max: usize) -> Vec<Edu> {
        let mut edus = Vec::new();
        while edus.len() < max
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
        if !self.receipts.is_empty() {
            return Some(Edu::Receipt(ReceiptContent::new(self.next_receipts())));
        }
        let mut updates = Vec::new();
        while updates.len() < MAX_PER_EDU
            && let Some((_, update)) = self.presence.pop_first()
        {
            updates.push(update);
        }
        (!updates.is_empty()).then(|| Edu::Presence(PresenceContent::new(updates)))
    }

    /// Receipts of one thread: an EDU can hold only one receipt of a user in a room.
    fn next_receipts(&mut self) -> BTreeMap<OwnedRoomId, ReceiptMap> {
        let mut receipts: BTreeMap<OwnedRoomId, ReceiptMap> = BTreeMap::new();
        let name = self.receipts.keys().next().map(|(name, ..)| name.clone());
        for _ in 0..MAX_PER_EDU {
            let entry = self.receipts.first_entry();
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

fn put<K: Ord, V>(queue: &mut BTreeMap<K, V>, key: K, value: V) {
    if queue.len() < MAX_QUEUED || queue.contains_key(&key) {
        queue.insert(key, value);
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

    use super::{EphemeralEdu, EphemeralEdus, MAX_EDUS, MAX_PER_EDU, MAX_QUEUED};

    fn read(user: &str, thread: ReceiptThread, event: &str) -> EphemeralEdu {
        EphemeralEdu::Receipt {
            room: "!r:here".try_into().unwrap(),
            user: user.try_into().unwrap(),
            thread,
            event: event.try_into().unwrap(),
            ts: MilliSecondsSinceUnixEpoch(uint!(5)),
        }
    }

    fn presence(n: usize) -> EphemeralEdu {
        let user = format!("@u{n}:here").try_into().unwrap();
        EphemeralEdu::Presence(PresenceUpdate::new(user, PresenceState::Online, uint!(1)))
    }

    fn json_of(edus: &[Edu]) -> Value {
        serde_json::to_value(edus).unwrap()
    }

    #[test]
    fn only_the_latest_update_of_a_subject_is_sent() {
        let mut edus = EphemeralEdus::default();
        for typing in [true, false] {
            let (room, user) = ("!r:here", "@a:here");
            let (room, user) = (room.try_into().unwrap(), user.try_into().unwrap());
            edus.put(EphemeralEdu::Typing(room, user, typing));
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
        assert_eq!(json_of(&edus.take(MAX_EDUS)), expected);
        assert!(edus.take(MAX_EDUS).is_empty());
    }

    #[test]
    fn receipts_of_two_threads_are_two_edus() {
        let mut edus = EphemeralEdus::default();
        edus.put(read("@a:here", ReceiptThread::Main, "$1"));
        edus.put(read(
            "@a:here",
            ReceiptThread::Thread("$t".try_into().unwrap()),
            "$2",
        ));
        let sent = json_of(&edus.take(MAX_EDUS));
        let of = |index: usize| &sent[index]["content"]["!r:here"]["m.read"]["@a:here"];
        assert_eq!(of(0)["data"]["thread_id"], "$t");
        assert_eq!(of(1)["data"]["thread_id"], "main");
    }

    #[test]
    fn updates_beyond_the_limit_are_dropped() {
        let mut edus = EphemeralEdus::default();
        (0..2 * MAX_QUEUED).for_each(|n| edus.put(presence(n)));
        let sent = edus.take(MAX_EDUS);
        assert_eq!(sent.len(), MAX_QUEUED / MAX_PER_EDU);
        assert!(edus.take(MAX_EDUS).is_empty());
    }

    #[test]
    fn receipts_of_a_failed_transaction_are_queued_again_unless_there_are_newer_ones() {
        let mut edus = EphemeralEdus::default();
        edus.put(read("@a:here", ReceiptThread::Unthreaded, "$1"));
        edus.put(read("@b:here", ReceiptThread::Unthreaded, "$1"));
        let (receipts, _) = (edus.receipts(), edus.take(MAX_EDUS));
        edus.put(read("@a:here", ReceiptThread::Unthreaded, "$2"));
        edus.put_back(receipts);
        let sent = json_of(&edus.take(MAX_EDUS));
        let read = &sent[0]["content"]["!r:here"]["m.read"];
        assert_eq!(read["@a:here"]["event_ids"], json!(["$2"]));
        assert_eq!(read["@b:here"]["event_ids"], json!(["$1"]));
    }
}
