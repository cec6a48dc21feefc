//! Inviting users of other servers (server-server API, "Inviting to a room"):
//!
//! 1. The invite event is built and authorized, but not stored.
//! 2. `PUT /invite` sends it to the server of the user, which signs it. In room versions 1 and 2, a server may
//!    know only version 1 of that endpoint.
//! 3. The event with both signatures is processed and relayed to the other servers in the room.

use ruma::{
    EventId, RoomId, ServerName,
    api::federation::membership::{RawStrippedState, create_invite},
    room_version_rules::{EventIdFormatVersion, RoomVersionRules},
};

use super::{
    client::{MembershipClient, raw_json},
    error::Error,
    invite_v1,
};
use crate::{
    federation::{
        inbound::{RawPdu, Room, verify},
        policy,
    },
    protocol::build::BuiltEvent,
    rooms::{
        self, Actor,
        event::{self, append},
        membership::{change::MembershipChange, stripped_state},
        room,
    },
};

impl MembershipClient {
    /// Sends `change`, the invitation of a user of another server.
    ///
    /// # Errors
    /// [`rooms::Error::Forbidden`] if the room does not allow it; [`Error::Peer`] if the other server
    /// refuses.
    pub async fn invite(
        &self,
        actor: &Actor,
        room: &RoomId,
        change: &MembershipChange,
    ) -> Result<(), Error> {
        let _permit = self.permit(actor).await;
        let (store, local) = (&self.0.store, &self.0.local);
        let room = store.read(|s| Room::load(s, room::num(s, room)?))?;
        let target = &change.target;
        // Step 1.
        let draft = change.event().draft(room.id.clone(), &actor.id);
        let (version, built, stripped_state) = store.read(|s| {
            let version = room::version(s, room.num)?;
            let built = append::build_only(s, local, room.num, &draft, actor.now)?;
            let state = stripped_state::of_room(s, room.num, Some(actor.id.as_str()))?;
            let state = state.into_iter().map(|num| event::load(s, num));
            Ok::<_, rooms::Error>((version, built, state.collect::<Result<Vec<_>, _>>()?))
        })?;
        let built = self.with_policy_signature(&room, built).await?;
        let stripped_state = stripped_state
            .iter()
            .map(|event| Ok(RawStrippedState::Pdu(raw_json(&event.json)?)));
        // Step 2.
        let id = built.pdu.event_id().to_owned();
        let request = create_invite::v2::Request::new(
            room.id.clone(),
            id.clone(),
            version,
            raw_json(&built.json)?,
            stripped_state.collect::<Result<_, Error>>()?,
        );
        let signed = self.send_invite(target.server_name(), request, room.rules);
        // Step 3.
        self.process_invite(&room, &id, signed.await?).await
    }

    /// Step 2. Returns the event as the other server signed it.
    async fn send_invite(
        &self,
        server: &ServerName,
        request: create_invite::v2::Request,
        rules: &RoomVersionRules,
    ) -> Result<RawPdu, Error> {
        let client = &self.0.client;
        match client.send(server, request.clone()).await {
            Err(error)
                if error.is_unrecognized() && rules.event_id_format == EventIdFormatVersion::V1 =>
            {
                let state = &request.invite_room_state;
                let event = invite_v1::with_stripped_state(&request.event, state);
                let request = invite_v1::Request {
                    room_id: request.room_id,
                    event_id: request.event_id,
                    event: event.map_err(Error::invalid_response)?,
                };
                Ok(client.send(server, request).await?.into_event())
            }
            response => Ok(response?.event),
        }
    }

    /// The event with the signature of the room's policy server if it uses one, without which the invite is not
    /// sent.
    async fn with_policy_signature(
        &self,
        room: &Room,
        event: BuiltEvent,
    ) -> Result<BuiltEvent, Error> {
        let json = &event.json;
        let sign = |server| async move {
            let policy_servers = &self.0.source.policy_servers;
            let _lock = policy_servers.lock(&room.id).await;
            let signature = policy_servers.signature(&server, json, room.rules);
            Ok::<_, Error>(Some(signature.await?))
        };
        let signed = policy::signed_json(&self.0.store, room, (&event.pdu, json), sign);
        Ok(match signed.await? {
            Some(json) => BuiltEvent { json, ..event },
            None => event,
        })
    }

    async fn process_invite(&self, room: &Room, id: &EventId, pdu: RawPdu) -> Result<(), Error> {
        let verified = verify(&self.0.source, &room.id, room.rules, vec![pdu]).await;
        let event = verified
            .into_iter()
            .find(|event| event.pdu.event_id() == id);
        let event = event.ok_or_else(|| {
            Error::invalid_response("it is not the invite event with valid signatures")
        })?;
        self.0.receiver.process_and_relay(room, event).await?;
        self.0.store.read(|s| event::accepted(s, room.num, id))?;
        Ok(())
    }
}
