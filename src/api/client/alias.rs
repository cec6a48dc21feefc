//! Room aliases (client-server API, "Room aliases").

use ruma::api::client::alias::{create_alias, delete_alias, get_alias};

use crate::{
    api::{Anyone, Api, Error, Session},
    rooms::{self, aliases},
};

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
    let room_id = api.store.read(|s| {
        let room = aliases::resolve(s, &request.room_alias)?;
        rooms::id(s, room)
    })?;
    let servers = vec![api.local.server_name().to_owned()];
    Ok(get_alias::v3::Response::new(room_id, servers))
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
