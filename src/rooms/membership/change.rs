//! Membership events of local users: their content, and sending them.

use ruma::{
    CanonicalJsonObject, OwnedUserId, UserId,
    events::{
        StateEventType,
        room::member::{MembershipState, RoomMemberEventContent},
    },
};

use super::restricted;
use crate::{
    protocol::build::canonical_content,
    rooms::{
        Actor, Error, Local, blocked_rooms, event::state_event::StateEvent, room, state::current,
        upgrade::user_data,
    },
    store::{Reader, RoomNum, Tx, records::Membership},
    users::{self, profiles},
};

/// In a content: the user in whose name a server authorizes a join ("Restricted rooms").
const AUTHORIZED_VIA: &str = "join_authorised_via_users_server";

/// A membership event that is to be sent.
#[derive(Clone, Debug)]
pub struct MembershipChange {
    /// Whose membership changes: the state key.
    pub target: OwnedUserId,
    pub membership: MembershipState,
    /// With the membership.
    content: CanonicalJsonObject,
}

impl MembershipChange {
    pub fn new(target: &UserId, membership: MembershipState, reason: Option<&str>) -> Self {
        let mut content = CanonicalJsonObject::new();
        content.insert("membership".to_owned(), membership.as_str().into());
        if let Some(reason) = reason {
            content.insert("reason".to_owned(), reason.into());
        }
        Self {
            target: target.to_owned(),
            membership,
            content,
        }
    }

    /// A content that the server made.
    ///
    /// # Errors
    /// [`Error::BadContent`] if it is not canonical JSON.
    pub fn with_content(target: &UserId, content: &RoomMemberEventContent) -> Result<Self, Error> {
        Ok(Self {
            target: target.to_owned(),
            membership: content.membership.clone(),
            content: canonical_content(content)?,
        })
    }

    /// A content that a client wrote. Only a server vouches for a join, after it has checked the
    /// conditions of the room; what the client says about that is dropped.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is not about a user, or has no membership.
    pub fn from_client(event: &StateEvent) -> Result<Self, Error> {
        let target = <&UserId>::try_from(event.state_key.as_str())
            .map_err(|_| Error::invalid("state_key: expected a user id in a membership event"))?;
        let mut content = event.content.clone();
        content.remove(AUTHORIZED_VIA);
        let membership = content.get("membership").and_then(|value| value.as_str());
        let membership = membership
            .ok_or_else(|| Error::invalid("membership: expected one in a membership event"))?;
        Ok(Self {
            target: target.to_owned(),
            membership: membership.into(),
            content,
        })
    }

    /// Marks the room as a direct chat.
    pub fn direct(mut self) -> Self {
        self.content.insert("is_direct".to_owned(), true.into());
        self
    }

    /// Sets a field of the content.
    pub fn with(mut self, field: &str, value: &str) -> Self {
        self.content.insert(field.to_owned(), value.into());
        self
    }

    /// The event that is sent as it is.
    pub fn event(&self) -> StateEvent {
        StateEvent {
            kind: StateEventType::RoomMember,
            state_key: self.target.to_string(),
            content: self.content.clone(),
        }
    }

    pub fn content(&self) -> &CanonicalJsonObject {
        &self.content
    }

    /// Adds the target's display name and avatar, unless the content has them, if the target is a user
    /// of this server. For invites, joins and knocks. A leave or a ban has none: clients have the
    /// profile from the event before, and a ban should not repeat a profile that it was sent for.
    pub fn with_profile(mut self, r: &impl Reader, local: &Local) -> Result<Self, Error> {
        use MembershipState::{Invite, Join, Knock};
        if local.has(&self.target)
            && matches!(self.membership, Invite | Join | Knock)
            && let Some(user) = users::num_of(r, &self.target)?
        {
            let profile = profiles::member_profile(r, user)?;
            let avatar_url = profile.avatar_url.map(String::from);
            for (field, value) in [
                ("displayname", profile.display_name),
                ("avatar_url", avatar_url),
            ] {
                if let Some(value) = value {
                    self.content
                        .entry(field.to_owned())
                        .or_insert_with(|| value.into());
                }
            }
        }
        Ok(self)
    }

    /// Sends the event, unless the current one has the same sender and content.
    ///
    /// # Errors
    /// [`Error::Forbidden`] if the room's rules do not allow it; those of [`restricted::authorized_via`] and
    /// [`blocked_rooms::check`].
    pub fn send(&self, tx: &Tx, local: &Local, room: RoomNum, actor: &Actor) -> Result<(), Error> {
        let mut change = self.clone().with_profile(tx, local)?;
        let before = current::membership(tx, room, &change.target)?;
        let enters = match change.membership {
            MembershipState::Invite | MembershipState::Knock => true,
            MembershipState::Join => before != Membership::Join,
            _ => false,
        };
        if enters {
            blocked_rooms::check(tx, &room::id(tx, room)?)?;
        }
        let is_join = change.membership == MembershipState::Join && change.target == actor.id;
        if is_join
            && !matches!(before, Membership::Join | Membership::Invite)
            && let Some(via) = restricted::authorized_via(tx, room, &actor.id)?
        {
            change = change.with(AUTHORIZED_VIA, via.as_str());
        }
        change.event().send_once(tx, local, room, actor)?;
        if is_join && before != Membership::Join {
            user_data::copy(tx, actor.num, room)?;
        }
        Ok(())
    }
}
