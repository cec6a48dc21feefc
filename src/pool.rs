//! The few threads beside the one that decides: for work that would hold it up.
//!
//! At most [`THREADS`] pieces run at once, and of each kind at most its own limit, so that slow
//! passwords never keep a scan waiting. Who waits is capped too.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use smol::lock::Semaphore;

/// How many pieces of work run at once, of all kinds together.
const THREADS: usize = 4;
/// How many pieces of one kind may wait.
const WAITING: usize = 64;

/// A kind of work, each with its own limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Checking or making a password hash: 19 MiB each.
    Password,
    /// State resolution.
    Resolve,
    /// Reading what grows with history.
    Scan,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Password, Self::Resolve, Self::Scan];

    fn limit(self) -> usize {
        match self {
            Self::Password | Self::Resolve => 1,
            Self::Scan => 3,
        }
    }
}

/// Too much of one kind of work is waiting already.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the server is too busy; try again in a moment")]
pub struct Error;

/// The pool. Clones are the same pool.
#[derive(Clone, Debug)]
pub struct Pool {
    all: Arc<Semaphore>,
    lanes: Arc<[Lane; Kind::ALL.len()]>,
}

#[derive(Debug)]
struct Lane {
    slots: Semaphore,
    waiting: AtomicUsize,
}

impl Default for Pool {
    fn default() -> Self {
        let lane = |kind: Kind| Lane {
            slots: Semaphore::new(kind.limit()),
            waiting: AtomicUsize::new(0),
        };
        Self {
            all: Arc::new(Semaphore::new(THREADS)),
            lanes: Arc::new(Kind::ALL.map(lane)),
        }
    }
}

impl Pool {
    /// Runs `work` on a thread of the pool as soon as its kind has a free slot. Once begun, it
    /// runs to its end even if the caller stops waiting, and keeps its slot until then.
    ///
    /// # Errors
    /// If too many pieces of this kind are waiting.
    pub async fn run<T: Send + 'static>(
        &self,
        kind: Kind,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let lane = &self.lanes[kind as usize];
        let _waiting = Waiting::enter(&lane.waiting).ok_or(Error)?;
        let slot = lane.slots.acquire().await;
        let thread = self.all.acquire().await;
        // A guard that borrows cannot go to the other thread, so the permits are given back by a
        // value that owns the pool.
        slot.forget();
        thread.forget();
        let permit = Permit {
            pool: self.clone(),
            kind,
        };
        Ok(smol::unblock(move || {
            let _permit = permit;
            work()
        })
        .await)
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn enter(count: &'a AtomicUsize) -> Option<Self> {
        let before = count.fetch_add(1, Ordering::Relaxed);
        let waiting = Self(count);
        (before < WAITING).then_some(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Permit {
    pool: Pool,
    kind: Kind,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.pool.all.add_permits(1);
        self.pool.lanes[self.kind as usize].slots.add_permits(1);
    }
}
