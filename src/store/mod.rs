//! The store: everything durable except media files, in one redb file.
//!
//! - [`Store::write`] queues a job for the writer thread and answers after its commit. Jobs run in
//!   the order in which they were queued, may run twice, and have no side effects outside their
//!   [`Tx`]. [`Tx::effect`] schedules what has to happen on the server's thread after the commit.
//! - [`Store::read`] reads the last published snapshot on the caller's thread: for a handful of rows.
//! - [`Store::scan`] reads it on the pool: for reads that grow with history.
//! - [`Store::publish`] must run on the server's executor: it makes commits visible, applies their
//!   effects and answers, in that order.
//! - [`Store::failed`] completes when the disk has failed for good; the server stops then.
//!
//! Every function that reads or writes tables fails if the disk does. Doc comments name other
//! errors only.

mod backend;
mod batch;
mod catalog;
mod copy;
mod disk;
mod effects;
mod error;
mod field;
mod health;
mod ids;
mod job;
mod key;
mod migrations;
mod numbers;
mod packed;
mod pieces;
pub mod records;
mod room_rows;
mod space;
mod table;
#[cfg(test)]
mod tests;
mod tx;
mod write_queue;
mod writer;

use std::{
    any::Any,
    fmt,
    future::Future,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
};

use smol::channel::{self, Receiver, Sender};

#[cfg(test)]
pub(crate) use self::table::reads;
use self::{
    batch::Committed,
    disk::{DATABASE, Disk, OsFileSystem},
    health::Health,
    job::{Job, QueuedJob, SizeChange},
    write_queue::{Command, Urgency},
    writer::StartedWriter,
};
pub use self::{
    catalog::{Reader, Snapshot, TABLES, TableInfo},
    copy::{Copier, CopyError, CopyReader, TableSum, TableSums, hex},
    disk::{Options, create_anew, database_size, is_in_use},
    effects::Effect,
    error::Error,
    field::{Field, FixedWidth},
    ids::{
        DeviceNum, EventNum, NodeNum, Place, Position, RoomNum, ServerNum, StateKeyNum, UserNum,
    },
    key::Prefix,
    numbers::restored_position,
    packed::{Bytes, Packed, Record, pack_before, unpack_before},
    pieces::{PIECE_BYTES, Pieces},
    space::{Space, is_full},
    table::{Found, Range, Records, Row, Rows, SnapshotTable, TxTable},
    tx::Tx,
};
use crate::pool::{Kind, Pool};

/// Callers with one more job wait until the queue has space.
const MAX_QUEUED_JOBS: usize = 1024;

/// The store. Clones are the same store.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    commands: Sender<Command>,
    health: Arc<Health>,
    snapshot: Mutex<Arc<Snapshot>>,
    committed: Receiver<Committed>,
    writer: Mutex<Option<JoinHandle<()>>>,
    cached_bytes: Arc<AtomicUsize>,
    pool: Pool,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

impl Store {
    /// Whether `directory` has a database.
    pub fn exists(directory: &Path) -> bool {
        directory.join(DATABASE).exists()
    }

    /// Opens the database, creates it if it does not exist, and migrates its tables. Blocks the caller,
    /// for a long time if the database has to be repaired after a power cut.
    pub fn open(options: &Options, pool: Pool) -> Result<Self, Error> {
        Self::open_disk(Disk::new(options, OsFileSystem), pool)
    }

    fn open_disk(disk: Disk, pool: Pool) -> Result<Self, Error> {
        let (opening, opened) = Opening::start(disk)?;
        opening.finish(opened.recv_blocking(), pool)
    }

    /// Like [`open`](Self::open), without blocking: the writer's thread opens the database.
    pub async fn open_on_thread(options: &Options, pool: Pool) -> Result<Self, Error> {
        Self::open_disk_on_thread(Disk::new(options, OsFileSystem), pool).await
    }

    async fn open_disk_on_thread(disk: Disk, pool: Pool) -> Result<Self, Error> {
        let (opening, opened) = Opening::start(disk)?;
        opening.finish(opened.recv().await, pool)
    }

    /// Publishes commits while the store is open: makes the snapshot the current one, answers the jobs,
    /// calls `apply` with the effects. Spawn it once, on the server's executor, where the callers of the
    /// jobs run as well: they go on after the effects, and before whoever is woken by them. A client that
    /// gets its own event by `/sync` before the response to its request may take the request for failed.
    /// It ends when the store has been closed and everything is answered.
    pub async fn publish(self, mut apply: impl FnMut(&[Effect])) {
        let publisher = Publisher(&self.inner.committed);
        while let Ok(mut committed) = publisher.0.recv().await {
            if let Some(snapshot) = committed.snapshot.take() {
                *self.current() = snapshot;
            }
            let effects = std::mem::take(&mut committed.effects);
            committed.answer();
            apply(&effects);
        }
    }

    /// Waits until the disk has failed for good, if ever. The server has to stop then: all reads and
    /// writes fail.
    pub async fn failed(&self) -> Error {
        self.inner.health.failed().await
    }

    /// How many bytes of the database are cached, as of the last commit.
    pub fn cached_bytes(&self) -> usize {
        self.inner.cached_bytes.load(Ordering::Relaxed)
    }

    /// Runs `job` in the next transaction and returns its result after the commit. The job runs even if
    /// the caller stops waiting.
    pub fn write<T, E, F>(&self, job: F) -> impl Future<Output = Result<T, E>> + Send
    where
        F: Fn(&Tx) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        self.queue(job, Urgency::Immediate, SizeChange::Grows)
    }

    /// Like [`write`](Self::write), for jobs that shrink the database, or replace small rows that must not
    /// wait, such as a password or a lock of an account: they run even when the disk is almost full.
    pub fn write_shrinking<T, E, F>(&self, job: F) -> impl Future<Output = Result<T, E>> + Send
    where
        F: Fn(&Tx) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        self.queue(job, Urgency::Immediate, SizeChange::Shrinks)
    }

    /// Like [`write`](Self::write), for jobs that can wait for up to a second to share a commit.
    pub fn write_deferred<T, E, F>(&self, job: F) -> impl Future<Output = Result<T, E>> + Send
    where
        F: Fn(&Tx) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        self.queue(job, Urgency::Deferrable, SizeChange::Grows)
    }

    fn queue<T, E, F>(
        &self,
        job: F,
        urgency: Urgency,
        size_change: SizeChange,
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
        self.send_and_wait(QueuedJob { job, size_change }, urgency, answer)
    }

    /// Queues a job and waits for its answer. Compiled once for each type of answer, not for each job.
    async fn send_and_wait<T, E>(
        &self,
        job: QueuedJob,
        urgency: Urgency,
        answer: Receiver<Answer>,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let answer = self.send_and_wait_erased(job, urgency, answer).await?;
        *answer.downcast().expect("this is what the job answers")
    }

    async fn send_and_wait_erased(
        &self,
        job: QueuedJob,
        urgency: Urgency,
        answer: Receiver<Answer>,
    ) -> Result<Answer, Error> {
        self.inner.health.check()?;
        let sent = self.inner.commands.send(Command::Write(job, urgency)).await;
        sent.map_err(|_| Error::Closed)?;
        answer.recv().await.map_err(|_| Error::Closed)
    }

    /// Reads the last published snapshot on this thread. For a handful of rows.
    pub fn read<T>(&self, read: impl FnOnce(&Snapshot) -> T) -> T {
        let snapshot = self.current().clone();
        read(&snapshot)
    }

    /// The last published snapshot. While it is kept, the database grows by what is written.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current().clone()
    }

    /// Reads the last published snapshot on the pool. `name` is for the log. Fails if the pool is full.
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

    /// Like [`scan`](Self::scan), for background tasks and for responses that have begun: it waits however
    /// full the pool is, and reads the snapshot that is published when it runs.
    pub fn scan_in_background<T, E, F>(
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
        self.inner.pool.run_in_background(Kind::Scan, run)
    }

    /// Commits what is queued, refuses everything after, and closes the file. Waits for the writer to
    /// end. [`publish`](Self::publish) delivers the last answers and ends after it.
    pub async fn close(&self) {
        // If the queue is closed already, another caller is closing the store.
        let _ = self.inner.commands.send(Command::Close).await;
        self.inner.commands.close();
        let writer = self
            .inner
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(writer) = writer {
            let joined = smol::unblock(move || writer.join()).await;
            if joined.is_err() {
                log::error!("the writer panicked; the database is checked at the next start");
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

fn timed<T>(name: &str, scan: impl FnOnce() -> T) -> T {
    let start = std::time::Instant::now();
    let result = scan();
    log::trace!("scan {name}: {:?}", start.elapsed());
    result
}

/// A store whose writer is opening the database.
struct Opening {
    commands: Sender<Command>,
    health: Arc<Health>,
    committed: Receiver<Committed>,
    cached_bytes: Arc<AtomicUsize>,
    writer: JoinHandle<()>,
}

type Opened = Receiver<Result<Arc<Snapshot>, Error>>;

impl Opening {
    fn start(disk: Disk) -> Result<(Self, Opened), Error> {
        let (commands, queue) = channel::bounded(MAX_QUEUED_JOBS);
        // One commit is published while the next is made; the writer waits for a slow publisher.
        let (results, committed) = channel::bounded(2);
        let waiting = commands.downgrade();
        let health = Arc::new(Health::new(move || {
            // If the queue is full, the writer is not waiting.
            if let Some(commands) = waiting.upgrade() {
                let _ = commands.try_send(Command::CheckHealth);
            }
        }));
        let cached_bytes = Arc::<AtomicUsize>::default();
        let StartedWriter { thread, opened } =
            writer::start(disk, health.clone(), queue, results, cached_bytes.clone())?;
        let opening = Self {
            commands,
            health,
            committed,
            cached_bytes,
            writer: thread,
        };
        Ok((opening, opened))
    }

    fn finish(
        self,
        opened: Result<Result<Arc<Snapshot>, Error>, channel::RecvError>,
        pool: Pool,
    ) -> Result<Store, Error> {
        // The writer's thread ends without an answer only if it panics.
        let snapshot = opened.map_err(|_| Error::Panicked)??;
        Ok(Store {
            inner: Arc::new(Inner {
                commands: self.commands,
                health: self.health,
                snapshot: Mutex::new(snapshot),
                committed: self.committed,
                writer: Mutex::new(Some(self.writer)),
                cached_bytes: self.cached_bytes,
                pool,
            }),
        })
    }
}

/// Closes the channel when publishing ends, so that the writer does not wait for it.
struct Publisher<'a>(&'a Receiver<Committed>);

impl Drop for Publisher<'_> {
    fn drop(&mut self) {
        self.0.close();
        while let Ok(unpublished) = self.0.try_recv() {
            unpublished.answer();
        }
    }
}

/// The result of a job, its type erased.
type Answer = Box<dyn Any + Send>;

struct TypedJob<F, T, E> {
    job: F,
    result: Option<Result<T, E>>,
    reply: Sender<Answer>,
}

impl<F, T, E> Job for TypedJob<F, T, E>
where
    F: Fn(&Tx) -> Result<T, E> + Send,
    T: Send + 'static,
    E: From<Error> + Send + 'static,
{
    fn run(&mut self, tx: &Tx) -> bool {
        let result = (self.job)(tx);
        let commit = result.is_ok();
        self.result = Some(result);
        commit
    }

    fn answer(self: Box<Self>) {
        let result = self.result.unwrap_or_else(|| Err(Error::Closed.into()));
        // The caller may not wait any more.
        let _ = self.reply.try_send(Box::new(result));
    }

    fn fail(self: Box<Self>, error: Error) {
        let result: Result<T, E> = Err(error.into());
        let _ = self.reply.try_send(Box::new(result));
    }
}
