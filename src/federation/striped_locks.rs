//! One holder at a time for each key.

use std::hash::{BuildHasher, Hash, RandomState};

use smol::lock::{Mutex, MutexGuard};

/// `N` locks that are shared by any number of keys.
pub struct StripedLocks<const N: usize> {
    hasher: RandomState,
    locks: [Mutex<()>; N],
}

impl<const N: usize> Default for StripedLocks<N> {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            locks: [const { Mutex::new(()) }; N],
        }
    }
}

impl<const N: usize> StripedLocks<N> {
    /// Locks `key`. Whoever holds a lock must not wait for the lock of another key: it may be the same.
    pub async fn of(&self, key: impl Hash) -> MutexGuard<'_, ()> {
        let count = u64::try_from(N).expect("an array is no longer than this");
        let index = usize::try_from(self.hasher.hash_one(key) % count);
        self.locks[index.expect("it is less than the length of the array")]
            .lock()
            .await
    }
}
