//! Tests of the store. Each has a directory of its own and publishes on the test's thread.

mod copy;
mod disk_failure;
mod fake_disk;
mod fields;
mod jobs;
mod migrations;
mod numbers;
mod power;
mod ranges;
mod readme;

use std::{
    future::Future,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use smol::future::FutureExt;

use super::{Effect, Error, Options, Reader, Rows, Store, Tx};
use crate::pool::Pool;

/// Collects the effects that [`Store::publish`] hands over, in their order.
#[derive(Clone)]
struct Applied {
    all: Arc<Mutex<Vec<Effect>>>,
    check: Check,
}

type Check = Arc<dyn Fn(&[Effect])>;

impl Applied {
    fn new() -> Self {
        Self::checked(|_| {})
    }

    /// Runs `check` on the effects when they come.
    fn checked(check: impl Fn(&[Effect]) + 'static) -> Self {
        Self {
            all: Arc::default(),
            check: Arc::new(check),
        }
    }

    fn apply(&self, effects: &[Effect]) {
        (self.check)(effects);
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend_from_slice(effects);
    }

    fn all(&self) -> Vec<Effect> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.clone()
    }
}

/// Runs `test` with a new store, which is closed after it.
fn with_store<T>(test: impl AsyncFnOnce(&Store, &Applied) -> T) -> T {
    let directory = tempfile::tempdir().expect("a directory");
    with_store_in(directory.path(), test)
}

/// Runs `test` with the store in `directory`, which is closed after it.
fn with_store_in<T>(directory: &Path, test: impl AsyncFnOnce(&Store, &Applied) -> T) -> T {
    let store = Store::open(&options(directory), Pool::default()).expect("the store opens");
    let applied = Applied::new();
    run(store, &applied, async |store| test(store, &applied).await)
}

/// Runs `test` with `store`, which is closed after it.
fn run<T>(store: Store, applied: &Applied, test: impl AsyncFnOnce(&Store) -> T) -> T {
    let executor = smol::LocalExecutor::new();
    let sink = applied.clone();
    smol::block_on(executor.run(async {
        let publishing = executor.spawn(store.clone().publish(move |effects| sink.apply(effects)));
        let result = test(&store).await;
        in_time(store.close()).await;
        in_time(publishing).await;
        result
    }))
}

/// The result of `future`. Fails the test if it takes 20 seconds.
async fn in_time<T>(future: impl Future<Output = T>) -> T {
    let timeout = async {
        smol::Timer::after(Duration::from_secs(20)).await;
        panic!("not done in 20 seconds");
    };
    future.or(timeout).await
}

fn options(directory: &Path) -> Options {
    Options {
        directory: directory.to_owned(),
        cache: 4 << 20,
    }
}

/// The database file as it is now.
fn database(directory: &Path) -> Vec<u8> {
    std::fs::read(directory.join("hearth.redb")).expect("the database file")
}

/// What a job fails with.
fn on_purpose() -> Error {
    Error::corrupt("facts", "a test", "on purpose")
}

/// A job that notes `fact`.
fn note(fact: &'static str) -> impl Fn(&Tx) -> Result<(), Error> + Send + 'static {
    move |tx| put(tx, fact)
}

fn put(tx: &Tx, fact: &str) -> Result<(), Error> {
    tx.facts()?.insert(fact, "noted")
}

/// Whether `fact` is in the published snapshot.
fn noted(store: &Store, fact: &str) -> bool {
    store
        .read(|s| s.facts()?.has(fact))
        .expect("the store can be read")
}
