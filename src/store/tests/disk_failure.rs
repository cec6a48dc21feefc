//! A disk that fails, is full, or is slow, and what the store makes of it.

use std::{
    io,
    path::Path,
    pin::pin,
    time::{Duration, Instant},
};

use smol::{Timer, future::poll_once};

use super::{
    Applied, Error, database,
    fake_disk::{Call, FakeDisk, Fault},
    in_time, note, noted, options, run, with_store_in,
};
use crate::{
    pool::Pool,
    store::{Effect, Reader, Rows, Store, disk::Disk},
};

const MARK: &str = "DISK-FAILED.txt";
const BALLAST: &str = "ballast";

/// Runs `test` with a store on `disk`, with one fact noted, in `directory`.
fn on_disk(disk: &FakeDisk, directory: &Path, test: impl AsyncFnOnce(&Store, &Applied)) {
    let store = Store::open_disk(
        Disk::new(&options(directory), disk.clone()),
        Pool::default(),
    )
    .expect("the store opens");
    let applied = Applied::new();
    run(store, &applied, async |store| {
        in_time(store.write(note("first"))).await.expect("written");
        test(store, &applied).await;
    });
}

/// Whether a fact can be read that is too large to be kept in memory.
fn reads_large(store: &Store) -> Result<bool, Error> {
    store.read(|s| {
        let facts = s.facts()?;
        let row = facts.get("large")?;
        Ok(row.is_some_and(|row| row.value().len() == LARGE))
    })
}

/// Larger than the cache of the tests' stores.
const LARGE: usize = 6 << 20;

/// Notes what [`reads_large`] reads.
async fn write_large(store: &Store) -> Result<(), Error> {
    let value = "x".repeat(LARGE);
    in_time(store.write(move |tx| tx.facts()?.insert("large", &*value))).await
}

/// A fault of the next call.
fn once(on: Call) -> Fault {
    Fault {
        after: 0,
        on,
        error: io::ErrorKind::Other,
        lasting: false,
    }
}

/// Waits until `done`.
async fn until(mut done: impl FnMut() -> bool) {
    in_time(async {
        while !done() {
            Timer::after(Duration::from_millis(5)).await;
        }
    })
    .await;
}

async fn reopened(applied: &Applied) {
    until(|| applied.all().contains(&Effect::Reopened)).await;
}

#[test]
fn after_a_failed_write_the_store_reopens_with_all_acknowledged_jobs() {
    let disk = FakeDisk::default();
    let directory = tempfile::tempdir().expect("a directory");
    on_disk(&disk, directory.path(), async |store, applied| {
        let openings = disk.openings();
        disk.fail(once(Call::Write));
        let failed = in_time(store.write(note("failed"))).await;
        assert!(matches!(failed, Err(Error::Unavailable)), "{failed:?}");
        reopened(applied).await;
        assert_eq!(disk.openings(), openings + 1);
        assert!(noted(store, "first") && !noted(store, "failed"));
        in_time(store.write(note("again"))).await.expect("written");
        assert!(noted(store, "again"));
    });
    assert!(!directory.path().join(MARK).exists());
}

#[test]
fn while_the_store_reopens_all_calls_fail() {
    let disk = FakeDisk::default();
    let directory = tempfile::tempdir().expect("a directory");
    on_disk(&disk, directory.path(), async |store, applied| {
        write_large(store).await.expect("written");
        assert!(reads_large(store).expect("read"));
        disk.fail(Fault {
            lasting: true,
            ..once(Call::Write)
        });
        let failed = in_time(store.write(note("failed"))).await;
        assert!(matches!(failed, Err(Error::Unavailable)), "{failed:?}");
        until(|| reads_large(store).is_err()).await;
        let start = Instant::now();
        let write = in_time(store.write(note("meanwhile"))).await;
        assert!(matches!(write, Err(Error::Unavailable)), "{write:?}");
        let read = reads_large(store);
        assert!(matches!(read, Err(Error::Unavailable)), "{read:?}");
        assert!(start.elapsed() < Duration::from_millis(500), "it waited");
        disk.heal();
        reopened(applied).await;
        in_time(store.write(note("again"))).await.expect("written");
        assert!(noted(store, "first") && !noted(store, "meanwhile"));
    });
}

#[test]
fn a_store_that_cannot_be_reopened_can_be_closed() {
    let disk = FakeDisk::default();
    let directory = tempfile::tempdir().expect("a directory");
    on_disk(&disk, directory.path(), async |store, _| {
        disk.fail(Fault {
            lasting: true,
            ..once(Call::Write)
        });
        assert!(in_time(store.write(note("failed"))).await.is_err());
        in_time(store.close()).await;
        let late = in_time(store.write(note("late"))).await;
        assert!(matches!(late, Err(Error::Unavailable | Error::Closed)));
    });
}

#[test]
fn a_failed_read_reopens_the_store() {
    let disk = FakeDisk::default();
    let directory = tempfile::tempdir().expect("a directory");
    // Closed and opened, so that it is not in memory.
    on_disk(&disk, directory.path(), async |store, _| {
        write_large(store).await.expect("written");
    });
    let store = Store::open_disk(
        Disk::new(&options(directory.path()), disk.clone()),
        Pool::default(),
    )
    .expect("it opens");
    let applied = Applied::new();
    run(store, &applied, async |store| {
        disk.fail(Fault {
            lasting: true,
            ..once(Call::Read)
        });
        assert!(reads_large(store).is_err());
        disk.heal();
        reopened(&applied).await;
        assert!(reads_large(store).expect("read"));
    });
}

#[test]
fn a_read_that_fails_once_is_retried() {
    let disk = FakeDisk::default();
    let directory = tempfile::tempdir().expect("a directory");
    on_disk(&disk, directory.path(), async |store, _| {
        write_large(store).await.expect("written");
    });
    let store = Store::open_disk(
        Disk::new(&options(directory.path()), disk.clone()),
        Pool::default(),
    )
    .expect("it opens");
    let openings = disk.openings();
    run(store, &Applied::new(), async |store| {
        disk.fail(once(Call::Read));
        assert!(reads_large(store).expect("read"));
        assert!(disk.is_healed(), "nothing was read");
    });
    assert_eq!(disk.openings(), openings);
}

#[test]
fn a_failed_sync_ends_the_store_and_leaves_a_mark() {
    let disk = FakeDisk::default();
    let directory = tempfile::tempdir().expect("a directory");
    on_disk(&disk, directory.path(), async |store, _| {
        let mut failing = pin!(store.failed());
        assert!(poll_once(failing.as_mut()).await.is_none());
        disk.fail(once(Call::Sync));
        let failed = in_time(store.write(note("failed"))).await;
        assert!(matches!(failed, Err(Error::Failed(_))), "{failed:?}");
        assert!(matches!(in_time(failing).await, Error::Failed(_)));
        let late = in_time(store.write(note("late"))).await;
        assert!(matches!(late, Err(Error::Failed(_))), "{late:?}");
        let written = disk.count().written;
        assert!(directory.path().join(MARK).exists());
        in_time(store.close()).await;
        assert_eq!(disk.count().written, written, "it went on writing");
    });
    let store = Store::open_disk(
        Disk::new(&options(directory.path()), disk.after_kill()),
        Pool::default(),
    )
    .expect("it is sound");
    assert!(!directory.path().join(MARK).exists());
    run(store, &Applied::new(), async |store| {
        assert!(noted(store, "first"))
    });
}

#[test]
fn after_a_failed_disk_every_page_is_checked() {
    let directory = tempfile::tempdir().expect("a directory");
    with_store_in(directory.path(), async |store, _| {
        store
            .write(note("a fact to look for"))
            .await
            .expect("written");
    });
    let file = directory.path().join("hearth.redb");
    let mut image = database(directory.path());
    let fact = b"a fact to look for";
    for at in 0..image.len() - fact.len() {
        if image[at..].starts_with(fact) {
            image[at] = b'A';
        }
    }
    std::fs::write(&file, &image).expect("damaged");
    // Nothing makes the store suspicious …
    let store = Store::open(&options(directory.path()), Pool::default()).expect("it opens");
    smol::block_on(store.close());
    std::fs::write(&file, &image).expect("damaged");
    // … but this does.
    std::fs::write(directory.path().join(MARK), "").expect("marked");
    let opened = Store::open(&options(directory.path()), Pool::default());
    assert!(matches!(opened, Err(Error::Damaged(_))), "{opened:?}");
    assert!(directory.path().join(MARK).exists());
}

#[test]
fn on_an_almost_full_disk_only_shrinking_jobs_run() {
    let disk = FakeDisk::default();
    let directory = tempfile::tempdir().expect("a directory");
    disk.set_space(32 << 30, 16 << 30);
    on_disk(&disk, directory.path(), async |store, _| {
        disk.set_space(32 << 30, 300 << 20);
        Timer::after(Duration::from_millis(1100)).await;
        let grows = in_time(store.write(note("grows"))).await;
        assert!(matches!(grows, Err(Error::Full)), "{grows:?}");
        let soon = in_time(store.write_deferred(note("soon"))).await;
        assert!(matches!(soon, Err(Error::Full)), "{soon:?}");
        let shrinks = store.write_shrinking(|tx| tx.facts()?.remove("first"));
        assert!(in_time(shrinks).await.expect("stored"));
        assert!(!noted(store, "first") && !noted(store, "grows") && !noted(store, "soon"));
        disk.set_space(32 << 30, 16 << 30);
        Timer::after(Duration::from_millis(1100)).await;
        in_time(store.write(note("grows"))).await.expect("written");
    });
}

#[test]
fn a_large_disk_with_gigabytes_free_is_not_almost_full() {
    let disk = FakeDisk::default();
    let directory = tempfile::tempdir().expect("a directory");
    disk.set_space(4 << 40, 2 << 30);
    on_disk(&disk, directory.path(), async |_, _| {});
}

#[test]
fn a_full_disk_costs_the_ballast_which_is_created_again_later() {
    let disk = FakeDisk::default();
    let directory = tempfile::tempdir().expect("a directory");
    let ballast = directory.path().join(BALLAST);
    disk.set_space(32 << 30, 16 << 30);
    on_disk(&disk, directory.path(), async |store, applied| {
        until(|| ballast.metadata().is_ok_and(|file| file.len() == 16 << 20)).await;
        disk.fill_up(ballast.clone());
        let failed = write_large(store).await;
        assert!(matches!(failed, Err(Error::Full)), "{failed:?}");
        reopened(applied).await;
        assert!(!ballast.exists());
        assert!(noted(store, "first") && !noted(store, "large"));
        // Whatever the system says of the space: the disk was full a moment ago.
        let grows = in_time(store.write(note("grows"))).await;
        assert!(matches!(grows, Err(Error::Full)), "{grows:?}");
        disk.free_space();
        let shrinks = store.write_shrinking(|tx| tx.facts()?.remove("first"));
        assert!(in_time(shrinks).await.expect("stored"));
        until(|| ballast.exists()).await;
    });
}

#[test]
fn a_store_on_a_full_disk_is_opened_in_the_space_of_the_ballast() {
    let disk = FakeDisk::default();
    let directory = tempfile::tempdir().expect("a directory");
    let ballast = directory.path().join(BALLAST);
    std::fs::write(&ballast, vec![0; 16 << 20]).expect("written");
    disk.fill_up(ballast.clone());
    let disk_of = || Disk::new(&options(directory.path()), disk.clone());
    let store = Store::open_disk(disk_of(), Pool::default()).expect("it opens");
    run(store, &Applied::new(), async |_| {});
    assert!(!ballast.exists());
}

#[test]
fn opening_on_a_slow_disk_does_not_block_the_executor() {
    let disk = FakeDisk::default();
    disk.delay(Duration::from_millis(20));
    let directory = tempfile::tempdir().expect("a directory");
    smol::block_on(async {
        let disk = Disk::new(&options(directory.path()), disk.clone());
        let mut opening = pin!(Store::open_disk_on_thread(disk, Pool::default()));
        let start = Instant::now();
        assert!(poll_once(opening.as_mut()).await.is_none());
        assert!(start.elapsed() < Duration::from_millis(20), "it blocked");
        assert!(in_time(opening).await.is_ok());
    });
}

#[test]
fn a_slow_disk_does_not_block_the_executor() {
    let disk = FakeDisk::default();
    let directory = tempfile::tempdir().expect("a directory");
    on_disk(&disk, directory.path(), async |store, _| {
        disk.delay(Duration::from_millis(20));
        let busy = smol::LocalExecutor::new();
        let writer = busy.spawn(async {
            for _ in 0..5 {
                store.write(note("written")).await.expect("written");
                assert!(noted(store, "written"));
            }
        });
        let mut longest = Duration::ZERO;
        let watchdog = async {
            let mut last = Instant::now();
            while !writer.is_finished() {
                Timer::after(Duration::from_millis(1)).await;
                longest = longest.max(last.elapsed());
                last = Instant::now();
            }
        };
        let calls = disk.count().calls;
        in_time(busy.run(watchdog)).await;
        assert!(disk.count().calls > calls + 20, "nothing was written");
        // One commit alone takes more than ten calls.
        assert!(longest < Duration::from_millis(150), "{longest:?}");
    });
}
