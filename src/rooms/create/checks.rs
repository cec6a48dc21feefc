//! Checks of the state events that clients write, which the client-server API requires beyond the
//! authorization rules.

use ruma::{UserId, events::StateEventType};

use crate::{
    rooms::{
        Error, Local, directory::aliases, event::state_event::StateEvent, membership::moderation,
    },
    store::{Reader, RoomNum},
};

/// To be called before a state event of a client is sent.
///
/// # Errors
/// Those of [`aliases::check_canonical`] and [`moderation::check_invitee`].
pub fn state_event(
    r: &impl Reader,
    local: &Local,
    room: RoomNum,
    event: &StateEvent,
) -> Result<(), Error> {
    match event.kind {
        StateEventType::RoomCanonicalAlias => {
            aliases::check_canonical(r, room, &event.state_key, &event.content)
        }
        StateEventType::RoomMember => {
            let membership = event.content.get("membership");
            match <&UserId>::try_from(event.state_key.as_str()) {
                Ok(user) if membership.and_then(|text| text.as_str()) == Some("invite") => {
                    moderation::check_invitee(r, local, user)
                }
                _ => Ok(()),
            }
        }
        _ => Ok(()),
    }
}
