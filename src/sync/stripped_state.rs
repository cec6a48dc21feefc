//! The stripped state of rooms that the user is invited to or knocks at (client-server API, "Stripped
//! state", and `InvitedRoom` and `KnockedRoom` of `/sync`).

use ruma::{UserId, events::AnyStrippedStateEvent, serde::Raw};
use serde_json::value::RawValue;

use crate::{
    rooms::{
        Error, event,
        membership::{
            out_of_band,
            stripped_state::{self, MAX_STRIPPED_BYTES},
        },
        timeline::client_event::stripped,
    },
    store::{EventNum, Reader, RoomNum, UserNum},
};

/// Ends with `member`, the user's invite or knock.
pub fn load(
    r: &impl Reader,
    room: RoomNum,
    user: UserNum,
    user_id: &UserId,
    member: EventNum,
) -> Result<Vec<Raw<AnyStrippedStateEvent>>, Error> {
    if let Some(membership) = out_of_band::load(r, user, room)? {
        let corrupt = |_| Error::corrupt("out_of_band_memberships", (user, room), "not JSON");
        let state = membership.stripped_state.into_iter();
        let state = state.map(|event| RawValue::from_string(event).map_err(corrupt));
        let state = state.chain([stripped(r, member)]);
        return state.map(|event| Ok(Raw::from_json(event?))).collect();
    }
    let sender = event::load(r, member)?.sender()?;
    let inviter = Some(sender.as_str()).filter(|sender| *sender != user_id.as_str());
    let (mut state, mut bytes) = (Vec::new(), 0);
    for event in stripped_state::of_room(r, room, inviter)? {
        let event = stripped(r, event)?;
        // Whoever invites wrote them.
        if bytes + event.get().len() <= MAX_STRIPPED_BYTES {
            bytes += event.get().len();
            state.push(Raw::from_json(event));
        }
    }
    state.push(Raw::from_json(stripped(r, member)?));
    Ok(state)
}
