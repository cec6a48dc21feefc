//! Places in a queue, or parts of a quantity, that nobody may take alone: each holder has a share.

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

/// How many places each holder may have. Clones are the same.
pub struct Shares<K: Eq + Hash> {
    max_per_holder: usize,
    max: usize,
    held: Arc<Mutex<HashMap<K, usize>>>,
}

/// Places of a holder, until it is dropped.
pub struct Share<K: Eq + Hash> {
    shares: Shares<K>,
    holder: K,
    places: usize,
}

impl<K: Clone + Eq + Hash> Shares<K> {
    pub fn new(max_per_holder: usize) -> Self {
        Self {
            max_per_holder,
            max: usize::MAX,
            held: Arc::default(),
        }
    }

    /// `max` places in all, of which a holder has no more than are free then: one alone has at most half, two
    /// have a third each.
    pub fn of(max: usize) -> Self {
        Self {
            max_per_holder: max,
            max,
            held: Arc::default(),
        }
    }

    /// One more place for `holder`; `None` if they have their share.
    pub fn take(&self, holder: K) -> Option<Share<K>> {
        self.take_many(holder, 1)
    }

    /// So many more places for `holder`, also none; `None` if their share has fewer left.
    pub fn take_many(&self, holder: K, places: usize) -> Option<Share<K>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let of_holder = held.get(&holder).copied().unwrap_or_default() + places;
        let left = self
            .max
            .saturating_sub(held.values().sum::<usize>() + places);
        if places > 0 && of_holder > self.max_per_holder.min(left) {
            return None;
        }
        held.insert(holder.clone(), of_holder);
        drop(held);
        let shares = self.clone();
        Some(Share {
            shares,
            holder,
            places,
        })
    }
}

impl<K: Eq + Hash> Drop for Share<K> {
    fn drop(&mut self) {
        let held = self.shares.held.lock();
        let mut held = held.unwrap_or_else(PoisonError::into_inner);
        if let Some(of_holder) = held.get_mut(&self.holder) {
            *of_holder -= self.places;
            if *of_holder == 0 {
                held.remove(&self.holder);
            }
        }
    }
}

impl<K: Eq + Hash> Clone for Shares<K> {
    fn clone(&self) -> Self {
        Self {
            max_per_holder: self.max_per_holder,
            max: self.max,
            held: self.held.clone(),
        }
    }
}

impl<K: Eq + Hash> fmt::Debug for Shares<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shares").finish_non_exhaustive()
    }
}

impl<K: Eq + Hash> fmt::Debug for Share<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Share").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::Shares;

    #[test]
    fn a_holder_has_no_more_than_their_share_and_others_have_theirs() {
        let shares = Shares::new(2);
        let held = [(); 3].map(|()| shares.take("a"));
        assert_eq!(held.each_ref().map(Option::is_some), [true, true, false]);
        assert!(shares.take("b").is_some());
        drop(held);
        assert!(shares.take("a").is_some());
        assert!(shares.held.lock().unwrap().is_empty());
    }

    #[test]
    fn a_holder_alone_has_at_most_half_and_leaves_others_a_share() {
        let shares = Shares::of(30);
        let first = shares.take_many("a", 15);
        assert!(first.is_some());
        assert!(shares.take("a").is_none());
        assert!(shares.take_many("b", 8).is_none());
        let second = shares.take_many("b", 7);
        assert!(second.is_some());
        assert!(shares.take_many("c", 4).is_some());
        drop((first, second));
        assert!(shares.take_many("b", 15).is_some());
        assert!(shares.held.lock().unwrap().is_empty());
    }
}
