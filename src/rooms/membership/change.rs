//! Membership events of local users: what they say, and sending them.

use ruma::{
    OwnedUserId, UserId,
    events::{
        StateEventType,
        room::member::{MembershipState, RoomMemberEventContent},
    },
};

use crate::{
    protocol::build::canonical_content,
    rooms::{Actor, Error, Local, state::content::StateEvent},
    store::{RoomNum, Tx},
    users::profiles,
};

/// A change of somebody's membership.
#[derive(Clone, Debug)]
pub struct MembershipChange {
    /// Whose membership changes.
    pub target: OwnedUserId,
    /// What the event says.
    pub content: RoomMemberEventContent,
}

impl MembershipChange {
    /// `target` becomes `membership`, for `reason`.
    pub fn new(target: &UserId, membership: MembershipState, reason: Option<&str>) -> Self {
        let mut content = RoomMemberEventContent::new(membership);
        content.reason = reason.map(ToOwned::to_owned);
        Self {
            target: target.to_owned(),
            content,
        }
    }

    /// Shows the target's profile, if the target is a user of this server. Events by which
    /// somebody comes nearer to a room show it; those by which somebody goes do not: clients have
    /// it from the one before, and a ban should not repeat what it is for.
    pub fn with_profile(mut self, tx: &Tx, local: &Local) -> Result<Self, Error> {
        if local.has(&self.target) {
            let shown = profiles::member_profile(tx, tx.user_num(self.target.as_str())?)?;
            self.content.displayname = shown.display_name;
            self.content.avatar_url = shown.avatar_url;
        }
        Ok(self)
    }

    /// Sends the event, unless the current one says the same in the same name.
    ///
    /// # Errors
    /// [`Error::Forbidden`] if the room's rules do not allow it.
    pub fn send(self, tx: &Tx, local: &Local, room: RoomNum, actor: &Actor) -> Result<(), Error> {
        let event = StateEvent {
            kind: StateEventType::RoomMember,
            state_key: self.target.to_string(),
            content: canonical_content(&self.content)?,
        };
        event.send_once(tx, local, room, actor)
    }
}
