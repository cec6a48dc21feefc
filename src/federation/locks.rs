//! Doing one thing at a time to each of many.

use std::hash::{BuildHasher, Hash, RandomState};

use smol::lock::{Mutex, MutexGuard};

/// `N` locks, which any number of things share.
pub struct Locks<const N: usize> {
    hasher: RandomState,
    locks: [Mutex<()>; N],
}

impl<const N: usize> Default for Locks<N> {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            locks: [const { Mutex::new(()) }; N],
        }
    }
}

impl<const N: usize> Locks<N> {
    /// The lock of `what`. Who holds one must not wait for another: it may be the same.
    pub async fn of(&self, what: impl Hash) -> MutexGuard<'_, ()> {
        let count = u64::try_from(N).expect("an array is no longer than this");
        let lock = usize::try_from(self.hasher.hash_one(what) % count);
        self.locks[lock.expect("it is less than the array is long")]
            .lock()
            .await
    }
}
