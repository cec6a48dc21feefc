//! Whether the store can be used, and how the disk failed.
//!
//! The backend records a failure on the thread that meets it; the writer handles it between two
//! batches; all others only check.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use smol::lock::OnceCell;

use super::{Error, space::is_full};

#[derive(Clone, Debug)]
pub(super) enum DiskFailure {
    /// A read, a write or a resize failed. redb refuses everything from then on. After the database is
    /// opened again, it is as the last commit left it.
    Io(Arc<io::Error>),
    /// A sync failed. What the disk holds is not known: the system may count pages as written that are
    /// not.
    Sync(Arc<io::Error>),
}

impl DiskFailure {
    /// `self`, or `other` if that is worse.
    pub fn or_worse(self, other: Option<Self>) -> Self {
        match (&self, other) {
            (Self::Io(_), Some(worse @ Self::Sync(_))) => worse,
            _ => self,
        }
    }
}

pub(super) struct Health {
    disk_failure: Mutex<Option<DiskFailure>>,
    reopening: AtomicBool,
    failure: OnceCell<Error>,
    /// Makes the writer check the health.
    wake_writer: Box<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Health").finish_non_exhaustive()
    }
}

impl Health {
    pub fn new(wake_writer: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            disk_failure: Mutex::default(),
            reopening: AtomicBool::new(false),
            failure: OnceCell::new(),
            wake_writer: Box::new(wake_writer),
        }
    }

    /// Records a failure. The first is kept, but a failed sync replaces other failures.
    pub fn record(&self, failure: DiskFailure) {
        let mut recorded = self
            .disk_failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match (&*recorded, &failure) {
            (None, _) | (Some(DiskFailure::Io(_)), DiskFailure::Sync(_)) => {
                log::error!("{failure}; check the disk and its cables");
                *recorded = Some(failure);
            }
            _ => {}
        }
        drop(recorded);
        (self.wake_writer)();
    }

    pub fn take_failure(&self) -> Option<DiskFailure> {
        self.disk_failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// The error for the jobs of a commit that failed with `error`. If the disk has not failed, `error`
    /// is recorded as a failure: redb has to be opened again after any failed commit.
    pub fn commit_error(&self, error: &Error) -> Error {
        let mut recorded = self
            .disk_failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let failure = recorded.get_or_insert_with(|| {
            log::error!("a commit failed; opening the database again: {error}");
            DiskFailure::Io(Arc::new(io::Error::other(error.to_string())))
        });
        match failure {
            DiskFailure::Sync(error) => Error::Failed(error.clone()),
            DiskFailure::Io(error) if is_full(error) => Error::Full,
            DiskFailure::Io(_) => Error::Unavailable,
        }
    }

    pub fn set_reopening(&self) {
        self.reopening.store(true, Ordering::Release);
    }

    pub fn set_open(&self) {
        self.reopening.store(false, Ordering::Release);
    }

    /// Ends the store for good.
    pub fn fail(&self, error: Error) {
        // Only the writer fails the store, and once.
        let _ = self.failure.set_blocking(error);
    }

    /// # Errors
    /// If the store cannot be used now.
    pub fn check(&self) -> Result<(), Error> {
        match self.failure.get() {
            Some(error) => Err(error.clone()),
            None if self.reopening.load(Ordering::Acquire) => Err(Error::Unavailable),
            None => Ok(()),
        }
    }

    /// Waits until the store has failed for good, if ever.
    pub async fn failed(&self) -> Error {
        self.failure.wait().await.clone()
    }
}

impl std::fmt::Display for DiskFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => write!(f, "the disk cannot be read or written: {error}"),
            Self::Sync(error) => write!(f, "the disk does not make writes durable: {error}"),
        }
    }
}
