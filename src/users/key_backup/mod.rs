//! Room keys that clients keep here, encrypted for themselves (client-server API, "Server-side key
//! backups").
//!
//! Owns the tables `backups`, `backup_versions`, `backup_keys` and `pending_deletion_backups`. A user writes to the
//! latest backup only; older ones can be read until they are deleted. What is deleted is in
//! `pending_deletion_backups` until the last of its keys is removed, which is a background job of the rooms;
//! its version is not given again.

mod keys;

use serde::Deserialize;
use serde_json::value::RawValue;

pub use self::keys::{Cursor, KeySelection, KeysPage, NewKey, RoomBackups, StoredKey, parse};

use super::{Error, Users};
use crate::store::{self, Effect, Reader, Records, Rows, Tx, UserNum, records::Backup};

/// How many backups a user can have. Clients make another one at each reset, and not all of them delete
/// the one before.
const MOST: usize = 16;
/// How many keys all backups of a user can hold together. Somebody who is in many rooms for years has some
/// 20,000.
const MOST_KEYS: u32 = 250_000;
/// How large the information about a backup can be, in bytes.
const LARGEST_INFO: usize = 32 * 1024;
/// How large a key can be, in bytes: a usual one has 1,000, and another 60 for each device that passed
/// it on. So a user who means ill takes up 2 GB, and who does not some 20 MB a backup.
const LARGEST: usize = 8 * 1024;
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
                    return Err(Error::TooMany(
                        "you have too many backups of keys; delete an older one",
                    ));
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

    /// Deletes a backup. It is gone at once, its keys in a moment. One that was deleted before is gone
    /// already.
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
                Ok(delete(tx, user, number)?)
            })
            .await
    }
}

/// How many keys all backups of `user` have.
fn count(r: &impl Reader, user: UserNum) -> Result<u32, store::Error> {
    let mut count: u32 = 0;
    for row in r.backups()?.range((user, 0)..=(user, u32::MAX))? {
        count = count.saturating_add(row?.1.value().unpack()?.count);
    }
    Ok(count)
}

/// Lets a backup go, and its keys after it, which may be more than fit into one job.
fn delete(tx: &Tx, user: UserNum, number: u32) -> Result<(), store::Error> {
    if tx.backups()?.remove((user, number))? {
        tx.pending_deletion_backups()?.insert((user, number), ())?;
        tx.effect(Effect::BackgroundJob);
    }
    Ok(())
}

/// Whether [`delete_pending`] has something to do.
///
/// # Errors
/// If the table cannot be read.
pub fn has_pending_deletion(r: &impl Reader) -> Result<bool, store::Error> {
    Ok(!r.pending_deletion_backups()?.is_empty()?)
}

/// Removes some keys of a backup that was deleted, if there is one.
///
/// # Errors
/// If the tables cannot be written.
pub fn delete_pending(tx: &Tx) -> Result<(), store::Error> {
    let first = {
        let table = tx.pending_deletion_backups()?;
        let first = table.range::<(UserNum, u32)>(..)?.next().transpose()?;
        first.map(|(backup, _)| backup.value())
    };
    let Some(backup) = first else {
        return Ok(());
    };
    let (_, next) = keys::remove_some(tx, backup, None, None)?;
    if next.is_none() {
        tx.pending_deletion_backups()?.remove(backup)?;
    }
    Ok(())
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
pub fn delete_all(tx: &Tx, user: UserNum) -> Result<(), store::Error> {
    let mut numbers = Vec::new();
    for row in tx.backups()?.range((user, 0)..=(user, u32::MAX))? {
        numbers.push(row?.0.value().1);
    }
    for number in numbers {
        delete(tx, user, number)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ruma::{api::client::backup::RoomKeyBackup, room_id, serde::Raw};
    use serde_json::json;

    use super::*;
    use crate::users::testing::{Server, alice_and_bob, raw, with_server};

    /// More than fit into one job.
    const COUNT: u32 = 300;

    async fn create(server: &Server, user: UserNum) -> String {
        let info = raw(&json!({ "algorithm": "a", "auth_data": {} }));
        let version = server.users.create_backup(user, &info).await.unwrap();
        version.to_string()
    }

    fn some_keys(count: u32) -> Vec<NewKey> {
        let key = |id: u32| {
            let key = json!({
                "first_message_index": id,
                "forwarded_count": 0,
                "is_verified": false,
                "session_data": {},
            });
            (id.to_string(), Raw::new(&key).unwrap().cast_unchecked())
        };
        let sessions: BTreeMap<_, _> = (0..count).map(key).collect();
        let room = room_id!("!room:example.org").to_owned();
        parse(RoomBackups::from([(room, RoomKeyBackup::new(sessions))])).unwrap()
    }

    fn rows(server: &Server) -> u64 {
        server.store.read(|s| s.backup_keys()?.len()).unwrap()
    }

    async fn delete_pending_once(server: &Server) {
        server.store.write(delete_pending).await.unwrap();
    }

    #[test]
    fn what_is_deleted_is_gone_at_once_and_its_keys_go_in_slices() {
        with_server(async |server| {
            let [alice, bob] = alice_and_bob(&server).await;
            for user in [alice, bob] {
                for _ in 0..2 {
                    let version = create(&server, user).await;
                    let keep = server
                        .users
                        .add_backup_keys(user, version, some_keys(COUNT));
                    keep.await.unwrap();
                }
            }
            server.effects();
            server.users.delete_backup(alice, "1").await.unwrap();
            assert_eq!(server.effects(), [Effect::BackgroundJob]);
            let gone = server.users.backup(alice, Some("1"));
            assert!(matches!(gone, Err(Error::NotFound(_))));
            let gone = server
                .users
                .backup_keys(alice, "1".to_owned(), None, None)
                .await;
            assert!(matches!(gone, Err(Error::NotFound(_))));
            assert_eq!(rows(&server), 4 * u64::from(COUNT));
            delete_pending_once(&server).await;
            let left = 3 * u64::from(COUNT) + 1..4 * u64::from(COUNT);
            assert!(left.contains(&rows(&server)));
            delete_pending_once(&server).await;
            assert!(!server.store.read(has_pending_deletion).unwrap());
            assert_eq!(rows(&server), 3 * u64::from(COUNT));

            server.users.delete_backup(alice, "1").await.unwrap();
            assert!(!server.store.read(has_pending_deletion).unwrap());
        });
    }

    #[test]
    fn all_backups_of_a_user_together_have_so_many_keys_and_no_more() {
        with_server(async |server| {
            let [alice, bob] = alice_and_bob(&server).await;
            let add_keys = async |user, version, count| {
                server
                    .users
                    .add_backup_keys(user, version, some_keys(count))
                    .await
            };
            let older = create(&server, alice).await;
            add_keys(alice, older.clone(), 3).await.unwrap();
            let fill = move |tx: &Tx| {
                let mut backup = tx.backups()?.load((alice, 1))?.unwrap();
                backup.count = MOST_KEYS - 2;
                tx.backups()?.put((alice, 1), &backup)
            };
            server.store.write(fill).await.unwrap();
            let version = create(&server, alice).await;
            assert_eq!(add_keys(alice, version.clone(), 2).await.unwrap().count, 2);
            let full = add_keys(alice, version.clone(), 3).await;
            assert!(matches!(full, Err(Error::TooMany(_))));
            assert_eq!(add_keys(alice, version.clone(), 2).await.unwrap().count, 2);
            let of_bob = create(&server, bob).await;
            add_keys(bob, of_bob, 3).await.unwrap();
            server.users.delete_backup(alice, &older).await.unwrap();
            assert_eq!(add_keys(alice, version, 3).await.unwrap().count, 3);
        });
    }

    #[test]
    fn a_user_has_so_many_backups_and_no_more() {
        with_server(async |server| {
            let [alice, bob] = alice_and_bob(&server).await;
            for _ in 0..MOST {
                create(&server, alice).await;
            }
            let info = raw(&json!({ "algorithm": "a", "auth_data": {} }));
            let more = server.users.create_backup(alice, &info).await;
            assert!(matches!(more, Err(Error::TooMany(_))));
            create(&server, bob).await;
            server.users.delete_backup(alice, "1").await.unwrap();
            create(&server, alice).await;
        });
    }

    #[test]
    fn backups_end_with_the_account() {
        with_server(async |server| {
            let [alice, bob] = alice_and_bob(&server).await;
            for (user, count) in [(alice, COUNT), (alice, 5), (bob, 7)] {
                let version = create(&server, user).await;
                let keep = server
                    .users
                    .add_backup_keys(user, version, some_keys(count));
                keep.await.unwrap();
            }
            server.end(alice, false).await;
            let gone = server.users.backup(alice, None);
            assert!(matches!(gone, Err(Error::NotFound(_))));
            while server.store.read(has_pending_deletion).unwrap() {
                delete_pending_once(&server).await;
            }
            assert_eq!(rows(&server), 7);
        });
    }
}
