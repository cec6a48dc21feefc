//! The resident server's side of a remote join, knock or leave.
//!
//! Source: server-server API, "Joining Rooms", "Knocking upon a room", "Leaving Rooms".

use ruma::{
    MilliSecondsSinceUnixEpoch, UserId,
    events::{
        StateEventType, TimelineEventType,
        room::member::{MembershipState, RoomMemberEventContent},
    },
};

use super::restricted;
use crate::{
    protocol::build::{EventDraft, canonical_content, template},
    rooms::{Error, Local, event::append, room, state::current},
    store::{Reader, RoomNum, records::Membership},
};

/// The event template for `GET /make_join`, `/make_knock` and `/make_leave`: the membership event
/// of `user`, which the joining server completes and signs.
///
/// # Errors
/// [`Error::Forbidden`] if the room does not allow it; those of [`restricted::authorized_via`].
pub fn membership_template(
    r: &impl Reader,
    local: &Local,
    room: RoomNum,
    user: &UserId,
    membership: MembershipState,
    now: MilliSecondsSinceUnixEpoch,
) -> Result<Vec<u8>, Error> {
    let mut content = RoomMemberEventContent::new(membership);
    if content.membership == MembershipState::Join
        && !matches!(
            current::membership(r, room, user)?,
            Membership::Join | Membership::Invite
        )
    {
        content.join_authorized_via_users_server = restricted::authorized_via(r, room, user)?;
    }
    let draft = EventDraft {
        room_id: Some(room::id(r, room)?),
        sender: user.to_owned(),
        event_type: TimelineEventType::from(StateEventType::RoomMember),
        state_key: Some(user.to_string()),
        content: canonical_content(&content)?,
        text: None,
        redacts: None,
    };
    let built = append::build_only(r, local, room, &draft, now)?;
    Ok(template(&built, room::rules(r, room)?)?)
}
