//! The contents of state events in a room's current state.

use ruma::events::StateEventType;
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
