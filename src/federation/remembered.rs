//! What other servers told lately, so that they need not be asked again at once.

use std::{
    borrow::Borrow,
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::clock::Clock;

/// Answers by what was asked. What has no room makes room: first what counts no more, then all.
pub struct Remembered<K, V> {
    clock: Clock,
    /// How many answers at most, and how many bytes in all.
    entries: usize,
    bytes: usize,
    known: Mutex<Known<K, V>>,
}

struct Known<K, V> {
    answers: HashMap<K, Answer<V>>,
    bytes: usize,
}

struct Answer<V> {
    value: V,
    bytes: usize,
    /// In milliseconds since the epoch.
    until: u64,
}

impl<K: Eq + Hash, V: Clone> Remembered<K, V> {
    /// Nothing yet, and never more than that.
    pub fn new(clock: &Clock, entries: usize, bytes: usize) -> Self {
        Self {
            clock: clock.clone(),
            entries,
            bytes,
            known: Mutex::new(Known {
                answers: HashMap::new(),
                bytes: 0,
            }),
        }
    }

    /// The answer, while it counts.
    pub fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = known.answers.get(key)?;
        (self.clock.now_ms() < answer.until).then(|| answer.value.clone())
    }

    /// Remembers an answer of so many bytes for a while.
    pub fn put(&self, key: K, value: V, bytes: usize, holds: Duration) {
        let now = self.clock.now_ms();
        let holds = u64::try_from(holds.as_millis()).unwrap_or(u64::MAX);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = known.answers.remove(&key) {
            known.bytes -= before.bytes;
        }
        if !self.has_room(&known, bytes) {
            known.answers.retain(|_, answer| now < answer.until);
            known.bytes = known.answers.values().map(|answer| answer.bytes).sum();
        }
        if !self.has_room(&known, bytes) {
            known.answers.clear();
            known.bytes = 0;
        }
        if !self.has_room(&known, bytes) {
            return;
        }
        known.bytes += bytes;
        let answer = Answer {
            value,
            bytes,
            until: now.saturating_add(holds),
        };
        known.answers.insert(key, answer);
    }

    fn has_room(&self, known: &Known<K, V>, bytes: usize) -> bool {
        known.answers.len() < self.entries && known.bytes + bytes <= self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Remembered;
    use crate::clock::Clock;

    const MINUTE: Duration = Duration::from_mins(1);

    #[test]
    fn an_answer_counts_as_long_as_it_was_to() {
        let clock = Clock::manual(1000);
        let remembered = Remembered::new(&clock, 10, 100);
        remembered.put("a", 1, 1, MINUTE);
        assert_eq!(remembered.get("a"), Some(1));
        remembered.put("a", 2, 1, 2 * MINUTE);
        clock.advance(MINUTE);
        assert_eq!(remembered.get("a"), Some(2));
        clock.advance(MINUTE);
        assert_eq!(remembered.get("a"), None);
    }

    #[test]
    fn what_has_no_room_makes_room_and_what_never_has_is_not_remembered() {
        let clock = Clock::manual(1000);
        let remembered = Remembered::new(&clock, 3, 10);
        remembered.put("old", 0, 4, MINUTE);
        clock.advance(MINUTE);
        remembered.put("a", 1, 4, MINUTE);
        remembered.put("b", 2, 4, MINUTE);
        assert_eq!(
            (remembered.get("a"), remembered.get("b")),
            (Some(1), Some(2))
        );
        remembered.put("c", 3, 4, MINUTE);
        assert_eq!((remembered.get("a"), remembered.get("c")), (None, Some(3)));
        remembered.put("large", 4, 11, MINUTE);
        assert_eq!(remembered.get("large"), None);
        for (key, value) in [("d", 5), ("e", 6), ("f", 7), ("g", 8)] {
            remembered.put(key, value, 1, MINUTE);
        }
        assert_eq!((remembered.get("d"), remembered.get("g")), (None, Some(8)));
    }
}
