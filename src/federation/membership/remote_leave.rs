//! Rooms that this server is not in: knocking on them, and leaving those to which its users are
//! invited.
//!
//! Source: server-server API, "Knocking upon a room", "Leaving Rooms (Rejecting Invites)".

use std::{sync::Arc, time::Duration};

use ruma::{
    OwnedServerName, RoomId, ServerName,
    api::federation::membership::{
        RawStrippedState, create_knock_event, create_leave_event, prepare_knock_event,
        prepare_leave_event,
    },
    room_version_rules::RoomVersionRules,
};

use super::remote_join::{Action, Error, MembershipClient, Request, raw};
use crate::{
    federation::transport::connect::in_time,
    protocol::{
        Pdu,
        build::{BuiltEvent, EventPlace, build},
        receive::Received,
        versions,
    },
    rooms::{self, Actor, event, membership::out_of_band, room},
    store::{Reader, Records, RoomNum, Tx},
};

/// How long a user who goes waits for other servers to know of it.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many events may authorize one.
const AUTH_EVENTS: usize = 10;

/// A room of which a user has only heard.
pub(in crate::federation) struct Outside {
    num: RoomNum,
    rules: &'static RoomVersionRules,
    /// The event by which the user is invited, or knocks.
    event: Pdu,
    /// Who may know more of the room.
    servers: Vec<OwnedServerName>,
}

impl MembershipClient {
    /// Knocks on a room through the first of `servers` that takes the knock.
    ///
    /// # Errors
    /// What the last of them said, or that the room is unknown if there is none.
    pub async fn knock(
        &self,
        actor: &Actor,
        room: &RoomId,
        servers: Vec<OwnedServerName>,
        reason: Option<String>,
    ) -> Result<(), Error> {
        let (client, member_request) = (
            self.clone(),
            Request::new(actor, room, reason, Action::Knock),
        );
        self.to_its_end(async move { client.through(&member_request, servers).await })
            .await
    }

    pub(in crate::federation) async fn knock_via(
        &self,
        member_request: &Request,
        server: &ServerName,
    ) -> Result<(), Error> {
        let Request { actor, room, .. } = member_request;
        let mut request = prepare_knock_event::v1::Request::new(room.clone(), actor.id.clone());
        request.ver = versions::SUPPORTED.to_vec();
        let template = self.0.client.send(server, request).await?;
        let version = template.room_version;
        let rules = room::rules_of(&version)?;
        let built = self.sign(&template.event, &self.draft(member_request).await?, rules)?;
        let (id, pdu) = (built.pdu.event_id().to_owned(), raw(&built.json)?);
        let request = create_knock_event::v1::Request::new(room.clone(), id, pdu);
        let answer = self.0.client.send(server, request).await?;
        let shown = answer.knock_room_state.iter().map(stripped_event_json);
        let invitation = out_of_band::from_stripped_state(server.as_str(), shown);
        let (event, room) = (Received::from(built), room.clone());
        let job = move |tx: &Tx| out_of_band::store(tx, &room, &version, &event, &invitation);
        Ok(self.0.store.write(job).await?)
    }

    /// Whether `actor` only knows of the room from outside.
    pub fn is_out_of_band(&self, actor: &Actor, room: &RoomId) -> Result<bool, rooms::Error> {
        self.0.store.read(|s| match room::num(s, room) {
            Ok(num) => Ok(out_of_band::load(s, actor.num, num)?.is_some()),
            Err(rooms::Error::UnknownRoom) => Ok(false),
            Err(error) => Err(error),
        })
    }

    /// Rejects the invitation to a room that this server is not in, or takes the knock on it back.
    /// That others cannot be told of it does not hinder it.
    ///
    /// # Errors
    /// If nothing was to be rejected, or the store fails.
    pub async fn leave(
        &self,
        actor: &Actor,
        room: &RoomId,
        reason: Option<String>,
    ) -> Result<(), Error> {
        let outside = Arc::new(self.0.store.read(|s| Outside::load(s, actor, room))?);
        let leave = Action::Leave(outside.clone());
        let (client, member_request) = (self.clone(), Request::new(actor, room, reason, leave));
        self.to_its_end(async move { client.leave_anyway(&member_request, &outside).await })
            .await
    }

    async fn leave_anyway(&self, member_request: &Request, outside: &Outside) -> Result<(), Error> {
        let Request { actor, room, .. } = member_request;
        let told = in_time(
            PATIENCE,
            self.through(member_request, outside.servers.clone()),
        )
        .await;
        match told {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(Error::Rooms(error @ rooms::Error::Store(_)))) => return Err(error.into()),
            Ok(Err(error)) => log::info!("{} leaves {room} alone: {error}", actor.id),
            Err(_) => log::info!("{} leaves {room} alone: no server answers", actor.id),
        }
        let draft = self.draft(member_request).await?;
        let mut auth_events = outside.event.auth_events().to_vec();
        auth_events.truncate(AUTH_EVENTS - 1);
        auth_events.push(outside.event.event_id().to_owned());
        let place = EventPlace {
            prev_events: vec![outside.event.event_id().to_owned()],
            auth_events,
            depth: outside.event.depth() + 1,
            origin_server_ts: actor.now,
        };
        let built = build(&draft, &place, outside.rules, self.0.local.key());
        let built = built.map_err(rooms::Error::from)?;
        self.note_leave(outside.num, built).await
    }

    pub(in crate::federation) async fn leave_via(
        &self,
        member_request: &Request,
        outside: &Outside,
        server: &ServerName,
    ) -> Result<(), Error> {
        let Request { actor, room, .. } = member_request;
        let request = prepare_leave_event::v1::Request::new(room.clone(), actor.id.clone());
        let template = self.0.client.send(server, request).await?;
        let built = self.sign(
            &template.event,
            &self.draft(member_request).await?,
            outside.rules,
        )?;
        let (id, pdu) = (built.pdu.event_id().to_owned(), raw(&built.json)?);
        let request = create_leave_event::v2::Request::new(room.clone(), id, pdu);
        self.0.client.send(server, request).await?;
        self.note_leave(outside.num, built).await
    }

    async fn note_leave(&self, room: RoomNum, built: BuiltEvent) -> Result<(), Error> {
        let event = Received::from(built);
        let job = move |tx: &Tx| out_of_band::end(tx, room, &event);
        Ok(self.0.store.write(job).await?)
    }
}

impl Outside {
    fn load(r: &impl Reader, actor: &Actor, room: &RoomId) -> Result<Self, rooms::Error> {
        let nothing = || rooms::Error::forbidden("you are not in this room");
        let num = room::num(r, room)?;
        let rules = room::rules(r, num)?;
        let invitation = out_of_band::load(r, actor.num, num)?.ok_or_else(nothing)?;
        let row = r.memberships()?.load((actor.num, num))?;
        let event = event::load(r, row.ok_or_else(nothing)?.event)?.pdu(rules)?;
        let mut servers = vec![event.sender().server_name().to_owned()];
        servers.extend(OwnedServerName::try_from(invitation.server).ok());
        Ok(Self {
            num,
            rules,
            event,
            servers,
        })
    }
}

/// The JSON of an event that shows something of a room, stripped or whole.
pub fn stripped_event_json(event: &RawStrippedState) -> &str {
    match event {
        RawStrippedState::Pdu(event) => event.get(),
        #[expect(deprecated, reason = "servers of before Matrix 1.16 send it")]
        RawStrippedState::Stripped(event) => event.json().get(),
        _ => "",
    }
}
