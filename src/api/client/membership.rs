//! Room membership (client-server API, "Room membership").

use ruma::{
    OwnedEventId, OwnedRoomId, OwnedRoomOrAliasId, OwnedServerName, RoomId, UserId,
    api::client::{
        knock::knock_room,
        membership::{
            ban_user, forget_room,
            invite_user::{self, v3::InvitationRecipient},
            join_room_by_id, join_room_by_id_or_alias, joined_rooms, kick_user, leave_room,
            unban_user,
        },
    },
    events::room::member::MembershipState,
};

use crate::{
    api::{Adapted, Api, AsSent, Error, Session},
    rooms::{
        self, Actor, Local, event,
        membership::{change::MembershipChange, join, leave, moderation, out_of_band},
        room, servers,
        state::current,
    },
    store::{Reader, RoomNum, Tx, records::Membership},
    users,
};

/// MSC4293: the events of the user would stay.
const REDACT_EVENTS: &[&str] = &["redact_events", "org.matrix.msc4293.redact_events"];

/// `POST /_matrix/client/v3/rooms/{roomId}/join`
pub async fn join_room_by_id(
    api: Api,
    session: Session,
    request: join_room_by_id::v3::Request,
) -> Result<join_room_by_id::v3::Response, Error> {
    let room = request.room_id;
    let change = own_change(&session, MembershipState::Join, request.reason.as_deref());
    let joined = join_room(&api, &session, &room, Vec::new(), change).await;
    remember_refusal(&api, &session, [room.as_str()], joined)?;
    Ok(join_room_by_id::v3::Response::new(room))
}

/// `POST /_matrix/client/v3/join/{roomIdOrAlias}`
pub async fn join_room_by_id_or_alias(
    api: Api,
    session: Session,
    request: join_room_by_id_or_alias::v3::Request,
) -> Result<join_room_by_id_or_alias::v3::Response, Error> {
    let named = request.room_id_or_alias;
    let resolved = resolve(&api, &session, named.clone(), request.via).await;
    let (room, servers) = remember_refusal(&api, &session, [named.as_str()], resolved)?;
    let change = own_change(&session, MembershipState::Join, request.reason.as_deref());
    let joined = join_room(&api, &session, &room, servers, change).await;
    remember_refusal(&api, &session, [named.as_str(), room.as_str()], joined)?;
    Ok(join_room_by_id_or_alias::v3::Response::new(room))
}

/// For `hearth why join`. `names` are those of the room.
fn remember_refusal<T, const N: usize>(
    api: &Api,
    session: &Session,
    names: [&str; N],
    result: Result<T, Error>,
) -> Result<T, Error> {
    for name in names {
        match &result {
            Ok(_) => api.refused_joins.forget(session.user, name),
            Err(error) => api.refused_joins.add(session.user, name, error),
        }
    }
    result
}

/// The id of a room and servers through which it can be joined.
async fn resolve(
    api: &Api,
    session: &Session,
    room: OwnedRoomOrAliasId,
    via: Vec<OwnedServerName>,
) -> Result<(OwnedRoomId, Vec<OwnedServerName>), Error> {
    let alias = match OwnedRoomId::try_from(room) {
        Ok(id) => return Ok((id, via)),
        Err(alias) => alias,
    };
    let _permit = api.user_lookup_permit(session.user).await?;
    let found = super::alias::resolve(api, &alias).await?;
    Ok((
        found.room_id,
        via.into_iter().chain(found.servers).collect(),
    ))
}

/// Joins the room here if this server is in it, else through a server that is.
async fn join_room(
    api: &Api,
    session: &Session,
    room: &OwnedRoomId,
    mut servers: Vec<OwnedServerName>,
    change: MembershipChange,
) -> Result<(), Error> {
    let client = api.federation.membership_client();
    if client.is_resident(room, session.user)? {
        let change = change.clone();
        let join = move |tx: &Tx, local: &Local, actor: &Actor, room| {
            join::join(tx, local, actor, room, &change)
        };
        match in_room(api, session, room.clone(), join).await {
            // A restricted room: a server with a user who may invite can authorize the join.
            Err(Error::Rooms(
                error @ (rooms::Error::UnableToAuthorizeJoin | rooms::Error::UnableToGrantJoin),
            )) => {
                if !api.store.read(|s| is_shared(s, room))? {
                    return Err(rooms::Error::forbidden(error.to_string()).into());
                }
            }
            result => return result,
        }
    }
    servers.extend(candidate_servers(api, session, room)?);
    Ok(client
        .join(&api.actor(session), room, servers, &change)
        .await?)
}

fn is_shared(r: &impl Reader, room: &RoomId) -> Result<bool, rooms::Error> {
    servers::is_shared(r, room::num(r, room)?)
}

/// Servers that may be in the room: of the inviter, of members, of the creator.
fn candidate_servers(
    api: &Api,
    session: &Session,
    room: &RoomId,
) -> Result<Vec<OwnedServerName>, rooms::Error> {
    api.store.read(|s| {
        let mut others = Vec::new();
        match room::num(s, room) {
            Err(rooms::Error::UnknownRoom) => {}
            num => {
                let num = num?;
                let invitation = out_of_band::load(s, session.user, num)?;
                let host =
                    invitation.map(|invitation| OwnedServerName::try_from(invitation.server));
                others.extend(host.and_then(Result::ok));
                others.extend(servers::names(s, num)?);
            }
        }
        others.extend(room.server_name().map(ToOwned::to_owned));
        Ok(others)
    })
}

/// `POST /_matrix/client/v3/knock/{roomIdOrAlias}`
pub async fn knock_room(
    api: Api,
    session: Session,
    request: knock_room::v3::Request,
) -> Result<knock_room::v3::Response, Error> {
    let (room, servers) = resolve(&api, &session, request.room_id_or_alias, request.via).await?;
    let change = own_change(&session, MembershipState::Knock, request.reason.as_deref());
    knock(&api, &session, &room, servers, change).await?;
    Ok(knock_room::v3::Response::new(room))
}

/// Knocks here if this server is in the room, else through a server that is.
async fn knock(
    api: &Api,
    session: &Session,
    room: &OwnedRoomId,
    mut servers: Vec<OwnedServerName>,
    change: MembershipChange,
) -> Result<(), Error> {
    let client = api.federation.membership_client();
    if client.is_resident(room, session.user)? {
        let knock =
            move |tx: &Tx, local: &Local, actor: &Actor, room| change.send(tx, local, room, actor);
        return in_room(api, session, room.clone(), knock).await;
    }
    servers.extend(candidate_servers(api, session, room)?);
    Ok(client
        .knock(&api.actor(session), room, servers, &change)
        .await?)
}

fn own_change(
    session: &Session,
    membership: MembershipState,
    reason: Option<&str>,
) -> MembershipChange {
    MembershipChange::new(&session.user_id, membership, reason)
}

/// `POST /_matrix/client/v3/rooms/{roomId}/leave`
pub async fn leave_room(
    api: Api,
    session: Session,
    request: leave_room::v3::Request,
) -> Result<leave_room::v3::Response, Error> {
    let (room, reason) = (request.room_id, request.reason);
    let (client, actor) = (api.federation.membership_client(), api.actor(&session));
    if client.is_out_of_band(&actor, &room)? {
        let change = own_change(&session, MembershipState::Leave, reason.as_deref());
        client.leave(&actor, &room, &change).await?;
        return Ok(leave_room::v3::Response::new());
    }
    let leave = move |tx: &Tx, local: &Local, actor: &Actor, room| {
        leave::leave(tx, local, actor, room, reason.as_deref())
    };
    in_room(&api, &session, room, leave).await?;
    Ok(leave_room::v3::Response::new())
}

/// `POST /_matrix/client/v3/rooms/{roomId}/forget`
pub async fn forget_room(
    api: Api,
    session: Session,
    request: forget_room::v3::Request,
) -> Result<forget_room::v3::Response, Error> {
    let forget = |tx: &Tx, _: &Local, actor: &Actor, room| leave::forget(tx, actor.num, room);
    match in_room(&api, &session, request.room_id, forget).await {
        // As for a room in which the user never was: nobody learns which rooms are here.
        Err(Error::Rooms(rooms::Error::UnknownRoom)) => {}
        forgotten => forgotten?,
    }
    Ok(forget_room::v3::Response::new())
}

/// `POST /_matrix/client/v3/rooms/{roomId}/invite`
pub async fn invite_user(
    api: Api,
    session: Session,
    request: invite_user::v3::Request,
) -> Result<invite_user::v3::Response, Error> {
    let InvitationRecipient::UserId(invitee) = request.recipient else {
        return Err(rooms::Error::ThirdPartyInvite.into());
    };
    if !api.local.has(&invitee.user_id) {
        let (target, reason) = (&invitee.user_id, invitee.reason.as_deref());
        let change = MembershipChange::new(target, MembershipState::Invite, reason);
        let client = api.federation.membership_client();
        client
            .invite(&api.actor(&session), &request.room_id, &change)
            .await?;
        return Ok(invite_user::v3::Response::new());
    }
    let invite = move |tx: &Tx, local: &Local, actor: &Actor, room| {
        let reason = invitee.reason.as_deref();
        moderation::invite(tx, local, actor, room, &invitee.user_id, reason, false)
    };
    in_room(&api, &session, request.room_id, invite).await?;
    Ok(invite_user::v3::Response::new())
}

/// `POST /_matrix/client/v3/rooms/{roomId}/kick`
pub async fn kick_user(
    api: Api,
    session: Session,
    Adapted {
        request,
        quirk: body,
    }: Adapted<kick_user::v3::Request, AsSent>,
) -> Result<kick_user::v3::Response, Error> {
    body.refuse(REDACT_EVENTS)?;
    let (user, reason) = (request.user_id, request.reason);
    let kick = move |tx: &Tx, local: &Local, actor: &Actor, room| {
        moderation::kick(tx, local, actor, room, &user, reason.as_deref())
    };
    in_room(&api, &session, request.room_id, kick).await?;
    Ok(kick_user::v3::Response::new())
}

/// `POST /_matrix/client/v3/rooms/{roomId}/ban`
pub async fn ban_user(
    api: Api,
    session: Session,
    Adapted {
        request,
        quirk: body,
    }: Adapted<ban_user::v3::Request, AsSent>,
) -> Result<ban_user::v3::Response, Error> {
    body.refuse(REDACT_EVENTS)?;
    let (user, reason) = (request.user_id, request.reason);
    let ban = move |tx: &Tx, local: &Local, actor: &Actor, room| {
        moderation::ban(tx, local, actor, room, &user, reason.as_deref())
    };
    in_room(&api, &session, request.room_id, ban).await?;
    Ok(ban_user::v3::Response::new())
}

/// `POST /_matrix/client/v3/rooms/{roomId}/unban`
pub async fn unban_user(
    api: Api,
    session: Session,
    request: unban_user::v3::Request,
) -> Result<unban_user::v3::Response, Error> {
    let (user, reason) = (request.user_id, request.reason);
    let unban = move |tx: &Tx, local: &Local, actor: &Actor, room| {
        moderation::unban(tx, local, actor, room, &user, reason.as_deref())
    };
    in_room(&api, &session, request.room_id, unban).await?;
    Ok(unban_user::v3::Response::new())
}

/// `GET /_matrix/client/v3/joined_rooms`
pub async fn joined_rooms(
    api: Api,
    session: Session,
    _request: joined_rooms::v3::Request,
) -> Result<joined_rooms::v3::Response, Error> {
    let joined = api
        .store
        .scan("joined rooms", move |s| {
            current::joined_room_ids(s, session.user)
        })
        .await?;
    Ok(joined_rooms::v3::Response::new(joined))
}

/// A membership event that is written as a state event works as by the endpoint of its own: a join or
/// a knock goes through another server if this one is not in the room, an invitation to the server of
/// the invited user. Returns the id of the event that is current then.
pub(super) async fn send_member_event(
    api: &Api,
    session: &Session,
    room: OwnedRoomId,
    change: MembershipChange,
) -> Result<OwnedEventId, Error> {
    let client = api.federation.membership_client();
    let actor = api.actor(session);
    let is_own = change.target == session.user_id;
    let target = change.target.clone();
    match change.membership {
        MembershipState::Join if is_own && !is_joined(api, session, &room)? => {
            join_room(api, session, &room, Vec::new(), change).await?;
        }
        MembershipState::Knock if is_own => knock(api, session, &room, Vec::new(), change).await?,
        MembershipState::Leave if is_own && client.is_out_of_band(&actor, &room)? => {
            client.leave(&actor, &room, &change).await?;
        }
        MembershipState::Invite if !api.local.has(&target) => {
            client.invite(&actor, &room, &change).await?;
        }
        _ => {
            let send = move |tx: &Tx, local: &Local, actor: &Actor, room| {
                moderation::send(tx, local, actor, room, &change)
            };
            in_room(api, session, room.clone(), send).await?;
        }
    }
    Ok(api.store.read(|s| membership_event(s, &room, &target))?)
}

fn is_joined(api: &Api, session: &Session, room: &RoomId) -> Result<bool, rooms::Error> {
    api.store.read(|s| match room::num(s, room) {
        Err(rooms::Error::UnknownRoom) => Ok(false),
        room => Ok(current::membership(s, room?, &session.user_id)? == Membership::Join),
    })
}

/// The event by which `user` has the membership of now.
fn membership_event(
    r: &impl Reader,
    room: &RoomId,
    user: &UserId,
) -> Result<OwnedEventId, rooms::Error> {
    let room = room::num(r, room)?;
    let row = match users::num_of(r, user)? {
        Some(user) => current::local_membership(r, user, room)?,
        None => None,
    };
    let num = match row {
        Some(row) => Some(row.event),
        None => current::get(r, room, "m.room.member", user.as_str())?,
    };
    event::id(r, num.ok_or(rooms::Error::Stale)?)
}

/// Runs `change` with the room in a transaction.
async fn in_room<F>(api: &Api, session: &Session, room: OwnedRoomId, change: F) -> Result<(), Error>
where
    F: Fn(&Tx, &Local, &Actor, RoomNum) -> Result<(), rooms::Error> + Send + Sync + 'static,
{
    let (local, actor) = (api.local.clone(), api.actor(session));
    let write = move |tx: &Tx| change(tx, &local, &actor, room::num(tx, &room)?);
    api.write_events(write).await
}
