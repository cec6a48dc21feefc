//! Rooms that the user is invited to, or knocks at: some of their state, for the decision.
//!
//! Source: client-server API, "Stripped state", and `InvitedRoom` and `KnockedRoom` of `/sync`.

use ruma::{UserId, events::AnyStrippedStateEvent, serde::Raw};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    rooms::{
        Error, event,
        membership::{out_of_band, stripped_state},
        timeline::client_event::stripped,
    },
    store::{EventNum, Reader, RoomNum, UserNum},
};

/// What a user who is not in the room is shown of it: `member` is the event that invited or
/// knocked.
pub fn shown_state(
    r: &impl Reader,
    room: RoomNum,
    (num, user): (UserNum, &UserId),
    member: EventNum,
) -> Result<Vec<Raw<AnyStrippedStateEvent>>, Error> {
    #[derive(Deserialize)]
    struct Sender {
        sender: String,
    }
    if let Some(invitation) = out_of_band::load(r, num, room)? {
        let corrupt = |_| Error::corrupt("invitations", (num, room), "not JSON");
        let state = invitation.stripped_state.into_iter();
        let state = state.map(|event| RawValue::from_string(event).map_err(corrupt));
        let state = state.chain([stripped(r, member)]);
        return state.map(|event| Ok(Raw::from_json(event?))).collect();
    }
    let sender = event::load(r, member)?.parse::<Sender>()?.sender;
    let inviter = Some(&*sender).filter(|sender| *sender != user.as_str());
    let mut shown = stripped_state::of_room(r, room, inviter)?;
    shown.push(member);
    shown
        .into_iter()
        .map(|num| Ok(Raw::from_json(stripped(r, num)?)))
        .collect()
}
