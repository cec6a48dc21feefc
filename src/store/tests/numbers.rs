//! The numbers that are given out, and the records that hold them.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Error, on_purpose, options, put, run, with_store, with_store_in};
use crate::{
    pool::Pool,
    store::{
        DeviceNum, EventNum, Packed, Position, Reader, Record, Records, RoomNum, Rows, Store, Tx,
        UserNum,
        field::{bytes_of, view_of},
        pack_before,
        table::raw,
        unpack_before,
    },
};

/// Gives out so many positions that the reserve has to be renewed several times.
async fn positions(store: &Store, count: usize) -> Vec<Position> {
    let job = move |tx: &Tx| {
        put(tx, "something")?;
        (0..count)
            .map(|_| tx.next_position())
            .collect::<Result<_, Error>>()
    };
    store.write(job).await.expect("written")
}

/// What a process finds that is started after this one was killed.
fn copy(from: &Path, to: &Path) {
    std::fs::copy(from.join("hearth.redb"), to.join("hearth.redb")).expect("copied");
}

#[test]
fn positions_grow_and_are_not_repeated_after_a_kill() {
    let directory = tempfile::tempdir().expect("a directory");
    for count in [1, 10, 4095, 4096, 4097, 10_000] {
        let killed = tempfile::tempdir().expect("a directory");
        let last = with_store_in(directory.path(), async |store, _| {
            let mut given = positions(store, count).await;
            given.extend(positions(store, 3).await);
            assert!(given.is_sorted_by(|a, b| a < b));
            copy(directory.path(), killed.path());
            given.last().copied().expect("some")
        });
        let after_close = with_store_in(directory.path(), async |store, _| {
            positions(store, 1).await[0]
        });
        assert!(after_close > last);
        let after_kill =
            with_store_in(killed.path(), async |store, _| positions(store, 1).await[0]);
        assert!(after_kill > last, "{after_kill:?} after {last:?}");
    }
}

#[test]
fn positions_of_a_failed_job_are_assigned_again() {
    with_store(async |store, _| {
        // The renewal of the reserve is undone with the job.
        let failed = store.write(|tx| {
            for _ in 0..5000 {
                tx.next_position()?;
            }
            Err::<(), _>(on_purpose())
        });
        assert!(failed.await.is_err());
        assert_eq!(positions(store, 1).await, [Position(1)]);
        let reserved = store.read(|s| s.counters()?.has("position"));
        assert!(reserved.expect("read"), "the reserve was not written");
    });
}

#[test]
fn numbers_of_deleted_events_are_not_assigned_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut last = EventNum(0);
    for _ in 0..3 {
        with_store_in(directory.path(), async |store, _| {
            // Nothing is stored under it: as if it had been deleted.
            let job = |tx: &Tx| tx.next_event();
            let next = store.write(job).await.expect("written");
            assert!(next > last, "{next:?} comes after {last:?}");
            last = next;
        });
    }
}

#[test]
fn event_numbers_continue_behind_the_events_of_a_database_without_their_counter() {
    let directory = tempfile::tempdir().expect("a directory");
    with_store_in(directory.path(), async |store, _| {
        let job = |tx: &Tx| tx.events()?.insert(EventNum(10_000), b"{}".as_slice());
        store.write(job).await.expect("written");
        assert!(!store.read(|s| s.counters()?.has("event")).expect("read"));
    });
    with_store_in(directory.path(), async |store, _| {
        let job = |tx: &Tx| tx.next_event();
        assert_eq!(store.write(job).await.expect("written"), EventNum(10_001));
    });
}

#[test]
fn a_user_keeps_its_number() {
    let directory = tempfile::tempdir().expect("a directory");
    with_store_in(directory.path(), async |store, _| {
        let numbers = store.write(|tx| {
            Ok::<_, Error>([
                tx.user_num("@a:here")?,
                tx.user_num("@b:here")?,
                tx.user_num("@a:here")?,
            ])
        });
        assert_eq!(numbers.await.expect("written"), [1, 2, 1].map(UserNum));
    });
    with_store_in(directory.path(), async |store, _| {
        let numbers =
            store.write(|tx| Ok::<_, Error>([tx.user_num("@c:here")?, tx.user_num("@b:here")?]));
        assert_eq!(numbers.await.expect("written"), [3, 2].map(UserNum));
        let name = store.read(|s| {
            let users = s.users()?;
            Ok::<_, Error>(users.get(UserNum(3))?.map(|row| row.value().to_owned()))
        });
        assert_eq!(name.expect("read").as_deref(), Some("@c:here"));
    });
}

#[test]
fn numbers_of_deleted_rooms_and_devices_are_not_assigned_again() {
    let directory = tempfile::tempdir().expect("a directory");
    for expected in 1..4 {
        with_store_in(directory.path(), async |store, _| {
            // Nothing is stored under them: as if they had been deleted.
            let numbers = store.write(|tx| Ok::<_, Error>((tx.next_room()?, tx.next_device()?)));
            let given = numbers.await.expect("written");
            assert_eq!(given, (RoomNum(expected), DeviceNum(expected)));
        });
    }
}

#[test]
fn rows_are_in_the_order_of_their_numbers() {
    with_store(async |store, _| {
        let job = |tx: &Tx| {
            let mut users = tx.users()?;
            for number in [256, 1, 65_536, 255, 2] {
                users.insert(UserNum(number), "@somebody:here")?;
            }
            let mut numbers = Vec::new();
            for row in users.range(UserNum(2)..)? {
                numbers.push(row?.0.value().0);
            }
            Ok::<_, Error>(numbers)
        };
        let numbers = store.write(job).await.expect("written");
        assert_eq!(numbers, [2, 255, 256, 65_536]);
    });
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Note {
    text: String,
    seen: Option<u64>,
}

impl Record for Note {
    const NAME: &'static str = "Note";
    const VERSION: u8 = 3;
}

fn a_note() -> Note {
    Note {
        text: "something".to_owned(),
        seen: Some(300),
    }
}

#[test]
fn a_packed_record_begins_with_its_version_and_may_be_followed_by_other_bytes() {
    let bytes = pack_before(&a_note(), b"the rest");
    assert_eq!(bytes, b"\x03\x09something\x01\xac\x02the rest");
    let (note, rest) = unpack_before::<Note>(&bytes).expect("unpacked");
    assert_eq!((note, rest), (a_note(), b"the rest".as_slice()));
}

#[test]
fn a_packed_record_of_another_version_or_length_is_corrupt() {
    let unpack = |bytes: &[u8]| view_of::<Packed<Note>>(bytes).unpack();
    let whole = pack_before(&a_note(), &[]);
    assert_eq!(unpack(&whole).expect("unpacked"), a_note());
    for version in [0, 1, 2, 4, 255] {
        let mut other = whole.clone();
        other[0] = version;
        assert!(matches!(unpack(&other), Err(Error::Corrupt(_))));
    }
    for len in 0..whole.len() {
        assert!(matches!(unpack(&whole[..len]), Err(Error::Corrupt(_))));
    }
    let longer = pack_before(&a_note(), b"x");
    assert!(matches!(unpack(&longer), Err(Error::Corrupt(_))));
}

#[test]
fn a_corrupt_record_is_an_error_with_table_and_key() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("hearth.redb");
    with_store_in(directory.path(), async |_, _| {});
    let key = (UserNum(1), "DEVICE");
    {
        // As a program would leave it that writes what this one does not know.
        let db = redb::Database::create(&file).expect("opened");
        let txn = db.begin_write().expect("begun");
        txn.open_table(raw("devices"))
            .expect("open")
            .insert(&*bytes_of::<(UserNum, &str)>(&key), &b"\xffunknown"[..])
            .expect("inserted");
        txn.commit().expect("committed");
    }
    let store = Store::open(&options(directory.path()), Pool::default()).expect("it opens");
    run(store, &super::Applied::new(), async |store| {
        let read = store.read(|s| s.devices()?.load(key));
        let error = read.expect_err("of another version");
        assert_eq!(
            error.to_string(),
            r#"the database is corrupt: row (UserNum(1), "DEVICE") of table `devices`: does not decode"#
        );
        let job = |tx: &Tx| Ok::<_, Error>(tx.devices()?.load((UserNum(1), "DEVICE"))?.is_some());
        let written = store.write(job).await;
        assert!(matches!(written, Err(Error::Corrupt(_))), "{written:?}");
    });
}
