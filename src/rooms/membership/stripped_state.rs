//! What of a room people are shown who are not in it: some of its state, for the decision.
//!
//! Source: client-server API, "Stripped state".

use crate::{
    rooms::{Error, state::current},
    store::{EventNum, Reader, RoomNum},
};

const NAME: &str = "m.room.name";
const ALIAS: &str = "m.room.canonical_alias";
/// The state that tells what room it is.
const TYPES: [&str; 7] = [
    "m.room.create",
    "m.room.join_rules",
    ALIAS,
    "m.room.avatar",
    "m.room.encryption",
    NAME,
    "m.room.topic",
];

/// The events that tell what room it is and, if `user` is somebody in it, who that is.
pub fn of_room(r: &impl Reader, room: RoomNum, user: Option<&str>) -> Result<Vec<EventNum>, Error> {
    let mut shown = Vec::new();
    for kind in TYPES {
        shown.extend(current::get(r, room, kind, "")?);
    }
    if let Some(user) = user {
        shown.extend(current::get(r, room, "m.room.member", user)?);
    }
    Ok(shown)
}

/// Whether the room has a name, or an alias that serves as one.
pub fn is_named(r: &impl Reader, room: RoomNum) -> Result<bool, Error> {
    Ok(current::get(r, room, NAME, "")?.is_some() || current::get(r, room, ALIAS, "")?.is_some())
}
