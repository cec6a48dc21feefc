//! Room keys that clients keep here, encrypted for themselves (client-server API, "Server-side key
//! backups").
//!
//! Owns the tables `backups`, `backup_versions` and `backed_up`. A user writes to the latest backup
//! only; older ones can be read until they are deleted.

use std::collections::BTreeMap;

use ruma::{OwnedRoomId, RoomId, UInt, api::client::backup::RoomKeyBackup, serde::Raw};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

use super::{Error, Users};
use crate::store::{self, Reader, Records, Rows, Tx, UserNum, records::Backup};

/// How many backups a user can have.
const MOST: usize = 32;
/// How many keys one backup can hold.
const MOST_KEYS: u32 = 500_000;
/// How large the information about a backup can be, and one key, in bytes.
const LARGEST_INFO: usize = 32 * 1024;
const LARGEST: usize = 16 * 1024;
/// How long the id of a session can be, in bytes.
const LONGEST_ID: usize = 255;
/// How many keys one job writes.
const SLICE: usize = 64;

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

/// Which keys of a backup.
#[derive(Clone, Debug, Default)]
pub struct Which {
    /// Those of this room only.
    pub room: Option<OwnedRoomId>,
    /// That of this session only.
    pub session: Option<String>,
}

/// Keys by room and session.
pub type Rooms = BTreeMap<OwnedRoomId, RoomKeyBackup>;

/// Checks keys that a client wants kept.
///
/// # Errors
/// [`Error::BadJson`] or [`Error::TooLarge`] if one is not what such a key is.
pub fn parse(rooms: Rooms) -> Result<Vec<NewKey>, Error> {
    let mut keys = Vec::new();
    for (room, backup) in rooms {
        for (session, key) in backup.sessions {
            let json = key.json().get();
            if session.len() > LONGEST_ID || json.len() > LARGEST {
                return Err(Error::TooLarge("a key or its session id is too large"));
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

const NO_BACKUP: Error = Error::NotFound("there is no such backup");

fn parse_version(version: &str) -> Result<u32, Error> {
    let number: u32 = version.parse().map_err(|_| NO_BACKUP)?;
    let is_ours = number > 0 && number.to_string() == version;
    is_ours.then_some(number).ok_or(NO_BACKUP)
}

fn latest(r: &impl Reader, user: UserNum) -> Result<Option<(u32, Backup)>, store::Error> {
    let backups = r.backups()?;
    match backups.range((user, 0)..=(user, u32::MAX))?.next_back() {
        None => Ok(None),
        Some(row) => {
            let (key, backup) = row?;
            Ok(Some((key.value().1, backup.value().unpack()?)))
        }
    }
}

fn load(r: &impl Reader, user: UserNum, version: &str) -> Result<(u32, Backup), Error> {
    let number = parse_version(version)?;
    let backup = r.backups()?.load((user, number))?;
    Ok((number, backup.ok_or(NO_BACKUP)?))
}

/// The backup `version`, which has to be the latest.
fn current(tx: &Tx, user: UserNum, version: &str) -> Result<(u32, Backup), Error> {
    let (number, backup) = load(tx, user, version)?;
    match latest(tx, user)? {
        Some((latest, _)) if latest != number => Err(Error::WrongBackup(latest)),
        _ => Ok((number, backup)),
    }
}

impl Users {
    /// Makes a backup, the latest then; its version.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if `info` is too long, [`Error::TooMany`] if there are too many.
    pub async fn create_backup(&self, user: UserNum, info: &RawValue) -> Result<u32, Error> {
        let info = check_info(info)?;
        self.store
            .write(move |tx| {
                let range = (user, 0)..=(user, u32::MAX);
                if tx.backups()?.range(range)?.count() >= MOST {
                    return Err(Error::TooMany("you have too many backups; delete one"));
                }
                let last = tx
                    .backup_versions()?
                    .get(user)?
                    .map_or(0, |row| row.value());
                let version = last
                    .checked_add(1)
                    .ok_or(Error::TooMany("there were too many backups"))?;
                let backup = Backup {
                    info: info.clone(),
                    etag: 0,
                    count: 0,
                };
                tx.backup_versions()?.insert(user, version)?;
                tx.backups()?.put((user, version), &backup)?;
                Ok(version)
            })
            .await
    }

    /// The backup `version`, or the latest.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none.
    pub fn backup(&self, user: UserNum, version: Option<&str>) -> Result<(u32, Backup), Error> {
        self.store.read(|s| match version {
            Some(version) => load(s, user, version),
            None => latest(s, user)?.ok_or(NO_BACKUP),
        })
    }

    /// Replaces what is said about a backup.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none, [`Error::InvalidParam`] if it has another algorithm.
    pub async fn update_backup(
        &self,
        user: UserNum,
        version: String,
        info: &RawValue,
    ) -> Result<(), Error> {
        let info = check_info(info)?;
        self.store
            .write(move |tx| {
                let (number, mut backup) = load(tx, user, &version)?;
                if algorithm(&backup.info) != algorithm(&info) {
                    return Err(Error::InvalidParam("the algorithm of a backup stays"));
                }
                backup.info = info.clone();
                Ok(tx.backups()?.put((user, number), &backup)?)
            })
            .await
    }

    /// Deletes a backup with its keys; one that was deleted before is gone already.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there never was one.
    pub async fn delete_backup(&self, user: UserNum, version: &str) -> Result<(), Error> {
        let number = parse_version(version)?;
        self.store
            .write_shrinking(move |tx| {
                let last = tx
                    .backup_versions()?
                    .get(user)?
                    .map_or(0, |row| row.value());
                if number > last {
                    return Err(NO_BACKUP);
                }
                tx.backups()?.remove((user, number))?;
                Ok(tx.backed_up()?.remove_in(
                    (user, number, "", "")..(user, number + 1, "", ""),
                    |_, _| true,
                )?)
            })
            .await
    }

    /// Keeps `keys`, where no better one is kept; the backup then.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no backup, [`Error::WrongBackup`] if `version` is not the latest,
    /// [`Error::TooMany`] if it is full.
    pub async fn back_up(
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
                let mut changed = false;
                let mut table = tx.backed_up()?;
                for key in &keys {
                    let place = (user, number, key.room.as_str(), key.session.as_str());
                    let before = table.get(place)?.map(|row| rank(row.value()));
                    match before {
                        None if backup.count >= MOST_KEYS => {
                            return Err(Error::TooMany("the backup is full"));
                        }
                        None => backup.count += 1,
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

    /// The keys of a backup.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such backup.
    pub async fn backed_up(
        &self,
        user: UserNum,
        version: String,
        which: Which,
    ) -> Result<Rooms, Error> {
        self.store
            .scan("a backup of keys", move |s| {
                let (number, _) = load(s, user, &version)?;
                let mut rooms = Rooms::new();
                for row in s.backed_up()?.range(range(user, number, &which))? {
                    let (key, json) = row?;
                    let (_, _, room, session) = key.value();
                    if !which.has(room, session) {
                        continue;
                    }
                    let room = <&RoomId>::try_from(room).map_err(|_| NO_KEY)?;
                    let json =
                        Raw::from_json_string(json.value().to_owned()).map_err(|_| NO_KEY)?;
                    let room = rooms.entry(room.to_owned());
                    let room = room.or_insert_with(|| RoomKeyBackup::new(BTreeMap::new()));
                    room.sessions.insert(session.to_owned(), json);
                }
                Ok(rooms)
            })
            .await
    }

    /// Deletes keys of a backup; the backup then.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such backup.
    pub async fn delete_backed_up(
        &self,
        user: UserNum,
        version: String,
        which: Which,
    ) -> Result<Backup, Error> {
        self.store
            .write_shrinking(move |tx| {
                let (number, mut backup) = load(tx, user, &version)?;
                let mut gone = 0;
                tx.backed_up()?.remove_in(
                    range(user, number, &which),
                    |(_, _, room, session), _| {
                        let goes = which.has(room, session);
                        gone += u32::from(goes);
                        goes
                    },
                )?;
                if gone > 0 {
                    backup.count = backup.count.saturating_sub(gone);
                    backup.etag += 1;
                    tx.backups()?.put((user, number), &backup)?;
                }
                Ok(backup)
            })
            .await
    }
}

const NO_KEY: store::Error = store::Error::Corrupt("a key of a backup that is none");

impl Which {
    fn has(&self, room: &str, session: &str) -> bool {
        let of_room = self.room.as_ref().is_none_or(|wanted| wanted == room);
        of_room && self.session.as_ref().is_none_or(|wanted| wanted == session)
    }
}

type Place<'a> = (UserNum, u32, &'a str, &'a str);

/// Where the keys are that are looked for, among others perhaps.
fn range(user: UserNum, version: u32, which: &Which) -> std::ops::Range<Place<'_>> {
    match &which.room {
        None => (user, version, "", "")..(user, version + 1, "", ""),
        Some(room) => {
            let (room, session) = (room.as_str(), which.session.as_deref());
            (user, version, room, session.unwrap_or(""))..(user, version, room, BEHIND)
        }
    }
}

/// Behind every session id that is text of this world.
const BEHIND: &str = "\u{10ffff}";

fn check_info(info: &RawValue) -> Result<String, Error> {
    if info.get().len() > LARGEST_INFO {
        return Err(Error::TooLarge(
            "the information about a backup is too large",
        ));
    }
    algorithm(info.get()).ok_or(Error::BadJson("a backup has an algorithm and its data"))?;
    Ok(info.get().to_owned())
}

fn algorithm(info: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Info {
        algorithm: String,
        #[serde(rename = "auth_data")]
        _auth_data: serde_json::Map<String, serde_json::Value>,
    }
    let info: Info = serde_json::from_str(info).ok()?;
    Some(info.algorithm)
}

/// Ends all backups of `user`.
///
/// # Errors
/// If the tables cannot be written.
pub fn forget(tx: &Tx, user: UserNum) -> Result<(), store::Error> {
    tx.backups()?
        .remove_in((user, 0)..=(user, u32::MAX), |_, _| true)?;
    tx.backed_up()?.remove_in(
        (user, 0, "", "")..(UserNum(user.0 + 1), 0, "", ""),
        |_, _| true,
    )
}
