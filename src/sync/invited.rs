//! Rooms that the user is invited to, or knocks at: some of their state, for the decision.
//!
//! Source: client-server API, "Stripped state", and `InvitedRoom` and `KnockedRoom` of `/sync`.

use ruma::{UserId, events::AnyStrippedStateEvent, serde::Raw};
use serde::Deserialize;

use crate::{
    rooms::{Error, client_event::stripped, current, event},
    store::{EventNum, Reader, RoomNum},
};

/// The state that tells what room it is.
const TYPES: [&str; 7] = [
    "m.room.create",
    "m.room.join_rules",
    "m.room.canonical_alias",
    "m.room.avatar",
    "m.room.encryption",
    "m.room.name",
    "m.room.topic",
];
const MEMBER: &str = "m.room.member";

/// What a user who is not in the room is shown of it: `member` is the event that invited or
/// knocked.
pub fn shown_state(
    r: &impl Reader,
    room: RoomNum,
    user: &UserId,
    member: EventNum,
) -> Result<Vec<Raw<AnyStrippedStateEvent>>, Error> {
    #[derive(Deserialize)]
    struct Sender {
        sender: String,
    }
    let mut shown = Vec::new();
    for kind in TYPES {
        shown.extend(current::get(r, room, kind, "")?);
    }
    let sender = event::load(r, member)?.parse::<Sender>()?.sender;
    if sender != user.as_str() {
        shown.extend(current::get(r, room, MEMBER, &sender)?);
    }
    shown.push(member);
    shown
        .into_iter()
        .map(|num| Ok(Raw::from_json(stripped(r, num)?)))
        .collect()
}
