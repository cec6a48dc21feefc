//! Whether the store can be used, and what the disk did to it.
//!
//! The backend notes trouble when it meets it, on whatever thread; the writer takes it up between
//! two batches; everyone else only looks.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use smol::lock::OnceCell;

use super::{Error, disk::is_full};

/// What the disk did.
#[derive(Clone, Debug)]
pub(super) enum Trouble {
    /// It could not be read, written or made larger. redb refuses everything from then on; once
    /// the database is opened again, it is as the last commit left it.
    Io(Arc<io::Error>),
    /// It could not make durable what was written. What it holds is not known: the system may
    /// believe pages written that are not.
    Sync(Arc<io::Error>),
}

impl Trouble {
    /// This, or `other` if that is worse.
    pub fn or_worse(self, other: Option<Self>) -> Self {
        match (&self, other) {
            (Self::Io(_), Some(worse @ Self::Sync(_))) => worse,
            _ => self,
        }
    }
}

/// The health of one store, shared by all of its parts.
pub(super) struct Health {
    trouble: Mutex<Option<Trouble>>,
    reopening: AtomicBool,
    failure: OnceCell<Error>,
    /// Tells the writer that there is trouble, in case it waits for work.
    wake: Box<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Health").finish_non_exhaustive()
    }
}

impl Health {
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            trouble: Mutex::default(),
            reopening: AtomicBool::new(false),
            failure: OnceCell::new(),
            wake: Box::new(wake),
        }
    }

    /// Notes what the disk did. The first of its kind is kept; a failed sync outweighs all else.
    pub fn note(&self, trouble: Trouble) {
        let mut noted = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*noted, &trouble) {
            (None, _) | (Some(Trouble::Io(_)), Trouble::Sync(_)) => {
                log::error!("{trouble}");
                *noted = Some(trouble);
            }
            _ => {}
        }
        drop(noted);
        (self.wake)();
    }

    pub fn take_trouble(&self) -> Option<Trouble> {
        self.trouble
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// What to tell those for whom redb failed with `error`. If the disk is not to blame, `error` is
    /// the trouble: redb wants to be opened again after any failed commit.
    pub fn blame(&self, error: &Error) -> Error {
        let mut noted = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let trouble = noted.get_or_insert_with(|| {
            log::error!("a write failed: {error}");
            Trouble::Io(Arc::new(io::Error::other(error.to_string())))
        });
        match trouble {
            Trouble::Sync(error) => Error::Failed(error.clone()),
            Trouble::Io(error) if is_full(error) => Error::Full,
            Trouble::Io(_) => Error::Unavailable,
        }
    }

    /// From now on everything is refused, because the database is being opened again.
    pub fn set_reopening(&self) {
        self.reopening.store(true, Ordering::Release);
    }

    /// The database is open again.
    pub fn set_open(&self) {
        self.reopening.store(false, Ordering::Release);
    }

    /// Ends the store for good.
    pub fn fail(&self, error: Error) {
        // Only the writer fails the store, and once.
        let _ = self.failure.set_blocking(error);
    }

    /// Why nothing can be asked of the store now, if so.
    pub fn check(&self) -> Result<(), Error> {
        match self.failure.get() {
            Some(error) => Err(error.clone()),
            None if self.reopening.load(Ordering::Acquire) => Err(Error::Unavailable),
            None => Ok(()),
        }
    }

    /// Waits until the store has ended for good, if ever.
    pub async fn failed(&self) -> Error {
        self.failure.wait().await.clone()
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => write!(f, "the disk failed: {error}"),
            Self::Sync(error) => write!(f, "the disk failed to make writes durable: {error}"),
        }
    }
}
