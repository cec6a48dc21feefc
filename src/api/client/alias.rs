//! Room aliases (client-server API, "Room aliases").

use ruma::{
    RoomAliasId,
    api::{
        client::alias::{create_alias, delete_alias, get_alias},
        federation::query::get_room_information,
    },
};

use crate::{
    api::{Api, Error, Session, Unauthenticated},
    rooms::{directory::aliases, room},
    store::Tx,
};

/// `PUT /_matrix/client/v3/directory/room/{roomAlias}`
pub async fn create_alias(
    api: Api,
    session: Session,
    request: create_alias::v3::Request,
) -> Result<create_alias::v3::Response, Error> {
    let (local, actor) = (api.local.clone(), api.actor(&session));
    let write = api.store.write(move |tx| {
        let room = room::num(tx, &request.room_id)?;
        aliases::create(tx, &local, &actor, &request.room_alias, room)
    });
    write.await?;
    Ok(create_alias::v3::Response::new())
}

/// `GET /_matrix/client/v3/directory/room/{roomAlias}`
pub async fn get_alias(
    api: Api,
    client: Unauthenticated,
    request: get_alias::v3::Request,
) -> Result<get_alias::v3::Response, Error> {
    let _permit = if api.federation.allows(request.room_alias.server_name()) {
        Some(api.remote_lookup_permit(client).await?)
    } else {
        None
    };
    resolve(&api, &request.room_alias).await
}

/// Resolves an alias, by asking its server if that is another.
pub(super) async fn resolve(
    api: &Api,
    alias: &RoomAliasId,
) -> Result<get_alias::v3::Response, Error> {
    if api.federation.allows(alias.server_name()) {
        let request = get_room_information::v1::Request::new(alias.to_owned());
        let found = api
            .federation
            .client()
            .send(alias.server_name(), request)
            .await?;
        return Ok(get_alias::v3::Response::new(found.room_id, found.servers));
    }
    let found = |s: &_| aliases::look_up(s, &api.local, alias);
    let (room_id, servers) = api.store.read(found)?;
    Ok(get_alias::v3::Response::new(room_id, servers))
}

/// `DELETE /_matrix/client/v3/directory/room/{roomAlias}`
pub async fn delete_alias(
    api: Api,
    session: Session,
    request: delete_alias::v3::Request,
) -> Result<delete_alias::v3::Response, Error> {
    let (local, actor) = (api.local.clone(), api.actor(&session));
    let remove = move |tx: &Tx| aliases::remove(tx, &local, &actor, &request.room_alias);
    api.write_events(remove).await?;
    Ok(delete_alias::v3::Response::new())
}
