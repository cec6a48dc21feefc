//! What waits for the writer, and when it is its turn.
//!
//! Jobs that can wait ride with the next commit, at the latest after [`SOON`]. Those that cannot
//! are committed at once, unless those who were answered a moment ago are likely to be back in
//! the next: then the writer waits that moment, so that they share a commit.

use std::{
    collections::VecDeque,
    mem,
    time::{Duration, Instant},
};

use smol::{
    channel::{Receiver, TryRecvError},
    future::FutureExt,
};

use super::{Error, batch::Job};

/// How long a job that can wait waits for company.
const SOON: Duration = Duration::from_secs(1);
/// How many jobs share a commit at most, beside those that could wait.
const BATCH: usize = 256;
/// How many jobs that can wait are held at most before they are committed.
const SOON_HELD: usize = 1024;
/// For how long after an answer the writer waits for the same company. `README.md` says what that
/// saves.
const LINGER: Duration = Duration::from_millis(20);

/// When a job is to be committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    Now,
    Soon,
}

/// What a job does to the size of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    Grows,
    Shrinks,
}

/// A job in the queue.
pub(super) struct Queued {
    pub job: Box<dyn Job>,
    pub size: Size,
}

/// What the writer is asked.
pub(super) enum Order {
    Write(Queued, When),
    /// To look whether the disk is in trouble.
    Look,
    Close,
}

/// What the writer is to do next.
pub(super) enum Work {
    Batch(VecDeque<Queued>),
    /// Nothing was asked for a while.
    Idle,
    Look,
    /// The last batch, then the end.
    Close(VecDeque<Queued>),
}

/// What waits for the writer.
pub(super) struct Inbox {
    orders: Receiver<Order>,
    now: Vec<Queued>,
    soon: Vec<Queued>,
    soon_since: Instant,
    /// How many jobs that could not wait were taken last.
    taken: usize,
    company: Company,
    look: bool,
    closing: bool,
}

/// Who is likely to come at once, because they were answered a moment ago.
struct Company {
    expected: usize,
    until: Instant,
}

impl Inbox {
    pub fn new(orders: Receiver<Order>) -> Self {
        let now = Instant::now();
        Self {
            orders,
            now: Vec::new(),
            soon: Vec::new(),
            soon_since: now,
            taken: 0,
            company: Company {
                expected: 0,
                until: now,
            },
            look: false,
            closing: false,
        }
    }

    /// Waits for work, until `idle_at` if there is something to do when there is none.
    pub fn next(&mut self, idle_at: Option<Instant>) -> Work {
        loop {
            self.collect();
            if self.closing {
                return Work::Close(self.take());
            }
            if mem::take(&mut self.look) {
                return Work::Look;
            }
            match self.time_left(idle_at) {
                Some(Duration::ZERO) if self.now.is_empty() && self.soon.is_empty() => {
                    return Work::Idle;
                }
                Some(Duration::ZERO) => return Work::Batch(self.take()),
                time_left => self.wait(time_left),
            }
        }
    }

    /// Tells that what was taken last has been answered: those who waited for it may be back soon.
    pub fn answered(&mut self) {
        self.collect();
        self.company = Company {
            expected: self.taken + self.now.len(),
            until: Instant::now() + LINGER,
        };
    }

    /// Answers everything that waits, and everything that comes until `deadline`, with `error`.
    /// Whether the store is still wanted then.
    pub fn refuse_until(&mut self, deadline: Option<Instant>, error: &Error) -> bool {
        loop {
            self.collect();
            self.look = false;
            for queued in self.take() {
                queued.job.fail(error.clone());
            }
            let time_left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if self.closing || time_left == Some(Duration::ZERO) {
                return !self.closing;
            }
            self.wait(time_left);
        }
    }

    /// How long until something is due without another order; none if nothing is.
    fn time_left(&self, idle_at: Option<Instant>) -> Option<Duration> {
        let enough = self.company.expected.clamp(1, BATCH);
        let due = if self.now.len() >= enough || self.soon.len() >= SOON_HELD {
            return Some(Duration::ZERO);
        } else if !self.now.is_empty() {
            Some(self.company.until)
        } else if !self.soon.is_empty() {
            Some(self.soon_since + SOON)
        } else {
            idle_at
        };
        due.map(|due| due.saturating_duration_since(Instant::now()))
    }

    /// Takes in what is there.
    fn collect(&mut self) {
        while self.now.len() < BATCH && self.soon.len() < SOON_HELD && !self.closing {
            match self.orders.try_recv() {
                Ok(order) => self.accept(order),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Closed) => self.closing = true,
            }
        }
    }

    /// Waits for one order, at most for `time`.
    fn wait(&mut self, time: Option<Duration>) {
        let order = async { self.orders.recv().await.unwrap_or(Order::Close) };
        let order = match time {
            None => Some(smol::block_on(order)),
            Some(time) => smol::block_on(async { Some(order.await) }.or(async {
                smol::Timer::after(time).await;
                None
            })),
        };
        if let Some(order) = order {
            self.accept(order);
        }
    }

    fn accept(&mut self, order: Order) {
        match order {
            Order::Write(queued, When::Now) => self.now.push(queued),
            Order::Write(queued, When::Soon) => {
                if self.soon.is_empty() {
                    self.soon_since = Instant::now();
                }
                self.soon.push(queued);
            }
            Order::Look => self.look = true,
            Order::Close => self.closing = true,
        }
    }

    fn take(&mut self) -> VecDeque<Queued> {
        self.taken = self.now.len();
        let mut batch: VecDeque<_> = mem::take(&mut self.now).into();
        batch.extend(self.soon.drain(..));
        batch
    }
}

impl Drop for Inbox {
    /// Nobody is left waiting for a writer that has ended.
    fn drop(&mut self) {
        self.orders.close();
        self.closing = false;
        loop {
            self.collect();
            for queued in self.take() {
                queued.job.fail(Error::Closed);
            }
            if self.closing {
                return;
            }
        }
    }
}
