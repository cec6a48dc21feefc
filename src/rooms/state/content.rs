//! The contents of state events in a room's current state.

use ruma::{UserId, events::StateEventType};
use serde::{Deserialize, de::DeserializeOwned};

use super::current;
use crate::{
    rooms::{Error, stored_event},
    store::{Reader, RoomNum},
};

/// The content of the event at (`kind`, `state_key`) in the room's current state. `None` also if
/// it does not parse as a `T`: any member may send malformed state, which must not break the room.
pub fn current<T: DeserializeOwned>(
    r: &impl Reader,
    room: RoomNum,
    kind: &StateEventType,
    state_key: &str,
) -> Result<Option<T>, Error> {
    #[derive(Deserialize)]
    struct WithContent<T> {
        content: T,
    }
    match current::get(r, room, &kind.to_string(), state_key)? {
        Some(num) => Ok(stored_event::load(r, num)?
            .parse::<WithContent<T>>()
            .ok()
            .map(|event| event.content)),
        None => Ok(None),
    }
}

/// The display name that `user` has in the room; `None` also if it is empty.
pub fn display_name(
    r: &impl Reader,
    room: RoomNum,
    user: &UserId,
) -> Result<Option<String>, Error> {
    #[derive(Deserialize)]
    struct Member {
        displayname: Option<String>,
    }
    let member = current::<Member>(r, room, &StateEventType::RoomMember, user.as_str())?;
    let name = member.and_then(|member| member.displayname);
    Ok(name.filter(|name| !name.is_empty()))
}
