//! Room aliases (client-server API, "Room aliases").

use ruma::{
    RoomAliasId,
    api::{
        client::alias::{create_alias, delete_alias, get_alias},
        federation::query::get_room_information,
    },
};

use crate::{
    api::{Anyone, Api, Error, Session},
    rooms::{self, aliases, servers},
};

/// How many other servers are named that are in a room.
const SERVERS: usize = 20;

/// `PUT /_matrix/client/v3/directory/room/{roomAlias}`
pub async fn create_alias(
    api: Api,
    who: Session,
    request: create_alias::v3::Request,
) -> Result<create_alias::v3::Response, Error> {
    let (local, actor) = (api.local.clone(), api.actor(&who));
    let write = api.store.write(move |tx| {
        let room = rooms::num(tx, &request.room_id)?;
        aliases::create(tx, &local, &actor, &request.room_alias, room)
    });
    write.await?;
    Ok(create_alias::v3::Response::new())
}

/// `GET /_matrix/client/v3/directory/room/{roomAlias}`
pub async fn get_alias(
    api: Api,
    _who: Anyone,
    request: get_alias::v3::Request,
) -> Result<get_alias::v3::Response, Error> {
    find(&api, &request.room_alias).await
}

/// The room that an alias names, here or on its server.
pub(super) async fn find(api: &Api, alias: &RoomAliasId) -> Result<get_alias::v3::Response, Error> {
    if api.federation.allows(alias.server_name()) {
        let request = get_room_information::v1::Request::new(alias.to_owned());
        let found = api
            .federation
            .client()
            .send(alias.server_name(), request)
            .await?;
        return Ok(get_alias::v3::Response::new(found.room_id, found.servers));
    }
    let (room_id, others) = api.store.read(|s| {
        let room = aliases::resolve(s, alias)?;
        Ok::<_, rooms::Error>((rooms::id(s, room)?, servers::names(s, room)?))
    })?;
    let own = api.local.server_name().to_owned();
    let servers = [own].into_iter().chain(others.into_iter().take(SERVERS));
    Ok(get_alias::v3::Response::new(room_id, servers.collect()))
}

/// `DELETE /_matrix/client/v3/directory/room/{roomAlias}`
pub async fn delete_alias(
    api: Api,
    who: Session,
    request: delete_alias::v3::Request,
) -> Result<delete_alias::v3::Response, Error> {
    let (local, actor) = (api.local.clone(), api.actor(&who));
    let write = api
        .store
        .write(move |tx| aliases::remove(tx, &local, &actor, &request.room_alias));
    write.await?;
    Ok(delete_alias::v3::Response::new())
}
