//! Single flight: concurrent requests for the same key share one run of the work (they deduplicate
//! it), and each of them gets a clone of its result.
//!
//! The work is a task of its own. It goes on if nobody waits for it any more.

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use smol::lock::OnceCell;

use crate::{executor::Executor, shares::Shares};

/// What is under way, by key. A clone is the same.
pub struct SingleFlight<K, V> {
    max: usize,
    flights: Arc<Mutex<Flights<K, V>>>,
}

type Flights<K, V> = HashMap<K, Weak<Outcome<V>>>;
/// None if the work panicked.
type Outcome<V> = OnceCell<Option<V>>;

/// Work that is under way.
pub struct Flight<V>(Arc<Outcome<V>>);

impl<V: Clone> Flight<V> {
    /// Waits for the result. None if the work panicked.
    pub async fn wait(self) -> Option<V> {
        self.0.wait().await.clone()
    }
}

impl<K: Clone + Eq + Hash, V> SingleFlight<K, V> {
    /// At most `max` works are under way at once.
    pub fn new(max: usize) -> Self {
        Self {
            max,
            flights: Arc::default(),
        }
    }

    /// Joins the work under way for `key`, or starts `work` as a task of `executor`. None if too
    /// many works are under way.
    pub fn start<F>(
        &self,
        executor: &Executor,
        key: K,
        work: impl FnOnce() -> F,
    ) -> Option<Flight<V>>
    where
        K: Send + 'static,
        V: Send + Sync + 'static,
        F: Future<Output = V> + Send + 'static,
    {
        let mut flights = self.lock();
        if let Some(flight) = flights.get(&key).and_then(Weak::upgrade) {
            return Some(Flight(flight));
        }
        if flights.len() >= self.max {
            return None;
        }
        let outcome = Arc::new(Outcome::new());
        flights.insert(key.clone(), Arc::downgrade(&outcome));
        drop(flights);
        let landing = Landing {
            flights: self.clone(),
            key,
            outcome: outcome.clone(),
            result: None,
        };
        executor.spawn(run(landing, work())).detach();
        Some(Flight(outcome))
    }

    /// As [`start`](Self::start), with a place of `holder` while the work is under way. None also if it is to
    /// be started, but `holder` has their share.
    pub fn start_for<H, F>(
        &self,
        (shares, holder): (&Shares<H>, H),
        executor: &Executor,
        key: K,
        work: impl FnOnce() -> F,
    ) -> Option<Flight<V>>
    where
        H: Clone + Eq + Hash + Send + 'static,
        K: Send + 'static,
        V: Send + Sync + 'static,
        F: Future<Output = V> + Send + 'static,
    {
        let share = shares.take(holder);
        if share.is_none() && !self.is_under_way(&key) {
            return None;
        }
        self.start(executor, key, || {
            let work = work();
            async move {
                let _share = share;
                work.await
            }
        })
    }

    pub fn is_under_way(&self, key: &K) -> bool {
        self.lock().contains_key(key)
    }

    /// How many works are under way whose keys are such.
    pub fn count(&self, is_counted: impl Fn(&K) -> bool) -> usize {
        self.lock().keys().filter(|key| is_counted(key)).count()
    }

    fn lock(&self) -> MutexGuard<'_, Flights<K, V>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K, V> Clone for SingleFlight<K, V> {
    fn clone(&self) -> Self {
        Self {
            max: self.max,
            flights: self.flights.clone(),
        }
    }
}

impl<K, V> fmt::Debug for SingleFlight<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SingleFlight").finish_non_exhaustive()
    }
}

async fn run<K: Clone + Eq + Hash, V>(
    mut landing: Landing<K, V>,
    work: impl Future<Output = V> + Send,
) {
    landing.result = Some(work.await);
}

/// Publishes the result when it is dropped, so that nobody waits for ever if the work panics.
struct Landing<K: Clone + Eq + Hash, V> {
    flights: SingleFlight<K, V>,
    key: K,
    outcome: Arc<Outcome<V>>,
    result: Option<V>,
}

impl<K: Clone + Eq + Hash, V> Drop for Landing<K, V> {
    fn drop(&mut self) {
        self.flights.lock().remove(&self.key);
        // Nobody else sets it.
        let _ = self.outcome.set_blocking(self.result.take());
    }
}

#[cfg(test)]
mod tests {
    use smol::{block_on, channel, future};

    use super::SingleFlight;
    use crate::{executor::Executor, shares::Shares};

    #[test]
    fn concurrent_requests_for_a_key_share_one_run_and_a_later_one_runs_again() {
        let (executor, flights) = (Executor::default(), SingleFlight::new(10));
        let (release, released) = channel::bounded(1);
        let wait = || async move { released.recv().await.unwrap() };
        let first = flights.start(&executor, "key", wait).unwrap();
        let second = flights.start(&executor, "key", || async { 2 }).unwrap();
        assert!(flights.is_under_way(&"key"));
        release.try_send(1).unwrap();
        let both = future::zip(first.wait(), second.wait());
        assert_eq!(block_on(executor.run(both)), (Some(1), Some(1)));
        assert!(!flights.is_under_way(&"key"));
        let third = flights.start(&executor, "key", || async { 3 }).unwrap();
        assert_eq!(block_on(executor.run(third.wait())), Some(3));
    }

    #[test]
    fn work_goes_on_when_nobody_waits_for_it() {
        let (executor, flights) = (Executor::default(), SingleFlight::new(10));
        let (report, reported) = channel::bounded(1);
        drop(flights.start(&executor, "key", || async move { report.send(1).await }));
        assert_eq!(block_on(executor.run(reported.recv())), Ok(1));
    }

    #[test]
    fn only_so_many_works_are_under_way() {
        let (executor, flights) = (Executor::default(), SingleFlight::new(1));
        let first = flights.start(&executor, "a", || async {});
        assert!(flights.start(&executor, "b", || async {}).is_none());
        assert!(flights.start(&executor, "a", || async {}).is_some());
        block_on(executor.run(first.unwrap().wait()));
        assert!(flights.start(&executor, "b", || async {}).is_some());
    }

    #[test]
    fn who_has_their_share_joins_work_and_starts_none() {
        let (executor, flights) = (Executor::default(), SingleFlight::new(10));
        let shares = Shares::new(1);
        let start = |user, key| flights.start_for((&shares, user), &executor, key, || async {});
        let first = start("alice", "a").unwrap();
        assert!(start("alice", "b").is_none());
        assert!(start("alice", "a").is_some());
        assert!(start("bob", "b").is_some());
        block_on(executor.run(first.wait()));
        assert!(start("alice", "c").is_some());
    }

    #[test]
    fn work_that_panics_leaves_nobody_waiting() {
        let (executor, flights) = (Executor::default(), SingleFlight::<_, ()>::new(10));
        let work = || async { panic!("on purpose") };
        let flight = flights.start(&executor, "key", work).unwrap();
        assert_eq!(block_on(executor.run(flight.wait())), None);
        assert!(!flights.is_under_way(&"key"));
    }
}
