//! Checks of the state events that clients write, which the client-server API requires beyond the
//! authorization rules.

use ruma::{CanonicalJsonObject, events::StateEventType};

use crate::{
    rooms::{Error, directory::aliases, event::state_event::StateEvent, room, state::power_levels},
    store::{Reader, RoomNum},
};

const MAX_USER_ID_BYTES: usize = 255;

/// To be called before a state event of a client is sent.
///
/// # Errors
/// [`Error::Invalid`] for a create event, and for power levels that name a creator who has no level;
/// those of [`aliases::check_canonical`].
pub fn state_event(r: &impl Reader, room: RoomNum, event: &StateEvent) -> Result<(), Error> {
    match event.kind {
        StateEventType::RoomCreate => Err(Error::invalid(
            "m.room.create: a room has one create event, which is its first event",
        )),
        StateEventType::RoomPowerLevels => check_power_levels(r, room, &event.content),
        StateEventType::RoomCanonicalAlias => {
            aliases::check_canonical(r, room, &event.state_key, &event.content)
        }
        _ => Ok(()),
    }
}

/// Longer user ids are read, as old rooms have some, but no new creator gets one.
///
/// # Errors
/// [`Error::Invalid`].
pub(super) fn additional_creators(create: &CanonicalJsonObject) -> Result<(), Error> {
    let creators = create
        .get("additional_creators")
        .and_then(|it| it.as_array());
    let ids = creators.into_iter().flatten().filter_map(|id| id.as_str());
    match ids.map(str::len).find(|bytes| *bytes > MAX_USER_ID_BYTES) {
        Some(bytes) => Err(Error::invalid(format!(
            "additional_creators: a user id has at most {MAX_USER_ID_BYTES} bytes, found {bytes}"
        ))),
        None => Ok(()),
    }
}

/// Since room version 12 creators have a level above all others, and power levels do not name them.
fn check_power_levels(
    r: &impl Reader,
    room: RoomNum,
    content: &CanonicalJsonObject,
) -> Result<(), Error> {
    let rules = room::rules(r, room)?;
    if !rules.authorization.explicitly_privilege_room_creators {
        return Ok(());
    }
    let users = content.get("users").and_then(|users| users.as_object());
    let creators = power_levels::creators(r, room, rules)?;
    let named = creators
        .iter()
        .find(|creator| users.is_some_and(|users| users.contains_key(creator.as_str())));
    named.map_or(Ok(()), |creator| {
        Err(Error::invalid(format!(
            "users: {creator} is a creator of the room, who has a level above all others"
        )))
    })
}
