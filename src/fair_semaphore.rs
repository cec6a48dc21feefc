//! A semaphore whose permits are shared by several holders, such as networks or servers.
//!
//! Each holder may have so many permits, and gets another one only while more are free than it has: one
//! alone has at most half, two have a third each, and whoever comes next does not wait for them. A permit
//! that is returned goes to the holder with the fewest; of several, to the one who was granted none for the
//! longest time. So a new holder waits for each of the others once at most, however many requests they have.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use smol::channel::{self, Sender};

/// Clones are the same semaphore.
pub struct FairSemaphore<K: Clone + Eq + Hash>(Arc<Inner<K>>);

struct Inner<K> {
    max_per_holder: usize,
    state: Mutex<State<K>>,
}

struct State<K> {
    free: usize,
    held: HashMap<K, usize>,
    /// When each holder was granted the last permit, for those who have or wait for one.
    last_granted: HashMap<K, u64>,
    /// In the order of their coming.
    waiting: BTreeMap<u64, (K, Sender<()>)>,
    next_id: u64,
}

/// A permit of a holder, until it is dropped.
pub struct FairPermit<K: Clone + Eq + Hash> {
    semaphore: FairSemaphore<K>,
    holder: K,
}

impl<K: Clone + Eq + Hash> FairSemaphore<K> {
    pub fn new(max: usize, max_per_holder: usize) -> Self {
        Self(Arc::new(Inner {
            max_per_holder,
            state: Mutex::new(State {
                free: max,
                held: HashMap::new(),
                last_granted: HashMap::new(),
                waiting: BTreeMap::new(),
                next_id: 0,
            }),
        }))
    }

    /// Waits for a permit for `holder`.
    pub async fn acquire(&self, holder: K) -> FairPermit<K> {
        let (sender, granted) = channel::bounded(1);
        let id = {
            let mut state = self.lock();
            let id = state.next_id;
            state.next_id += 1;
            state.waiting.insert(id, (holder.clone(), sender));
            self.grant(&mut state);
            id
        };
        let waiting = Waiting {
            semaphore: self,
            holder: &holder,
            id,
            is_permit: false,
        };
        // The sender is dropped when the permit is granted.
        let _ = granted.recv().await;
        waiting.permit()
    }

    /// A permit for `holder`, if one is free for it now.
    pub fn try_acquire(&self, holder: K) -> Option<FairPermit<K>> {
        let mut state = self.lock();
        if state.held(&holder) >= self.0.max_per_holder.min(state.free) {
            return None;
        }
        state.take(holder.clone());
        drop(state);
        Some(FairPermit {
            semaphore: self.clone(),
            holder,
        })
    }

    /// Whether nobody has or waits for a permit.
    pub fn is_idle(&self) -> bool {
        let state = self.lock();
        state.held.is_empty() && state.waiting.is_empty()
    }

    /// Grants the free permits.
    fn grant(&self, state: &mut State<K>) {
        while state.free > 0 {
            let ready = state
                .waiting
                .iter()
                .map(|(id, (holder, _))| (state.held(holder), state.last_granted.get(holder), *id))
                .filter(|(held, ..)| *held < self.0.max_per_holder.min(state.free));
            let Some((.., id)) = ready.min() else {
                return;
            };
            let Some((holder, _granted)) = state.waiting.remove(&id) else {
                return;
            };
            state.take(holder);
        }
    }

    fn release(&self, holder: &K) {
        let mut state = self.lock();
        state.free += 1;
        if let Some(held) = state.held.get_mut(holder) {
            *held -= 1;
            if *held == 0 {
                state.held.remove(holder);
            }
        }
        state.forget(holder);
        self.grant(&mut state);
    }

    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Eq + Hash> State<K> {
    fn held(&self, holder: &K) -> usize {
        self.held.get(holder).copied().unwrap_or_default()
    }

    fn take(&mut self, holder: K) {
        self.free -= 1;
        self.last_granted.insert(holder.clone(), self.next_id);
        self.next_id += 1;
        *self.held.entry(holder).or_default() += 1;
    }

    /// Forgets a holder who neither has nor waits for a permit.
    fn forget(&mut self, holder: &K) {
        let waits = self.waiting.values().any(|(waiting, _)| waiting == holder);
        if !waits && !self.held.contains_key(holder) {
            self.last_granted.remove(holder);
        }
    }
}

/// A place in the queue. If it is dropped after its permit was granted, the permit is returned.
struct Waiting<'a, K: Clone + Eq + Hash> {
    semaphore: &'a FairSemaphore<K>,
    holder: &'a K,
    id: u64,
    is_permit: bool,
}

impl<K: Clone + Eq + Hash> Waiting<'_, K> {
    fn permit(mut self) -> FairPermit<K> {
        self.is_permit = true;
        FairPermit {
            semaphore: self.semaphore.clone(),
            holder: self.holder.clone(),
        }
    }
}

impl<K: Clone + Eq + Hash> Drop for Waiting<'_, K> {
    fn drop(&mut self) {
        let mut state = self.semaphore.lock();
        let was_waiting = state.waiting.remove(&self.id).is_some();
        state.forget(self.holder);
        drop(state);
        if !was_waiting && !self.is_permit {
            self.semaphore.release(self.holder);
        }
    }
}

impl<K: Clone + Eq + Hash> Drop for FairPermit<K> {
    fn drop(&mut self) {
        self.semaphore.release(&self.holder);
    }
}

impl<K: Clone + Eq + Hash> Clone for FairSemaphore<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Clone + Eq + Hash> fmt::Debug for FairSemaphore<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FairSemaphore").finish_non_exhaustive()
    }
}

impl<K: Clone + Eq + Hash> fmt::Debug for FairPermit<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FairPermit").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use smol::{block_on, future::poll_once};

    use super::{FairPermit, FairSemaphore};

    type Permits = FairSemaphore<&'static str>;
    type Acquiring<'a> = Pin<Box<dyn Future<Output = FairPermit<&'static str>> + 'a>>;

    fn start<'a>(permits: &'a Permits, holder: &'static str) -> Acquiring<'a> {
        Box::pin(permits.acquire(holder))
    }

    fn poll(acquiring: &mut Acquiring<'_>) -> Option<FairPermit<&'static str>> {
        block_on(poll_once(acquiring))
    }

    #[test]
    fn a_holder_never_has_more_than_its_share() {
        let permits = Permits::new(4, 2);
        let _two = [(); 2].map(|()| poll(&mut start(&permits, "a")).unwrap());
        let mut third = start(&permits, "a");
        assert!(poll(&mut third).is_none());
        let other = poll(&mut start(&permits, "b"));
        assert!(other.is_some(), "nobody waits behind who has their share");
    }

    #[test]
    fn several_holders_together_leave_permits_for_the_next() {
        let permits = Permits::new(32, 16);
        let mut held = Vec::new();
        for holders in 1..=5 {
            let holder = ["a", "b", "c", "d", "e"][holders - 1];
            let own: Vec<_> = std::iter::from_fn(|| poll(&mut start(&permits, holder))).collect();
            assert!(!own.is_empty(), "{holder} does not wait for others");
            held.push(own);
        }
        assert_eq!(held[0].len(), 16);
        let together = Permits::new(32, 16);
        let taken = (0..32).map(|n| ["a", "b"][n % 2]);
        let taken: Vec<_> = taken
            .filter_map(|holder| poll(&mut start(&together, holder)))
            .collect();
        assert!((20..=22).contains(&taken.len()), "{}", taken.len());
    }

    #[test]
    fn a_returned_permit_goes_to_the_holder_with_the_fewest() {
        let permits = Permits::new(3, 3);
        let mut held: Vec<_> = ["a", "a", "c"]
            .map(|holder| poll(&mut start(&permits, holder)).unwrap())
            .into();
        let mut waiting = ["a", "a", "b"].map(|holder| start(&permits, holder));
        assert!(waiting.iter_mut().all(|waiting| poll(waiting).is_none()));
        held.pop();
        let granted = waiting.each_mut().map(poll);
        assert_eq!(
            granted.each_ref().map(Option::is_some),
            [false, false, true]
        );
    }

    #[test]
    fn a_new_holder_does_not_wait_for_all_requests_of_those_before() {
        let permits = Permits::new(2, 1);
        let first = ["a", "b"].map(|holder| poll(&mut start(&permits, holder)).unwrap());
        let mut queued = ["a", "b", "a", "b"].map(|holder| start(&permits, holder));
        assert!(queued.iter_mut().all(|queued| poll(queued).is_none()));
        let mut new_holder = start(&permits, "c");
        assert!(poll(&mut new_holder).is_none());
        let [first, _second] = first;
        drop(first);
        let _of_new_holder = poll(&mut new_holder).unwrap();
        assert!(queued.iter_mut().all(|queued| poll(queued).is_none()));
    }

    #[test]
    fn a_permit_that_is_free_for_a_holder_is_acquired_at_once() {
        let permits = Permits::new(3, 2);
        let one = permits.try_acquire("a").unwrap();
        assert!(permits.try_acquire("a").is_some(), "two are free");
        let _other = permits.try_acquire("b").unwrap();
        assert!(
            permits.try_acquire("a").is_none(),
            "the last is for another"
        );
        let _third = permits.try_acquire("c").unwrap();
        assert!(permits.try_acquire("d").is_none());
        drop(one);
        assert!(permits.try_acquire("d").is_some());
    }

    #[test]
    fn whoever_stops_waiting_keeps_no_permit() {
        let permits = Permits::new(1, 1);
        let held = poll(&mut start(&permits, "a")).unwrap();
        let (mut one, mut two) = (start(&permits, "b"), start(&permits, "c"));
        assert!(poll(&mut one).is_none() && poll(&mut two).is_none());
        drop(two);
        drop(held);
        // It was granted, but not taken.
        drop(one);
        assert!(poll(&mut start(&permits, "d")).is_some());
        let state = permits.lock();
        assert!(state.free == 1 && state.held.is_empty() && state.waiting.is_empty());
        assert!(state.last_granted.is_empty());
    }
}
