//! Stripped state: the part of a room's state that users who are not in it get with an invite, a
//! knock or a summary.
//!
//! Source: client-server API, "Stripped state".

use crate::{
    rooms::{Error, state::current},
    store::{EventNum, Reader, RoomNum},
};

/// Of all events of a stripped state, as it comes from others or is sent to them.
pub const MAX_STRIPPED_BYTES: usize = 24 * 1024;
const NAME: &str = "m.room.name";
const ALIAS: &str = "m.room.canonical_alias";
const EVENT_TYPES: [&str; 7] = [
    "m.room.create",
    "m.room.join_rules",
    ALIAS,
    "m.room.avatar",
    "m.room.encryption",
    NAME,
    "m.room.topic",
];

/// The events of the room's stripped state, and the membership event of `user`.
pub fn of_room(r: &impl Reader, room: RoomNum, user: Option<&str>) -> Result<Vec<EventNum>, Error> {
    let mut events = Vec::new();
    for kind in EVENT_TYPES {
        events.extend(current::get(r, room, kind, "")?);
    }
    if let Some(user) = user {
        events.extend(current::get(r, room, "m.room.member", user)?);
    }
    Ok(events)
}

/// Whether events of this type and state key are stripped state.
pub fn contains(kind: &str, state_key: &str) -> bool {
    EVENT_TYPES.contains(&kind) && state_key.is_empty()
}

/// Whether the room has a name or a canonical alias.
pub fn is_named(r: &impl Reader, room: RoomNum) -> Result<bool, Error> {
    Ok(current::get(r, room, NAME, "")?.is_some() || current::get(r, room, ALIAS, "")?.is_some())
}
