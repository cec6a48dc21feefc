//! Joins, leaves, knocks and invites by other servers (server-server API, "Joining Rooms", "Knocking upon a
//! room", "Inviting to a room" and "Leaving Rooms").

use ruma::{
    OwnedRoomId, OwnedUserId, RoomVersionId, ServerName, UserId,
    api::{
        error::{ErrorKind, IncompatibleRoomVersionErrorData},
        federation::membership::{
            RawStrippedState, create_invite, create_join_event, create_knock_event,
            create_leave_event, prepare_join_event, prepare_knock_event, prepare_leave_event,
        },
    },
    events::room::member::MembershipState,
};
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use super::event::raw;
use crate::{
    api::{Api, Error, EventStream, Origin, Streamed},
    federation::{AcceptedMemberEvent, MembershipError, ReceivedInvite, invite_v1},
    rates::Kind,
    rooms::{
        self,
        event::{self, graph::StateWithAuthChain},
        membership::{resident, stripped_state},
        room, servers,
        state::current,
    },
    store::{EventNum, Reader, RoomNum},
};

/// `GET /_matrix/federation/v1/make_join/{roomId}/{userId}`
pub async fn prepare_join_event(
    api: Api,
    origin: Origin,
    request: prepare_join_event::v1::Request,
) -> Result<prepare_join_event::v1::Response, Error> {
    let (room, user) = (request.room_id, request.user_id);
    let join = MembershipState::Join;
    let (version, event) = template(&api, &origin, room, user, join, Some(request.ver)).await?;
    let mut answer = prepare_join_event::v1::Response::new(event);
    answer.room_version = Some(version);
    Ok(answer)
}

/// `GET /_matrix/federation/v1/make_leave/{roomId}/{userId}`
pub async fn prepare_leave_event(
    api: Api,
    origin: Origin,
    request: prepare_leave_event::v1::Request,
) -> Result<prepare_leave_event::v1::Response, Error> {
    let (room, user) = (request.room_id, request.user_id);
    let leave = MembershipState::Leave;
    let (version, event) = template(&api, &origin, room, user, leave, None).await?;
    Ok(prepare_leave_event::v1::Response::new(Some(version), event))
}

/// `GET /_matrix/federation/v1/make_knock/{roomId}/{userId}`
pub async fn prepare_knock_event(
    api: Api,
    origin: Origin,
    request: prepare_knock_event::v1::Request,
) -> Result<prepare_knock_event::v1::Response, Error> {
    let (room, user) = (request.room_id, request.user_id);
    let knock = MembershipState::Knock;
    let (version, event) = template(&api, &origin, room, user, knock, Some(request.ver)).await?;
    Ok(prepare_knock_event::v1::Response::new(version, event))
}

/// The template of a membership event and the version of its room, which must be one of `versions`.
async fn template(
    api: &Api,
    origin: &Origin,
    room: OwnedRoomId,
    user: OwnedUserId,
    membership: MembershipState,
    versions: Option<Vec<RoomVersionId>>,
) -> Result<(RoomVersionId, Box<RawValue>), Error> {
    check_user_of(&origin.server, &user)?;
    let server_acls = api.federation.server_acls();
    let version = api.store.read(|s| {
        let room = server_acls.open_to(s, &room, &origin.server)?;
        room::version(s, room)
    })?;
    if versions.is_some_and(|versions| !versions.contains(&version)) {
        return Err(incompatible(version));
    }
    let (local, now) = (api.local.clone(), api.clock.timestamp());
    let event = api
        .store
        .scan("a template", move |s| {
            let room = room::num(s, &room)?;
            resident::membership_template(s, &local, room, &user, membership, now)
        })
        .await?;
    Ok((version, raw(event)?))
}

fn incompatible(version: RoomVersionId) -> Error {
    let message =
        format!("the room has version {version}, which one of the servers does not support");
    let data = IncompatibleRoomVersionErrorData::new(version);
    Error::new(ErrorKind::IncompatibleRoomVersion(data), message)
}

fn check_user_of(server: &ServerName, user: &UserId) -> Result<(), Error> {
    if user.server_name() == server {
        Ok(())
    } else {
        Err(Error::forbidden(format!(
            "userId must be of {server}, found {user}"
        )))
    }
}

/// `PUT /_matrix/federation/v2/send_join/{roomId}/{eventId}`
pub async fn create_join_event(
    api: Api,
    origin: Origin,
    request: create_join_event::v2::Request,
) -> Result<Streamed, Error> {
    let stream = join(&api, &origin, request).await?;
    stream.into_response(&api.store).await
}

/// `PUT /_matrix/federation/v1/send_join/{roomId}/{eventId}`
pub async fn create_join_event_v1(
    api: Api,
    origin: Origin,
    request: create_join_event::v2::Request,
) -> Result<Streamed, Error> {
    let stream = join(&api, &origin, request).await?;
    let stream = stream.enclosed("[200,", "]");
    stream.into_response(&api.store).await
}

async fn join(
    api: &Api,
    origin: &Origin,
    request: create_join_event::v2::Request,
) -> Result<EventStream, Error> {
    let (room, id) = (&*request.room_id, &*request.event_id);
    // The servers before the join.
    let server_acls = api.federation.server_acls();
    let others = api.store.read(|s| {
        let room = server_acls.open_to(s, &request.room_id, &origin.server)?;
        servers::names(s, room)
    })?;
    let AcceptedMemberEvent { room, event } = api
        .federation
        .membership_handler()
        .receive_member_event(&origin.server, room, id, request.pdu, MembershipState::Join)
        .await?;
    let omit = request.omit_members;
    let (given, omitted) = api
        .store
        .scan("a room for another server", move |s| {
            room_before(s, room, event, omit)
        })
        .await?;
    let own = std::iter::once(api.local.server_name().to_owned());
    let servers: Vec<_> = own.chain(others).collect();
    let head = json!({ "members_omitted": omitted, "servers_in_room": servers });
    let head = head.to_string();
    Ok(EventStream::default()
        .text(head.trim_end_matches('}'))
        .text(r#","event":"#)
        .items([event])
        .text(r#","state":"#)
        .events(given.state)
        .text(r#","auth_chain":"#)
        .events(given.auth_chain)
        .text("}"))
}

/// The state before a join and its auth chain, and whether members are omitted.
fn room_before(
    r: &impl Reader,
    room: RoomNum,
    event: EventNum,
    omit: bool,
) -> Result<(StateWithAuthChain, bool), rooms::Error> {
    // The name of a room without one is calculated from its members.
    let omit = omit && stripped_state::is_named(r, room)?;
    Ok((StateWithAuthChain::before_join(r, room, event, omit)?, omit))
}

/// `PUT /_matrix/federation/v2/send_leave/{roomId}/{eventId}`
pub async fn create_leave_event(
    api: Api,
    origin: Origin,
    request: create_leave_event::v2::Request,
) -> Result<create_leave_event::v2::Response, Error> {
    let (room, id) = (&*request.room_id, &*request.event_id);
    let leave = MembershipState::Leave;
    api.federation
        .membership_handler()
        .receive_member_event(&origin.server, room, id, request.pdu, leave)
        .await?;
    Ok(create_leave_event::v2::Response::new())
}

/// `PUT /_matrix/federation/v1/send_leave/{roomId}/{eventId}`
pub async fn create_leave_event_v1(
    api: Api,
    origin: Origin,
    request: create_leave_event::v2::Request,
) -> Result<Streamed, Error> {
    create_leave_event(api.clone(), origin, request).await?;
    Streamed::json(&(200, json!({})))
}

/// `PUT /_matrix/federation/v1/send_knock/{roomId}/{eventId}`
pub async fn create_knock_event(
    api: Api,
    origin: Origin,
    request: create_knock_event::v1::Request,
) -> Result<create_knock_event::v1::Response, Error> {
    let (room, id) = (&*request.room_id, &*request.event_id);
    let knock = MembershipState::Knock;
    let admitted = api
        .federation
        .membership_handler()
        .receive_member_event(&origin.server, room, id, request.pdu, knock)
        .await?;
    let state = api
        .store
        .read(|s| stripped_state::of_room(s, admitted.room, None))?;
    let state = state.into_iter().map(|num| {
        let event = api.store.read(|s| event::load(s, num))?;
        Ok(RawStrippedState::Pdu(raw(event.json)?))
    });
    let state = state.collect::<Result<_, rooms::Error>>()?;
    Ok(create_knock_event::v1::Response::new(state))
}

/// `PUT /_matrix/federation/v2/invite/{roomId}/{eventId}`
pub async fn create_invite(
    api: Api,
    origin: Origin,
    request: create_invite::v2::Request,
) -> Result<create_invite::v2::Response, Error> {
    let event = receive_invite(&api, &origin, &request).await?;
    Ok(create_invite::v2::Response::new(event))
}

/// `PUT /_matrix/federation/v1/invite/{roomId}/{eventId}`: the room has version 1 or 2, which differ only in
/// state resolution.
pub async fn create_invite_v1(
    api: Api,
    origin: Origin,
    request: invite_v1::Request,
) -> Result<invite_v1::Response, Error> {
    let split = invite_v1::split_stripped_state(&request.event);
    let (event, stripped_state) = split.map_err(|error| Error::bad_json(error.to_string()))?;
    let known = api
        .store
        .read(|s| current::room_version(s, &request.room_id))?;
    let version = known.filter(|known| *known == RoomVersionId::V2);
    let request = create_invite::v2::Request::new(
        request.room_id,
        request.event_id,
        version.unwrap_or(RoomVersionId::V1),
        event,
        stripped_state,
    );
    let event = receive_invite(&api, &origin, &request).await?;
    Ok(invite_v1::Response::new(event))
}

/// Returns the event with the signature of this server.
async fn receive_invite(
    api: &Api,
    origin: &Origin,
    request: &create_invite::v2::Request,
) -> Result<Box<RawValue>, Error> {
    #[derive(Deserialize)]
    struct Sent {
        sender: OwnedUserId,
    }

    api.rates.check(Kind::InviteFromServer, &origin.server)?;
    if let Ok(Sent { sender }) = serde_json::from_str(request.event.get()) {
        check_user_of(&origin.server, &sender)?;
        api.rates.check(Kind::Invite, &sender)?;
    }
    let invite = ReceivedInvite {
        room: &request.room_id,
        version: &request.room_version,
        id: &request.event_id,
        event: &request.event,
        stripped_state: &request.invite_room_state,
    };
    let handler = api.federation.membership_handler();
    match handler.receive_invite(&origin.server, invite).await {
        Err(MembershipError::Rooms(rooms::Error::UnsupportedVersion(_))) => {
            Err(incompatible(request.room_version.clone()))
        }
        event => Ok(event?),
    }
}
