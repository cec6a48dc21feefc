//! The versions of a user's backup.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    store::{self, Reader, Records, Rows, Tx, UserNum, records::Backup},
    users::{Error, Users},
};

/// Clients create one at each reset, and not all of them delete the one before.
pub(super) const MAX_BACKUPS_PER_USER: usize = 16;
/// Of all backups of a user. Somebody who is in many rooms for years has some 20,000.
pub(super) const MAX_KEYS_PER_USER: u32 = 250_000;
/// More than a user creates between a backup of the server and its end, if the clock is wrong.
const VERSIONS_PER_RESTORE: u32 = 1000;
const MAX_INFO_BYTES: usize = 32 * 1024;

pub(super) const NO_BACKUP: Error = Error::NotFound("there is no such backup");

pub(super) fn parse_version(version: &str) -> Result<u32, Error> {
    let number: u32 = version.parse().map_err(|_| NO_BACKUP)?;
    let is_canonical = number > 0 && number.to_string() == version;
    is_canonical.then_some(number).ok_or(NO_BACKUP)
}

fn latest(r: &impl Reader, user: UserNum) -> Result<Option<(u32, Backup)>, store::Error> {
    let backups = r.backups()?;
    match backups.prefix(user)?.next_back() {
        None => Ok(None),
        Some(row) => {
            let (key, backup) = row?;
            Ok(Some((key.value().1, backup.record(&key)?)))
        }
    }
}

/// The last version that the user created, deleted or not; 0 if none.
pub(super) fn last_version(r: &impl Reader, user: UserNum) -> Result<u32, store::Error> {
    let versions = r.backup_versions()?;
    Ok(versions.get(user)?.map_or(0, |row| row.value()))
}

/// For a database that is restored now: the versions that were created since are not given to other backups. They
/// follow the clock in seconds, as the same copy can be restored again.
pub fn skip_versions(tx: &Tx, now_ms: u64) -> Result<(), store::Error> {
    let of_now = u32::try_from(now_ms / 1000).unwrap_or(0);
    let mut table = tx.backup_versions()?;
    let mut last = Vec::new();
    for row in table.all()? {
        let (user, version) = row?;
        last.push((user.value(), version.value()));
    }
    for (user, version) in last {
        let behind_copy = version.saturating_add(VERSIONS_PER_RESTORE);
        table.insert(user, behind_copy.max(of_now))?;
    }
    Ok(())
}

pub(super) fn load(r: &impl Reader, user: UserNum, version: &str) -> Result<(u32, Backup), Error> {
    let number = parse_version(version)?;
    let backup = r.backups()?.load((user, number))?;
    Ok((number, backup.ok_or(NO_BACKUP)?))
}

/// The backup `version`.
///
/// # Errors
/// [`Error::WrongBackup`] if it is not the latest.
pub(super) fn load_latest(tx: &Tx, user: UserNum, version: &str) -> Result<(u32, Backup), Error> {
    let (number, backup) = load(tx, user, version)?;
    match latest(tx, user)? {
        Some((latest, _)) if latest != number => Err(Error::WrongBackup(latest)),
        _ => Ok((number, backup)),
    }
}

/// The number of keys in all backups of `user`.
pub(super) fn key_count(r: &impl Reader, user: UserNum) -> Result<u32, store::Error> {
    let mut count: u32 = 0;
    for row in r.backups()?.prefix(user)? {
        let (key, backup) = row?;
        count = count.saturating_add(backup.record(&key)?.count);
    }
    Ok(count)
}

impl Users {
    /// Creates a backup and returns its version.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::BadJson`] or [`Error::TooMany`].
    pub async fn create_backup(&self, user: UserNum, info: &RawValue) -> Result<u32, Error> {
        let info = check_info(info)?;
        self.store
            .write(move |tx| {
                if tx.backups()?.prefix(user)?.count() >= MAX_BACKUPS_PER_USER {
                    return Err(Error::TooMany(
                        "you have 16 backups of keys; delete an older one",
                    ));
                }
                let version = last_version(tx, user)?
                    .checked_add(1)
                    .ok_or(Error::TooMany("you have created too many backups of keys"))?;
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
    /// [`Error::NotFound`].
    pub fn backup(&self, user: UserNum, version: Option<&str>) -> Result<(u32, Backup), Error> {
        self.store.read(|s| match version {
            Some(version) => load(s, user, version),
            None => latest(s, user)?.ok_or(NO_BACKUP),
        })
    }

    /// Replaces the `auth_data` of a backup.
    ///
    /// # Errors
    /// [`Error::NotFound`], or [`Error::InvalidParam`] if `info` has another algorithm.
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
                    return Err(Error::InvalidParam(
                        "`algorithm` of a backup cannot change; create another backup",
                    ));
                }
                backup.info = info.clone();
                Ok(tx.backups()?.put((user, number), &backup)?)
            })
            .await
    }
}

fn check_info(info: &RawValue) -> Result<String, Error> {
    if info.get().len() > MAX_INFO_BYTES {
        return Err(Error::TooLarge(
            "the algorithm and the `auth_data` of a backup have at most 32 KiB",
        ));
    }
    algorithm(info.get()).ok_or(Error::BadJson(
        "a backup has an `algorithm` and an object `auth_data`",
    ))?;
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
