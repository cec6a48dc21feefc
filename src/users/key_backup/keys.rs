//! The keys of a backup: added, read and deleted, in batches where there may be many.

use std::{collections::BTreeMap, ops::Bound};

use ruma::{OwnedRoomId, RoomId, UInt, api::client::backup::RoomKeyBackup};
use serde::{Deserialize, de::IgnoredAny};

use super::versions::{MAX_KEYS_PER_USER, key_count, load, load_latest};
use crate::{
    store::{self, PIECE_BYTES, Range, Reader, Rows, Tx, UserNum, records::Backup},
    users::{Error, Users},
};

/// Keys that one job writes, and removes.
const MAX_WRITTEN_PER_JOB: usize = 64;
const MAX_REMOVED_PER_JOB: usize = 256;
/// Of one key: a usual one has 1,000, and another 60 for each device that forwarded it. So a malicious user
/// takes 2 GB of disk, and a usual one some 20 MB per backup.
const MAX_KEY_BYTES: usize = 8 * 1024;
const MAX_SESSION_ID_BYTES: usize = 255;

/// A checked key.
#[derive(Clone, Debug)]
pub struct NewKey {
    room: OwnedRoomId,
    session: String,
    json: String,
    rank: Rank,
}

/// Of two keys of a session the one with the smaller rank stays: a verified one, else the one with the smaller
/// first message index, else the one that was forwarded less often.
type Rank = (bool, UInt, UInt);

pub type RoomBackups = BTreeMap<OwnedRoomId, RoomKeyBackup>;

/// Checks uploaded keys.
///
/// # Errors
/// [`Error::BadJson`] or [`Error::TooLarge`].
pub fn parse(rooms: RoomBackups) -> Result<Vec<NewKey>, Error> {
    let mut keys = Vec::new();
    for (room, backup) in rooms {
        for (session, key) in backup.sessions {
            let json = key.json().get();
            if session.len() > MAX_SESSION_ID_BYTES || json.len() > MAX_KEY_BYTES {
                return Err(Error::TooLarge(
                    "a key of a backup has at most 8 KiB, and its session id 255 bytes",
                ));
            }
            let rank = rank(json).ok_or(Error::BadJson(
                "a key of a backup has `first_message_index`, `forwarded_count`, `is_verified` and `session_data`",
            ))?;
            keys.push(NewKey {
                room: room.clone(),
                session,
                json: json.to_owned(),
                rank,
            });
        }
    }
    Ok(keys)
}

/// The fields of every key. ruma's `KeyBackupData` requires the `session_data` of one algorithm, and a client
/// may choose another.
#[derive(Deserialize)]
struct KeyFields {
    is_verified: bool,
    first_message_index: UInt,
    forwarded_count: UInt,
    #[serde(rename = "session_data")]
    _session_data: BTreeMap<String, IgnoredAny>,
}

/// `None` if `key` is no key of a backup.
fn rank(key: &str) -> Option<Rank> {
    let key: KeyFields = serde_json::from_str(key).ok()?;
    Some((
        !key.is_verified,
        key.first_message_index,
        key.forwarded_count,
    ))
}

const FULL: Error = Error::TooMany("you have 250,000 keys in backups; delete an older backup");

#[derive(Clone, Debug)]
pub enum KeySelection {
    All,
    Room(OwnedRoomId),
    /// The key of a session of a room.
    Session(OwnedRoomId, String),
}

#[derive(Clone, Debug)]
pub struct StoredKey {
    pub room: String,
    pub session: String,
    pub json: String,
}

/// The room and the session of the last key before the next page.
#[derive(Clone, Debug)]
pub struct Cursor {
    room: String,
    session: String,
}

/// Some keys of a backup, by room and session.
#[derive(Clone, Debug, Default)]
pub struct KeysPage {
    pub keys: Vec<StoredKey>,
    pub next: Option<Cursor>,
}

impl Users {
    /// Adds `keys` where no better one is stored, and returns the changed backup.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::WrongBackup`] if `version` is not the latest, or [`Error::TooMany`].
    pub async fn add_backup_keys(
        &self,
        user: UserNum,
        version: String,
        keys: Vec<NewKey>,
    ) -> Result<Backup, Error> {
        let batches = keys.chunks(MAX_WRITTEN_PER_JOB).map(<[NewKey]>::to_vec);
        let mut batches: Vec<Vec<NewKey>> = batches.collect();
        let last = batches.pop().unwrap_or_default();
        for batch in batches {
            self.add_batch(user, version.clone(), batch).await?;
        }
        self.add_batch(user, version, last).await
    }

    async fn add_batch(
        &self,
        user: UserNum,
        version: String,
        keys: Vec<NewKey>,
    ) -> Result<Backup, Error> {
        self.store
            .write(move |tx| {
                let (number, mut backup) = load_latest(tx, user, &version)?;
                let mut total = key_count(tx, user)?;
                let mut changed = false;
                let mut table = tx.backup_keys()?;
                for key in &keys {
                    let row_key = (user, number, key.room.as_str(), key.session.as_str());
                    let before = table.get(row_key)?.map(|row| rank(row.value()));
                    match before {
                        None if total >= MAX_KEYS_PER_USER => return Err(FULL),
                        None => {
                            backup.count += 1;
                            total += 1;
                        }
                        Some(Some(before)) if before <= key.rank => continue,
                        Some(_) => {}
                    }
                    table.insert(row_key, &*key.json)?;
                    changed = true;
                }
                drop(table);
                if changed {
                    backup.etag += 1;
                    tx.backups()?.put((user, number), &backup)?;
                }
                Ok(backup)
            })
            .await
    }

    /// The key of a session, as JSON.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn backup_key(
        &self,
        user: UserNum,
        version: &str,
        room: &RoomId,
        session: &str,
    ) -> Result<String, Error> {
        self.store.read(|s| {
            let (number, _) = load(s, user, version)?;
            let table = s.backup_keys()?;
            let row = table.get((user, number, room.as_str(), session))?;
            let row = row.ok_or(Error::NotFound("the backup has no such key"))?;
            Ok(row.value().to_owned())
        })
    }

    /// Deletes keys of a backup, in batches, and returns the changed backup. Keys that are added meanwhile may
    /// stay.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn delete_backup_keys(
        &self,
        user: UserNum,
        version: String,
        which: KeySelection,
    ) -> Result<Backup, Error> {
        let mut after = None;
        loop {
            let (version, which) = (version.clone(), which.clone());
            let job = move |tx: &Tx| delete_some(tx, user, &version, &which, after.as_ref());
            let (backup, next) = self.store.write_shrinking(job).await?;
            if next.is_none() {
                return Ok(backup);
            }
            after = next;
        }
    }
}

/// Deletes some keys of a backup: the changed backup, and where to continue.
fn delete_some(
    tx: &Tx,
    user: UserNum,
    version: &str,
    which: &KeySelection,
    after: Option<&Cursor>,
) -> Result<(Backup, Option<Cursor>), Error> {
    let (number, mut backup) = load(tx, user, version)?;
    let (gone, next) = match which {
        KeySelection::All => remove_some(tx, user, number, None, after)?,
        KeySelection::Room(room) => remove_some(tx, user, number, Some(room), after)?,
        KeySelection::Session(room, session) => {
            let row_key = (user, number, room.as_str(), session.as_str());
            (u32::from(tx.backup_keys()?.remove(row_key)?), None)
        }
    };
    if gone > 0 {
        backup.count = backup.count.saturating_sub(gone);
        backup.etag += 1;
        tx.backups()?.put((user, number), &backup)?;
    }
    Ok((backup, next))
}

/// Removes some keys of a backup, of `room` if that is given, after `after`: how many, and where to continue.
pub(super) fn remove_some(
    tx: &Tx,
    user: UserNum,
    number: u32,
    room: Option<&RoomId>,
    after: Option<&Cursor>,
) -> Result<(u32, Option<Cursor>), store::Error> {
    let mut table = tx.backup_keys()?;
    let mut removed = Vec::new();
    for row in rows(&table, user, number, room, after)?.take(MAX_REMOVED_PER_JOB) {
        let (key, _) = row?;
        let (_, _, room, session) = key.value();
        removed.push(Cursor {
            room: room.to_owned(),
            session: session.to_owned(),
        });
    }
    for Cursor { room, session } in &removed {
        table.remove((user, number, &**room, &**session))?;
    }
    let gone = removed.len();
    let next = removed.pop().filter(|_| gone == MAX_REMOVED_PER_JOB);
    Ok((u32::try_from(gone).unwrap_or(u32::MAX), next))
}

type RowKey = (UserNum, u32, &'static str, &'static str);
type KeyRows<'r> = Range<'r, RowKey, &'static str>;

/// The rows of a backup, of `room` if that is given, after `after`.
fn rows<'r>(
    table: &'r impl Rows<RowKey, &'static str>,
    user: UserNum,
    number: u32,
    room: Option<&RoomId>,
    after: Option<&Cursor>,
) -> Result<KeyRows<'r>, store::Error> {
    let start = match after {
        Some(Cursor { room, session }) => Bound::Excluded((user, number, &**room, &**session)),
        None => Bound::Unbounded,
    };
    match room {
        Some(room) => table.prefix_from((user, number, room.as_str()), start),
        None => table.prefix_from((user, number), start),
    }
}

/// A page of keys, of `room` if that is given, after `after`.
///
/// # Errors
/// [`Error::NotFound`].
pub fn keys_page(
    r: &impl Reader,
    user: UserNum,
    version: &str,
    room: Option<&RoomId>,
    after: Option<&Cursor>,
) -> Result<KeysPage, Error> {
    let (number, _) = load(r, user, version)?;
    let table = r.backup_keys()?;
    Ok(page(rows(&table, user, number, room, after)?)?)
}

fn page(rows: KeyRows<'_>) -> Result<KeysPage, store::Error> {
    let mut page = KeysPage::default();
    let mut bytes = 0;
    for row in rows {
        let (key, json) = row?;
        let (_, _, room, session) = key.value();
        let json = json.value();
        bytes += room.len() + session.len() + json.len();
        page.keys.push(StoredKey {
            room: room.to_owned(),
            session: session.to_owned(),
            json: json.to_owned(),
        });
        if bytes >= PIECE_BYTES {
            page.next = Some(Cursor {
                room: room.to_owned(),
                session: session.to_owned(),
            });
            break;
        }
    }
    Ok(page)
}
