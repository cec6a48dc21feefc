//! The writer: one thread that owns the database, opens it, writes to it and closes it.
//!
//! - It runs all jobs that are waiting as one transaction and commits once. Then it passes the new
//!   snapshot, the effects and the answers on together, so that no job is answered before it is
//!   durable and no one is woken before the snapshot is published.
//! - When idle it makes one empty commit that saves the allocator's state, so that a power cut
//!   needs no repair; at most once a minute.
//! - When the disk has failed a read or a write, redb refuses everything: the writer answers all
//!   jobs that wait with an error and opens the database again. A failed sync is final.

use std::{
    collections::VecDeque,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use redb::ReadableDatabase;
use smol::channel::{self, Receiver, Sender};

use super::{
    Effect, Error, Snapshot,
    batch::{Batch, Committed},
    disk::{Disk, OpenDatabase},
    health::{DiskFailure, Health},
    job::{QueuedJob, SizeChange},
    space::{Space, is_full},
    write_queue::{Command, NextStep, WriteQueue},
};

/// The allocator's state is saved after so long without a write …
const IDLE_TIMEOUT: Duration = Duration::from_secs(2);
/// … but not more often than this.
const MIN_ALLOCATOR_SAVE_INTERVAL: Duration = Duration::from_secs(60);
const SPACE_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// For so long after a write found the disk full, writes that grow the database are refused, whatever
/// the free space.
const FULL_COOLDOWN: Duration = Duration::from_secs(60);
/// After so long without a failure the backoff starts again.
const BACKOFF_RESET: Duration = Duration::from_secs(60);
/// The second attempt to open the database waits this long, each further one twice as long …
const MIN_BACKOFF: Duration = Duration::from_secs(1);
/// … up to this.
const MAX_BACKOFF: Duration = Duration::from_secs(60);

pub(super) struct StartedWriter {
    pub thread: thread::JoinHandle<()>,
    /// Receives once, when the database is open or cannot be opened.
    pub opened: Receiver<Result<Arc<Snapshot>, Error>>,
}

/// Starts the writer on its own thread.
pub(super) fn start(
    disk: Disk,
    health: Arc<Health>,
    commands: Receiver<Command>,
    committed: Sender<Committed>,
    cached_bytes: Arc<AtomicUsize>,
) -> io::Result<StartedWriter> {
    let (send_opened, opened) = channel::bounded(1);
    let writer = Writer {
        disk,
        health,
        queue: WriteQueue::new(commands),
        committed,
        cached_bytes,
        allocator_saved_at: None,
        space: SpaceMonitor::default(),
        backoff: ReopenBackoff::default(),
    };
    let thread = thread::Builder::new()
        .name("writer".into())
        .spawn(move || match writer.open() {
            Ok((open, snapshot)) => {
                if send_opened.send_blocking(Ok(snapshot)).is_ok() {
                    writer.run(open);
                }
            }
            Err(error) => {
                let _ = send_opened.send_blocking(Err(error.while_opening()));
            }
        })?;
    Ok(StartedWriter { thread, opened })
}

/// The writer's state, whether or not the database is open.
struct Writer {
    disk: Disk,
    health: Arc<Health>,
    queue: WriteQueue,
    committed: Sender<Committed>,
    /// What redb's cache has, as of the last commit.
    cached_bytes: Arc<AtomicUsize>,
    /// When the allocator's state was last saved while idle.
    allocator_saved_at: Option<Instant>,
    space: SpaceMonitor,
    backoff: ReopenBackoff,
}

impl Writer {
    fn open(&self) -> Result<(OpenDatabase, Arc<Snapshot>), Error> {
        let (open, snapshot) = guarded(|| self.disk.open(&self.health))?;
        Ok((open, Arc::new(snapshot)))
    }

    fn run(mut self, open: OpenDatabase) {
        let mut next = Some(open);
        while let Some(open) = next {
            next = self.serve(open).and_then(|failure| self.reopen(failure));
        }
    }

    /// Writes until the store is closed or the disk fails. The database is closed then.
    fn serve(&mut self, mut open: OpenDatabase) -> Option<DiskFailure> {
        loop {
            let mut closing = false;
            let idle_at = (!open.allocator_saved).then(|| self.allocator_save_at());
            match self.queue.next(idle_at) {
                NextStep::Commit(jobs) => self.write(&mut open, jobs),
                NextStep::Idle => self.save_allocator_state(&mut open),
                NextStep::CheckHealth => {}
                NextStep::Close(jobs) => {
                    self.write(&mut open, jobs);
                    closing = true;
                }
            }
            if let Some(failure) = self.health.take_failure() {
                self.health.set_reopening();
                drop(open);
                // Readers may have met the failure, too, until the database was closed.
                return Some(failure.or_worse(self.health.take_failure()));
            }
            if closing {
                if let Err(error) = open.db.close() {
                    log::error!(
                        "the database cannot be closed, it is checked at the next start: {error}"
                    );
                }
                return self.health.take_failure();
            }
        }
    }

    /// Commits `jobs`, in as many transactions as their failures make necessary.
    fn write(&mut self, open: &mut OpenDatabase, jobs: VecDeque<QueuedJob>) {
        let jobs = self.refuse_growth(jobs);
        let mut batch = Batch::new(jobs);
        while !batch.is_empty() {
            match guarded(|| batch.transact(&open.db, &mut open.counters)) {
                Ok(committed) => {
                    open.allocator_saved &= committed.snapshot.is_none();
                    self.deliver(committed);
                }
                Err(error) => {
                    let error = self.health.commit_error(&error);
                    self.deliver(Committed {
                        snapshot: None,
                        effects: Vec::new(),
                        answers: batch.fail(&error),
                    });
                    return;
                }
            }
        }
        let cached = open.db.cache_stats().used_bytes();
        self.cached_bytes.store(cached, Ordering::Relaxed);
        self.queue.answered();
    }

    fn deliver(&self, committed: Committed) {
        if let Err(unsent) = self.committed.send_blocking(committed) {
            // Nobody publishes any more. The jobs are answered all the same.
            unsent.into_inner().answer();
        }
    }

    /// Fails the jobs that grow the database if the disk is almost full.
    fn refuse_growth(&mut self, jobs: VecDeque<QueuedJob>) -> VecDeque<QueuedJob> {
        if !self.space.is_scarce(&self.disk) {
            return jobs;
        }
        let (grow, shrink): (VecDeque<_>, _) = jobs
            .into_iter()
            .partition(|queued| queued.size_change == SizeChange::Grows);
        for queued in grow {
            queued.job.fail(Error::Full);
        }
        shrink
    }

    /// When to save the allocator's state if nothing is written until then.
    fn allocator_save_at(&self) -> Instant {
        let idle = Instant::now() + IDLE_TIMEOUT;
        self.allocator_saved_at
            .map_or(idle, |saved| idle.max(saved + MIN_ALLOCATOR_SAVE_INTERVAL))
    }

    /// Saves the allocator's state, so that the next open needs no repair.
    fn save_allocator_state(&mut self, open: &mut OpenDatabase) {
        let saved = guarded(|| {
            let mut txn = open.db.begin_write()?;
            txn.set_quick_repair(true);
            Ok(txn.commit()?)
        });
        if let Err(error) = saved {
            self.health.commit_error(&error);
        }
        open.allocator_saved = true;
        self.allocator_saved_at = Some(Instant::now());
        self.disk.make_ballast();
    }

    /// Opens the database again, however long that takes; until then all jobs fail. `None` if the store
    /// is closed meanwhile or the failure is final.
    fn reopen(&mut self, mut failure: DiskFailure) -> Option<OpenDatabase> {
        loop {
            match &failure {
                DiskFailure::Sync(error) => {
                    return self.fail(Error::Failed(error.clone()));
                }
                DiskFailure::Io(error) if is_full(error) => {
                    self.space.found_full();
                    self.disk.remove_ballast();
                }
                DiskFailure::Io(_) => {}
            }
            let at = self.backoff.next();
            if !self.queue.fail_until(Some(at), &Error::Unavailable) {
                return None;
            }
            log::warn!("opening the database again");
            failure = match self.open() {
                Ok((open, snapshot)) => {
                    self.allocator_saved_at = None;
                    self.health.set_open();
                    self.deliver(Committed {
                        snapshot: Some(snapshot),
                        effects: vec![Effect::Reopened],
                        answers: Vec::new(),
                    });
                    log::info!("the database is open again");
                    return Some(open);
                }
                Err(Error::Failed(error)) => DiskFailure::Sync(error),
                Err(error) if error.is_corruption() => return self.fail(error),
                Err(error) => {
                    log::error!("the database cannot be opened again, trying again: {error}");
                    DiskFailure::Io(Arc::new(io::Error::other(error)))
                }
            };
        }
    }

    /// Ends the store: jobs fail with `error` until it is closed.
    fn fail(&mut self, error: Error) -> Option<OpenDatabase> {
        self.disk.mark_failed(&error);
        self.health.fail(error.clone());
        self.queue.fail_until(None, &error);
        None
    }
}

/// Calls redb; turns its panics into errors.
pub(super) fn guarded<T>(call: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or(Err(Error::Panicked))
}

#[derive(Default)]
struct SpaceMonitor {
    checked_at: Option<Instant>,
    is_scarce: bool,
    full_until: Option<Instant>,
}

impl SpaceMonitor {
    fn is_scarce(&mut self, disk: &Disk) -> bool {
        let now = Instant::now();
        if self
            .checked_at
            .is_none_or(|at| now >= at + SPACE_CHECK_INTERVAL)
        {
            self.checked_at = Some(now);
            let full = self.full_until.is_some_and(|until| now < until);
            let scarce = full || disk.space().is_some_and(Space::is_scarce);
            if scarce != self.is_scarce {
                self.is_scarce = scarce;
                match scarce {
                    true => log::error!(
                        "the disk is almost full: hearth accepts only deletions; free some space"
                    ),
                    false => log::info!("the disk has space again: hearth accepts all writes"),
                }
            }
        }
        self.is_scarce
    }

    fn found_full(&mut self) {
        self.full_until = Some(Instant::now() + FULL_COOLDOWN);
        self.checked_at = None;
    }
}

#[derive(Default)]
struct ReopenBackoff {
    last_attempt: Option<Instant>,
    delay: Duration,
}

impl ReopenBackoff {
    fn next(&mut self) -> Instant {
        let now = Instant::now();
        self.delay = if self
            .last_attempt
            .is_some_and(|last| now < last + BACKOFF_RESET)
        {
            (self.delay * 2).clamp(MIN_BACKOFF, MAX_BACKOFF)
        } else {
            Duration::ZERO
        };
        let next = now + self.delay;
        self.last_attempt = Some(next);
        next
    }
}
