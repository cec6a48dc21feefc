//! Power levels in a room's current state.

use ruma::{
    OwnedUserId,
    events::room::power_levels::{RoomPowerLevels, RoomPowerLevelsEventContent},
    room_version_rules::RoomVersionRules,
    state_res::events::RoomCreateEvent,
};
use serde::Deserialize;

use super::current;
use crate::{
    rooms::{Error, event},
    store::{Reader, RoomNum},
};

/// The creators of the room, as its version counts them.
pub fn creators(
    r: &impl Reader,
    room: RoomNum,
    rules: &RoomVersionRules,
) -> Result<Vec<OwnedUserId>, Error> {
    let create = current::get(r, room, "m.room.create", "")?;
    let create = create.ok_or_else(|| Error::corrupt("current_state", room, "no m.room.create"))?;
    let create = RoomCreateEvent::new(event::load(r, create)?.pdu(rules)?);
    let creators = create.creators(&rules.authorization);
    Ok(creators
        .map_err(|_| Error::corrupt("current_state", room, "an m.room.create without creator"))?
        .into_iter()
        .collect())
}

/// The room's power levels. Levels that do not parse count as none, as where there is no such
/// event.
pub fn levels(
    r: &impl Reader,
    room: RoomNum,
    rules: &RoomVersionRules,
) -> Result<RoomPowerLevels, Error> {
    #[derive(Deserialize)]
    struct PowerLevels {
        content: RoomPowerLevelsEventContent,
    }
    let content = match current::get(r, room, "m.room.power_levels", "")? {
        Some(num) => event::load(r, num)?
            .parse::<PowerLevels>()
            .ok()
            .map(|event| event.content),
        None => None,
    };
    let creators = creators(r, room, rules)?;
    Ok(RoomPowerLevels::new(
        content.into(),
        &rules.authorization,
        creators,
    ))
}
