//! A map in memory whose entries live for a fixed time. It needs no timer: what is too old is
//! dropped when somebody looks.

use std::collections::{HashMap, VecDeque};

/// At most `cap` entries, each for at most `lifetime_ms`. One entry too many drops the oldest.
#[derive(Debug)]
pub(super) struct Expiring<V> {
    lifetime_ms: u64,
    cap: usize,
    entries: HashMap<String, (u64, V)>,
    /// The keys with the time of their making, oldest first. May name entries already removed.
    order: VecDeque<(u64, String)>,
}

impl<V> Expiring<V> {
    pub(super) fn new(lifetime_ms: u64, cap: usize) -> Self {
        Self {
            lifetime_ms,
            cap,
            entries: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    /// Adds an entry made at `now_ms`. Keys are never used twice.
    pub(super) fn insert(&mut self, now_ms: u64, key: String, value: V) {
        self.drop_old(now_ms);
        while self.order.len() >= self.cap {
            self.drop_first();
        }
        self.order.push_back((now_ms, key.clone()));
        self.entries.insert(key, (now_ms, value));
    }

    pub(super) fn get_mut(&mut self, now_ms: u64, key: &str) -> Option<&mut V> {
        self.drop_old(now_ms);
        self.entries.get_mut(key).map(|(_, value)| value)
    }

    pub(super) fn remove(&mut self, now_ms: u64, key: &str) -> Option<V> {
        self.drop_old(now_ms);
        self.entries.remove(key).map(|(_, value)| value)
    }

    fn drop_old(&mut self, now_ms: u64) {
        let ends_before = now_ms.saturating_sub(self.lifetime_ms);
        while self
            .order
            .front()
            .is_some_and(|(made, _)| *made < ends_before)
        {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        if let Some((_, key)) = self.order.pop_front() {
            self.entries.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_lives_for_its_time_and_no_longer() {
        let mut map = Expiring::new(1000, 10);
        map.insert(5000, "a".into(), 1);
        assert_eq!(map.get_mut(6000, "a"), Some(&mut 1));
        assert_eq!(map.get_mut(6001, "a"), None);
    }

    #[test]
    fn one_entry_too_many_drops_the_oldest() {
        let mut map = Expiring::new(1000, 2);
        for key in ["a", "b", "c"] {
            map.insert(0, key.into(), key);
        }
        assert_eq!(map.remove(0, "a"), None);
        assert_eq!(map.remove(0, "b"), Some("b"));
        assert_eq!(map.remove(0, "c"), Some("c"));
        assert_eq!(map.remove(0, "c"), None);
    }
}
