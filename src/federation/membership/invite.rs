//! Inviting users of other servers, and being invited by them.
//!
//! Source: server-server API, "Inviting to a room".

use ruma::{
    EventId, RoomId, RoomVersionId, ServerName, UserId,
    api::federation::membership::{RawStrippedState, create_invite},
    events::{
        StateEventType, TimelineEventType,
        room::member::{MembershipState, RoomMemberEventContent},
    },
};
use serde_json::value::RawValue;

use super::{
    remote_join::{nonsense, raw},
    resident::MemberEvent,
};
use crate::{
    federation::{
        Federation, MembershipError as Error,
        inbound::{self, RawPdu, Room},
    },
    protocol::{
        build::{EventDraft, canonical_content},
        receive::Incoming,
    },
    rooms::{
        self, Actor,
        event::{self, append},
        membership::{moderation, out_of_band, stripped_state},
        room,
        state::{current, server_acl},
    },
    store::{Reader, Tx, records::Membership},
};

/// An invitation as another server hands it in.
#[derive(Clone, Copy, Debug)]
pub struct ReceivedInvite<'a> {
    /// The room.
    pub room: &'a RoomId,
    /// Its version.
    pub version: &'a RoomVersionId,
    /// The event's id.
    pub id: &'a EventId,
    /// The event.
    pub event: &'a RawValue,
    /// What the server shows of the room: state events, stripped or whole.
    pub shown: &'a [&'a str],
}

impl Federation {
    /// Takes the event by which a user of `origin` invites a user of this server; the same, signed
    /// by this server too.
    ///
    /// # Errors
    /// [`rooms::Error::UnsupportedVersion`]; [`rooms::Error::Invalid`] if it is no such event;
    /// [`rooms::Error::Forbidden`] if it is not signed by `origin`, or the room's access control
    /// list keeps `origin` out; those of [`moderation::check_invitee`].
    pub async fn receive_invite(
        &self,
        origin: &ServerName,
        handed: ReceivedInvite<'_>,
    ) -> Result<Box<RawValue>, Error> {
        let rules = room::rules_of(handed.version)?;
        let text = handed.event.get();
        let mut incoming = Incoming::parse(text.as_bytes(), rules).map_err(rooms::Error::from)?;
        let member = self.invited_by(origin, text)?;
        if incoming.event_id() != handed.id {
            return Err(rooms::Error::invalid("the event has another id").into());
        }
        let is_here = self.store.read(|s| {
            moderation::check_invitee(s, &self.local, &member.state_key)?;
            is_here(s, handed.room, origin)
        })?;
        let (name, key) = (self.local.server_name(), self.local.key());
        incoming.sign(name, key).map_err(rooms::Error::from)?;
        let event = self.receiver.verify(handed.room, incoming).await?;
        let signed = raw(&event.json)?;
        // Where this server is in the room the event comes with the others, and is worked in then.
        if !is_here {
            let (id, version) = (handed.room.to_owned(), handed.version.clone());
            let invitation =
                out_of_band::from_stripped_state(origin.as_str(), handed.shown.iter().copied());
            let job = move |tx: &Tx| out_of_band::store(tx, &id, &version, &event, &invitation);
            self.store.write(job).await?;
        }
        Ok(signed)
    }

    /// What an event says by which a user of `origin` invites one of this server.
    fn invited_by(&self, origin: &ServerName, event: &str) -> Result<MemberEvent, rooms::Error> {
        let member = MemberEvent::parse(event, &MembershipState::Invite)?;
        if !self.local.has(&member.state_key) {
            let reason = "that invites no user of this server";
            return Err(rooms::Error::invalid(reason));
        }
        if member.sender.server_name() != origin {
            return Err(rooms::Error::forbidden("the inviting user is not yours"));
        }
        Ok(member)
    }

    /// Invites `target`, a user of another server, which is asked first.
    ///
    /// # Errors
    /// [`rooms::Error::Forbidden`] if the room does not allow it; what the other server says.
    pub async fn invite(
        &self,
        actor: &Actor,
        room: &RoomId,
        (target, content): (&UserId, RoomMemberEventContent),
    ) -> Result<(), Error> {
        let room = self.store.read(|s| Room::load(s, room::num(s, room)?))?;
        let is_invited = self.store.read(|s| {
            Ok::<_, rooms::Error>(current::membership(s, room.num, target)? == Membership::Invite)
        })?;
        if is_invited {
            return Ok(());
        }
        let draft = EventDraft {
            room_id: Some(room.id.clone()),
            sender: actor.id.clone(),
            event_type: TimelineEventType::from(StateEventType::RoomMember),
            state_key: Some(target.to_string()),
            content: canonical_content(&content).map_err(rooms::Error::from)?,
            redacts: None,
        };
        let (version, built, shown) = self.store.read(|s| {
            let version = room::version(s, room.num)?;
            let built = append::build_only(s, &self.local, room.num, &draft, actor.now)?;
            let shown = stripped_state::of_room(s, room.num, Some(actor.id.as_str()))?;
            let shown = shown.into_iter().map(|num| event::load(s, num));
            Ok::<_, rooms::Error>((version, built, shown.collect::<Result<Vec<_>, _>>()?))
        })?;
        let shown = shown
            .iter()
            .map(|event| Ok(RawStrippedState::Pdu(raw(&event.json)?)));
        let id = built.pdu.event_id().to_owned();
        let request = create_invite::v2::Request::new(
            room.id.clone(),
            id.clone(),
            version,
            raw(&built.json)?,
            shown.collect::<Result<_, Error>>()?,
        );
        let answer = self.client.send(target.server_name(), request).await?;
        self.work_in_signed(&room, &id, answer.event).await
    }

    async fn work_in_signed(&self, room: &Room, id: &EventId, event: RawPdu) -> Result<(), Error> {
        let mut checked = inbound::check(self.receiver.peers(), room, vec![event]).await;
        let event = checked.pop().filter(|event| event.pdu.event_id() == id);
        let event = event.ok_or_else(|| nonsense("it changed the invitation"))?;
        self.receiver.work_in_for_others(room, event).await?;
        self.store.read(|s| event::accepted(s, room.num, id))?;
        Ok(())
    }
}

/// Whether this server is in the room, which then must let `origin` take part.
fn is_here(r: &impl Reader, room: &RoomId, origin: &ServerName) -> Result<bool, rooms::Error> {
    match server_acl::open_to(r, room, origin) {
        Ok(_) => Ok(true),
        Err(rooms::Error::UnknownRoom) => Ok(false),
        Err(error) => Err(error),
    }
}
