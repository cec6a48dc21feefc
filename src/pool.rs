//! The thread pool, for work that would block the executor's thread.
//!
//! At most [`MAX_RUNNING`] jobs run at once, and each kind has its own limit, so that slow password
//! hashes never keep a scan waiting. The number of waiting jobs has a limit too.

use std::{
    any::Any,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use smol::lock::Semaphore;

/// Of all kinds together.
const MAX_RUNNING: usize = 4;
/// Of most kinds, each.
const MAX_WAITING: usize = 64;

/// A kind of job, each with its own limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Checking or making a password hash: 19 MiB each.
    Password,
    /// State resolution.
    Resolve,
    /// Reads of the store that grow with history.
    Scan,
    /// Checking signatures.
    Verify,
    /// Reading the system's files for DNS and TLS.
    LookUp,
    /// Reading or writing a chunk of a media file.
    File,
    /// Decoding and scaling an image: as much memory as its pixels take.
    Picture,
    /// Parsing a large request, or checking its signature.
    Parse,
}

impl Kind {
    const ALL: [Self; 8] = [
        Self::Password,
        Self::Resolve,
        Self::Scan,
        Self::Verify,
        Self::LookUp,
        Self::File,
        Self::Picture,
        Self::Parse,
    ];

    fn max_running(self) -> usize {
        match self {
            Self::Password | Self::Resolve | Self::Verify | Self::Picture => 1,
            Self::LookUp | Self::File | Self::Parse => 2,
            Self::Scan => 3,
        }
    }

    fn max_waiting(self) -> usize {
        match self {
            // Each belongs to a connection, whose number has a limit.
            Self::File | Self::Parse => usize::MAX,
            _ => MAX_WAITING,
        }
    }
}

/// Too many jobs of one kind are waiting.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the server is too busy; try again in a moment")]
pub struct Error;

/// The pool. Clones are the same pool.
#[derive(Clone, Debug)]
pub struct Pool {
    all: Arc<Semaphore>,
    kinds: Arc<[KindState; Kind::ALL.len()]>,
}

#[derive(Debug)]
struct KindState {
    permits: Semaphore,
    waiting: AtomicUsize,
}

impl Default for Pool {
    fn default() -> Self {
        let state = |kind: Kind| KindState {
            permits: Semaphore::new(kind.max_running()),
            waiting: AtomicUsize::new(0),
        };
        Self {
            all: Arc::new(Semaphore::new(MAX_RUNNING)),
            kinds: Arc::new(Kind::ALL.map(state)),
        }
    }
}

impl Pool {
    /// Runs `job` on a thread of the pool as soon as its kind has a permit. Once begun, it runs to its
    /// end even if the caller stops waiting, and keeps its permit until then.
    ///
    /// # Errors
    /// If too many jobs of this kind are waiting.
    pub fn run<T: Send + 'static>(
        &self,
        kind: Kind,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Result<T, Error>> + Send {
        self.run_unless_busy(kind, boxed(job))
    }

    /// Like [`run`](Self::run) without a limit of waiting jobs, for background tasks and for responses that
    /// have begun: it is too late to refuse them. Each of them queues only a few jobs.
    pub fn run_in_background<T: Send + 'static>(
        &self,
        kind: Kind,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = T> + Send {
        self.wait_and_run(kind, boxed(job))
    }

    // These are compiled once for each type of result, not for each job.

    async fn run_unless_busy<T: 'static>(&self, kind: Kind, job: Job) -> Result<T, Error> {
        let state = &self.kinds[kind as usize];
        let _waiting = Waiting::begin(&state.waiting, kind.max_waiting()).ok_or(Error)?;
        Ok(self.wait_and_run(kind, job).await)
    }

    async fn wait_and_run<T: 'static>(&self, kind: Kind, job: Job) -> T {
        let done = self.run_boxed(kind, job).await;
        *done.downcast().expect("the job returns this type")
    }

    /// Compiled once.
    async fn run_boxed(&self, kind: Kind, job: Job) -> JobResult {
        let of_kind = self.kinds[kind as usize].permits.acquire().await;
        let of_pool = self.all.acquire().await;
        // These guards borrow and cannot move to the other thread, so a value that owns the pool
        // returns the permits.
        of_kind.forget();
        of_pool.forget();
        let permit = Permit {
            pool: self.clone(),
            kind,
        };
        smol::unblock(move || {
            let _permit = permit;
            job()
        })
        .await
    }
}

type Job = Box<dyn FnOnce() -> JobResult + Send>;

type JobResult = Box<dyn Any + Send>;

fn boxed<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> Job {
    Box::new(move || Box::new(job()))
}

struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize, max: usize) -> Option<Self> {
        let before = count.fetch_add(1, Ordering::Relaxed);
        let waiting = Self(count);
        (before < max).then_some(waiting)
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
        self.pool.kinds[self.kind as usize].permits.add_permits(1);
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use smol::{
        Timer,
        future::{self, poll_once},
    };

    use super::{Kind, MAX_RUNNING, MAX_WAITING, Pool};
    use crate::executor::Executor;

    const TIMEOUT: Duration = Duration::from_secs(20);

    /// How many of jobs of these `kinds` run at once.
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
                    let job = move || {
                        let _ = began.try_send(());
                        let _ = ended.recv();
                    };
                    pool.run(kind, job).await
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
        assert_eq!(at_once(&all), MAX_RUNNING);
    }

    #[test]
    fn a_waiting_job_runs_when_the_one_before_ends() {
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
    fn a_job_beyond_the_limit_of_waiting_jobs_is_refused() {
        let pool = Pool::default();
        let (end, ended) = mpsc::channel::<()>();
        smol::block_on(async {
            let mut first = Box::pin(pool.run(Kind::Password, move || {
                let _ = ended.recv_timeout(TIMEOUT);
            }));
            assert!(poll_once(&mut first).await.is_none());
            let mut waiting = Vec::new();
            for _ in 1..MAX_WAITING {
                let mut next = Box::pin(pool.run(Kind::Password, || ()));
                assert!(poll_once(&mut next).await.is_none());
                waiting.push(next);
            }
            assert!(pool.run(Kind::Password, || ()).await.is_err());
            // Other kinds are not affected.
            pool.run(Kind::Scan, || ()).await.unwrap();
            // A background job waits with them.
            let mut background = Box::pin(pool.run_in_background(Kind::Password, || ()));
            assert!(poll_once(&mut background).await.is_none());
            drop(end);
            first.await.unwrap();
            for next in waiting {
                next.await.unwrap();
            }
            background.await;
            pool.run(Kind::Password, || ()).await.unwrap();
        });
    }

    #[test]
    fn a_job_whose_caller_is_gone_keeps_its_permit_to_its_end() {
        let pool = Pool::default();
        let (end, ended) = mpsc::channel::<()>();
        let (began, beginning) = mpsc::channel::<()>();
        smol::block_on(async {
            let mut first = Box::pin(pool.run(Kind::Password, move || {
                let _ = began.send(());
                let _ = ended.recv_timeout(TIMEOUT);
            }));
            assert!(poll_once(&mut first).await.is_none());
            beginning.recv_timeout(TIMEOUT).unwrap();
            drop(first);
            let mut second = Box::pin(pool.run(Kind::Password, || ()));
            assert!(poll_once(&mut second).await.is_none());
            drop(end);
            second.await.unwrap();
        });
    }

    #[test]
    fn a_panicking_job_returns_its_permit() {
        let pool = Pool::default();
        smol::block_on(async {
            let panics = pool.run(Kind::Password, || panic!("job of a test panics"));
            let panics = std::panic::AssertUnwindSafe(panics);
            let caught = smol::future::FutureExt::catch_unwind(panics).await;
            assert!(caught.is_err());
            pool.run(Kind::Password, || ()).await.unwrap();
        });
    }
}
