//! `send_join`, `send_knock` and `send_leave` of other servers, for which this server is the resident
//! server (server-server API, "Joining Rooms", "Knocking upon a room", "Leaving Rooms"):
//!
//! 1. The server ACL allows `origin`, and a local user is joined to the room.
//! 2. The event is a member event with the right membership, by which a user of `origin` changes their
//!    own membership.
//! 3. If the join is authorized by a local user ("Restricted rooms"), and the room is restricted and its
//!    conditions are met, this server signs the event. It signs no other join.
//! 4. The event is processed like any received PDU, and relayed to the other servers in the room.
//! 5. It is the current membership of its user now. An old event that is sent again is not.

use ruma::{EventId, RoomId, ServerName, events::room::member::MembershipState};

use super::{handler::MembershipHandler, member_event::MemberEvent};
use crate::{
    federation::inbound::{self, RawPdu, Room},
    protocol::receive::Incoming,
    rooms::{self, event, membership::restricted, state::current},
    store::{EventNum, RoomNum},
};

/// A received member event that is the current membership of its user.
#[derive(Clone, Copy, Debug)]
pub struct AcceptedMemberEvent {
    pub room: RoomNum,
    pub event: EventNum,
}

impl MembershipHandler {
    /// # Errors
    /// [`rooms::Error::Invalid`] if it is another event; [`rooms::Error::Forbidden`] if the room does
    /// not allow it; those of [`restricted::authorized_via`].
    pub async fn receive_member_event(
        &self,
        origin: &ServerName,
        room: &RoomId,
        id: &EventId,
        pdu: RawPdu,
        membership: MembershipState,
    ) -> Result<AcceptedMemberEvent, rooms::Error> {
        // Step 1.
        let room = self.store.read(|s| {
            let num = self.receiver.server_acls().open_to(s, room, origin)?;
            Room::load(s, num)
        })?;
        // Step 2.
        let mut incoming = Incoming::parse(pdu.get().as_bytes(), room.rules)?;
        let member = MemberEvent::parse(pdu.get(), &membership)?;
        check_sender(&member, origin)?;
        check_event_id(incoming.event_id(), id)?;
        // Step 3.
        if let Some(user) = &member.content.join_authorised_via_users_server
            && self.local.has(user)
        {
            let authorized_via = |s: &_| restricted::authorized_via(s, room.num, &member.sender);
            if self.store.read(authorized_via)?.is_none() {
                return Err(rooms::Error::forbidden(
                    "content.join_authorised_via_users_server is given, but the room is not restricted",
                ));
            }
            incoming.sign(self.local.server_name(), self.local.key())?;
        }
        // Step 4.
        let event = self.receiver.verify(&room.id, incoming).await?;
        let processed = self.receiver.process_and_relay(&room, event).await;
        processed.map_err(|error| match error {
            inbound::Error::Rooms(rooms::Error::Missing) | inbound::Error::Fetch(_) => {
                rooms::Error::invalid(
                    "prev_events or auth_events are not known here; request a new template",
                )
            }
            inbound::Error::Rooms(error) => error,
        })?;
        // Step 5.
        let event = self.store.read(|s| {
            let event = event::accepted(s, room.num, id)?;
            let user = member.state_key.as_str();
            let current = current::get(s, room.num, "m.room.member", user)?;
            if current == Some(event) {
                Ok(event)
            } else {
                Err(rooms::Error::forbidden(
                    "the event is not the user's current membership; request a new template",
                ))
            }
        })?;
        Ok(AcceptedMemberEvent {
            room: room.num,
            event,
        })
    }
}

fn check_sender(member: &MemberEvent, origin: &ServerName) -> Result<(), rooms::Error> {
    let (sender, state_key) = (&member.sender, &member.state_key);
    if sender != state_key {
        return Err(rooms::Error::invalid(format!(
            "state_key is {state_key}, expected the sender {sender}"
        )));
    }
    if sender.server_name() != origin {
        return Err(rooms::Error::forbidden(format!(
            "sender is {sender}, expected a user of {origin}"
        )));
    }
    Ok(())
}

pub(super) fn check_event_id(found: &EventId, expected: &EventId) -> Result<(), rooms::Error> {
    if found == expected {
        return Ok(());
    }
    Err(rooms::Error::invalid(format!(
        "the event has id {found}, the path has {expected}"
    )))
}
