//! The queue of the writer, with group commit.
//!
//! A deferrable job is committed together with the next job that is not, at the latest after
//! [`MAX_DEFERRAL`]. Other jobs are committed at once, with one exception: callers that were answered
//! a moment ago are likely to write again, so the writer waits [`GROUP_COMMIT_WINDOW`] for them to
//! share a commit.

use std::{
    collections::VecDeque,
    mem,
    time::{Duration, Instant},
};

use smol::{
    channel::{Receiver, TryRecvError},
    future::FutureExt,
};

use super::{Error, job::QueuedJob};

const MAX_DEFERRAL: Duration = Duration::from_secs(1);
/// Not counting deferrable jobs.
const MAX_BATCH_JOBS: usize = 256;
const MAX_DEFERRED_JOBS: usize = 1024;
/// `README.md` has measurements.
const GROUP_COMMIT_WINDOW: Duration = Duration::from_millis(20);

/// When a job has to be committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Urgency {
    Immediate,
    /// Within [`MAX_DEFERRAL`].
    Deferrable,
}

pub(super) enum Command {
    Write(QueuedJob, Urgency),
    /// The disk may have failed.
    CheckHealth,
    Close,
}

/// What the writer has to do next.
pub(super) enum NextStep {
    Commit(VecDeque<QueuedJob>),
    /// Nothing has come for a while.
    Idle,
    CheckHealth,
    /// Commit the last batch and end.
    Close(VecDeque<QueuedJob>),
}

pub(super) struct WriteQueue {
    commands: Receiver<Command>,
    immediate: Vec<QueuedJob>,
    deferred: Vec<QueuedJob>,
    deferred_since: Instant,
    /// How many immediate jobs the last batch had.
    last_batch: usize,
    group: ExpectedGroup,
    check_health: bool,
    closing: bool,
}

/// How many jobs are likely to come soon, because their callers were answered a moment ago.
struct ExpectedGroup {
    expected: usize,
    until: Instant,
}

impl WriteQueue {
    pub fn new(commands: Receiver<Command>) -> Self {
        let now = Instant::now();
        Self {
            commands,
            immediate: Vec::new(),
            deferred: Vec::new(),
            deferred_since: now,
            last_batch: 0,
            group: ExpectedGroup {
                expected: 0,
                until: now,
            },
            check_health: false,
            closing: false,
        }
    }

    /// Waits for the next step; with `idle_at`, until then.
    pub fn next(&mut self, idle_at: Option<Instant>) -> NextStep {
        loop {
            self.collect();
            if self.closing {
                return NextStep::Close(self.take());
            }
            if mem::take(&mut self.check_health) {
                return NextStep::CheckHealth;
            }
            match self.time_left(idle_at) {
                Some(Duration::ZERO) if self.immediate.is_empty() && self.deferred.is_empty() => {
                    return NextStep::Idle;
                }
                Some(Duration::ZERO) => return NextStep::Commit(self.take()),
                time_left => self.wait(time_left),
            }
        }
    }

    /// The last batch has been answered: its callers may write again soon.
    pub fn answered(&mut self) {
        self.collect();
        self.group = ExpectedGroup {
            expected: self.last_batch + self.immediate.len(),
            until: Instant::now() + GROUP_COMMIT_WINDOW,
        };
    }

    /// Answers all jobs that wait, and all that come until `deadline`, with `error`. `false` if the
    /// store was closed meanwhile.
    pub fn fail_until(&mut self, deadline: Option<Instant>, error: &Error) -> bool {
        loop {
            self.collect();
            self.check_health = false;
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

    /// How long until something is due without another command; `None` if nothing is.
    fn time_left(&self, idle_at: Option<Instant>) -> Option<Duration> {
        let enough = self.group.expected.clamp(1, MAX_BATCH_JOBS);
        let due = if self.immediate.len() >= enough || self.deferred.len() >= MAX_DEFERRED_JOBS {
            return Some(Duration::ZERO);
        } else if !self.immediate.is_empty() {
            Some(self.group.until)
        } else if !self.deferred.is_empty() {
            Some(self.deferred_since + MAX_DEFERRAL)
        } else {
            idle_at
        };
        due.map(|due| due.saturating_duration_since(Instant::now()))
    }

    /// Accepts the commands that are there.
    fn collect(&mut self) {
        while self.immediate.len() < MAX_BATCH_JOBS
            && self.deferred.len() < MAX_DEFERRED_JOBS
            && !self.closing
        {
            match self.commands.try_recv() {
                Ok(command) => self.accept(command),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Closed) => self.closing = true,
            }
        }
    }

    /// Waits for one command, at most for `timeout`.
    fn wait(&mut self, timeout: Option<Duration>) {
        let command = async { self.commands.recv().await.unwrap_or(Command::Close) };
        let command = match timeout {
            None => Some(smol::block_on(command)),
            Some(timeout) => smol::block_on(async { Some(command.await) }.or(async {
                smol::Timer::after(timeout).await;
                None
            })),
        };
        if let Some(command) = command {
            self.accept(command);
        }
    }

    fn accept(&mut self, command: Command) {
        match command {
            Command::Write(queued, Urgency::Immediate) => self.immediate.push(queued),
            Command::Write(queued, Urgency::Deferrable) => {
                if self.deferred.is_empty() {
                    self.deferred_since = Instant::now();
                }
                self.deferred.push(queued);
            }
            Command::CheckHealth => self.check_health = true,
            Command::Close => self.closing = true,
        }
    }

    fn take(&mut self) -> VecDeque<QueuedJob> {
        self.last_batch = self.immediate.len();
        let mut batch: VecDeque<_> = mem::take(&mut self.immediate).into();
        batch.extend(self.deferred.drain(..));
        batch
    }
}

impl Drop for WriteQueue {
    /// Answers all jobs when the writer has ended.
    fn drop(&mut self) {
        self.commands.close();
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
