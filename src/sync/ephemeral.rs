//! Typing and receipts of one room.

use std::collections::BTreeMap;

use ruma::{
    RoomId,
    events::{AnySyncEphemeralRoomEvent, receipt::ReceiptType},
    serde::Raw,
};
use serde_json::{Value, json, value::to_raw_value};

use super::request::{Request, SyncRange};
use crate::{
    rooms::{
        Error,
        timeline::filter::{self, EventFilter},
        typing::Typing,
        unread::receipts,
    },
    store::{Position, Reader, RoomNum},
    users,
};

/// The most receipts of a room in one response; the newest are sent.
pub const MAX_RECEIPTS: usize = 1000;

pub fn events(
    r: &impl Reader,
    request: &Request,
    range: SyncRange,
    room: RoomNum,
    room_id: &RoomId,
    typing: &Typing,
) -> Result<Vec<Raw<AnySyncEphemeralRoomEvent>>, Error> {
    let wanted = &request.filter.room.ephemeral;
    let mut events = Vec::new();
    if !filter::accepts_room(wanted, room_id) {
        return Ok(Vec::new());
    }
    if wants(wanted, "m.typing") {
        let users = match range.since {
            Some(since) => typing.changed_after(room, since.ephemeral),
            None => typing
                .changed_after(room, 0)
                .filter(|users| !users.is_empty()),
        };
        if let Some(users) = users {
            let users = users.into_iter().map(|user| users::id_of(r, user));
            let users = users.collect::<Result<Vec<_>, _>>()?;
            events.push(json!({ "type": "m.typing", "content": { "user_ids": users } }));
        }
    }
    if wants(wanted, "m.receipt") {
        let since = range.since.map_or(Position::MIN, |since| since.position);
        let moved =
            receipts::moved_between(r, room, since, range.end.stored, request.user, MAX_RECEIPTS)?;
        let contents = receipt_contents(moved).into_iter();
        events.extend(contents.map(|content| json!({ "type": "m.receipt", "content": content })));
    }
    events.into_iter().map(raw).collect()
}

fn wants(filter: &EventFilter, kind: &str) -> bool {
    filter::accepts_type(&filter.types, &filter.not_types, kind)
}

/// The contents of the receipt events. One content has one receipt of a user and a kind at an event; who
/// has receipts of several threads there, as of the main timeline and of all, is in several.
pub fn receipt_contents(receipts: Vec<receipts::ReceiptUpdate>) -> Vec<Value> {
    type Content = BTreeMap<String, BTreeMap<ReceiptType, BTreeMap<String, Value>>>;
    let mut contents: Vec<Content> = Vec::new();
    for update in receipts {
        let (event, user, kind) = (update.event, update.user_id, update.key.kind);
        let has_place = |content: &Content| {
            let of_event = content.get(event.as_str());
            let of_kind = of_event.and_then(|of_event| of_event.get(&kind));
            !of_kind.is_some_and(|of_kind| of_kind.contains_key(user.as_str()))
        };
        let content = match contents.iter().position(has_place) {
            Some(index) => &mut contents[index],
            None => {
                contents.push(Content::new());
                contents.last_mut().expect("one was just added")
            }
        };
        let mut receipt = json!({ "ts": update.ts });
        if let Some(thread) = update.key.thread {
            receipt["thread_id"] = thread.into();
        }
        let of_event = content.entry(event.into()).or_default();
        of_event
            .entry(kind)
            .or_default()
            .insert(user.into(), receipt);
    }
    contents.into_iter().map(|content| json!(content)).collect()
}

fn raw<T>(event: Value) -> Result<Raw<T>, Error> {
    to_raw_value(&event)
        .map(Raw::from_json)
        .map_err(|_| Error::not_serializable("an event"))
}
