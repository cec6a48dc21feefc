//! A pace that nobody goes faster than: so many at once, then one after each while.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use smol::Timer;

/// A pace.
pub struct Pace {
    /// After what time there is one more turn.
    every: Duration,
    /// How long the turns last that are taken at once.
    burst: Duration,
    /// When the last turn was, or will be. Before now if there are turns left.
    last: Mutex<Instant>,
}

impl Pace {
    /// `burst` at once, and then one every `every`.
    pub fn new(burst: u32, every: Duration) -> Self {
        Self {
            every,
            burst: every * burst,
            last: Mutex::new(Instant::now()),
        }
    }

    /// Waits for a turn.
    pub async fn turn(&self) {
        let wait = self.take(Instant::now());
        if !wait.is_zero() {
            Timer::after(wait).await;
        }
    }

    /// Takes the next turn; how long it is until then.
    fn take(&self, now: Instant) -> Duration {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let full = *last + self.burst < now;
        let before = if full { now - self.burst } else { *last };
        *last = before + self.every;
        last.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::Pace;

    #[test]
    fn as_many_as_may_go_at_once_and_the_others_one_after_the_other() {
        let every = Duration::from_millis(100);
        let pace = Pace::new(3, every);
        let long_after = Instant::now() + Duration::from_hours(1);
        let waits: Vec<_> = (0..6).map(|_| pace.take(long_after)).collect();
        let zero = Duration::ZERO;
        assert_eq!(waits, [zero, zero, zero, every, every * 2, every * 3]);
        let waits = pace.take(long_after + every * 4);
        assert_eq!(waits, zero);
        let later = long_after + Duration::from_hours(1);
        let at_once = (0..10).take_while(|_| pace.take(later).is_zero());
        assert_eq!(at_once.count(), 3);
    }
}
