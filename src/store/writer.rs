//! The writer: one thread that owns the database, opens it, writes to it and closes it.
//!
//! - It runs all jobs that are waiting as one transaction and commits once. Then it hands the new
//!   snapshot, the effects and the answers over together, so nothing is answered before it is
//!   durable and nobody is woken before the snapshot shows why.
//! - When idle it makes one empty commit that saves the allocator's state, so that a power cut
//!   then costs no repair; but not after every message of a slow conversation.
//! - When the disk has failed a read or a write, redb refuses everything: the writer answers all
//!   that waits with an error and opens the database again. A failed sync is final.

use std::{
    collections::VecDeque,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use smol::channel::{self, Receiver, Sender};

use super::{
    Effect, Error, Snapshot,
    batch::{Batch, Committed},
    disk::{Disk, Open, Space, is_full},
    health::{Health, Trouble},
    inbox::{Inbox, Order, Queued, Size, Work},
};

/// After how long without work the allocator's state is saved …
const IDLE: Duration = Duration::from_secs(2);
/// … if that was not done within this time.
const SETTLED_FOR: Duration = Duration::from_secs(60);
/// How long the free space of the disk is believed.
const SPACE_HOLDS: Duration = Duration::from_secs(1);
/// How long nothing may grow after a write found the disk full, whatever its free space is said to
/// be.
const FULL_HOLDS: Duration = Duration::from_secs(60);
/// An opening within this time of the one before it waits first.
const CALM: Duration = Duration::from_secs(60);
/// How long the second of several openings in a row waits; each next one waits twice as long …
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// … up to this.
const LAST_WAIT: Duration = Duration::from_secs(60);

/// A writer that has been started.
pub(super) struct Started {
    pub thread: thread::JoinHandle<()>,
    /// Yields once, when the database is open or cannot be opened.
    pub opened: Receiver<Result<Arc<Snapshot>, Error>>,
}

/// Starts the writer on a thread of its own.
///
/// # Errors
/// If the system gives no thread.
pub(super) fn start(
    disk: Disk,
    health: Arc<Health>,
    orders: Receiver<Order>,
    committed: Sender<Committed>,
) -> io::Result<Started> {
    let (tell, opened) = channel::bounded(1);
    let writer = Writer {
        disk,
        health,
        inbox: Inbox::new(orders),
        committed,
        settled: None,
        scarce: Scarcity::default(),
        opening: Openings::default(),
    };
    let thread = thread::Builder::new()
        .name("writer".into())
        .spawn(move || match writer.open() {
            Ok((open, snapshot)) => {
                if tell.send_blocking(Ok(snapshot)).is_ok() {
                    writer.run(open);
                }
            }
            Err(error) => {
                let _ = tell.send_blocking(Err(error));
            }
        })?;
    Ok(Started { thread, opened })
}

/// What there is of the writer whether or not the database is open.
struct Writer {
    disk: Disk,
    health: Arc<Health>,
    inbox: Inbox,
    committed: Sender<Committed>,
    /// When the allocator's state was last saved because there was nothing to do.
    settled: Option<Instant>,
    scarce: Scarcity,
    opening: Openings,
}

impl Writer {
    fn open(&self) -> Result<(Open, Arc<Snapshot>), Error> {
        let (open, snapshot) = guarded(|| self.disk.open(&self.health))?;
        Ok((open, Arc::new(snapshot)))
    }

    fn run(mut self, open: Open) {
        let mut next = Some(open);
        while let Some(open) = next {
            next = self
                .serve(open)
                .and_then(|trouble| self.open_again(trouble));
        }
    }

    /// Works until the store is closed or the disk is in trouble. The database is closed then.
    fn serve(&mut self, mut open: Open) -> Option<Trouble> {
        loop {
            let mut closing = false;
            let settle_at = (!open.settled).then(|| self.settle_at());
            match self.inbox.next(settle_at) {
                Work::Batch(jobs) => self.write(&mut open, jobs),
                Work::Idle => self.settle(&mut open),
                Work::Look => {}
                Work::Close(jobs) => {
                    self.write(&mut open, jobs);
                    closing = true;
                }
            }
            if let Some(trouble) = self.health.take_trouble() {
                self.health.set_reopening();
                drop(open);
                // What a reader met until the database was closed is the same trouble.
                return Some(trouble.or_worse(self.health.take_trouble()));
            }
            if closing {
                if let Err(error) = open.db.close() {
                    log::error!("the database could not be closed: {error}");
                }
                return self.health.take_trouble();
            }
        }
    }

    /// Commits `jobs`, in as many transactions as their failures make necessary.
    fn write(&mut self, open: &mut Open, jobs: VecDeque<Queued>) {
        let jobs = self.refuse_growth(jobs);
        let mut batch = Batch::new(jobs);
        while !batch.is_empty() {
            match guarded(|| batch.transact(&open.db, &mut open.counters)) {
                Ok(committed) => {
                    open.settled &= committed.snapshot.is_none();
                    self.deliver(committed);
                }
                Err(error) => {
                    let told = self.health.blame(&error);
                    self.deliver(Committed {
                        snapshot: None,
                        effects: Vec::new(),
                        answers: batch.fail(&told),
                    });
                    return;
                }
            }
        }
        self.inbox.answered();
    }

    fn deliver(&self, committed: Committed) {
        if let Err(unsent) = self.committed.send_blocking(committed) {
            // Nobody publishes any more. What is committed may be said all the same.
            unsent.into_inner().answer();
        }
    }

    /// Sends away the jobs that grow the database if the disk has no room for them.
    fn refuse_growth(&mut self, jobs: VecDeque<Queued>) -> VecDeque<Queued> {
        if !self.scarce.is_now(&self.disk) {
            return jobs;
        }
        let (grow, shrink): (VecDeque<_>, _) = jobs
            .into_iter()
            .partition(|queued| queued.size == Size::Grows);
        for queued in grow {
            queued.job.fail(Error::Full);
        }
        shrink
    }

    /// When to settle if nothing is asked until then.
    fn settle_at(&self) -> Instant {
        let idle = Instant::now() + IDLE;
        self.settled
            .map_or(idle, |settled| idle.max(settled + SETTLED_FOR))
    }

    /// Saves the allocator's state, so that the next open needs no repair.
    fn settle(&mut self, open: &mut Open) {
        let saved = guarded(|| {
            let mut txn = open.db.begin_write()?;
            txn.set_quick_repair(true);
            Ok(txn.commit()?)
        });
        if let Err(error) = saved {
            self.health.blame(&error);
        }
        open.settled = true;
        self.settled = Some(Instant::now());
        self.disk.make_ballast();
    }

    /// Opens the database again, however long that takes; until then whoever asks for something
    /// is answered with an error. None if that is not wanted any more or makes no sense.
    fn open_again(&mut self, mut trouble: Trouble) -> Option<Open> {
        loop {
            match &trouble {
                Trouble::Sync(error) => {
                    return self.end(Error::Failed(error.clone()));
                }
                Trouble::Io(error) if is_full(error) => {
                    self.scarce.found_full();
                    self.disk.give_up_ballast();
                }
                Trouble::Io(_) => {}
            }
            let at = self.opening.next();
            if !self.inbox.refuse_until(Some(at), &Error::Unavailable) {
                return None;
            }
            log::warn!("opening the database again");
            trouble = match self.open() {
                Ok((open, snapshot)) => {
                    self.settled = None;
                    self.health.set_open();
                    self.deliver(Committed {
                        snapshot: Some(snapshot),
                        effects: vec![Effect::Reopened],
                        answers: Vec::new(),
                    });
                    log::info!("the database is open again");
                    return Some(open);
                }
                Err(Error::Failed(error)) => Trouble::Sync(error),
                Err(error) if error.is_corruption() => return self.end(error),
                Err(error) => {
                    log::error!("the database cannot be opened: {error}");
                    Trouble::Io(Arc::new(io::Error::other(error)))
                }
            };
        }
    }

    /// The end: only the errors are still answered, until the store is closed.
    fn end(&mut self, error: Error) -> Option<Open> {
        self.disk.mark_failed(&error);
        self.health.fail(error.clone());
        self.inbox.refuse_until(None, &error);
        None
    }
}

/// Runs what redb does; its panics are errors, too.
fn guarded<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(Error::Panicked))
}

/// Whether the disk has room, asked at most once in [`SPACE_HOLDS`].
#[derive(Default)]
struct Scarcity {
    asked: Option<Instant>,
    scarce: bool,
    full_until: Option<Instant>,
}

impl Scarcity {
    fn is_now(&mut self, disk: &Disk) -> bool {
        let now = Instant::now();
        if self.asked.is_none_or(|at| now >= at + SPACE_HOLDS) {
            self.asked = Some(now);
            let full = self.full_until.is_some_and(|until| now < until);
            let scarce = full || disk.space().is_some_and(Space::is_scarce);
            if scarce != self.scarce {
                self.scarce = scarce;
                match scarce {
                    true => log::error!("the disk is almost full: only deletions are stored"),
                    false => log::info!("the disk has room again"),
                }
            }
        }
        self.scarce
    }

    fn found_full(&mut self) {
        self.full_until = Some(Instant::now() + FULL_HOLDS);
        self.asked = None;
    }
}

/// When the database was last opened again, so that a disk that fails again and again is not asked
/// all the time.
#[derive(Default)]
struct Openings {
    last: Option<Instant>,
    wait: Duration,
}

impl Openings {
    fn next(&mut self) -> Instant {
        let now = Instant::now();
        self.wait = if self.last.is_some_and(|last| now < last + CALM) {
            (self.wait * 2).clamp(FIRST_WAIT, LAST_WAIT)
        } else {
            Duration::ZERO
        };
        let next = now + self.wait;
        self.last = Some(next);
        next
    }
}
