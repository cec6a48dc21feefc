//! Room summaries (client-server API, "Room Summaries").

use std::net::Ipv4Addr;

use ruma::{
    OwnedRoomId, OwnedServerName, RoomId,
    api::client::room::get_summary::v1::{Request, Response},
    room::RoomSummary,
};

use super::alias;
use crate::{
    api::{Api, Error, RemoteLookupPermit, Session, Streamed, directory::add_join_rule},
    rooms::{
        self,
        directory::{spaces, summary},
        timeline::client_event::membership_state,
    },
    store::UserNum,
};

/// `GET /_matrix/client/v1/room_summary/{roomIdOrAlias}`
pub async fn get_summary(
    api: Api,
    session: Option<Session>,
    request: Request,
) -> Result<Streamed, Error> {
    let user = session.map(|session| session.user);
    let (room, servers) = match OwnedRoomId::try_from(request.room_id_or_alias) {
        Ok(room) => (room, request.via),
        Err(alias) => {
            let _permit = match alias.server_name() == api.local.server_name() {
                true => None,
                false => Some(remote_permit(&api, user).await?),
            };
            let found = alias::resolve(&api, &alias).await?;
            (found.room_id, [request.via, found.servers].concat())
        }
    };
    let summary = summary_of(&api, user, &room, servers).await?;
    let (is_accessible, membership) = api.store.read(|s| {
        let membership = user.map(|user| spaces::membership(s, &room, user));
        Ok::<_, rooms::Error>((
            spaces::is_accessible(s, &summary, user)?,
            membership.transpose()?,
        ))
    })?;
    if !is_accessible {
        return Err(unknown());
    }
    let mut response = Response::new(summary);
    response.membership = membership.map(membership_state);
    Streamed::edited(response, add_join_rule)
}

/// Held while other servers are asked.
async fn remote_permit(api: &Api, user: Option<UserNum>) -> Result<RemoteLookupPermit, Error> {
    Ok(match user {
        Some(user) => RemoteLookupPermit::User(api.user_lookup_permit(user).await?),
        // Whatever their networks, they have one share together.
        None => {
            let network = Ipv4Addr::UNSPECIFIED.into();
            RemoteLookupPermit::Network(api.federation.guest_permit(network).await)
        }
    })
}

/// The summary from this server if it is in the room, else from one of `servers`.
async fn summary_of(
    api: &Api,
    user: Option<UserNum>,
    room: &RoomId,
    servers: Vec<OwnedServerName>,
) -> Result<RoomSummary, Error> {
    let here = api.store.read(|s| {
        let room = spaces::joined_room(s, room)?;
        room.map(|room| summary::of(s, room)).transpose()
    })?;
    if let Some(summary) = here {
        return Ok(summary);
    }
    let _permit = remote_permit(api, user).await?;
    let own = room.server_name().map(ToOwned::to_owned);
    let servers = [servers, Vec::from_iter(own)].concat();
    let spaces = api.federation.spaces();
    let hierarchy = spaces.hierarchy(room, false, &servers).await;
    hierarchy
        .map(|hierarchy| hierarchy.room.clone())
        .map_err(|_| unknown())
}

fn unknown() -> Error {
    Error::not_found("the room does not exist, or you may not see it")
}
