//! Room keys that clients keep here, encrypted for themselves (client-server API, "Server-side key
//! backups").
//!
//! Owns the tables `backups`, `backup_versions` and `backed_up`. A user writes to the latest backup
//! only; older ones can be read until they are deleted.

mod keys;

use serde::Deserialize;
use serde_json::value::RawValue;

pub use self::keys::{Cursor, KeptKey, NewKey, Rooms, Slice, Which, parse};

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
}

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
