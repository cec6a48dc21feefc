//! Places in a queue that nobody may fill alone: each holder has a share.

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

/// How many places each holder has. Clones are the same.
pub struct Shares<K: Eq + Hash> {
    max_per_holder: usize,
    held: Arc<Mutex<HashMap<K, usize>>>,
}

/// A place of a holder, until it is dropped.
pub struct Share<K: Eq + Hash> {
    shares: Shares<K>,
    holder: K,
}

impl<K: Clone + Eq + Hash> Shares<K> {
    pub fn new(max_per_holder: usize) -> Self {
        Self {
            max_per_holder,
            held: Arc::default(),
        }
    }

    /// One more place for `holder`; `None` if they have their share.
    pub fn take(&self, holder: K) -> Option<Share<K>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let of_holder = held.entry(holder.clone()).or_default();
        if *of_holder >= self.max_per_holder {
            return None;
        }
        *of_holder += 1;
        drop(held);
        let shares = self.clone();
        Some(Share { shares, holder })
    }
}

impl<K: Eq + Hash> Drop for Share<K> {
    fn drop(&mut self) {
        let held = self.shares.held.lock();
        let mut held = held.unwrap_or_else(PoisonError::into_inner);
        if let Some(of_holder) = held.get_mut(&self.holder) {
            *of_holder -= 1;
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
}
