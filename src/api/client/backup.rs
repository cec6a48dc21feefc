//! Backups of room keys (client-server API, "Server-side key backups").

use std::collections::BTreeMap;

use ruma::{
    OwnedRoomId, UInt,
    api::client::backup::{
        BackupAlgorithm, RoomKeyBackup, add_backup_keys, add_backup_keys_for_room,
        add_backup_keys_for_session, create_backup_version, delete_backup_keys,
        delete_backup_keys_for_room, delete_backup_keys_for_session, delete_backup_version,
        get_backup_info, get_backup_keys, get_backup_keys_for_room, get_backup_keys_for_session,
        get_latest_backup_info, update_backup_version,
    },
    serde::Raw,
};
use serde_json::Value;

use crate::{
    api::{Api, Error, Session, Streamed},
    pool::Kind,
    store::{self, Pieces, Snapshot, UserNum, records::Backup},
    users::{
        self,
        key_backup::{self, Cursor, KeySelection, KeysPage, RoomBackups, StoredKey, keys_page},
    },
};

/// `POST /_matrix/client/v3/room_keys/version`
pub async fn create_backup_version(
    api: Api,
    session: Session,
    request: create_backup_version::v3::Request,
) -> Result<create_backup_version::v3::Response, Error> {
    let create = api
        .users
        .create_backup(session.user, request.algorithm.json());
    let version = create.await?.to_string();
    Ok(create_backup_version::v3::Response::new(version))
}

/// `GET /_matrix/client/v3/room_keys/version`
pub async fn get_latest_backup_info(
    api: Api,
    session: Session,
    _request: get_latest_backup_info::v3::Request,
) -> Result<get_latest_backup_info::v3::Response, Error> {
    let (info, count, etag, version) = backup_info(&api, &session, None)?;
    Ok(get_latest_backup_info::v3::Response::new(
        info, count, etag, version,
    ))
}

/// `GET /_matrix/client/v3/room_keys/version/{version}`
pub async fn get_backup_info(
    api: Api,
    session: Session,
    request: get_backup_info::v3::Request,
) -> Result<get_backup_info::v3::Response, Error> {
    let (info, count, etag, version) = backup_info(&api, &session, Some(&request.version))?;
    Ok(get_backup_info::v3::Response::new(
        info, count, etag, version,
    ))
}

/// The backup `version`, or the latest: its algorithm, number of keys, entity tag and version.
fn backup_info(
    api: &Api,
    session: &Session,
    version: Option<&str>,
) -> Result<(Raw<BackupAlgorithm>, UInt, String, String), Error> {
    let (version, backup) = api.users.backup(session.user, version)?;
    let (etag, count) = etag_and_count(&backup);
    let info = Raw::from_json_string(backup.info)
        .map_err(|_| store::Error::corrupt("backups", (session.user, version), "not JSON"))?;
    Ok((info, count, etag, version.to_string()))
}

/// `PUT /_matrix/client/v3/room_keys/version/{version}`
pub async fn update_backup_version(
    api: Api,
    session: Session,
    request: update_backup_version::v3::Request,
) -> Result<update_backup_version::v3::Response, Error> {
    let info = request.algorithm.json();
    // A body that is not an object is refused below.
    if let Ok(Some(version)) = request.algorithm.get_field::<Value>("version")
        && version != request.version
    {
        return Err(Error::invalid_param(
            "version in the body differs from the version in the path",
        ));
    }
    let update = api.users.update_backup(session.user, request.version, info);
    update.await?;
    Ok(update_backup_version::v3::Response::new())
}

/// `DELETE /_matrix/client/v3/room_keys/version/{version}`
pub async fn delete_backup_version(
    api: Api,
    session: Session,
    request: delete_backup_version::v3::Request,
) -> Result<delete_backup_version::v3::Response, Error> {
    api.users
        .delete_backup(session.user, &request.version)
        .await?;
    Ok(delete_backup_version::v3::Response::new())
}

fn etag_and_count(backup: &Backup) -> (String, UInt) {
    (backup.etag.to_string(), UInt::from(backup.count))
}

async fn store_keys(
    api: &Api,
    session: &Session,
    version: String,
    rooms: RoomBackups,
) -> Result<(String, UInt), Error> {
    // These may be thousands.
    let parse = move || key_backup::parse(rooms);
    let keys = api.pool.run(Kind::Parse, parse).await??;
    Ok(etag_and_count(
        &api.users
            .add_backup_keys(session.user, version, keys)
            .await?,
    ))
}

/// `PUT /_matrix/client/v3/room_keys/keys`
pub async fn add_backup_keys(
    api: Api,
    session: Session,
    request: add_backup_keys::v3::Request,
) -> Result<add_backup_keys::v3::Response, Error> {
    let (etag, count) = store_keys(&api, &session, request.version, request.rooms).await?;
    Ok(add_backup_keys::v3::Response::new(etag, count))
}

/// `PUT /_matrix/client/v3/room_keys/keys/{roomId}`
pub async fn add_backup_keys_for_room(
    api: Api,
    session: Session,
    request: add_backup_keys_for_room::v3::Request,
) -> Result<add_backup_keys_for_room::v3::Response, Error> {
    let rooms = RoomBackups::from([(request.room_id, RoomKeyBackup::new(request.sessions))]);
    let (etag, count) = store_keys(&api, &session, request.version, rooms).await?;
    Ok(add_backup_keys_for_room::v3::Response::new(etag, count))
}

/// `PUT /_matrix/client/v3/room_keys/keys/{roomId}/{sessionId}`
pub async fn add_backup_keys_for_session(
    api: Api,
    session: Session,
    request: add_backup_keys_for_session::v3::Request,
) -> Result<add_backup_keys_for_session::v3::Response, Error> {
    let sessions = BTreeMap::from([(request.session_id, request.session_data)]);
    let rooms = RoomBackups::from([(request.room_id, RoomKeyBackup::new(sessions))]);
    let (etag, count) = store_keys(&api, &session, request.version, rooms).await?;
    Ok(add_backup_keys_for_session::v3::Response::new(etag, count))
}

/// `GET /_matrix/client/v3/room_keys/keys`
pub async fn get_backup_keys(
    api: Api,
    session: Session,
    request: get_backup_keys::v3::Request,
) -> Result<Streamed, Error> {
    stream_keys(api, session.user, request.version, None).await
}

/// `GET /_matrix/client/v3/room_keys/keys/{roomId}`
pub async fn get_backup_keys_for_room(
    api: Api,
    session: Session,
    request: get_backup_keys_for_room::v3::Request,
) -> Result<Streamed, Error> {
    stream_keys(api, session.user, request.version, Some(request.room_id)).await
}

/// The keys of a backup, or of `room` in it. The response breaks off if the backup is deleted meanwhile, so
/// that no client takes it for complete.
async fn stream_keys(
    api: Api,
    user: UserNum,
    version: String,
    room: Option<OwnedRoomId>,
) -> Result<Streamed, Error> {
    let keys = BackupKeys {
        writer: KeyWriter::new(room.is_some()),
        user,
        version,
        room,
        after: None,
        is_complete: false,
    };
    Streamed::read(&api.store, keys).await
}

/// What has not been read yet of a backup.
struct BackupKeys {
    writer: KeyWriter,
    user: UserNum,
    version: String,
    room: Option<OwnedRoomId>,
    after: Option<Cursor>,
    is_complete: bool,
}

impl Pieces for BackupKeys {
    type Error = users::Error;
    const NAME: &'static str = "a backup of keys";

    fn is_complete(&self) -> bool {
        self.is_complete
    }

    fn next_piece(&mut self, s: &Snapshot) -> Result<Vec<u8>, users::Error> {
        let (room, after) = (self.room.as_deref(), self.after.as_ref());
        let KeysPage { keys, next } = keys_page(s, self.user, &self.version, room, after)?;
        self.is_complete = next.is_none();
        self.after = next;
        Ok(self.writer.batch(&keys, self.is_complete))
    }
}

/// Writes a response batch by batch, with the keys as the JSON that is stored.
#[derive(Debug)]
struct KeyWriter {
    /// Whether the response is the `sessions` of one room.
    is_of_room: bool,
    /// The room of the last key.
    room: Option<String>,
    has_begun: bool,
}

impl KeyWriter {
    fn new(is_of_room: bool) -> Self {
        Self {
            is_of_room,
            room: None,
            has_begun: false,
        }
    }

    /// The next batch; `is_last` closes the response.
    fn batch(&mut self, keys: &[StoredKey], is_last: bool) -> Vec<u8> {
        let mut out = String::new();
        if !self.has_begun {
            out.push_str(if self.is_of_room {
                r#"{"sessions":{"#
            } else {
                r#"{"rooms":{"#
            });
            self.has_begun = true;
        }
        for key in keys {
            self.key(key, &mut out);
        }
        if is_last {
            let in_a_room = !self.is_of_room && self.room.is_some();
            out.push_str(if in_a_room { "}}}}" } else { "}}" });
        }
        out.into_bytes()
    }

    fn key(&mut self, key: &StoredKey, out: &mut String) {
        if self.room.as_ref() == Some(&key.room) {
            out.push(',');
        } else {
            if !self.is_of_room {
                let close = if self.room.is_some() { "}}," } else { "" };
                let room = Value::from(&*key.room);
                out.push_str(&format!(r#"{close}{room}:{{"sessions":{{"#));
            }
            self.room = Some(key.room.clone());
        }
        let session = Value::from(&*key.session);
        out.push_str(&format!("{session}:{}", key.json));
    }
}

/// `GET /_matrix/client/v3/room_keys/keys/{roomId}/{sessionId}`
pub async fn get_backup_keys_for_session(
    api: Api,
    session: Session,
    request: get_backup_keys_for_session::v3::Request,
) -> Result<get_backup_keys_for_session::v3::Response, Error> {
    let key = api.users.backup_key(
        session.user,
        &request.version,
        &request.room_id,
        &request.session_id,
    )?;
    let key = Raw::from_json_string(key).map_err(|_| {
        store::Error::corrupt(
            "backup_keys",
            (session.user, &request.session_id),
            "not JSON",
        )
    })?;
    Ok(get_backup_keys_for_session::v3::Response::new(key))
}

async fn delete(
    api: &Api,
    session: &Session,
    version: String,
    which: KeySelection,
) -> Result<(String, UInt), Error> {
    let delete = api.users.delete_backup_keys(session.user, version, which);
    Ok(etag_and_count(&delete.await?))
}

/// `DELETE /_matrix/client/v3/room_keys/keys`
pub async fn delete_backup_keys(
    api: Api,
    session: Session,
    request: delete_backup_keys::v3::Request,
) -> Result<delete_backup_keys::v3::Response, Error> {
    let (etag, count) = delete(&api, &session, request.version, KeySelection::All).await?;
    Ok(delete_backup_keys::v3::Response::new(etag, count))
}

/// `DELETE /_matrix/client/v3/room_keys/keys/{roomId}`
pub async fn delete_backup_keys_for_room(
    api: Api,
    session: Session,
    request: delete_backup_keys_for_room::v3::Request,
) -> Result<delete_backup_keys_for_room::v3::Response, Error> {
    let which = KeySelection::Room(request.room_id);
    let (etag, count) = delete(&api, &session, request.version, which).await?;
    Ok(delete_backup_keys_for_room::v3::Response::new(etag, count))
}

/// `DELETE /_matrix/client/v3/room_keys/keys/{roomId}/{sessionId}`
pub async fn delete_backup_keys_for_session(
    api: Api,
    session: Session,
    request: delete_backup_keys_for_session::v3::Request,
) -> Result<delete_backup_keys_for_session::v3::Response, Error> {
    let which = KeySelection::Session(request.room_id, request.session_id);
    let (etag, count) = delete(&api, &session, request.version, which).await?;
    Ok(delete_backup_keys_for_session::v3::Response::new(
        etag, count,
    ))
}
