//! Room membership (client-server API, "Room membership").

use ruma::{
    OwnedRoomId, OwnedRoomOrAliasId, OwnedServerName, RoomId,
    api::client::{
        knock::knock_room,
        membership::{
            ban_user, forget_room,
            invite_user::{self, v3::InvitationRecipient},
            join_room_by_id, join_room_by_id_or_alias, joined_rooms, kick_user, leave_room,
            unban_user,
        },
    },
    events::room::member::{MembershipState, RoomMemberEventContent},
};

use crate::{
    api::{Api, Error, Session},
    rooms::{
        self, Actor, Local,
        membership::{join, leave, moderation, out_of_band},
        room, servers,
        state::current,
    },
    store::{Reader, RoomNum, Tx},
};

/// `POST /_matrix/client/v3/rooms/{roomId}/join`
pub async fn join_room_by_id(
    api: Api,
    session: Session,
    request: join_room_by_id::v3::Request,
) -> Result<join_room_by_id::v3::Response, Error> {
    let room = request.room_id;
    join_room(&api, &session, &room, Vec::new(), request.reason).await?;
    Ok(join_room_by_id::v3::Response::new(room))
}

/// `POST /_matrix/client/v3/join/{roomIdOrAlias}`
pub async fn join_room_by_id_or_alias(
    api: Api,
    session: Session,
    request: join_room_by_id_or_alias::v3::Request,
) -> Result<join_room_by_id_or_alias::v3::Response, Error> {
    let (room, servers) = resolve(&api, request.room_id_or_alias, request.via).await?;
    join_room(&api, &session, &room, servers, request.reason).await?;
    Ok(join_room_by_id_or_alias::v3::Response::new(room))
}

/// The id of a room and servers through which it can be joined.
async fn resolve(
    api: &Api,
    room: OwnedRoomOrAliasId,
    via: Vec<OwnedServerName>,
) -> Result<(OwnedRoomId, Vec<OwnedServerName>), Error> {
    let alias = match OwnedRoomId::try_from(room) {
        Ok(id) => return Ok((id, via)),
        Err(alias) => alias,
    };
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
    reason: Option<String>,
) -> Result<(), Error> {
    let client = api.federation.membership_client();
    if client.is_resident(room, session.user)? {
        let text = reason.clone();
        let join = move |tx: &Tx, local: &Local, actor: &Actor, room| {
            join::join(tx, local, actor, room, text.as_deref())
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
        .join(&api.actor(session), room, servers, reason)
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
    let (room, mut servers) = resolve(&api, request.room_id_or_alias, request.via).await?;
    let (client, reason) = (api.federation.membership_client(), request.reason);
    if client.is_resident(&room, session.user)? {
        let knock = move |tx: &Tx, local: &Local, actor: &Actor, room| {
            join::knock(tx, local, actor, room, reason.as_deref())
        };
        in_room(&api, &session, room.clone(), knock).await?;
    } else {
        servers.extend(candidate_servers(&api, &session, &room)?);
        client
            .knock(&api.actor(&session), &room, servers, reason)
            .await?;
    }
    Ok(knock_room::v3::Response::new(room))
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
        client.leave(&actor, &room, reason).await?;
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
    in_room(&api, &session, request.room_id, forget).await?;
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
        let mut content = RoomMemberEventContent::new(MembershipState::Invite);
        content.reason = invitee.reason;
        api.federation
            .membership_client()
            .invite(
                &api.actor(&session),
                &request.room_id,
                &invitee.user_id,
                content,
            )
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
    request: kick_user::v3::Request,
) -> Result<kick_user::v3::Response, Error> {
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
    request: ban_user::v3::Request,
) -> Result<ban_user::v3::Response, Error> {
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

/// Runs `change` with the room in a transaction.
async fn in_room<F>(api: &Api, session: &Session, room: OwnedRoomId, change: F) -> Result<(), Error>
where
    F: Fn(&Tx, &Local, &Actor, RoomNum) -> Result<(), rooms::Error> + Send + 'static,
{
    let (local, actor) = (api.local.clone(), api.actor(session));
    let write = api
        .store
        .write(move |tx| change(tx, &local, &actor, room::num(tx, &room)?));
    Ok(write.await?)
}
