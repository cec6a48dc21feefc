//! Joining over federation (server-server API, "Joining Rooms"):
//!
//! 1. `GET /make_join` gives a template and the room version. The version is compared with the stored
//!    create event if this server was in the room before.
//! 2. `PUT /send_join` takes the signed event, and gives the state before it and the auth chains.
//! 3. If the response omits members, `GET /state` gives the whole state.
//! 4. All of it is verified before any of it is stored ([`verified_state`](super::verified_state)).
//! 5. The verified events are stored as outliers, then the current state becomes the one in the
//!    response, or gets the news in it if this server was in the room before, then the join event is
//!    stored. With that this server is in the room.
//!
//! If this server is in the room already and another server only authorizes the join, steps 3 to 5 do
//! not happen: the join event is processed as any received PDU.

use std::{iter, mem, time::Duration};

use ruma::{
    EventId, OwnedEventId, OwnedServerName, RoomId, RoomVersionId, ServerName,
    api::{
        OutgoingRequest,
        federation::{
            event::get_room_state,
            membership::{create_join_event, prepare_join_event},
        },
        path_builder::SinglePath,
    },
    room_version_rules::RoomVersionRules,
};
use serde_json::value::RawValue;

use super::{
    client::{MAX_SERVERS, MembershipClient, MembershipRequest, raw_json},
    error::Error,
    verified_state::VerifiedState,
};
use crate::{
    federation::{
        Error as PeerError, Limits,
        event_file::temporary_file,
        event_response::EventResponse,
        inbound::{RawPdu, Room, verify},
        transport::client::Signed,
    },
    protocol::{
        build::BuiltEvent,
        receive::{Incoming, Received},
        versions,
    },
    rooms::{
        self, Actor, blocked_rooms,
        event::{import, outlier},
        membership::change::MembershipChange,
        room,
        state::current,
        upgrade::user_data,
    },
    store::{EventNum, RoomNum, Tx, records::Membership},
};

/// The limits of a response with the state of a room.
pub(super) const STATE_LIMITS: Limits = Limits {
    timeout: Duration::from_mins(5),
    max_bytes: 256 * 1024 * 1024,
};
/// How many outliers one write job stores.
const OUTLIERS_PER_JOB: usize = 32;

/// The room that is joined, as `make_join` describes it.
pub(super) struct JoinedRoom<'a> {
    pub(super) id: &'a RoomId,
    version: RoomVersionId,
    rules: &'static RoomVersionRules,
    /// The resident server.
    pub(super) server: &'a ServerName,
}

impl MembershipClient {
    /// Joins `actor` to the room through the first of `servers` that allows it. Runs to its end even
    /// if the caller stops waiting.
    pub async fn join(
        &self,
        actor: &Actor,
        room: &RoomId,
        servers: Vec<OwnedServerName>,
        change: &MembershipChange,
    ) -> Result<(), Error> {
        self.0.store.read(|s| blocked_rooms::check(s, room))?;
        let client = self.clone();
        let request = MembershipRequest::new(actor, room, change);
        self.run_to_completion(actor, async move {
            let _permit = client.permit(&request.actor).await;
            let _room_lock = client.lock_room(&request.room).await;
            let attempt = |server| client.join_via(&request, server);
            client.try_servers(&request, servers, attempt).await
        })
        .await
    }

    async fn join_via(
        &self,
        join: &MembershipRequest,
        server: OwnedServerName,
    ) -> Result<(), Error> {
        let (user, room) = (&join.actor.id, &join.room);
        // Step 1.
        let mut request = prepare_join_event::v1::Request::new(room.clone(), user.clone());
        request.ver = versions::SUPPORTED.to_vec();
        let template = self.0.client.send(&server, request).await?;
        let version = template.room_version.unwrap_or(RoomVersionId::V1);
        self.check_room_version(room, &version)?;
        let room = JoinedRoom {
            id: room,
            rules: room::rules_of(&version)?,
            version,
            server: &server,
        };
        // Step 2.
        let draft = self.draft(join)?;
        let built = self.sign(&template.event, &draft, room.rules)?;
        let id = built.pdu.event_id().to_owned();
        let pdu = raw_json(&built.json)?;
        let mut request = create_join_event::v2::Request::new(room.id.to_owned(), id.clone(), pdu);
        request.omit_members = true;
        let mut response = self.fetch_state(&server, request, room.rules).await?;
        let event = self
            .signed_join(&room, built, response.event.take())
            .await?;
        if self.is_resident(room.id, join.actor.num)? {
            return self.join_resident(&join.actor, &room, event).await;
        }
        // Step 3.
        if response.members_omitted {
            // Both at once could be more than the memory for joins.
            let others = mem::take(&mut response.servers_in_room);
            drop(response);
            response = self.fetch_full_state(&room, &others, &id).await?;
        }
        // Step 4.
        let state = self.verify_state(&room, response, &event).await?;
        // Step 5.
        self.import(&join.actor, &room, state, event).await
    }

    /// Compares `version` with the version in the stored create event, if there is one.
    pub(super) fn check_room_version(
        &self,
        room: &RoomId,
        version: &RoomVersionId,
    ) -> Result<(), Error> {
        let known = self.0.store.read(|s| current::room_version(s, room))?;
        match known {
            Some(known) if known != *version => Err(Error::invalid_response(format!(
                "the server names room version {version} for {room}, its create event has {known}"
            ))),
            _ => Ok(()),
        }
    }

    /// Processes a join event of a room that this server is in, which another server has authorized.
    async fn join_resident(
        &self,
        actor: &Actor,
        joined: &JoinedRoom<'_>,
        join: Received,
    ) -> Result<(), Error> {
        let store = &self.0.store;
        let room = store.read(|s| Room::load(s, room::num(s, joined.id)?))?;
        let server = joined.server.to_owned();
        let receiver = &self.0.receiver;
        receiver.fetch_and_process(&room, server, join).await?;
        let membership = store.read(|s| current::membership(s, room.num, &actor.id))?;
        if membership != Membership::Join {
            return Err(rooms::Error::forbidden("the room does not allow you to join").into());
        }
        let (user, room) = (actor.num, room.num);
        let job = move |tx: &Tx| user_data::copy(tx, user, room);
        Ok(store.write(job).await?)
    }

    /// Step 3: from the resident server, or another one that is in the room.
    async fn fetch_full_state(
        &self,
        room: &JoinedRoom<'_>,
        others: &[OwnedServerName],
        join: &EventId,
    ) -> Result<EventResponse, Error> {
        let others = others.iter().map(|server| &**server);
        let others =
            others.filter(|other| *other != room.server && self.0.client.may_contact(other));
        let mut failure = Error::Rooms(rooms::Error::UnknownRoom);
        for server in iter::once(room.server).chain(others).take(MAX_SERVERS) {
            let request = get_room_state::v1::Request::new(join.to_owned(), room.id.to_owned());
            match self.fetch_state(server, request, room.rules).await {
                Ok(response) => return Ok(response),
                Err(error) => {
                    log::info!(
                        "cannot fetch the state of room {} from {server}: {error}",
                        room.id
                    );
                    failure = error;
                }
            }
        }
        Err(failure)
    }

    async fn fetch_state<R>(
        &self,
        server: &ServerName,
        request: R,
        rules: &'static RoomVersionRules,
    ) -> Result<EventResponse, Error>
    where
        R: OutgoingRequest<PathBuilder = SinglePath>,
        R::Authentication: Signed,
    {
        let directory = self.0.data_dir.clone();
        let file = temporary_file(&directory).map_err(PeerError::disk)?;
        let client = &self.0.client;
        let body = client.download(server, request, file, STATE_LIMITS).await?;
        let memory = self.0.joined_ids.clone();
        let read = move |_: &_| EventResponse::read(body, &directory, rules, &memory);
        let store = &self.0.store;
        let read = store.scan_in_background("the state of a joined room", read);
        Ok(read.await?)
    }

    /// The join event with the signature of the resident server, where the join needs that one
    /// ("Restricted rooms").
    async fn signed_join(
        &self,
        room: &JoinedRoom<'_>,
        built: BuiltEvent,
        signed: Option<Box<RawValue>>,
    ) -> Result<Received, Error> {
        if let Some(signed) = signed {
            let mut found = verify(&self.0.source, room.id, room.rules, vec![signed]).await;
            found.retain(|event| event.pdu.event_id() == built.pdu.event_id());
            if let Some(event) = found.pop() {
                return Ok(event);
            }
        }
        let incoming = Incoming::parse(&built.json, room.rules).map_err(Error::invalid_response)?;
        if incoming.signers().map_err(Error::invalid_response)?.len() > 1 {
            let error = "the join event lacks the signature of the server that authorized it";
            return Err(Error::invalid_response(error));
        }
        Ok(built.into())
    }

    /// Step 4.
    async fn verify_state(
        &self,
        room: &JoinedRoom<'_>,
        response: EventResponse,
        join: &Received,
    ) -> Result<VerifiedState, Error> {
        let response = self.fetch_missing_auth_events(room, response, join).await?;
        let sort = move |_: &_| {
            let EventResponse { events, graph, .. } = response;
            let order = graph.topological_order();
            Ok::<_, Error>((order, graph.into_ids_and_marks(), events))
        };
        let (order, (ids, are_state), mut events) = self
            .0
            .store
            .scan_in_background("the auth graph of a joined room", sort)
            .await?;
        let mut state = VerifiedState::new(&self.0.data_dir, room.rules, ids)?;
        let mut left = &order[..];
        while !left.is_empty() {
            let (batch, later) = left.split_at(events.batch_length(left));
            left = later;
            let indices = batch.to_vec();
            let read = move |_: &_| Ok::<_, Error>((events.read_all(&indices)?, events));
            let pdus: Vec<(OwnedEventId, RawPdu)>;
            (pdus, events) = self
                .0
                .store
                .scan_in_background("events of a joined room", read)
                .await?;
            let (ids, pdus): (Vec<_>, Vec<_>) = pdus.into_iter().unzip();
            let verified = verify(&self.0.source, room.id, room.rules, pdus).await;
            let with_place = verified.into_iter().filter_map(|event| {
                let place = ids.iter().position(|id| id == event.pdu.event_id())?;
                Some((place, event))
            });
            let mut verified: Vec<_> = with_place.collect();
            verified.sort_by_key(|(place, _)| *place);
            let verified = verified.into_iter();
            let verified = verified.map(|(place, event)| (are_state[batch[place] as usize], event));
            let verified: Vec<_> = verified.collect();
            let add = move |s: &_| {
                for (is_state, event) in &verified {
                    state.add(s, event, *is_state)?;
                }
                Ok::<_, Error>(state)
            };
            state = self
                .0
                .store
                .scan_in_background("events of a joined room", add)
                .await?;
        }
        let (version, join) = (room.version.clone(), join.clone());
        let check = move |s: &_| {
            state.check_join(s, &version, &join)?;
            Ok::<_, Error>(state)
        };
        self.0
            .store
            .scan_in_background("the state of a joined room", check)
            .await
    }

    /// Step 5. Only a disk error can interrupt it. The room has no forward extremities then, so this
    /// server is not in it, and the next join starts from the beginning.
    async fn import(
        &self,
        actor: &Actor,
        room: &JoinedRoom<'_>,
        mut state: VerifiedState,
        join: Received,
    ) -> Result<(), Error> {
        let store = &self.0.store;
        let (id, version) = (room.id.to_owned(), room.version.clone());
        let begin = move |tx: &Tx| import::begin(tx, &id, &version);
        let num: RoomNum = store.write(begin).await?;
        let _room_lock = self.0.receiver.lock_room(num).await;
        let are_state = state.are_state();
        let mut state_nums: Vec<EventNum> = Vec::new();
        for first in (0..state.len()).step_by(OUTLIERS_PER_JOB) {
            let read = move |_: &_| {
                let last = state.len().min(first + OUTLIERS_PER_JOB);
                let events = (first..last).map(|index| state.event(index));
                Ok::<_, Error>((events.collect::<Result<Vec<_>, _>>()?, state))
            };
            let events;
            (events, state) = store
                .scan_in_background("events of a joined room", read)
                .await?;
            let rules = room.rules;
            let job = move |tx: &Tx| {
                let stored = events
                    .iter()
                    .map(|event| outlier::store_authorized(tx, num, rules, event));
                stored.collect::<Result<Vec<_>, rooms::Error>>()
            };
            let stored = store.write(job).await?.into_iter();
            let stored = stored.zip(&are_state[first..]);
            state_nums.extend(stored.filter_map(|(num, is_state)| is_state.then_some(num)));
        }
        drop(state);
        let event = join.clone();
        let diff = store.scan_in_background("the state of a joined room", move |s| {
            import::StateDiff::new(s, num, &state_nums, &event.pdu)
        });
        for batch in diff.await?.batches() {
            let local = self.0.local.clone();
            let job = move |tx: &Tx| import::apply_batch(tx, &local, num, &batch);
            store.write(job).await?;
        }
        let (local, user) = (self.0.local.clone(), actor.num);
        let job = move |tx: &Tx| {
            import::commit_join(tx, &local, num, &join)?;
            user_data::copy(tx, user, num)
        };
        Ok(store.write(job).await?)
    }
}
