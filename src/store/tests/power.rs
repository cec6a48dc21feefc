//! Power cuts and failing calls at every moment: what was acknowledged is there, nothing is half.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    io,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use smol::LocalExecutor;

use super::{
    Applied, Error,
    fake_disk::{Call, FakeDisk, Fault},
    in_time, on_purpose, options, run,
};
use crate::{
    pool::Pool,
    store::{Position, Reader, Rows, Store, Tx, disk::Disk},
};

/// What the jobs of all lives of one database did.
#[derive(Default)]
struct History {
    next: u32,
    acknowledged: BTreeMap<u32, Position>,
    failed: BTreeSet<u32>,
}

/// How many rows one job writes, each in a fact of its own.
const PARTS: u32 = 3;

/// Writes `PARTS` facts and a user, so in four tables with the counter.
fn several_rows(tx: &Tx, job: u32, size: usize) -> Result<Position, Error> {
    let position = tx.next_position()?;
    tx.user_num(&format!("@{job}:here"))?;
    for part in 0..PARTS {
        let value = format!("{}{}", position.0, " ".repeat(size));
        tx.facts()?.insert(&*format!("{job}/{part}"), &*value)?;
    }
    Ok(position)
}

/// Has up to `max_jobs` jobs done, one after another, until an error of the store.
async fn write_until(store: &Store, history: &RefCell<History>, mut random: StdRng, max_jobs: u32) {
    for _ in 0..max_jobs {
        let job = {
            let mut history = history.borrow_mut();
            history.next += 1;
            history.next
        };
        let size = *[0, 10, 700, 6000]
            .get(random.random_range(0..4))
            .unwrap_or(&0);
        let fails = random.random_bool(0.15);
        let work = move |tx: &Tx| {
            let position = several_rows(tx, job, size)?;
            match fails {
                true => Err(on_purpose()),
                false => Ok(position),
            }
        };
        let answer = match random.random_range(0..200) {
            0 => store.write_deferred(work).await,
            1..20 => store.write_shrinking(work).await,
            _ => store.write(work).await,
        };
        let mut history = history.borrow_mut();
        match answer {
            Ok(position) => {
                let before = history.acknowledged.insert(job, position);
                assert!(before.is_none());
            }
            Err(Error::Corrupt(_)) => {
                history.failed.insert(job);
            }
            Err(Error::Unavailable | Error::Failed(_) | Error::Full | Error::Closed) => return,
            Err(other) => panic!("{other:?}"),
        }
    }
}

/// One life: opens what `disk` holds, lets several write until the disk fails, and closes.
fn live(disk: &FakeDisk, history: &RefCell<History>, random: &mut StdRng) {
    let directory = tempfile::tempdir().expect("a directory");
    let opened = Store::open_disk(
        Disk::new(&options(directory.path()), disk.clone()),
        Pool::default(),
    );
    // The cut may come while it opens.
    let Ok(store) = opened else { return };
    let _ = check(&store, &history.borrow());
    let writers = random.random_range(1..8);
    run(store, &Applied::new(), async |store| {
        let executor = LocalExecutor::new();
        let tasks: Vec<_> = (0..writers)
            .map(|_| {
                let random = StdRng::from_rng(random);
                executor.spawn(write_until(store, history, random, u32::MAX))
            })
            .collect();
        in_time(executor.run(async {
            for task in tasks {
                task.await;
            }
        }))
        .await;
    });
}

/// Everything acknowledged is there, nothing that failed is, nothing is half, and no position was
/// given twice.
fn check(store: &Store, history: &History) -> Result<(), Error> {
    let mut found: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    let mut users = BTreeSet::new();
    store.read(|s| {
        for row in s.facts()?.range::<&str>(..)? {
            let (key, value) = row?;
            let (job, _) = key.value().split_once('/').expect("job/part");
            let position = value.value().trim_end().parse().expect("a position");
            let job = job.parse().expect("a job");
            found.entry(job).or_default().push(position);
        }
        for row in s.user_nums()?.range::<&str>(..)? {
            users.insert(row?.0.value().to_owned());
        }
        Ok::<_, Error>(())
    })?;
    let mut positions = BTreeSet::new();
    for (job, parts) in &found {
        assert_eq!(parts.len(), PARTS as usize, "job {job} is half there");
        assert!(
            users.contains(&format!("@{job}:here")),
            "job {job} is half there"
        );
        assert!(positions.insert(parts[0]), "a position was given twice");
        assert!(!history.failed.contains(job), "job {job} failed");
    }
    assert_eq!(users.len(), found.len(), "a user without facts");
    for (job, position) in &history.acknowledged {
        let parts = found.get(job);
        assert_eq!(
            parts,
            Some(&vec![position.0; PARTS as usize]),
            "job {job} is lost"
        );
    }
    Ok(())
}

/// Opens what `disk`, which works again, holds, and checks it.
fn check_disk(disk: FakeDisk, history: &History) {
    let directory = tempfile::tempdir().expect("a directory");
    let disk = Disk::new(&options(directory.path()), disk);
    let store = Store::open_disk(disk, Pool::default()).expect("it opens after all");
    check(&store, history).expect("it can be read");
    run(store, &Applied::new(), async |_| {});
}

fn cut_the_power_again_and_again(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let history = RefCell::default();
    let mut disk = FakeDisk::default();
    for _ in 0..4 {
        disk.fail(Fault {
            after: random.random_range(0..400),
            on: Call::Any,
            error: io::ErrorKind::Other,
            lasting: true,
        });
        live(&disk, &history, &mut random);
        disk = disk.after_power_cut(&mut random);
    }
    check_disk(disk, &history.borrow());
}

#[test]
fn after_a_power_cut_acknowledged_jobs_are_stored_and_no_job_is_stored_in_part() {
    for seed in 0..60 {
        println!("seed {seed}");
        cut_the_power_again_and_again(seed);
    }
}

/// Has `disk` fail in the middle of a few dozen jobs. Whether the store worked again after it.
fn write_through(fault: Fault, history: &RefCell<History>, disk: &FakeDisk) -> bool {
    disk.fail(fault);
    let directory = tempfile::tempdir().expect("a directory");
    let disk = Disk::new(&options(directory.path()), disk.clone());
    let Ok(store) = Store::open_disk(disk, Pool::default()) else {
        return false;
    };
    run(store, &Applied::new(), async |store| {
        let executor = LocalExecutor::new();
        let writer = async |seed: u64| {
            for round in 0..6_u64 {
                let random = StdRng::seed_from_u64(seed * 100 + round);
                write_until(store, history, random, 2).await;
                smol::Timer::after(std::time::Duration::from_millis(2)).await;
            }
        };
        let tasks: Vec<_> = (0..3).map(|seed| executor.spawn(writer(seed))).collect();
        in_time(executor.run(async {
            for task in tasks {
                task.await;
            }
            store.write(|tx| tx.facts()?.is_empty()).await.is_ok()
        }))
        .await
    })
}

#[test]
fn acknowledged_jobs_are_stored_whichever_disk_call_fails() {
    let mut worked_again = 0;
    for on in [Call::Any, Call::Read, Call::Write, Call::Sync] {
        for after in (0..30).chain((30..200).step_by(9)) {
            for lasting in [false, true] {
                println!("on {on:?} after {after} lasting {lasting}");
                let history = RefCell::default();
                let disk = FakeDisk::default();
                let fault = Fault {
                    after,
                    on,
                    error: io::ErrorKind::Other,
                    lasting,
                };
                worked_again += u32::from(write_through(fault, &history, &disk));
                check_disk(disk.after_kill(), &history.borrow());
            }
        }
    }
    assert!(
        worked_again > 50,
        "it worked again only {worked_again} times"
    );
}
