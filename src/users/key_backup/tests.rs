use std::collections::BTreeMap;

use ruma::{api::client::backup::RoomKeyBackup, room_id, serde::Raw};
use serde_json::json;

use super::{
    NewKey, RoomBackups, delete_pending, has_pending_deletion, keys_page, parse,
    versions::{MAX_BACKUPS_PER_USER, MAX_KEYS_PER_USER},
};
use crate::{
    store::{Effect, Reader, Records, Rows, Tx, UserNum},
    users::{
        Error,
        testing::{Server, alice_and_bob, raw, with_server},
    },
};

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
fn a_deleted_backup_is_gone_at_once_and_its_keys_are_removed_in_batches() {
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
        let page = |s: &_| keys_page(s, alice, "1", None, None);
        let gone = server.store.read(page);
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
fn the_keys_of_all_backups_of_a_user_are_bounded() {
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
            backup.count = MAX_KEYS_PER_USER - 2;
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
fn the_backups_of_a_user_are_bounded() {
    with_server(async |server| {
        let [alice, bob] = alice_and_bob(&server).await;
        for _ in 0..MAX_BACKUPS_PER_USER {
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
fn deactivation_deletes_backups() {
    with_server(async |server| {
        let [alice, bob] = alice_and_bob(&server).await;
        for (user, count) in [(alice, COUNT), (alice, 5), (bob, 7)] {
            let version = create(&server, user).await;
            let keep = server
                .users
                .add_backup_keys(user, version, some_keys(count));
            keep.await.unwrap();
        }
        server.deactivate(alice, false).await;
        let gone = server.users.backup(alice, None);
        assert!(matches!(gone, Err(Error::NotFound(_))));
        while server.store.read(has_pending_deletion).unwrap() {
            delete_pending_once(&server).await;
        }
        assert_eq!(rows(&server), 7);
    });
}
