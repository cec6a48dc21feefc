//! The writer: one thread that owns the database's write transactions.
//!
//! - It runs all jobs that are waiting as one transaction and commits once. Then it hands the new
//!   snapshot, the effects and the answers over together, so nothing is answered before it is
//!   durable and nobody is woken before the snapshot shows why.
//! - A job that fails or panics after it changed a table is taken out: the transaction is
//!   aborted, those before it run again and are committed, and those behind it follow in the next
//!   one. That is why a job may run twice.
//! - Jobs that can wait ride with the next commit, at the latest after [`SOON`].
//! - After [`IDLE`] without work one empty commit saves the allocator's state, so that a power cut
//!   while idle costs no repair.

use std::{
    collections::VecDeque,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use redb::{Database, ReadableDatabase};
use smol::{
    channel::{Receiver, Sender, TryRecvError},
    future::FutureExt,
};

use super::{
    Effect, Error, Snapshot,
    tx::{Counters, Tx},
};

/// How long a job that can wait waits for company.
const SOON: Duration = Duration::from_secs(1);
/// After how long without work the allocator's state is saved.
const IDLE: Duration = Duration::from_secs(2);
/// How many jobs share a commit at most.
const BATCH: usize = 256;
/// How many jobs that can wait are held at most before they are committed.
const SOON_HELD: usize = 1024;
/// A job that runs longer holds up everyone who writes.
const SLOW: Duration = Duration::from_millis(5);

/// A job in the queue, with its type hidden.
pub(super) trait Job: Send {
    /// Runs it and keeps the result; whether what it did is to be committed.
    fn run(&mut self, tx: &Tx) -> bool;
    /// Hands the kept result to whoever waits.
    fn answer(self: Box<Self>);
    /// Hands `error` to whoever waits.
    fn fail(self: Box<Self>, error: Error);
}

/// When a job is to be committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    Now,
    Soon,
}

/// What the writer is asked.
pub(super) enum Order {
    Write(Box<dyn Job>, When),
    Close,
}

/// What one commit made, to be published in this order: snapshot, effects, answers.
pub(super) struct Committed {
    pub snapshot: Option<Arc<Snapshot>>,
    pub effects: Vec<Effect>,
    pub answers: Vec<Answer>,
}

/// A job that has been decided.
pub(super) enum Answer {
    Done(Box<dyn Job>),
    Failed(Box<dyn Job>, Error),
}

impl Answer {
    pub fn deliver(self) {
        match self {
            Self::Done(job) => job.answer(),
            Self::Failed(job, error) => job.fail(error),
        }
    }
}

/// Starts the writer on a thread of its own.
pub(super) fn start(
    db: Database,
    counters: Counters,
    orders: Receiver<Order>,
    committed: Sender<Committed>,
) -> std::io::Result<thread::JoinHandle<()>> {
    let writer = Writer {
        db,
        counters,
        orders,
        committed,
        soon: Vec::new(),
        soon_since: None,
    };
    thread::Builder::new()
        .name("writer".into())
        .spawn(move || writer.run())
}

struct Writer {
    db: Database,
    counters: Counters,
    orders: Receiver<Order>,
    committed: Sender<Committed>,
    soon: Vec<Box<dyn Job>>,
    soon_since: Option<Instant>,
}

/// What the writer found when it looked for work.
enum Work {
    Batch(VecDeque<Box<dyn Job>>),
    Idle,
    Closing(VecDeque<Box<dyn Job>>),
}

impl Writer {
    fn run(mut self) {
        let mut settled = false;
        loop {
            match self.wait(settled) {
                Work::Batch(jobs) => {
                    self.write(jobs);
                    settled = false;
                }
                Work::Idle => {
                    self.settle();
                    settled = true;
                }
                Work::Closing(jobs) => {
                    self.write(jobs);
                    self.settle();
                    return;
                }
            }
        }
    }

    /// Waits for work: for as long as it takes once the allocator's state is saved (`settled`)
    /// and no job waits for company.
    fn wait(&mut self, settled: bool) -> Work {
        let mut now = VecDeque::new();
        loop {
            let order = match self.deadline(settled) {
                None => smol::block_on(self.orders.recv()).ok(),
                Some(deadline) => {
                    let timer = async {
                        smol::Timer::at(deadline).await;
                        None
                    };
                    let order = async { Some(self.orders.recv().await.ok()) };
                    match smol::block_on(order.or(timer)) {
                        Some(order) => order,
                        None if self.soon.is_empty() => return Work::Idle,
                        None => return Work::Batch(self.take_soon()),
                    }
                }
            };
            let mut next = order;
            let closing = loop {
                match next {
                    None | Some(Order::Close) => break true,
                    Some(Order::Write(job, When::Now)) => now.push_back(job),
                    Some(Order::Write(job, When::Soon)) => {
                        self.soon_since.get_or_insert_with(Instant::now);
                        self.soon.push(job);
                    }
                }
                if now.len() >= BATCH {
                    break false;
                }
                next = match self.orders.try_recv() {
                    Ok(order) => Some(order),
                    Err(TryRecvError::Empty) => break false,
                    Err(TryRecvError::Closed) => break true,
                };
            };
            if closing {
                now.extend(self.take_soon());
                return Work::Closing(now);
            }
            if !now.is_empty() || self.soon.len() >= SOON_HELD {
                now.extend(self.take_soon());
                return Work::Batch(now);
            }
        }
    }

    fn deadline(&self, settled: bool) -> Option<Instant> {
        match self.soon_since {
            Some(since) => Some(since + SOON),
            None if settled => None,
            None => Some(Instant::now() + IDLE),
        }
    }

    fn take_soon(&mut self) -> VecDeque<Box<dyn Job>> {
        self.soon_since = None;
        mem::take(&mut self.soon).into()
    }

    /// Commits `jobs`, in as many transactions as their failures make necessary.
    fn write(&mut self, mut jobs: VecDeque<Box<dyn Job>>) {
        while !jobs.is_empty() {
            let mut answers = Vec::new();
            let (effects, snapshot) = match self.transact(&mut jobs, &mut answers) {
                Ok((effects, snapshot)) => (effects, Some(Arc::new(snapshot))),
                Err(error) => {
                    log::error!("a write failed: {error}");
                    answers = answers
                        .into_iter()
                        .map(|answer| answer.failed(&error))
                        .collect();
                    answers.extend(jobs.drain(..).map(|job| Answer::Failed(job, error.clone())));
                    (Vec::new(), None)
                }
            };
            // The receiver goes away only when the whole store does.
            let _ = self.committed.send_blocking(Committed {
                snapshot,
                effects,
                answers,
            });
        }
    }

    /// Runs jobs from the front of `jobs` in one transaction, up to the first that has to be taken
    /// out, and commits. Decided jobs move to `answers`.
    fn transact(
        &mut self,
        jobs: &mut VecDeque<Box<dyn Job>>,
        answers: &mut Vec<Answer>,
    ) -> Result<(Vec<Effect>, Snapshot), Error> {
        let mut tx = Tx::begin(&self.db, self.counters)?;
        let mut done: Vec<Box<dyn Job>> = Vec::new();
        while let Some(mut job) = jobs.pop_front() {
            let mark = tx.mark();
            match attempt(&mut *job, &tx) {
                Attempt::Keep => done.push(job),
                attempt => {
                    let clean = tx.take_back(&mark);
                    answers.push(attempt.answer(job));
                    if !clean {
                        drop(tx);
                        tx = self.run_again(&mut done, answers)?;
                        break;
                    }
                }
            }
        }
        let committed = tx.commit();
        answers.extend(done.into_iter().map(Answer::Done));
        let (counters, effects) = committed?;
        self.counters = counters;
        Ok((effects, Snapshot::new(self.db.begin_read()?)))
    }

    /// A new transaction with what `done` did, after the one before was aborted. A job that fails
    /// this time is taken out as well.
    fn run_again(
        &self,
        done: &mut Vec<Box<dyn Job>>,
        answers: &mut Vec<Answer>,
    ) -> Result<Tx, Error> {
        'again: loop {
            let tx = Tx::begin(&self.db, self.counters)?;
            for at in 0..done.len() {
                let mark = tx.mark();
                match attempt(&mut *done[at], &tx) {
                    Attempt::Keep => {}
                    attempt => {
                        let clean = tx.take_back(&mark);
                        answers.push(attempt.answer(done.remove(at)));
                        if !clean || at < done.len() {
                            continue 'again;
                        }
                    }
                }
            }
            return Ok(tx);
        }
    }

    /// Saves the allocator's state, so that the next open needs no repair.
    fn settle(&self) {
        let saved = self
            .db
            .begin_write()
            .map_err(Error::from)
            .and_then(|mut txn| {
                txn.set_quick_repair(true);
                Ok(txn.commit()?)
            });
        if let Err(error) = saved {
            log::error!("the database could not be settled: {error}");
        }
    }
}

impl Answer {
    fn failed(self, error: &Error) -> Self {
        match self {
            Self::Done(job) => Self::Failed(job, error.clone()),
            // Its own answer is right whatever became of the commit.
            Self::Failed(..) => self,
        }
    }
}

/// How a job's run ended.
enum Attempt {
    Keep,
    Refused,
    Panicked,
}

impl Attempt {
    fn answer(self, job: Box<dyn Job>) -> Answer {
        match self {
            Self::Panicked => Answer::Failed(job, Error::Panicked),
            Self::Keep | Self::Refused => Answer::Done(job),
        }
    }
}

fn attempt(job: &mut dyn Job, tx: &Tx) -> Attempt {
    let start = Instant::now();
    // After a panic the job is only told so, and its transaction is aborted if it was touched.
    let attempt = match catch_unwind(AssertUnwindSafe(|| job.run(tx))) {
        Ok(true) => Attempt::Keep,
        Ok(false) => Attempt::Refused,
        Err(_) => Attempt::Panicked,
    };
    if start.elapsed() > SLOW {
        log::debug!("a write job took {:?}", start.elapsed());
    }
    attempt
}
