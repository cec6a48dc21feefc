//! Membership events of local users: their content, and sending them.

use ruma::{
    OwnedUserId, UserId,
    events::{
        StateEventType,
        room::member::{MembershipState, RoomMemberEventContent},
    },
};

use crate::{
    protocol::build::canonical_content,
    rooms::{Actor, Error, Local, event::state_event::StateEvent},
    store::{RoomNum, Tx},
    users::profiles,
};

/// A membership event that is to be sent.
#[derive(Clone, Debug)]
pub struct MembershipChange {
    /// Whose membership changes: the state key.
    pub target: OwnedUserId,
    pub content: RoomMemberEventContent,
}

impl MembershipChange {
    pub fn new(target: &UserId, membership: MembershipState, reason: Option<&str>) -> Self {
        let mut content = RoomMemberEventContent::new(membership);
        content.reason = reason.map(ToOwned::to_owned);
        Self {
            target: target.to_owned(),
            content,
        }
    }

    /// Adds the target's display name and avatar, if the target is a user of this server. For
    /// invites, joins and knocks. A leave or a ban has none: clients have the profile from the
    /// event before, and a ban should not repeat a profile that it was sent for.
    pub fn with_profile(mut self, tx: &Tx, local: &Local) -> Result<Self, Error> {
        if local.has(&self.target) {
            let profile = profiles::member_profile(tx, tx.user_num(self.target.as_str())?)?;
            self.content.displayname = profile.display_name;
            self.content.avatar_url = profile.avatar_url;
        }
        Ok(self)
    }

    /// Sends the event, unless the current one has the same sender and content.
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
