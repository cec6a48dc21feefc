//! Tables of an older hearth come to this one's versions, whole or not at all.

use std::io;

use rand::{SeedableRng, rngs::StdRng};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};

use super::fake_disk::{Call, FakeDisk, Fault};
use crate::store::{
    Error, Field, TableInfo,
    migrations::{Migration, run_for, stored_versions},
    table::raw,
};

/// Version 1: a pet → what it says.
const SAYINGS: TableDefinition<&str, &str> = TableDefinition::new("pets");
/// Version 2: a pet → the length of that. In version 3 it is doubled.
const LENGTHS: TableDefinition<&str, u64> = TableDefinition::new("pets");
const OTHERS: TableDefinition<u32, u32> = TableDefinition::new("others");

const STEPS: &[Migration] = &[
    Migration {
        table: "pets",
        from: 2,
        step: double,
    },
    Migration {
        table: "pets",
        from: 1,
        step: count_bytes,
    },
];

fn count_bytes(txn: &WriteTransaction) -> Result<(), Error> {
    let mut rows = Vec::new();
    for row in txn.open_table(SAYINGS)?.iter()? {
        let (pet, says) = row?;
        rows.push((pet.value().to_owned(), says.value().len() as u64));
    }
    txn.delete_table(SAYINGS)?;
    let mut pets = txn.open_table(LENGTHS)?;
    for (pet, lengths) in rows {
        pets.insert(&*pet, lengths)?;
    }
    Ok(())
}

fn double(txn: &WriteTransaction) -> Result<(), Error> {
    let mut pets = txn.open_table(LENGTHS)?;
    let mut rows = Vec::new();
    for row in pets.iter()? {
        let (pet, lengths) = row?;
        rows.push((pet.value().to_owned(), lengths.value()));
    }
    for (pet, lengths) in rows {
        pets.insert(&*pet, 2 * lengths)?;
    }
    Ok(())
}

fn table(name: &'static str, version: u32) -> TableInfo {
    TableInfo {
        name,
        version,
        first_key_part: <&'static str as Field>::first_part,
    }
}

/// What a hearth that knew `pets` in version 1 left behind.
fn database_at_1() -> FakeDisk {
    let disk = FakeDisk::default();
    let db = open(&disk).expect("it opens");
    migrate(&db, 1).expect("a new table needs no step");
    let txn = db.begin_write().expect("begun");
    {
        let mut pets = txn.open_table(SAYINGS).expect("open");
        pets.insert("cat", "meow").expect("inserted");
        pets.insert("dog", "woof!").expect("inserted");
    }
    txn.commit().expect("committed");
    db.close().expect("closed");
    disk
}

fn open(disk: &FakeDisk) -> Result<Database, Error> {
    Ok(Database::builder().create_with_backend(disk.clone())?)
}

fn migrate(db: &Database, version: u32) -> Result<(), Error> {
    let make = |txn: &WriteTransaction| {
        if version == 1 {
            txn.open_table(SAYINGS)?;
        } else {
            txn.open_table(LENGTHS)?;
        }
        Ok(())
    };
    run_for(db, &[table("pets", version)], STEPS, make)
}

fn version_of_pets(db: &Database) -> u32 {
    let txn = db.begin_write().expect("begun");
    stored_versions(&txn).expect("read")["pets"]
}

fn lengths(db: &Database) -> Vec<(String, u64)> {
    let txn = db.begin_read().expect("begun");
    let pets = txn.open_table(LENGTHS).expect("of version 2 or 3");
    let rows = pets.iter().expect("read").map(|row| {
        let (pet, lengths) = row.expect("read");
        (pet.value().to_owned(), lengths.value())
    });
    rows.collect()
}

fn sayings(db: &Database) -> Vec<String> {
    let txn = db.begin_read().expect("begun");
    let pets = txn.open_table(SAYINGS).expect("of version 1");
    let rows = pets
        .iter()
        .expect("read")
        .map(|row| row.expect("read").1.value().to_owned());
    rows.collect()
}

fn rows(of: &[(&str, u64)]) -> Vec<(String, u64)> {
    of.iter().map(|(pet, n)| ((*pet).to_owned(), *n)).collect()
}

#[test]
fn a_table_is_migrated_with_its_rows() {
    let db = open(&database_at_1()).expect("it opens");
    migrate(&db, 2).expect("migrated");
    assert_eq!(version_of_pets(&db), 2);
    assert_eq!(lengths(&db), rows(&[("cat", 4), ("dog", 5)]));
}

#[test]
fn several_migrations_of_a_table_run_in_order() {
    let db = open(&database_at_1()).expect("it opens");
    migrate(&db, 3).expect("migrated");
    assert_eq!(version_of_pets(&db), 3);
    assert_eq!(lengths(&db), rows(&[("cat", 8), ("dog", 10)]));
}

#[test]
fn a_database_with_typed_tables_is_refused_as_too_old() {
    const TYPED: TableDefinition<&str, u32> = TableDefinition::new("table_versions");
    let db = open(&FakeDisk::default()).expect("it opens");
    let txn = db.begin_write().expect("begun");
    txn.open_table(TYPED)
        .expect("open")
        .insert("pets", 1)
        .expect("inserted");
    txn.commit().expect("committed");
    let refused = migrate(&db, 2);
    assert!(matches!(refused, Err(Error::TooOld)), "{refused:?}");
}

#[test]
fn a_database_of_an_older_format_is_refused_with_what_the_owner_should_do() {
    for older in [None, Some(0_u32)] {
        let db = open(&database_at_1()).expect("it opens");
        let txn = db.begin_write().expect("begun");
        {
            let mut versions = txn.open_table(raw("table_versions")).expect("open");
            match older {
                None => versions.remove(&b"database"[..]).expect("removed"),
                Some(format) => {
                    let row = versions.insert(&b"database"[..], &format.to_be_bytes()[..]);
                    row.expect("inserted")
                }
            };
        }
        txn.commit().expect("committed");
        let refused = migrate(&db, 1).expect_err("it is older");
        assert_eq!(
            refused.to_string(),
            "this database was written by a pre-release version of hearth and cannot be converted: \
             move the files in `data_dir` away, or set `data_dir` to an empty directory"
        );
        assert_eq!(sayings(&db), ["meow", "woof!"]);
    }
}

#[test]
fn a_migration_runs_once() {
    let db = open(&database_at_1()).expect("it opens");
    migrate(&db, 3).expect("migrated");
    migrate(&db, 3).expect("nothing to do");
    assert_eq!(lengths(&db), rows(&[("cat", 8), ("dog", 10)]));
}

#[test]
fn a_new_table_is_created_beside_the_others() {
    let db = open(&database_at_1()).expect("it opens");
    let tables = [table("pets", 1), table("others", 4)];
    let make = |txn: &WriteTransaction| {
        txn.open_table(SAYINGS)?;
        txn.open_table(OTHERS)?;
        Ok(())
    };
    run_for(&db, &tables, STEPS, make).expect("made");
    assert_eq!(sayings(&db), ["meow", "woof!"]);
    assert!(db.begin_read().expect("begun").open_table(OTHERS).is_ok());
}

#[test]
fn a_table_of_a_newer_hearth_is_refused_with_what_the_owner_should_do() {
    let db = open(&database_at_1()).expect("it opens");
    migrate(&db, 3).expect("migrated");
    let refused = migrate(&db, 2).expect_err("it is newer");
    assert_eq!(
        refused.to_string(),
        "a newer hearth has written this database (its table `pets` has version 3): start that \
         hearth again"
    );
    assert_eq!(lengths(&db), rows(&[("cat", 8), ("dog", 10)]));
}

#[test]
fn a_table_that_only_a_newer_hearth_knows_is_refused() {
    let db = open(&database_at_1()).expect("it opens");
    let refused = run_for(&db, &[], STEPS, |_| Ok(())).expect_err("nobody would keep it right");
    assert!(matches!(refused, Error::TooNew { table, stored: 1 } if *table == *"pets"));
}

#[test]
fn a_table_without_a_migration_to_its_version_is_refused() {
    let db = open(&database_at_1()).expect("it opens");
    let refused = migrate(&db, 4).expect_err("there is no step from 3");
    assert!(matches!(refused, Error::TooOld));
    assert_eq!(version_of_pets(&db), 1);
    assert_eq!(sayings(&db), ["meow", "woof!"]);
}

#[test]
fn a_power_cut_during_a_migration_leaves_the_old_or_the_new_tables() {
    let (mut old, mut new) = (0, 0);
    for calls in 0.. {
        let disk = database_at_1();
        let db = open(&disk).expect("it opens");
        disk.fail(Fault {
            after: calls,
            on: Call::Any,
            error: io::ErrorKind::Other,
            lasting: true,
        });
        let done = migrate(&db, 3).is_ok();
        drop(db);
        let mut random = StdRng::seed_from_u64(calls);
        let db = open(&disk.after_power_cut(&mut random)).expect("it opens after a power cut");
        match version_of_pets(&db) {
            1 => {
                assert!(!done);
                old += 1;
                assert_eq!(sayings(&db), ["meow", "woof!"]);
                migrate(&db, 3).expect("migrated the next time");
            }
            3 => new += 1,
            other => panic!("left at version {other}"),
        }
        assert_eq!(lengths(&db), rows(&[("cat", 8), ("dog", 10)]));
        if done {
            break;
        }
    }
    assert!(old > 5 && new > 0, "old {old}, new {new}");
}
