//! Backups of room keys (client-server API, "Server-side key backups").

use std::collections::BTreeMap;

use ruma::{
    OwnedRoomId, UInt,
    api::client::backup::{
        RoomKeyBackup, add_backup_keys, add_backup_keys_for_room, add_backup_keys_for_session,
        create_backup_version, delete_backup_keys, delete_backup_keys_for_room,
        delete_backup_keys_for_session, delete_backup_version, get_backup_info, get_backup_keys,
        get_backup_keys_for_room, get_backup_keys_for_session, get_latest_backup_info,
        update_backup_version,
    },
    serde::Raw,
};
use serde_json::Value;

use crate::{
    api::{Api, Error, Session},
    store::{self, records::Backup},
    users::backup::{self, Rooms, Which},
};

/// `POST /_matrix/client/v3/room_keys/version`
pub async fn create_backup_version(
    api: Api,
    who: Session,
    request: create_backup_version::v3::Request,
) -> Result<create_backup_version::v3::Response, Error> {
    let create = api.users.create_backup(who.user, request.algorithm.json());
    let version = create.await?.to_string();
    Ok(create_backup_version::v3::Response::new(version))
}

/// `GET /_matrix/client/v3/room_keys/version`
pub async fn get_latest_backup_info(
    api: Api,
    who: Session,
    _request: get_latest_backup_info::v3::Request,
) -> Result<get_latest_backup_info::v3::Response, Error> {
    let (version, backup) = api.users.backup(who.user, None)?;
    let (etag, count) = told(&backup);
    let info = Raw::from_json_string(backup.info).map_err(|_| NO_INFO)?;
    let version = version.to_string();
    Ok(get_latest_backup_info::v3::Response::new(
        info, count, etag, version,
    ))
}

const NO_INFO: store::Error = store::Error::Corrupt("a backup whose information is no JSON");

/// `GET /_matrix/client/v3/room_keys/version/{version}`
pub async fn get_backup_info(
    api: Api,
    who: Session,
    request: get_backup_info::v3::Request,
) -> Result<get_backup_info::v3::Response, Error> {
    let (version, backup) = api.users.backup(who.user, Some(&request.version))?;
    let (etag, count) = told(&backup);
    let info = Raw::from_json_string(backup.info).map_err(|_| NO_INFO)?;
    let version = version.to_string();
    Ok(get_backup_info::v3::Response::new(
        info, count, etag, version,
    ))
}

/// `PUT /_matrix/client/v3/room_keys/version/{version}`
pub async fn update_backup_version(
    api: Api,
    who: Session,
    request: update_backup_version::v3::Request,
) -> Result<update_backup_version::v3::Response, Error> {
    let info = request.algorithm.json();
    // What is no object at all is refused below.
    if let Ok(Some(version)) = request.algorithm.get_field::<Value>("version")
        && version != request.version
    {
        return Err(Error::invalid_param("the body is about another backup"));
    }
    let update = api.users.update_backup(who.user, request.version, info);
    update.await?;
    Ok(update_backup_version::v3::Response::new())
}

/// `DELETE /_matrix/client/v3/room_keys/version/{version}`
pub async fn delete_backup_version(
    api: Api,
    who: Session,
    request: delete_backup_version::v3::Request,
) -> Result<delete_backup_version::v3::Response, Error> {
    api.users.delete_backup(who.user, &request.version).await?;
    Ok(delete_backup_version::v3::Response::new())
}

/// The etag and the number of keys of a backup.
fn told(backup: &Backup) -> (String, UInt) {
    (backup.etag.to_string(), UInt::from(backup.count))
}

async fn keep(
    api: &Api,
    who: &Session,
    version: String,
    rooms: Rooms,
) -> Result<(String, UInt), Error> {
    let keys = backup::parse(rooms)?;
    Ok(told(&api.users.back_up(who.user, version, keys).await?))
}

/// `PUT /_matrix/client/v3/room_keys/keys`
pub async fn add_backup_keys(
    api: Api,
    who: Session,
    request: add_backup_keys::v3::Request,
) -> Result<add_backup_keys::v3::Response, Error> {
    let (etag, count) = keep(&api, &who, request.version, request.rooms).await?;
    Ok(add_backup_keys::v3::Response::new(etag, count))
}

/// `PUT /_matrix/client/v3/room_keys/keys/{roomId}`
pub async fn add_backup_keys_for_room(
    api: Api,
    who: Session,
    request: add_backup_keys_for_room::v3::Request,
) -> Result<add_backup_keys_for_room::v3::Response, Error> {
    let rooms = Rooms::from([(request.room_id, RoomKeyBackup::new(request.sessions))]);
    let (etag, count) = keep(&api, &who, request.version, rooms).await?;
    Ok(add_backup_keys_for_room::v3::Response::new(etag, count))
}

/// `PUT /_matrix/client/v3/room_keys/keys/{roomId}/{sessionId}`
pub async fn add_backup_keys_for_session(
    api: Api,
    who: Session,
    request: add_backup_keys_for_session::v3::Request,
) -> Result<add_backup_keys_for_session::v3::Response, Error> {
    let sessions = BTreeMap::from([(request.session_id, request.session_data)]);
    let rooms = Rooms::from([(request.room_id, RoomKeyBackup::new(sessions))]);
    let (etag, count) = keep(&api, &who, request.version, rooms).await?;
    Ok(add_backup_keys_for_session::v3::Response::new(etag, count))
}

/// `GET /_matrix/client/v3/room_keys/keys`
pub async fn get_backup_keys(
    api: Api,
    who: Session,
    request: get_backup_keys::v3::Request,
) -> Result<get_backup_keys::v3::Response, Error> {
    let all = Which::default();
    let rooms = api.users.backed_up(who.user, request.version, all).await?;
    Ok(get_backup_keys::v3::Response::new(rooms))
}

/// `GET /_matrix/client/v3/room_keys/keys/{roomId}`
pub async fn get_backup_keys_for_room(
    api: Api,
    who: Session,
    request: get_backup_keys_for_room::v3::Request,
) -> Result<get_backup_keys_for_room::v3::Response, Error> {
    let which = of_room(request.room_id);
    let rooms = api
        .users
        .backed_up(who.user, request.version, which)
        .await?;
    let sessions = rooms.into_values().next().map(|room| room.sessions);
    let sessions = sessions.unwrap_or_default();
    Ok(get_backup_keys_for_room::v3::Response::new(sessions))
}

/// `GET /_matrix/client/v3/room_keys/keys/{roomId}/{sessionId}`
pub async fn get_backup_keys_for_session(
    api: Api,
    who: Session,
    request: get_backup_keys_for_session::v3::Request,
) -> Result<get_backup_keys_for_session::v3::Response, Error> {
    let which = of_session(request.room_id, request.session_id);
    let rooms = api
        .users
        .backed_up(who.user, request.version, which)
        .await?;
    let mut keys = rooms.into_values().flat_map(|room| room.sessions);
    let (_, key) = keys
        .next()
        .ok_or_else(|| Error::not_found("the backup has no such key"))?;
    Ok(get_backup_keys_for_session::v3::Response::new(key))
}

fn of_room(room: OwnedRoomId) -> Which {
    Which {
        room: Some(room),
        session: None,
    }
}

fn of_session(room: OwnedRoomId, session: String) -> Which {
    Which {
        room: Some(room),
        session: Some(session),
    }
}

async fn delete(
    api: &Api,
    who: &Session,
    version: String,
    which: Which,
) -> Result<(String, UInt), Error> {
    let delete = api.users.delete_backed_up(who.user, version, which);
    Ok(told(&delete.await?))
}

/// `DELETE /_matrix/client/v3/room_keys/keys`
pub async fn delete_backup_keys(
    api: Api,
    who: Session,
    request: delete_backup_keys::v3::Request,
) -> Result<delete_backup_keys::v3::Response, Error> {
    let (etag, count) = delete(&api, &who, request.version, Which::default()).await?;
    Ok(delete_backup_keys::v3::Response::new(etag, count))
}

/// `DELETE /_matrix/client/v3/room_keys/keys/{roomId}`
pub async fn delete_backup_keys_for_room(
    api: Api,
    who: Session,
    request: delete_backup_keys_for_room::v3::Request,
) -> Result<delete_backup_keys_for_room::v3::Response, Error> {
    let which = of_room(request.room_id);
    let (etag, count) = delete(&api, &who, request.version, which).await?;
    Ok(delete_backup_keys_for_room::v3::Response::new(etag, count))
}

/// `DELETE /_matrix/client/v3/room_keys/keys/{roomId}/{sessionId}`
pub async fn delete_backup_keys_for_session(
    api: Api,
    who: Session,
    request: delete_backup_keys_for_session::v3::Request,
) -> Result<delete_backup_keys_for_session::v3::Response, Error> {
    let which = of_session(request.room_id, request.session_id);
    let (etag, count) = delete(&api, &who, request.version, which).await?;
    Ok(delete_backup_keys_for_session::v3::Response::new(
        etag, count,
    ))
}
