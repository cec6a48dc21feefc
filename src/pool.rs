//! The few threads beside the one that decides: for work that would hold it up.
//!
//! At most [`THREADS`] pieces run at once, and of each kind at most its own limit, so that slow
//! passwords never keep a scan waiting. Who waits is capped too.

use std::{
    any::Any,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use smol::lock::Semaphore;

/// How many pieces of work run at once, of all kinds together.
const THREADS: usize = 4;
/// How many pieces of most kinds may wait.
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
    /// Checking signatures.
    Verify,
    /// Reading what this machine has in files of other servers: their names, their authorities.
    LookUp,
    /// A piece of a file with media.
    File,
    /// Making a picture smaller: as much memory as its pixels take.
    Picture,
}

impl Kind {
    const ALL: [Self; 7] = [
        Self::Password,
        Self::Resolve,
        Self::Scan,
        Self::Verify,
        Self::LookUp,
        Self::File,
        Self::Picture,
    ];

    fn limit(self) -> usize {
        match self {
            Self::Password | Self::Resolve | Self::Verify | Self::Picture => 1,
            Self::LookUp | Self::File => 2,
            Self::Scan => 3,
        }
    }

    /// How many pieces may wait.
    fn waiting(self) -> usize {
        match self {
            // Each comes from a connection, of which there are so many at the most.
            Self::File => usize::MAX,
            _ => WAITING,
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
    pub fn run<T: Send + 'static>(
        &self,
        kind: Kind,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Result<T, Error>> + Send {
        self.unless_busy(kind, boxed(work))
    }

    /// The same, however many are waiting: for the server's own tasks, which have nobody whom they could
    /// refuse. Each of them sees to it that only a few of its pieces wait.
    pub fn run_whenever<T: Send + 'static>(
        &self,
        kind: Kind,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = T> + Send {
        self.whenever(kind, boxed(work))
    }

    // These are in the program once for every type of result, not for every piece of work.

    async fn unless_busy<T: 'static>(&self, kind: Kind, work: Work) -> Result<T, Error> {
        let lane = &self.lanes[kind as usize];
        let _waiting = Waiting::enter(&lane.waiting, kind.waiting()).ok_or(Error)?;
        Ok(self.whenever(kind, work).await)
    }

    async fn whenever<T: 'static>(&self, kind: Kind, work: Work) -> T {
        let done = self.run_boxed(kind, work).await;
        *done.downcast().expect("this is what the work made")
    }

    /// The same for every type of result.
    async fn run_boxed(&self, kind: Kind, work: Work) -> Done {
        let slot = self.lanes[kind as usize].slots.acquire().await;
        let thread = self.all.acquire().await;
        // A guard that borrows cannot go to the other thread, so the permits are given back by a
        // value that owns the pool.
        slot.forget();
        thread.forget();
        let permit = Permit {
            pool: self.clone(),
            kind,
        };
        smol::unblock(move || {
            let _permit = permit;
            work()
        })
        .await
    }
}

/// A piece of work.
type Work = Box<dyn FnOnce() -> Done + Send>;

/// What a piece of work has made.
type Done = Box<dyn Any + Send>;

fn boxed<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Work {
    Box::new(move || Box::new(work()))
}

struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn enter(count: &'a AtomicUsize, most: usize) -> Option<Self> {
        let before = count.fetch_add(1, Ordering::Relaxed);
        let waiting = Self(count);
        (before < most).then_some(waiting)
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

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use smol::{
        Timer,
        future::{self, poll_once},
    };

    use super::{Kind, Pool, THREADS, WAITING};
    use crate::executor::Executor;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// Starts `count` pieces of work that last until the sender is dropped, and says how many of
    /// them ran at once.
    fn at_once(kinds: &[Kind]) -> usize {
        let pool = Pool::default();
        let (began, beginnings) = smol::channel::unbounded();
        let executor = Executor::default();
        let mut ends = Vec::new();
        for kind in kinds {
            let (pool, kind, began) = (pool.clone(), *kind, began.clone());
            let (end, ended) = mpsc::channel::<()>();
            ends.push(end);
            executor
                .spawn(async move {
                    let work = move || {
                        let _ = began.try_send(());
                        let _ = ended.recv();
                    };
                    pool.run(kind, work).await
                })
                .detach();
        }
        smol::block_on(executor.run(async {
            let mut running = 0;
            let more = async || {
                let quiet = async {
                    Timer::after(Duration::from_millis(200)).await;
                    false
                };
                let another = async { beginnings.recv().await.is_ok() };
                future::or(another, quiet).await
            };
            while more().await {
                running += 1;
            }
            running
        }))
    }

    #[test]
    fn each_kind_has_its_own_limit_and_all_have_one_together() {
        assert_eq!(at_once(&[Kind::Password; 3]), 1);
        assert_eq!(at_once(&[Kind::Resolve; 3]), 1);
        assert_eq!(at_once(&[Kind::Scan; 9]), 3);
        let mut all = vec![Kind::Scan; 9];
        all.extend([Kind::Password, Kind::Resolve]);
        assert_eq!(at_once(&all), THREADS);
    }

    #[test]
    fn who_waits_gets_a_turn_when_the_one_before_ends() {
        let pool = Pool::default();
        let results = smol::block_on(async {
            let mut results = Vec::new();
            for n in 0..100 {
                results.push(pool.run(Kind::Password, move || n).await.unwrap());
            }
            results
        });
        assert!(results.into_iter().eq(0..100));
    }

    #[test]
    fn too_many_who_wait_are_refused() {
        let pool = Pool::default();
        let (end, ended) = mpsc::channel::<()>();
        smol::block_on(async {
            let mut first = Box::pin(pool.run(Kind::Password, move || {
                let _ = ended.recv_timeout(PATIENCE);
            }));
            assert!(poll_once(&mut first).await.is_none());
            let mut waiting = Vec::new();
            for _ in 1..WAITING {
                let mut next = Box::pin(pool.run(Kind::Password, || ()));
                assert!(poll_once(&mut next).await.is_none());
                waiting.push(next);
            }
            assert!(pool.run(Kind::Password, || ()).await.is_err());
            // Another kind does not suffer.
            pool.run(Kind::Scan, || ()).await.unwrap();
            // Who must not be refused waits with them.
            let mut patient = Box::pin(pool.run_whenever(Kind::Password, || ()));
            assert!(poll_once(&mut patient).await.is_none());
            drop(end);
            first.await.unwrap();
            for next in waiting {
                next.await.unwrap();
            }
            patient.await;
            pool.run(Kind::Password, || ()).await.unwrap();
        });
    }

    #[test]
    fn work_that_nobody_waits_for_keeps_its_slot_to_its_end() {
        let pool = Pool::default();
        let (end, ended) = mpsc::channel::<()>();
        let (began, beginning) = mpsc::channel::<()>();
        smol::block_on(async {
            let mut first = Box::pin(pool.run(Kind::Password, move || {
                let _ = began.send(());
                let _ = ended.recv_timeout(PATIENCE);
            }));
            assert!(poll_once(&mut first).await.is_none());
            beginning.recv_timeout(PATIENCE).unwrap();
            drop(first);
            let mut second = Box::pin(pool.run(Kind::Password, || ()));
            assert!(poll_once(&mut second).await.is_none());
            drop(end);
            second.await.unwrap();
        });
    }

    #[test]
    fn a_panic_in_the_pool_gives_its_slot_back() {
        let pool = Pool::default();
        smol::block_on(async {
            let panics = pool.run(Kind::Password, || panic!("work of a test panics"));
            let panics = std::panic::AssertUnwindSafe(panics);
            let caught = smol::future::FutureExt::catch_unwind(panics).await;
            assert!(caught.is_err());
            pool.run(Kind::Password, || ()).await.unwrap();
        });
    }
}
