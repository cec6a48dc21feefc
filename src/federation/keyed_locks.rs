//! One holder at a time for each key.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use smol::lock::{Mutex as AsyncMutex, MutexGuardArc};

/// The locks that somebody holds or waits for.
pub struct KeyedLocks<K>(Mutex<HashMap<K, Weak<AsyncMutex<()>>>>);

impl<K> Default for KeyedLocks<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> KeyedLocks<K> {
    pub async fn of(&self, key: K) -> MutexGuardArc<()> {
        self.get(key).lock_arc().await
    }

    fn get(&self, key: K) -> Arc<AsyncMutex<()>> {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| lock.strong_count() > 0);
        let lock = locks.get(&key).and_then(Weak::upgrade).unwrap_or_default();
        locks.insert(key, Arc::downgrade(&lock));
        lock
    }
}

#[cfg(test)]
mod tests {
    use smol::future::FutureExt;

    use super::KeyedLocks;

    #[test]
    fn a_lock_is_held_once_for_each_key_and_forgotten_when_nobody_wants_it() {
        smol::block_on(async {
            let locks = KeyedLocks::default();
            let mut held = Vec::new();
            for key in 0..200 {
                held.push(locks.of(key).await);
            }
            let second = async {
                locks.of(7).await;
                true
            };
            assert!(!second.or(async { false }).await);
            drop(held);
            locks.of(7).await;
            locks.of(8).await;
            assert_eq!(locks.0.lock().unwrap().len(), 1);
        });
    }
}
