//! The clock: the system's, or one that a test sets.
//!
//! Jobs of the store never read it: their caller passes the time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ruma::{MilliSecondsSinceUnixEpoch, UInt};

/// Clones share a manual clock.
#[derive(Clone, Debug, Default)]
pub struct Clock(Source);

#[derive(Clone, Debug, Default)]
enum Source {
    #[default]
    System,
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// For tests: a clock that stays at `now_ms` until [`advance`](Self::advance).
    pub fn manual(now_ms: u64) -> Self {
        Self(Source::Manual(Arc::new(AtomicU64::new(now_ms))))
    }

    /// Milliseconds since the epoch. It can run backwards when the system's time is set.
    pub fn now_ms(&self) -> u64 {
        match &self.0 {
            Source::System => {
                // A board without a battery may start with a time before the epoch.
                let since = SystemTime::now().duration_since(UNIX_EPOCH);
                as_ms(since.unwrap_or(Duration::ZERO))
            }
            Source::Manual(now) => now.load(Ordering::Relaxed),
        }
    }

    pub fn timestamp(&self) -> MilliSecondsSinceUnixEpoch {
        MilliSecondsSinceUnixEpoch(UInt::new_saturating(self.now_ms()))
    }

    /// Moves a manual clock forward. It has no effect on the system's.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(now) = &self.0 {
            now.fetch_add(as_ms(by), Ordering::Relaxed);
        }
    }
}

/// Milliseconds, as in fields that end in `_ms` and `_ts`.
pub fn as_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
