//! The keys of a backup: kept, read and deleted, in slices where there may be many.

use std::{collections::BTreeMap, ops::Bound};

use ruma::{OwnedRoomId, RoomId, UInt, api::client::backup::RoomKeyBackup};
use serde::{Deserialize, de::IgnoredAny};

use super::{LARGEST, LONGEST_ID, MOST_KEYS, count, current, load};
use crate::{
    store::{self, Reader, Row, Rows, Tx, UserNum, records::Backup},
    users::{Error, Users},
};

/// How many keys one job writes.
const SLICE: usize = 64;
/// How many keys one job removes.
const SLICE_REMOVED: usize = 256;
/// How many bytes of keys are read at once, but for the last of them.
const SLICE_READ: usize = 64 * 1024;

/// A key that is to be kept.
#[derive(Clone, Debug)]
pub struct NewKey {
    room: OwnedRoomId,
    session: String,
    json: String,
    rank: Rank,
}

/// How good a key is: the smaller the better.
type Rank = (bool, UInt, UInt);

/// Keys by room and session.
pub type RoomBackups = BTreeMap<OwnedRoomId, RoomKeyBackup>;

/// Checks keys that a client wants kept.
///
/// # Errors
/// [`Error::BadJson`] or [`Error::TooLarge`] if one is not what such a key is.
pub fn parse(rooms: RoomBackups) -> Result<Vec<NewKey>, Error> {
    let mut keys = Vec::new();
    for (room, backup) in rooms {
        for (session, key) in backup.sessions {
            let json = key.json().get();
            if session.len() > LONGEST_ID || json.len() > LARGEST {
                return Err(Error::TooLarge(
                    "a key of a backup may have at most 8 KiB, and the id of its session 255 bytes",
                ));
            }
            let rank = rank(json).ok_or(Error::BadJson("that is no key of a backup"))?;
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

/// What every key of a backup tells. ruma's `KeyBackupData` wants the fields of one algorithm in
/// `session_data`, and which algorithm a backup has is up to its client.
#[derive(Deserialize)]
struct Told {
    is_verified: bool,
    first_message_index: UInt,
    forwarded_count: UInt,
    #[serde(rename = "session_data")]
    _session_data: BTreeMap<String, IgnoredAny>,
}

/// Of two keys of a session that stays which is verified, else which begins earlier, else which was
/// forwarded less often. Nothing if that is no key.
fn rank(key: &str) -> Option<Rank> {
    let key: Told = serde_json::from_str(key).ok()?;
    Some((
        !key.is_verified,
        key.first_message_index,
        key.forwarded_count,
    ))
}

const FULL: Error = Error::TooMany("your backups of keys are full; delete an older one");

/// KeySelection keys of a backup.
#[derive(Clone, Debug)]
pub enum KeySelection {
    /// Every one.
    All,
    /// Those of a room.
    Room(OwnedRoomId),
    /// That of a session of a room.
    Session(OwnedRoomId, String),
}

/// A key that is kept, as its client handed it in.
#[derive(Clone, Debug)]
pub struct StoredKey {
    /// The room that it is of.
    pub room: String,
    /// The id of its session.
    pub session: String,
    /// The key, as JSON.
    pub json: String,
}

/// The room and the session behind which it goes on.
#[derive(Clone, Debug)]
pub struct Cursor(String, String);

/// Some keys of a backup. Those of a room stand together.
#[derive(Clone, Debug, Default)]
pub struct KeysPage {
    /// The keys.
    pub keys: Vec<StoredKey>,
    /// Where it goes on, if it does.
    pub next: Option<Cursor>,
}

impl Users {
    /// Keeps `keys`, where no better one is kept; the backup then.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no backup, [`Error::WrongBackup`] if `version` is not the latest,
    /// [`Error::TooMany`] if the user's backups are full.
    pub async fn add_backup_keys(
        &self,
        user: UserNum,
        version: String,
        keys: Vec<NewKey>,
    ) -> Result<Backup, Error> {
        let mut slices: Vec<Vec<NewKey>> = keys.chunks(SLICE).map(<[NewKey]>::to_vec).collect();
        let last = slices.pop().unwrap_or_default();
        for slice in slices {
            self.keep(user, version.clone(), slice).await?;
        }
        self.keep(user, version, last).await
    }

    async fn keep(
        &self,
        user: UserNum,
        version: String,
        keys: Vec<NewKey>,
    ) -> Result<Backup, Error> {
        self.store
            .write(move |tx| {
                let (number, mut backup) = current(tx, user, &version)?;
                let mut total = count(tx, user)?;
                let mut changed = false;
                let mut table = tx.backup_keys()?;
                for key in &keys {
                    let place = (user, number, key.room.as_str(), key.session.as_str());
                    let before = table.get(place)?.map(|row| rank(row.value()));
                    match before {
                        None if total >= MOST_KEYS => return Err(FULL),
                        None => {
                            backup.count += 1;
                            total += 1;
                        }
                        Some(Some(before)) if before <= key.rank => continue,
                        Some(_) => {}
                    }
                    table.insert(place, &*key.json)?;
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

    /// Some keys of a backup, those of `room` if one is given: the first ones, or those behind `after`.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such backup.
    pub async fn backup_keys(
        &self,
        user: UserNum,
        version: String,
        room: Option<OwnedRoomId>,
        after: Option<Cursor>,
    ) -> Result<KeysPage, Error> {
        self.store
            .scan("a backup of keys", move |s| {
                let (number, _) = load(s, user, &version)?;
                let table = s.backup_keys()?;
                let rows = rows(&table, (user, number), room.as_deref(), after.as_ref())?;
                Ok(slice(rows)?)
            })
            .await
    }

    /// The key of a session, as JSON.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such backup, or it has no such key.
    pub fn backup_key(
        &self,
        user: UserNum,
        version: &str,
        (room, session): (&RoomId, &str),
    ) -> Result<String, Error> {
        self.store.read(|s| {
            let (number, _) = load(s, user, version)?;
            let table = s.backup_keys()?;
            let row = table.get((user, number, room.as_str(), session))?;
            let row = row.ok_or(Error::NotFound("the backup has no such key"))?;
            Ok(row.value().to_owned())
        })
    }

    /// Deletes keys of a backup, in slices; the backup then. What is kept meanwhile may stay.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such backup.
    pub async fn delete_backup_keys(
        &self,
        user: UserNum,
        version: String,
        which: KeySelection,
    ) -> Result<Backup, Error> {
        let mut after = None;
        loop {
            let (version, which) = (version.clone(), which.clone());
            let job = move |tx: &Tx| delete_some(tx, (user, &version), &which, after.as_ref());
            let (backup, next) = self.store.write_shrinking(job).await?;
            if next.is_none() {
                return Ok(backup);
            }
            after = next;
        }
    }
}

/// Deletes some keys of a backup; the backup then, and where it goes on, if it does.
fn delete_some(
    tx: &Tx,
    (user, version): (UserNum, &str),
    which: &KeySelection,
    after: Option<&Cursor>,
) -> Result<(Backup, Option<Cursor>), Error> {
    let (number, mut backup) = load(tx, user, version)?;
    let (gone, next) = match which {
        KeySelection::All => remove_some(tx, (user, number), None, after)?,
        KeySelection::Room(room) => remove_some(tx, (user, number), Some(room), after)?,
        KeySelection::Session(room, session) => {
            let place = (user, number, room.as_str(), session.as_str());
            (u32::from(tx.backup_keys()?.remove(place)?), None)
        }
    };
    if gone > 0 {
        backup.count = backup.count.saturating_sub(gone);
        backup.etag += 1;
        tx.backups()?.put((user, number), &backup)?;
    }
    Ok((backup, next))
}

/// Removes some keys of a backup, those of `room` if one is given, behind `after` if that is; how many,
/// and where it goes on, if it does.
pub(super) fn remove_some(
    tx: &Tx,
    (user, number): (UserNum, u32),
    room: Option<&RoomId>,
    after: Option<&Cursor>,
) -> Result<(u32, Option<Cursor>), store::Error> {
    let mut table = tx.backup_keys()?;
    let mut places = Vec::new();
    for row in rows(&table, (user, number), room, after)?.take(SLICE_REMOVED) {
        let (key, _) = row?;
        let (_, _, room, session) = key.value();
        places.push(Cursor(room.to_owned(), session.to_owned()));
    }
    for Cursor(room, session) in &places {
        table.remove((user, number, &**room, &**session))?;
    }
    let gone = places.len();
    let next = places.pop().filter(|_| gone == SLICE_REMOVED);
    Ok((u32::try_from(gone).unwrap_or(u32::MAX), next))
}

type Place = (UserNum, u32, &'static str, &'static str);
type Kept<'r> = Row<'r, Place, &'static str>;

/// The keys of a backup, those of `room` if one is given, behind `after` if that is.
fn rows<'r>(
    table: &'r impl Rows<Place, &'static str>,
    (user, number): (UserNum, u32),
    room: Option<&RoomId>,
    after: Option<&Cursor>,
) -> Result<impl Iterator<Item = Result<Kept<'r>, store::Error>>, store::Error> {
    let room = room.map(RoomId::as_str);
    let start = match after {
        Some(Cursor(room, session)) => Bound::Excluded((user, number, &**room, &**session)),
        None => Bound::Included((user, number, room.unwrap_or(""), "")),
    };
    let room = room.map(str::to_owned);
    let is_meant = move |row: &Result<Kept<'_>, store::Error>| {
        let Ok((key, _)) = row else {
            return true;
        };
        let (its_user, its_number, its_room, _) = key.value();
        let is_of_room = room.as_deref().is_none_or(|room| room == its_room);
        (its_user, its_number) == (user, number) && is_of_room
    };
    let rows = table.range((start, Bound::Unbounded))?;
    Ok(rows.take_while(is_meant))
}

/// As many of `rows` as are read at once.
fn slice<'r>(
    rows: impl Iterator<Item = Result<Kept<'r>, store::Error>>,
) -> Result<KeysPage, store::Error> {
    let mut slice = KeysPage::default();
    let mut bytes = 0;
    for row in rows {
        let (key, json) = row?;
        let (_, _, room, session) = key.value();
        let json = json.value();
        bytes += room.len() + session.len() + json.len();
        slice.keys.push(StoredKey {
            room: room.to_owned(),
            session: session.to_owned(),
            json: json.to_owned(),
        });
        if bytes >= SLICE_READ {
            slice.next = Some(Cursor(room.to_owned(), session.to_owned()));
            break;
        }
    }
    Ok(slice)
}
