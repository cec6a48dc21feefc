//! Invitations of local users by users of other servers (server-server API, "Inviting to a room").

use ruma::{
    EventId, RoomId, RoomVersionId, ServerName, api::federation::membership::RawStrippedState,
    events::room::member::MembershipState,
};
use serde_json::value::RawValue;

use super::{
    client::raw_json, error::Error, handler::MembershipHandler, member_event::MemberEvent,
    received_member_event::check_event_id, stripped_event,
};
use crate::{
    protocol::receive::Incoming,
    rooms::{
        self, blocked_rooms,
        membership::{moderation, out_of_band},
        room,
    },
    store::{Snapshot, Tx},
};

/// Of an invite event. It goes through the next sync of the user.
const MAX_EVENT_BYTES: usize = 16 * 1024;

/// The arguments of `PUT /invite`.
#[derive(Clone, Copy, Debug)]
pub struct ReceivedInvite<'a> {
    pub room: &'a RoomId,
    pub version: &'a RoomVersionId,
    pub id: &'a EventId,
    pub event: &'a RawValue,
    pub stripped_state: &'a [RawStrippedState],
}

impl MembershipHandler {
    /// Receives an invite event. Returns it with the signature of this server.
    ///
    /// # Errors
    /// [`rooms::Error::UnsupportedVersion`]; [`rooms::Error::Invalid`] if it is not an invite event; those
    /// of [`stripped_event::check_invite_state`];
    /// [`rooms::Error::Forbidden`] if it lacks the signature of `origin`, or the server ACL of the room
    /// denies `origin`; those of [`moderation::check_invitee`].
    pub async fn receive_invite(
        &self,
        origin: &ServerName,
        invite: ReceivedInvite<'_>,
    ) -> Result<Box<RawValue>, Error> {
        let rules = room::rules_of(invite.version)?;
        self.client
            .check_room_version(invite.room, invite.version)?;
        let json = invite.event.get();
        if json.len() > MAX_EVENT_BYTES {
            let error = format!("an invite event has at most {MAX_EVENT_BYTES} bytes");
            return Err(rooms::Error::TooLarge(error.into()).into());
        }
        let mut incoming = Incoming::parse(json.as_bytes(), rules).map_err(rooms::Error::from)?;
        let member = MemberEvent::parse(json, &MembershipState::Invite)?;
        let (user, sender) = (&member.state_key, &member.sender);
        if !self.local.has(user) {
            let error = format!("state_key is {user}, expected a user of this server");
            return Err(rooms::Error::invalid(error).into());
        }
        if sender.server_name() != origin {
            let error = format!("sender is {sender}, expected a user of {origin}");
            return Err(rooms::Error::forbidden(error).into());
        }
        check_event_id(incoming.event_id(), invite.id)?;
        stripped_event::check_invite_state(invite.room, rules, invite.stripped_state)?;
        let is_in_room = self.store.read(|s| {
            blocked_rooms::check(s, invite.room)?;
            moderation::check_invitee(s, &self.local, sender, user)?;
            self.is_in_room(s, invite.room, origin)
        })?;
        let (name, key) = (self.local.server_name(), self.local.key());
        incoming.sign(name, key).map_err(rooms::Error::from)?;
        let event = self.receiver.verify(invite.room, incoming).await?;
        let signed = raw_json(&event.json)?;
        // If this server is in the room, the event also arrives in a transaction and is processed then.
        if !is_in_room {
            let stripped_state = stripped_event::visible_to_clients(
                &self.receiver,
                &self.local,
                invite.room,
                rules,
                invite.stripped_state,
                Some(sender),
            );
            let invitation =
                out_of_band::from_stripped_state(origin, invite.version, stripped_state.await);
            let id = invite.room.to_owned();
            let job = move |tx: &Tx| out_of_band::store(tx, &id, &event, &invitation);
            self.store.write(job).await?;
        }
        Ok(signed)
    }

    /// Whether this server is in the room. If so, the server ACL must allow `origin`.
    fn is_in_room(
        &self,
        s: &Snapshot,
        room: &RoomId,
        origin: &ServerName,
    ) -> Result<bool, rooms::Error> {
        match self.receiver.server_acls().open_to(s, room, origin) {
            Ok(_) => Ok(true),
            Err(rooms::Error::UnknownRoom) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
