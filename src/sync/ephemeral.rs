//! Typing and receipts of one room, and presence, as `/sync` tells them.

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

/// How many receipts of a room are told at once: in a room with more readers the newest.
const RECEIPTS: usize = 1000;

/// What is told of `room` beside its events; everything, if `range` has no beginning.
pub fn in_room(
    r: &impl Reader,
    request: &Request,
    range: SyncRange,
    (room, room_id): (RoomNum, &RoomId),
    typing: &Typing,
) -> Result<Vec<Raw<AnySyncEphemeralRoomEvent>>, Error> {
    let wanted = &request.filter.room.ephemeral;
    let mut told = Vec::new();
    if !filter::accepts_room(wanted, room_id) {
        return Ok(Vec::new());
    }
    if wants(wanted, "m.typing") {
        let since = range.since.map_or(0, |since| since.ephemeral);
        if let Some(users) = typing.changed_after(room, since) {
            let users = users.into_iter().map(|user| users::id_of(r, user));
            let users = users.collect::<Result<Vec<_>, _>>()?;
            told.push(json!({ "type": "m.typing", "content": { "user_ids": users } }));
        }
    }
    if wants(wanted, "m.receipt") {
        let since = range.since.map_or(Position::MIN, |since| since.position);
        let moved =
            receipts::moved_between(r, room, (since, range.end.stored), request.user, RECEIPTS)?;
        if !moved.is_empty() {
            told.push(json!({ "type": "m.receipt", "content": content_of(moved) }));
        }
    }
    told.into_iter().map(raw).collect()
}

fn wants(filter: &RoomEventFilter, kind: &str) -> bool {
    filter::accepts_type(&filter.types, &filter.not_types, kind)
}

fn content_of(receipts: Vec<receipts::ReceiptUpdate>) -> Value {
    type ByUser = BTreeMap<String, Value>;
    let mut content: BTreeMap<String, BTreeMap<ReceiptType, ByUser>> = BTreeMap::new();
    for told in receipts {
        let mut receipt = json!({ "ts": told.ts });
        if let Some(thread) = told.of.thread {
            receipt["thread_id"] = thread.into();
        }
        let of_event = content.entry(told.event.into()).or_default();
        // A user can have read the same event in several threads' names; the newest is told.
        of_event
            .entry(told.of.kind)
            .or_default()
            .entry(told.user_id.into())
            .or_insert(receipt);
    }
    json!(content)
}

fn raw<T>(event: Value) -> Result<Raw<T>, Error> {
    to_raw_value(&event)
        .map(Raw::from_json)
        .map_err(|_| Error::not_serializable("an event"))
}
