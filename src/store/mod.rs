//! The store: everything durable except media files, in one redb file.
//!
//! - [`Store::write`] queues a job for the writer thread and answers after its commit. Jobs run in
//!   the order in which they were queued, may run twice, and do nothing outside their [`Tx`]; what
//!   is to follow from them on the thread they ask for with [`Tx::effect`].
//! - [`Store::read`] reads the last published snapshot in place: for a handful of rows.
//! - [`Store::scan`] reads it on the pool: for whatever grows with history.
//! - [`Store::publish`] must run on the server's executor: it makes commits visible, applies their
//!   effects and answers, in that order.
//! - [`Store::failed`] tells that the disk has failed for good; the server stops then.

mod backend;
mod batch;
mod catalog;
mod disk;
mod effects;
mod error;
mod field;
mod health;
mod ids;
mod inbox;
mod key;
mod migrations;
mod packed;
pub mod records;
mod table;
#[cfg(test)]
mod tests;
mod tx;
mod writer;

use std::{
    any::Any,
    fmt,
    future::Future,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};

use smol::channel::{self, Receiver, Sender};

use self::{
    batch::{Committed, Job},
    disk::{DATABASE, Disk, ThisMachine},
    health::Health,
    inbox::{Order, Queued, Size, When},
    writer::Started,
};
pub use self::{
    catalog::{Reader, Snapshot, TABLES, TableInfo},
    disk::{Space, database_size, is_full},
    effects::Effect,
    error::Error,
    field::{Field, FixedWidth},
    ids::{
        DeviceNum, EventNum, NodeNum, Place, Position, RoomNum, ServerNum, StateKeyNum, UserNum,
    },
    key::Prefix,
    packed::{Bytes, Packed, Record, pack_before, unpack_before},
    table::{Found, Range, Records, Row, Rows, SnapshotTable, TxTable},
    tx::Tx,
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
    health: Arc<Health>,
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
    /// Whether there is a database in `directory`. Blocks the caller for a moment.
    pub fn exists(directory: &Path) -> bool {
        directory.join(DATABASE).exists()
    }

    /// Opens the database, makes it if it does not exist, and brings its tables to the versions of
    /// this program. Blocks the caller, for long if a power cut in the middle of traffic has to be
    /// repaired.
    ///
    /// # Errors
    /// If the file cannot be opened, is held by another process, was written by a newer version,
    /// or a migration fails.
    pub fn open(options: &Options, pool: Pool) -> Result<Self, Error> {
        Self::open_disk(Disk::new(options, ThisMachine), pool)
    }

    fn open_disk(disk: Disk, pool: Pool) -> Result<Self, Error> {
        let (opening, opened) = Opening::start(disk)?;
        opening.finish(opened.recv_blocking(), pool)
    }

    /// Like [`open`](Self::open), without blocking: the database is opened, and repaired, on the
    /// writer's thread. How far that is stands in the log.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_on_thread(options: &Options, pool: Pool) -> Result<Self, Error> {
        Self::open_disk_on_thread(Disk::new(options, ThisMachine), pool).await
    }

    async fn open_disk_on_thread(disk: Disk, pool: Pool) -> Result<Self, Error> {
        let (opening, opened) = Opening::start(disk)?;
        opening.finish(opened.recv().await, pool)
    }

    /// Makes commits visible, for as long as the store is open: publishes the snapshot, hands the
    /// effects to `apply`, delivers the answers. To be spawned once, on the server's executor. It
    /// ends when the store has been closed and everything is delivered.
    pub async fn publish(self, mut apply: impl FnMut(&[Effect])) {
        let publisher = Publisher(&self.inner.committed);
        while let Ok(mut committed) = publisher.0.recv().await {
            if let Some(snapshot) = committed.snapshot.take() {
                *self.current() = snapshot;
            }
            apply(&committed.effects);
            committed.answer();
        }
    }

    /// Waits until the disk has failed for good, if ever, and tells how. The server has to stop
    /// then: nothing is stored or read any more.
    pub async fn failed(&self) -> Error {
        self.inner.health.failed().await
    }

    /// Runs `job` in the next transaction and answers once it is committed. The job goes on even
    /// if the caller stops waiting.
    ///
    /// # Errors
    /// What the job returns, or an [`Error`] of the store.
    pub fn write<T, E, F>(&self, job: F) -> impl Future<Output = Result<T, E>> + Send
    where
        F: Fn(&Tx) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        self.queue(job, When::Now, Size::Grows)
    }

    /// Like [`write`](Self::write), for what makes the database smaller: it is done even when the
    /// disk is so full that nothing else is stored.
    ///
    /// # Errors
    /// What the job returns, or an [`Error`] of the store.
    pub fn write_shrinking<T, E, F>(&self, job: F) -> impl Future<Output = Result<T, E>> + Send
    where
        F: Fn(&Tx) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        self.queue(job, When::Now, Size::Shrinks)
    }

    /// Like [`write`](Self::write), for what can wait up to a second for another commit to ride
    /// with.
    ///
    /// # Errors
    /// What the job returns, or an [`Error`] of the store.
    pub fn write_soon<T, E, F>(&self, job: F) -> impl Future<Output = Result<T, E>> + Send
    where
        F: Fn(&Tx) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        self.queue(job, When::Soon, Size::Grows)
    }

    fn queue<T, E, F>(
        &self,
        job: F,
        when: When,
        size: Size,
    ) -> impl Future<Output = Result<T, E>> + Send
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
        self.answered(Queued { job, size }, when, answer)
    }

    /// Queues a job, and waits for its answer: in the program once for every type of answer, not for
    /// every job.
    async fn answered<T, E>(&self, job: Queued, when: When, answer: Receiver<Done>) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let answer = self.order(job, when, answer).await?;
        *answer.downcast().expect("this is what the job answers")
    }

    /// The same for every type of answer.
    async fn order(&self, job: Queued, when: When, answer: Receiver<Done>) -> Result<Done, Error> {
        self.inner.health.check()?;
        let order = Order::Write(job, when);
        let ordered = self.inner.orders.send(order).await;
        ordered.map_err(|_| Error::Closed)?;
        answer.recv().await.map_err(|_| Error::Closed)
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
    pub fn scan<T, E, F>(
        &self,
        name: &'static str,
        scan: F,
    ) -> impl Future<Output = Result<T, E>> + Send
    where
        F: FnOnce(&Snapshot) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<crate::pool::Error> + Send + 'static,
    {
        let snapshot = self.current().clone();
        let run = move || timed(name, || scan(&snapshot));
        scanned(self.inner.pool.run(Kind::Scan, run))
    }

    /// Like [`scan`](Self::scan), for a task of the server's own: it waits for its turn, however many
    /// others do, and reads what is published when it comes.
    ///
    /// # Errors
    /// What `scan` returns.
    pub fn scan_whenever<T, E, F>(
        &self,
        name: &'static str,
        scan: F,
    ) -> impl Future<Output = Result<T, E>> + Send
    where
        F: FnOnce(&Snapshot) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: Send + 'static,
    {
        let store = self.clone();
        let run = move || {
            let snapshot = store.current().clone();
            timed(name, || scan(&snapshot))
        };
        self.inner.pool.run_whenever(Kind::Scan, run)
    }

    /// Commits what is queued, refuses everything after, and closes the file. Waits for the
    /// writer to end. [`publish`](Self::publish) delivers the last answers, and ends after it.
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

async fn scanned<T, E>(
    scan: impl Future<Output = Result<Result<T, E>, crate::pool::Error>>,
) -> Result<T, E>
where
    E: From<crate::pool::Error>,
{
    scan.await?
}

/// Scans, and logs how long that takes.
fn timed<T>(name: &str, scan: impl FnOnce() -> T) -> T {
    let start = std::time::Instant::now();
    let result = scan();
    log::trace!("scan {name}: {:?}", start.elapsed());
    result
}

/// A store whose writer is still busy opening the database.
struct Opening {
    orders: Sender<Order>,
    health: Arc<Health>,
    committed: Receiver<Committed>,
    writer: JoinHandle<()>,
}

type Opened = Receiver<Result<Arc<Snapshot>, Error>>;

impl Opening {
    fn start(disk: Disk) -> Result<(Self, Opened), Error> {
        let (orders, queue) = channel::bounded(QUEUE);
        // One commit is delivered while the next is made; the writer waits for a slow thread.
        let (results, committed) = channel::bounded(2);
        let waiting = orders.downgrade();
        let health = Arc::new(Health::new(move || {
            // A writer whose queue is full does not sleep.
            if let Some(orders) = waiting.upgrade() {
                let _ = orders.try_send(Order::Look);
            }
        }));
        let Started { thread, opened } = writer::start(disk, health.clone(), queue, results)?;
        let opening = Self {
            orders,
            health,
            committed,
            writer: thread,
        };
        Ok((opening, opened))
    }

    fn finish(
        self,
        opened: Result<Result<Arc<Snapshot>, Error>, channel::RecvError>,
        pool: Pool,
    ) -> Result<Store, Error> {
        // The writer's thread ends without an answer only in a panic.
        let snapshot = opened.map_err(|_| Error::Panicked)??;
        Ok(Store {
            inner: Arc::new(Inner {
                orders: self.orders,
                health: self.health,
                snapshot: Mutex::new(snapshot),
                committed: self.committed,
                writer: Mutex::new(Some(self.writer)),
                pool,
            }),
        })
    }
}

/// Whoever publishes. When that ends, the writer must not wait for it.
struct Publisher<'a>(&'a Receiver<Committed>);

impl Drop for Publisher<'_> {
    fn drop(&mut self) {
        self.0.close();
        while let Ok(unpublished) = self.0.try_recv() {
            unpublished.answer();
        }
    }
}

/// What a job answers, its type hidden.
type Done = Box<dyn Any + Send>;

struct TypedJob<F, T, E> {
    job: F,
    result: Option<Result<T, E>>,
    reply: Sender<Done>,
}

impl<F, T, E> Job for TypedJob<F, T, E>
where
    F: Fn(&Tx) -> Result<T, E> + Send,
    T: Send + 'static,
    E: From<Error> + Send + 'static,
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
        let _ = self.reply.try_send(Box::new(result));
    }

    fn fail(self: Box<Self>, error: Error) {
        let result: Result<T, E> = Err(error.into());
        let _ = self.reply.try_send(Box::new(result));
    }
}
