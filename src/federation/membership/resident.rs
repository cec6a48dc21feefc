//! Letting users of other servers into rooms, and out of them.
//!
//! Source: server-server API, "Joining Rooms", "Knocking upon a room", "Leaving Rooms".

use ruma::{
    EventId, OwnedUserId, RoomId, ServerName,
    events::{StateEventType, room::member::MembershipState},
};
use serde::Deserialize;

use crate::{
    federation::{
        Federation,
        inbound::{self, RawPdu, Room},
    },
    protocol::receive::Incoming,
    rooms::{self, event, membership::join, state::server_acl},
    store::{EventNum, RoomNum},
};

/// A membership event that is in the room now.
#[derive(Clone, Copy, Debug)]
pub struct AcceptedMemberEvent {
    /// The room.
    pub room: RoomNum,
    /// The event.
    pub event: EventNum,
}

/// What a member event says.
#[derive(Deserialize)]
pub(in crate::federation) struct MemberEvent {
    pub(in crate::federation) sender: OwnedUserId,
    pub(in crate::federation) state_key: OwnedUserId,
    #[serde(rename = "type")]
    kind: StateEventType,
    content: Content,
}

#[derive(Deserialize)]
struct Content {
    membership: MembershipState,
    join_authorised_via_users_server: Option<OwnedUserId>,
}

impl MemberEvent {
    /// The event, if it is one of `membership`.
    pub(in crate::federation) fn parse(
        event: &str,
        membership: &MembershipState,
    ) -> Result<Self, rooms::Error> {
        let member: Self = serde_json::from_str(event)
            .map_err(|_| rooms::Error::invalid("that is no membership event"))?;
        if member.kind != StateEventType::RoomMember || member.content.membership != *membership {
            return Err(rooms::Error::invalid(format!(
                "that is no event of the membership {membership}"
            )));
        }
        Ok(member)
    }
}

impl Federation {
    /// Takes the event by which a user of `origin` becomes `membership`, and hands it on to the
    /// others in the room.
    ///
    /// # Errors
    /// [`rooms::Error::Invalid`] if it is another event; [`rooms::Error::Forbidden`] if the room
    /// does not allow it; those of [`join::authorized_via`].
    pub async fn receive_member_event(
        &self,
        origin: &ServerName,
        (room, id): (&RoomId, &EventId),
        pdu: RawPdu,
        membership: MembershipState,
    ) -> Result<AcceptedMemberEvent, rooms::Error> {
        let room = self.store.read(|s| {
            let num = server_acl::open_to(s, room, origin)?;
            Room::load(s, num)
        })?;
        let mut incoming = Incoming::parse(pdu.get().as_bytes(), room.rules)?;
        let member = member_of(&pdu, origin, &membership)?;
        if incoming.event_id() != id {
            return Err(rooms::Error::invalid("the event has another id"));
        }
        if let Some(user) = &member.content.join_authorised_via_users_server
            && self.local.has(user)
        {
            self.store
                .read(|s| join::authorized_via(s, room.num, &member.sender))?;
            incoming.sign(self.local.server_name(), self.local.key())?;
        }
        let event = self.receiver.verify(&room.id, incoming).await?;
        let worked_in = self.receiver.work_in_for_others(&room, event).await;
        worked_in.map_err(|error| match error {
            inbound::Error::Rooms(rooms::Error::Missing)
            | inbound::Error::Missing
            | inbound::Error::Unreadable(_) => {
                rooms::Error::invalid("it names events that are not here; ask for a new template")
            }
            inbound::Error::Rooms(error) => error,
        })?;
        Ok(AcceptedMemberEvent {
            room: room.num,
            event: self.store.read(|s| event::accepted(s, room.num, id))?,
        })
    }
}

/// The event, if by it a user of `origin` becomes `membership`.
fn member_of(
    pdu: &RawPdu,
    origin: &ServerName,
    membership: &MembershipState,
) -> Result<MemberEvent, rooms::Error> {
    let member = MemberEvent::parse(pdu.get(), membership)?;
    if member.sender != member.state_key {
        return Err(rooms::Error::invalid("the event is not its user's own"));
    }
    if member.sender.server_name() != origin {
        return Err(rooms::Error::forbidden(
            "the event's user is not one of your server",
        ));
    }
    Ok(member)
}
