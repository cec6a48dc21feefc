//! The time, as a part that needs it gets it: the machine's, or one that a test sets.
//!
//! Jobs of the store never ask for it: whoever queues one reads the clock before.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ruma::{MilliSecondsSinceUnixEpoch, UInt};

/// A clock. Clones are the same clock.
#[derive(Clone, Debug, Default)]
pub struct Clock(Source);

#[derive(Clone, Debug, Default)]
enum Source {
    #[default]
    System,
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// A clock that stands at `now_ms` until [`advance`](Self::advance) moves it: for tests of
    /// what takes minutes or weeks.
    pub fn manual(now_ms: u64) -> Self {
        Self(Source::Manual(Arc::new(AtomicU64::new(now_ms))))
    }

    /// Milliseconds since the epoch. Can run backwards when the machine's time is set.
    pub fn now_ms(&self) -> u64 {
        match &self.0 {
            Source::System => {
                // A board without a battery may believe in a time before the epoch.
                let since = SystemTime::now().duration_since(UNIX_EPOCH);
                as_ms(since.unwrap_or(Duration::ZERO))
            }
            Source::Manual(now) => now.load(Ordering::Relaxed),
        }
    }

    /// The time as events and requests carry it.
    pub fn timestamp(&self) -> MilliSecondsSinceUnixEpoch {
        MilliSecondsSinceUnixEpoch(UInt::new_saturating(self.now_ms()))
    }

    /// Moves a manual clock forward; the machine's does not follow.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(now) = &self.0 {
            now.fetch_add(as_ms(by), Ordering::Relaxed);
        }
    }
}

/// A duration as fields that end in `_ms` and `_ts` count.
pub fn as_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
