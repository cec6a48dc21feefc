//! One batch of jobs: run as one transaction, committed once.
//!
//! A job that fails or panics after it changed a table is taken out: the transaction is aborted,
//! those before it run again and are committed, and those behind it follow in the next one. That
//! is why a job may run twice. redb has no savepoint inside a transaction that has changes.

use std::{
    collections::VecDeque,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use redb::{Database, ReadableDatabase};

use super::{
    Effect, Error, Snapshot,
    inbox::Queued,
    tx::{Counters, Tx},
};

/// A job that runs longer holds up everyone who writes.
const SLOW: Duration = Duration::from_millis(5);

/// A job with its type hidden.
pub(super) trait Job: Send {
    /// Runs it and keeps the result; whether what it did is to be committed.
    fn run(&mut self, tx: &Tx) -> bool;
    /// Hands the kept result to whoever waits.
    fn answer(self: Box<Self>);
    /// Hands `error` to whoever waits.
    fn fail(self: Box<Self>, error: Error);
}

/// What one transaction made, to be published in this order: snapshot, effects, answers.
pub(super) struct Committed {
    /// None if nothing was written.
    pub snapshot: Option<Arc<Snapshot>>,
    pub effects: Vec<Effect>,
    pub answers: Vec<Answer>,
}

impl Committed {
    /// Answers the jobs.
    pub fn answer(self) {
        for answer in self.answers {
            answer.deliver();
        }
    }
}

/// A job that has been decided.
pub(super) enum Answer {
    Done(Box<dyn Job>),
    Failed(Box<dyn Job>, Error),
}

impl Answer {
    fn deliver(self) {
        match self {
            Self::Done(job) => job.answer(),
            Self::Failed(job, error) => job.fail(error),
        }
    }

    fn into_job(self) -> Box<dyn Job> {
        match self {
            Self::Done(job) | Self::Failed(job, _) => job,
        }
    }
}

/// Jobs on their way into the database. It outlives a panic in the middle of a transaction, so
/// that all of them can be answered even then.
pub(super) struct Batch {
    waiting: VecDeque<Box<dyn Job>>,
    /// Those that the open transaction holds, in order.
    done: Vec<Box<dyn Job>>,
    /// Those that it does not hold, with what to tell them.
    refused: Vec<Answer>,
}

impl Batch {
    pub fn new(jobs: VecDeque<Queued>) -> Self {
        Self {
            waiting: jobs.into_iter().map(|queued| queued.job).collect(),
            done: Vec::new(),
            refused: Vec::new(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Runs jobs up to the first that has to be taken out, in one transaction, and commits it.
    /// `counters` become those after the commit.
    ///
    /// # Errors
    /// If the database fails. Whether the transaction is committed is not known then, and
    /// [`fail`](Self::fail) tells its jobs.
    pub fn transact(&mut self, db: &Database, counters: &mut Counters) -> Result<Committed, Error> {
        let mut tx = Tx::begin(db, *counters)?;
        let mut left = usize::MAX;
        while left > 0
            && let Some(job) = self.waiting.pop_front()
        {
            left -= 1;
            if !self.attempt(job, &tx) {
                // Once more with those before it only.
                left = self.done.len();
                for job in self.done.drain(..).rev() {
                    self.waiting.push_front(job);
                }
                drop(tx);
                tx = Tx::begin(db, *counters)?;
            }
        }
        let changed = tx.changed();
        let (next, effects) = if changed { tx.commit()? } else { tx.end()? };
        *counters = next;
        let snapshot = match changed {
            true => Some(Arc::new(Snapshot::new(db.begin_read()?))),
            false => None,
        };
        let mut answers = mem::take(&mut self.refused);
        answers.extend(self.done.drain(..).map(Answer::Done));
        Ok(Committed {
            snapshot,
            effects,
            answers,
        })
    }

    /// Tells every job `error`. Refusals too: they may rest on what was not committed.
    pub fn fail(self, error: &Error) -> Vec<Answer> {
        let refused = self.refused.into_iter().map(Answer::into_job);
        self.done
            .into_iter()
            .chain(refused)
            .chain(self.waiting)
            .map(|job| Answer::Failed(job, error.clone()))
            .collect()
    }

    /// Runs `job` in `tx` and puts it where it belongs. If `false`, it failed after it changed a
    /// table, and only an abort takes that back.
    fn attempt(&mut self, mut job: Box<dyn Job>, tx: &Tx) -> bool {
        let mark = tx.mark();
        let start = Instant::now();
        // After a panic the job is only told so, and its transaction is aborted if it was touched.
        let kept = catch_unwind(AssertUnwindSafe(|| job.run(tx)));
        if start.elapsed() > SLOW {
            log::debug!("a write job took {:?}", start.elapsed());
        }
        let answer = match kept {
            Ok(true) => {
                self.done.push(job);
                return true;
            }
            Ok(false) => Answer::Done(job),
            Err(_) => Answer::Failed(job, Error::Panicked),
        };
        self.refused.push(answer);
        tx.take_back(&mark)
    }
}
