//! The store: everything durable except media files, in one redb file.
//!
//! - [`Store::write`] queues a job for the writer thread and answers after its commit. Jobs run in
//!   the order in which they were queued, may run twice, and do nothing outside their [`Tx`]; what
//!   is to follow from them on the thread they ask for with [`Tx::effect`].
//! - [`Store::read`] reads the last published snapshot in place: for a handful of rows.
//! - [`Store::scan`] reads it on the pool: for whatever grows with history.
//! - [`Store::publish`] must run on the server's executor: it makes commits visible, applies their
//!   effects and answers, in that order.

mod catalog;
mod effects;
mod error;
mod ids;
mod migrations;
mod packed;
pub mod records;
mod table;
mod tx;
mod writer;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};

use redb::{Database, ReadableDatabase};
use smol::channel::{self, Receiver, Sender};

pub use self::{
    catalog::{Reader, Snapshot, TABLES, TableInfo},
    effects::Effect,
    error::Error,
    ids::{DeviceNum, EventNum, NodeNum, Place, Position, RoomNum, StateKeyNum, UserNum},
    packed::{Bytes, Packed, Record, pack_before, unpack_before},
    table::{Range, Records, Row, Rows, SnapshotTable, TxTable},
    tx::Tx,
};
use self::{
    tx::Counters,
    writer::{Committed, Job, Order, When},
};
use crate::pool::{Kind, Pool};

/// How many jobs may wait for the writer; whoever has one more waits until there is room.
const QUEUE: usize = 1024;

/// How to open a store.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory of the database file, which must exist.
    pub directory: PathBuf,
    /// How many bytes redb may keep in memory.
    pub cache: usize,
}

/// The store. Clones are the same store.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    orders: Sender<Order>,
    snapshot: Mutex<Arc<Snapshot>>,
    committed: Receiver<Committed>,
    writer: Mutex<Option<JoinHandle<()>>>,
    pool: Pool,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the database, makes it if it does not exist, and brings its tables to the versions of
    /// this program. Blocks the caller, for long if a power cut in the middle of traffic has to be
    /// repaired.
    ///
    /// # Errors
    /// If the file cannot be opened, is held by another process, was written by a newer version,
    /// or a migration fails.
    pub fn open(options: &Options, pool: Pool) -> Result<Self, Error> {
        let db = open_database(&options.directory.join("hearth.redb"), options.cache)?;
        migrations::run(&db, migrations::MIGRATIONS)?;
        let snapshot = Snapshot::new(db.begin_read()?);
        let counters = Counters::load(&snapshot)?;
        let (orders, queue) = channel::bounded(QUEUE);
        // One commit is delivered while the next is made; the writer waits for a slow thread.
        let (results, committed) = channel::bounded(2);
        let writer = writer::start(db, counters, queue, results)
            .map_err(|error| Error::from(redb::StorageError::Io(error)))?;
        Ok(Self {
            inner: Arc::new(Inner {
                orders,
                snapshot: Mutex::new(Arc::new(snapshot)),
                committed,
                writer: Mutex::new(Some(writer)),
                pool,
            }),
        })
    }

    /// Makes commits visible, for as long as the store is open: publishes the snapshot, hands the
    /// effects to `apply`, delivers the answers. To be spawned once, on the server's executor.
    pub async fn publish(self, mut apply: impl FnMut(&[Effect])) {
        while let Ok(committed) = self.inner.committed.recv().await {
            if let Some(snapshot) = committed.snapshot {
                *self.current() = snapshot;
            }
            apply(&committed.effects);
            for answer in committed.answers {
                answer.deliver();
            }
        }
    }

    /// Runs `job` in the next transaction and answers once it is committed. The job goes on even
    /// if the caller stops waiting.
    ///
    /// # Errors
    /// What the job returns, or an [`Error`] of the store.
    pub async fn write<T, E, F>(&self, job: F) -> Result<T, E>
    where
        F: Fn(&Tx) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        self.queue(job, When::Now).await
    }

    /// Like [`write`](Self::write), for what can wait up to a second for another commit to ride
    /// with.
    ///
    /// # Errors
    /// What the job returns, or an [`Error`] of the store.
    pub async fn write_soon<T, E, F>(&self, job: F) -> Result<T, E>
    where
        F: Fn(&Tx) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        self.queue(job, When::Soon).await
    }

    async fn queue<T, E, F>(&self, job: F, when: When) -> Result<T, E>
    where
        F: Fn(&Tx) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let (reply, answer) = channel::bounded(1);
        let job = Box::new(TypedJob {
            job,
            result: None,
            reply,
        });
        self.inner
            .orders
            .send(Order::Write(job, when))
            .await
            .map_err(|_| Error::Closed)?;
        answer.recv().await.map_err(|_| Error::Closed)?
    }

    /// Reads the last published snapshot in place. For a handful of rows: this runs on the one
    /// thread.
    pub fn read<T>(&self, read: impl FnOnce(&Snapshot) -> T) -> T {
        let snapshot = self.current().clone();
        read(&snapshot)
    }

    /// Reads the last published snapshot on the pool. `name` says what for, in the log.
    ///
    /// # Errors
    /// What `scan` returns, or [`crate::pool::Error`] as an error of its own.
    pub async fn scan<T, E, F>(&self, name: &'static str, scan: F) -> Result<T, E>
    where
        F: FnOnce(&Snapshot) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<crate::pool::Error> + Send + 'static,
    {
        let snapshot = self.current().clone();
        self.inner
            .pool
            .run(Kind::Scan, move || {
                let start = std::time::Instant::now();
                let result = scan(&snapshot);
                log::trace!("scan {name}: {:?}", start.elapsed());
                result
            })
            .await?
    }

    /// Commits what is queued, refuses everything after, and closes the file. Waits for the
    /// writer to end; [`publish`](Self::publish) must still be running, and ends with it.
    pub async fn close(&self) {
        // If the queue is closed already, somebody else closes.
        let _ = self.inner.orders.send(Order::Close).await;
        self.inner.orders.close();
        let writer = self
            .inner
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(writer) = writer {
            let joined = smol::unblock(move || writer.join()).await;
            if joined.is_err() {
                log::error!("the writer ended in a panic");
            }
        }
    }

    fn current(&self) -> std::sync::MutexGuard<'_, Arc<Snapshot>> {
        self.inner
            .snapshot
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn open_database(file: &Path, cache: usize) -> Result<Database, Error> {
    Ok(Database::builder().set_cache_size(cache).create(file)?)
}

struct TypedJob<F, T, E> {
    job: F,
    result: Option<Result<T, E>>,
    reply: Sender<Result<T, E>>,
}

impl<F, T, E> Job for TypedJob<F, T, E>
where
    F: Fn(&Tx) -> Result<T, E> + Send,
    T: Send,
    E: From<Error> + Send,
{
    fn run(&mut self, tx: &Tx) -> bool {
        let result = (self.job)(tx);
        let keep = result.is_ok();
        self.result = Some(result);
        keep
    }

    fn answer(self: Box<Self>) {
        let result = self.result.unwrap_or_else(|| Err(Error::Closed.into()));
        // Nobody may be waiting any more.
        let _ = self.reply.try_send(result);
    }

    fn fail(self: Box<Self>, error: Error) {
        let _ = self.reply.try_send(Err(error.into()));
    }
}
