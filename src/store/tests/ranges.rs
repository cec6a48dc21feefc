//! Rows by the beginning of their keys.

use std::ops::Bound;

use super::with_store;
use crate::store::{
    Error, EventNum, Field, Position, Range, Reader, RoomNum, Rows, StateKeyNum, Tx, UserNum,
};

const NONE: (EventNum, EventNum) = (EventNum(0), EventNum(0));

/// Runs `test` in a transaction that is committed.
fn in_transaction<T: Send + 'static>(test: impl Fn(&Tx) -> Result<T, Error> + Send + 'static) -> T {
    with_store(async |store, _| store.write(test).await.expect("written"))
}

fn keys<K: Field, V: Field, T>(
    rows: Range<'_, K, V>,
    of: impl Fn(K::View<'_>) -> T,
) -> Result<Vec<T>, Error> {
    rows.map(|row| Ok(of(row?.0.value()))).collect()
}

/// Every combination of the smallest, some and the largest numbers as (room, position, state key).
fn every_change(tx: &Tx) -> Result<(), Error> {
    let mut table = tx.state_changes()?;
    for room in [0, 1, 255, 256, u32::MAX].map(RoomNum) {
        for position in [0, 7, 255, 256, u64::MAX].map(Position) {
            for key in [0, 255, u32::MAX].map(StateKeyNum) {
                table.insert((room, position, key), NONE)?;
            }
        }
    }
    Ok(())
}

#[test]
fn a_prefix_finds_the_keys_that_begin_with_it() {
    in_transaction(|tx| {
        every_change(tx)?;
        let table = tx.state_changes()?;
        for room in [0, 1, 255, 256, u32::MAX].map(RoomNum) {
            let found = keys(table.prefix(room)?, |key| key.0)?;
            assert_eq!(found, [room; 15]);
            let found = keys(table.prefix((room, Position::MAX))?, |key| (key.0, key.1))?;
            assert_eq!(found, [(room, Position::MAX); 3]);
        }
        assert_eq!(table.prefix(RoomNum(2))?.count(), 0);
        assert_eq!(table.all()?.count(), 75);
        Ok(())
    });
}

#[test]
fn a_range_behind_a_prefix_takes_in_all_keys_of_its_bounds() {
    in_transaction(|tx| {
        every_change(tx)?;
        let table = tx.state_changes()?;
        for room in [0, 255, u32::MAX].map(RoomNum) {
            let positions = |range: (Bound<u64>, Bound<u64>)| {
                let range = (range.0.map(Position), range.1.map(Position));
                let mut found = keys(table.prefix_range(room, range)?, |(of, position, _)| {
                    assert_eq!(of, room);
                    position.0
                })?;
                assert_eq!(found.len() % 3, 0);
                found.dedup();
                Ok::<_, Error>(found)
            };
            use Bound::{Excluded, Included, Unbounded};
            assert_eq!(positions((Included(7), Included(255)))?, [7, 255]);
            assert_eq!(positions((Excluded(7), Included(256)))?, [255, 256]);
            assert_eq!(positions((Excluded(255), Unbounded))?, [256, u64::MAX]);
            assert_eq!(positions((Unbounded, Excluded(255)))?, [0, 7]);
            assert_eq!(positions((Unbounded, Included(8)))?, [0, 7]);
            assert_eq!(positions((Included(257), Unbounded))?, [u64::MAX]);
            assert!(positions((Excluded(u64::MAX), Unbounded))?.is_empty());
        }
        Ok(())
    });
}

#[test]
fn a_text_is_a_prefix_of_keys_with_that_text_only() {
    in_transaction(|tx| {
        let mut table = tx.state_keys()?;
        for kind in ["", "a", "aa", "b"] {
            for state_key in ["", "a", "\u{10ffff}"] {
                table.insert((RoomNum(1), kind, state_key), StateKeyNum(0))?;
            }
        }
        for kind in ["", "a", "aa", "b"] {
            let found = keys(table.prefix((RoomNum(1), kind))?, |key| key.1.to_owned())?;
            assert_eq!(found, [kind; 3]);
        }
        Ok(())
    });
}

#[test]
fn rows_from_a_key_on_end_with_the_prefix() {
    in_transaction(|tx| {
        let mut table = tx.profiles()?;
        for user in [1, 2, u32::MAX].map(UserNum) {
            for field in ["a", "b", "c"] {
                table.insert((user, field), "null")?;
            }
        }
        for user in [1, 2, u32::MAX].map(UserNum) {
            let fields = |start| {
                let rows = table.prefix_from(user, start)?;
                keys(rows, |(of, field)| (of == user).then(|| field.to_owned()))
            };
            let some = |fields: &[&str]| -> Vec<_> {
                fields
                    .iter()
                    .map(|field| Some((*field).to_owned()))
                    .collect()
            };
            assert_eq!(fields(Bound::Unbounded)?, some(&["a", "b", "c"]));
            assert_eq!(fields(Bound::Included((user, "b")))?, some(&["b", "c"]));
            assert_eq!(fields(Bound::Excluded((user, "b")))?, some(&["c"]));
        }
        Ok(())
    });
}

#[test]
fn each_first_part_is_found_once() {
    in_transaction(|tx| {
        assert_eq!(tx.state_changes()?.first_parts::<RoomNum>()?, []);
        every_change(tx)?;
        let rooms: Vec<RoomNum> = tx.state_changes()?.first_parts()?;
        assert_eq!(rooms, [0, 1, 255, 256, u32::MAX].map(RoomNum));
        Ok(())
    });
}

#[test]
fn removing_a_prefix_leaves_the_keys_next_to_it() {
    in_transaction(|tx| {
        let mut table = tx.profiles()?;
        for user in [1, 2, 3, u32::MAX].map(UserNum) {
            for field in ["", "avatar_url", "\u{10ffff}"] {
                table.insert((user, field), "null")?;
            }
        }
        table.remove_prefix(UserNum(2))?;
        table.remove_prefix(UserNum::MAX)?;
        let left = keys(table.all()?, |key| key.0.0)?;
        assert_eq!(left, [1, 1, 1, 3, 3, 3]);
        Ok(())
    });
}
