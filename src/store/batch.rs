//! One batch of jobs: run as one transaction, committed once.
//!
//! A job that fails or panics after it changed a table is removed: the transaction is aborted, the
//! jobs before it run again and are committed, and the jobs behind it follow in the next
//! transaction. So a job may run twice. redb has no savepoint inside a transaction with changes.

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
    job::{Job, QueuedJob},
    tx::{Counters, Tx},
};

/// A job that runs longer is logged: it delays all other writes.
const SLOW_JOB: Duration = Duration::from_millis(5);

/// The result of one transaction, to be published in this order: snapshot, effects, answers.
pub(super) struct Committed {
    /// `None` if nothing was written.
    pub snapshot: Option<Arc<Snapshot>>,
    pub effects: Vec<Effect>,
    pub answers: Vec<Answer>,
}

impl Committed {
    pub fn answer(self) {
        for answer in self.answers {
            answer.deliver();
        }
    }
}

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

/// It outlives a panic in the middle of a transaction, so that all jobs can be answered even then.
pub(super) struct Batch {
    waiting: VecDeque<Box<dyn Job>>,
    /// Jobs whose changes are in the open transaction, in order.
    done: Vec<Box<dyn Job>>,
    /// Jobs whose changes are not in it, with their errors.
    failed: Vec<Answer>,
}

impl Batch {
    pub fn new(jobs: VecDeque<QueuedJob>) -> Self {
        Self {
            waiting: jobs.into_iter().map(|queued| queued.job).collect(),
            done: Vec::new(),
            failed: Vec::new(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Runs jobs up to the first that has to be removed, in one transaction, and commits it.
    /// `counters` become those after the commit.
    ///
    /// # Errors
    /// If the database fails. Whether the transaction is committed is not known then, and the caller
    /// answers the jobs with [`fail`](Self::fail).
    pub fn transact(&mut self, db: &Database, counters: &mut Counters) -> Result<Committed, Error> {
        let mut tx = Tx::begin(db, *counters)?;
        let mut left = usize::MAX;
        while left > 0
            && let Some(job) = self.waiting.pop_front()
        {
            left -= 1;
            if !self.attempt(job, &tx) {
                // Again with the jobs before it only.
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
        let mut answers = mem::take(&mut self.failed);
        answers.extend(self.done.drain(..).map(Answer::Done));
        Ok(Committed {
            snapshot,
            effects,
            answers,
        })
    }

    /// Answers every job with `error`, also those that failed before: their errors may depend on
    /// changes that were not committed.
    pub fn fail(self, error: &Error) -> Vec<Answer> {
        let failed = self.failed.into_iter().map(Answer::into_job);
        self.done
            .into_iter()
            .chain(failed)
            .chain(self.waiting)
            .map(|job| Answer::Failed(job, error.clone()))
            .collect()
    }

    /// Runs `job` in `tx`. `false` if it failed after it changed a table, which only an abort undoes.
    fn attempt(&mut self, mut job: Box<dyn Job>, tx: &Tx) -> bool {
        let savepoint = tx.savepoint();
        let start = Instant::now();
        // After a panic only `fail` of the job is called.
        let ran = catch_unwind(AssertUnwindSafe(|| job.run(tx)));
        if start.elapsed() > SLOW_JOB {
            log::debug!("slow write job: {:?}", start.elapsed());
        }
        let answer = match ran {
            Ok(true) => {
                self.done.push(job);
                return true;
            }
            Ok(false) => Answer::Done(job),
            Err(_) => Answer::Failed(job, Error::Panicked),
        };
        self.failed.push(answer);
        tx.roll_back(&savepoint)
    }
}
