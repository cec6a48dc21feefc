//! Typing and receipts of one room.

use std::collections::BTreeMap;

use ruma::{
    RoomId,
    api::client::filter::RoomEventFilter,
    events::{AnySyncEphemeralRoomEvent, receipt::ReceiptType},
    serde::Raw,
};
use serde_json::{Value, json, value::to_raw_value};

use super::request::{Request, SyncRange};
use crate::{
    rooms::{Error, timeline::filter, typing::Typing, unread::receipts},
    store::{Position, Reader, RoomNum},
    users,
};

/// The most receipts of a room in one response; the newest are sent.
const MAX_RECEIPTS: usize = 1000;

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
        let since = range.since.map_or(0, |since| since.ephemeral);
        if let Some(users) = typing.changed_after(room, since) {
            let users = users.into_iter().map(|user| users::id_of(r, user));
            let users = users.collect::<Result<Vec<_>, _>>()?;
            events.push(json!({ "type": "m.typing", "content": { "user_ids": users } }));
        }
    }
    if wants(wanted, "m.receipt") {
        let since = range.since.map_or(Position::MIN, |since| since.position);
        let moved =
            receipts::moved_between(r, room, since, range.end.stored, request.user, MAX_RECEIPTS)?;
        if !moved.is_empty() {
            events.push(json!({ "type": "m.receipt", "content": receipt_content(moved) }));
        }
    }
    events.into_iter().map(raw).collect()
}

fn wants(filter: &RoomEventFilter, kind: &str) -> bool {
    filter::accepts_type(&filter.types, &filter.not_types, kind)
}

fn receipt_content(receipts: Vec<receipts::ReceiptUpdate>) -> Value {
    type ByUser = BTreeMap<String, Value>;
    let mut content: BTreeMap<String, BTreeMap<ReceiptType, ByUser>> = BTreeMap::new();
    for update in receipts {
        let mut receipt = json!({ "ts": update.ts });
        if let Some(thread) = update.key.thread {
            receipt["thread_id"] = thread.into();
        }
        let of_event = content.entry(update.event.into()).or_default();
        // A user can have receipts of several threads at one event; the newest is sent.
        of_event
            .entry(update.key.kind)
            .or_default()
            .entry(update.user_id.into())
            .or_insert(receipt);
    }
    json!(content)
}

fn raw<T>(event: Value) -> Result<Raw<T>, Error> {
    to_raw_value(&event)
        .map(Raw::from_json)
        .map_err(|_| Error::not_serializable("an event"))
}
