//! Power levels.

use ruma::{
    OwnedUserId,
    events::room::power_levels::{RoomPowerLevels, RoomPowerLevelsEventContent},
    room_version_rules::RoomVersionRules,
    state_res::events::RoomCreateEvent,
};

use super::{current, overlay::StateOverlay};
use crate::{
    rooms::{Error, room, stored_event},
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
    let create = RoomCreateEvent::new(stored_event::load(r, create)?.pdu(rules)?);
    let creators = create.creators(&rules.authorization);
    Ok(creators
        .map_err(|_| Error::corrupt("current_state", room, "an m.room.create without creator"))?
        .into_iter()
        .collect())
}

/// The power levels in the room's current state.
pub fn levels(
    r: &impl Reader,
    room: RoomNum,
    rules: &RoomVersionRules,
) -> Result<RoomPowerLevels, Error> {
    let current = StateOverlay::of(room::heads(r, room)?.state);
    levels_in(r, room, rules, &current)
}

/// The power levels in a state of the room. An event that does not parse counts as none.
pub fn levels_in(
    r: &impl Reader,
    room: RoomNum,
    rules: &RoomVersionRules,
    state: &StateOverlay,
) -> Result<RoomPowerLevels, Error> {
    let content = match state.get(r, room, "m.room.power_levels", "")? {
        Some(num) => {
            let event = stored_event::load(r, num)?.pdu(rules)?;
            serde_json::from_str::<RoomPowerLevelsEventContent>(event.rules_content().get()).ok()
        }
        None => None,
    };
    let creators = creators(r, room, rules)?;
    Ok(RoomPowerLevels::new(
        content.into(),
        &rules.authorization,
        creators,
    ))
}
