//! A bounded cache in memory, each entry of which expires.
//!
//! No timer is needed: an expired entry is not returned, and it is the first to be evicted. If the clock is
//! set back, all entries are dropped: none would expire in time, and new ones would be evicted first.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, HashMap},
    fmt,
    hash::Hash,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::clock::{Clock, as_ms};

/// A clock that runs behind the last insertion by no more than this was not set back.
const CLOCK_TOLERANCE_MS: u64 = 1000;

/// A cache of at most so many entries and bytes. The entry that expires first is evicted first.
pub struct Cache<K, V> {
    clock: Clock,
    max_entries: usize,
    max_bytes: usize,
    state: Mutex<State<K, V>>,
}

struct State<K, V> {
    entries: HashMap<K, Entry<V>>,
    /// The keys in the order of eviction.
    by_expiry: BTreeMap<Expiry, K>,
    bytes: usize,
    next_sequence: u64,
    /// When the last entry was inserted.
    last_insert_ts: u64,
}

struct Entry<V> {
    value: V,
    bytes: usize,
    inserted_ts: u64,
    expiry: Expiry,
}

/// When an entry expires, in milliseconds since the epoch; then the order of insertion.
type Expiry = (u64, u64);

impl<K: Clone + Eq + Hash, V> Cache<K, V> {
    pub fn new(clock: &Clock, max_entries: usize) -> Self {
        Self::with_max_bytes(clock, max_entries, usize::MAX)
    }

    /// `max_bytes` limits the sum of the sizes given to [`insert_sized`](Self::insert_sized).
    pub fn with_max_bytes(clock: &Clock, max_entries: usize, max_bytes: usize) -> Self {
        Self {
            clock: clock.clone(),
            max_entries,
            max_bytes,
            state: Mutex::new(State {
                entries: HashMap::new(),
                by_expiry: BTreeMap::new(),
                bytes: 0,
                next_sequence: 0,
                last_insert_ts: 0,
            }),
        }
    }

    pub fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        V: Clone,
    {
        self.update(key, |value| value.clone())
    }

    /// Calls `update` with the value of `key`, if it is cached. It expires no later for that.
    pub fn update<Q: Eq + Hash + ?Sized, T>(
        &self,
        key: &Q,
        update: impl FnOnce(&mut V) -> T,
    ) -> Option<T>
    where
        K: Borrow<Q>,
    {
        let now = self.clock.now_ms();
        let mut state = self.lock();
        let entry = state.entries.get_mut(key)?;
        entry.is_valid(now).then(|| update(&mut entry.value))
    }

    pub fn remove<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let now = self.clock.now_ms();
        let entry = self.lock().remove(key)?;
        entry.is_valid(now).then_some(entry.value)
    }

    /// Caches `value` for `ttl`, in place of an earlier value of `key`.
    pub fn insert(&self, key: K, value: V, ttl: Duration) {
        self.insert_sized(key, value, 0, ttl);
    }

    /// Caches `value`, which takes so many bytes. A value of more than `max_bytes` is not cached.
    pub fn insert_sized(&self, key: K, value: V, bytes: usize, ttl: Duration) {
        let now = self.clock.now_ms();
        let mut state = self.lock();
        if now.saturating_add(CLOCK_TOLERANCE_MS) < state.last_insert_ts {
            state.clear();
        }
        state.last_insert_ts = now;
        state.remove(&key);
        if bytes > self.max_bytes || self.max_entries == 0 {
            return;
        }
        while state.entries.len() >= self.max_entries || state.bytes + bytes > self.max_bytes {
            let Some((_, evicted)) = state.by_expiry.pop_first() else {
                break;
            };
            state.remove(&evicted);
        }
        let expiry = (now.saturating_add(as_ms(ttl)), state.next_sequence);
        state.next_sequence += 1;
        state.bytes += bytes;
        state.by_expiry.insert(expiry, key.clone());
        let entry = Entry {
            value,
            bytes,
            inserted_ts: now,
            expiry,
        };
        state.entries.insert(key, entry);
    }

    /// As [`insert`](Self::insert), for a cache whose entries have several holders: if it is full, the holder
    /// with the most loses the entry that expires first.
    pub fn insert_for_holder<H: Eq + Hash>(
        &self,
        key: K,
        value: V,
        ttl: Duration,
        holder: impl Fn(&V) -> H,
    ) {
        let mut state = self.lock();
        if state.entries.len() >= self.max_entries && !state.entries.contains_key(&key) {
            state.evict_from_largest(self.clock.now_ms(), holder);
        }
        drop(state);
        self.insert(key, value, ttl);
    }

    fn lock(&self) -> MutexGuard<'_, State<K, V>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Eq + Hash, V> State<K, V> {
    /// Evicts an expired entry, or the first one of the holder with the most.
    fn evict_from_largest<H: Eq + Hash>(&mut self, now: u64, holder: impl Fn(&V) -> H) {
        let mut counts: HashMap<H, usize> = HashMap::new();
        for entry in self.entries.values() {
            *counts.entry(holder(&entry.value)).or_default() += 1;
        }
        let max = counts.values().copied().max();
        let evicted = self.by_expiry.values().find(|key| {
            self.entries.get(*key).is_some_and(|entry| {
                !entry.is_valid(now) || counts.get(&holder(&entry.value)).copied() == max
            })
        });
        if let Some(evicted) = evicted.cloned() {
            self.remove(&evicted);
        }
    }
}

impl<K: Eq + Hash, V> State<K, V> {
    fn clear(&mut self) {
        self.entries.clear();
        self.by_expiry.clear();
        self.bytes = 0;
    }

    fn remove<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<Entry<V>>
    where
        K: Borrow<Q>,
    {
        let entry = self.entries.remove(key)?;
        self.by_expiry.remove(&entry.expiry);
        self.bytes -= entry.bytes;
        Some(entry)
    }
}

impl<V> Entry<V> {
    /// A clock that was set back must not make an entry last longer than its time.
    fn is_valid(&self, now: u64) -> bool {
        now.abs_diff(self.inserted_ts) < self.expiry.0 - self.inserted_ts
    }
}

impl<K, V> fmt::Debug for Cache<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Cache;
    use crate::clock::Clock;

    const MINUTE: Duration = Duration::from_mins(1);

    #[test]
    fn an_entry_expires_after_its_time_to_live() {
        let clock = Clock::manual(1000);
        let cache = Cache::new(&clock, 10);
        cache.insert("a", 1, MINUTE);
        assert_eq!(cache.get("a"), Some(1));
        cache.insert("a", 2, 2 * MINUTE);
        clock.advance(MINUTE);
        assert_eq!(cache.update("a", |value| *value + 1), Some(3));
        clock.advance(MINUTE);
        assert_eq!(cache.get("a"), None);
        assert_eq!(cache.remove("a"), None);
    }

    #[test]
    fn an_entry_is_removed_once() {
        let cache = Cache::new(&Clock::manual(1000), 10);
        cache.insert("a", 1, MINUTE);
        assert_eq!((cache.remove("a"), cache.remove("a")), (Some(1), None));
    }

    #[test]
    fn the_entry_that_expires_first_is_evicted_first() {
        let cache = Cache::new(&Clock::manual(1000), 2);
        cache.insert("long", 1, 2 * MINUTE);
        cache.insert("short", 2, MINUTE);
        cache.insert("new", 3, MINUTE);
        let all = ["long", "short", "new"].map(|key| cache.get(key));
        assert_eq!(all, [Some(1), None, Some(3)]);
    }

    #[test]
    fn the_holder_with_the_most_entries_loses_its_oldest() {
        let clock = Clock::manual(1000);
        let cache = Cache::new(&clock, 5);
        let insert = |key, holder| cache.insert_for_holder(key, holder, MINUTE, |holder| *holder);
        insert("old", "few");
        for key in ["1", "2", "3", "4", "5", "6"] {
            insert(key, "many");
        }
        insert("new", "few");
        let all = ["old", "1", "2", "3", "4", "5", "6", "new"].map(|key| cache.get(key).is_some());
        assert_eq!(all, [true, false, false, false, true, true, true, true]);
        clock.advance(MINUTE);
        insert("7", "many");
        assert!(cache.get("7").is_some());
    }

    #[test]
    fn entries_are_evicted_until_a_new_one_fits_by_size() {
        let cache = Cache::with_max_bytes(&Clock::manual(1000), 10, 10);
        for (key, bytes) in [("a", 4), ("b", 4), ("too large", 11)] {
            cache.insert_sized(key, (), bytes, MINUTE);
        }
        assert!(cache.get("a").is_some() && cache.get("too large").is_none());
        cache.insert_sized("c", (), 6, MINUTE);
        let all = ["a", "b", "c"].map(|key| cache.get(key).is_some());
        assert_eq!(all, [false, true, true]);
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_prolong_an_entry() {
        let clock = Clock::manual(1_000_000_000);
        let mut cache = Cache::new(&clock, 10);
        cache.insert("a", 1, MINUTE);
        cache.clock = Clock::manual(1000);
        assert_eq!(cache.get("a"), None);
    }

    #[test]
    fn after_the_clock_is_set_back_new_entries_are_not_evicted_for_those_from_before() {
        let clock = Clock::manual(1_000_000_000);
        let mut cache = Cache::with_max_bytes(&clock, 2, 20);
        for key in ["old", "older"] {
            cache.insert_sized(key, 1, 10, MINUTE);
        }
        cache.clock = Clock::manual(1000);
        for key in ["new", "newer"] {
            cache.insert_sized(key, 2, 10, MINUTE);
        }
        let all = ["old", "older", "new", "newer"].map(|key| cache.get(key));
        assert_eq!(all, [None, None, Some(2), Some(2)]);
    }
}
