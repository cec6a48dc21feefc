//! A write job while the writer has it.

use super::{Error, tx::Tx};

/// A job whose type is erased.
pub(super) trait Job: Send {
    /// Runs the job and keeps its result. Returns whether its changes are to be committed.
    fn run(&mut self, tx: &Tx) -> bool;
    /// Sends the kept result to the caller.
    fn answer(self: Box<Self>);
    /// Sends `error` to the caller.
    fn fail(self: Box<Self>, error: Error);
}

/// A job in the queue.
pub(super) struct QueuedJob {
    pub job: Box<dyn Job>,
    pub size_change: SizeChange,
}

/// What a job does to the size of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SizeChange {
    Grows,
    Shrinks,
}
