//! Copies of the database.

use std::path::Path;

use super::{in_time, put, with_store};
use crate::store::{Copier, CopyReader, Error, Reader, Rows, Store, Tx, database_size};

/// Enough for several slices.
const ROWS: u32 = 4000;
const VALUE_BYTES: usize = 1000;

fn name(number: u32) -> String {
    format!("{number:08}")
}

/// Writes the rows in an order that leaves the pages of the database half full.
async fn fill(store: &Store) {
    let fill = |tx: &Tx| {
        let value = "x".repeat(VALUE_BYTES);
        for number in 0..ROWS {
            let mixed = number.wrapping_mul(2_654_435_761) % ROWS;
            tx.facts()?.insert(&*name(mixed), &*value)?;
            tx.facts()?.insert(&*name(number), &*value)?;
        }
        Ok::<_, Error>(())
    };
    in_time(store.write(fill)).await.unwrap();
}

fn read(path: &Path) -> CopyReader {
    let mut copy = CopyReader::open(path).unwrap();
    while copy.step().unwrap().is_some() {}
    copy
}

#[test]
fn a_copy_has_the_rows_of_its_snapshot_whatever_is_written_meanwhile() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("copy");
    with_store(async |store, _| {
        fill(store).await;
        let mut copier = Copier::begin(store.snapshot(), &path).unwrap();
        let mut slices = 0;
        while copier.step().unwrap().is_some() {
            slices += 1;
            // Behind what is copied, and before it.
            let write = move |tx: &Tx| {
                put(tx, &format!("z{slices}"))?;
                put(tx, &format!("a{slices}"))?;
                tx.facts()?.remove(&*name(ROWS - 1))
            };
            in_time(store.write(write)).await.unwrap();
        }
        assert!(slices > 2, "{slices} slices");
        let sums = copier.finish().unwrap();
        assert_eq!(sums["facts"].rows, u64::from(ROWS));
        let copy = read(&path);
        assert_eq!(copy.sums(), &sums);
        assert!(
            copy.snapshot()
                .facts()
                .unwrap()
                .has(&*name(ROWS - 1))
                .unwrap()
        );
        let size = path.metadata().unwrap().len();
        let bytes = u64::from(ROWS) * VALUE_BYTES as u64;
        // Three rows of 1,000 bytes fill a page of 4 KiB as far as possible.
        assert!(size < bytes * 3 / 2, "{size} bytes for {bytes}");
    });
}

#[test]
fn a_damaged_copy_has_other_sums_or_cannot_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("copy");
    let sums = with_store(async |store, _| {
        fill(store).await;
        let mut copier = Copier::begin(store.snapshot(), &path).unwrap();
        while copier.step().unwrap().is_some() {}
        copier.finish().unwrap()
    });
    assert_eq!(read(&path).sums(), &sums);
    let whole = std::fs::read(&path).unwrap();
    let row = name(ROWS / 2);
    let places = whole.windows(row.len()).enumerate();
    let places: Vec<_> = places
        .filter(|(_, bytes)| *bytes == row.as_bytes())
        .map(|(at, _)| at)
        .collect();
    let mut damaged = whole.clone();
    for at in &places {
        damaged[at + row.len()] ^= 1;
    }
    assert!(!places.is_empty());
    std::fs::write(&path, damaged).unwrap();
    let sums_now = CopyReader::open(&path).and_then(|mut copy| {
        while copy.step()?.is_some() {}
        Ok(copy.sums().clone())
    });
    assert!(sums_now.is_err() || sums_now.unwrap() != sums);
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    assert!(CopyReader::open(&path).is_err());
}

#[test]
fn a_copy_takes_no_more_space_than_the_database() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("copy");
    let data = tempfile::tempdir().unwrap();
    super::with_store_in(data.path(), async |store, _| {
        fill(store).await;
        let mut copier = Copier::begin(store.snapshot(), &path).unwrap();
        while copier.step().unwrap().is_some() {}
        copier.finish().unwrap();
        let (copy, database) = (path.metadata().unwrap().len(), database_size(data.path()));
        assert!(copy < database.unwrap(), "{copy} bytes");
    });
}
