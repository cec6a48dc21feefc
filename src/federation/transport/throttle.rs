//! A throttle: a burst at once, then one turn in each interval.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use smol::Timer;

pub struct Throttle {
    interval: Duration,
    /// The number of turns that can be taken at once, times the interval.
    burst: Duration,
    /// When the last turn was or will be; before now if there are turns left.
    last: Mutex<Instant>,
}

impl Throttle {
    pub fn new(burst: u32, interval: Duration) -> Self {
        Self {
            interval,
            burst: interval * burst,
            last: Mutex::new(Instant::now()),
        }
    }

    /// Waits for the next turn.
    pub async fn wait(&self) {
        let wait = self.take(Instant::now());
        if !wait.is_zero() {
            Timer::after(wait).await;
        }
    }

    /// Takes the next turn. Returns the time until then.
    fn take(&self, now: Instant) -> Duration {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let full = *last + self.burst < now;
        let before = if full { now - self.burst } else { *last };
        *last = before + self.interval;
        last.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::Throttle;

    #[test]
    fn a_burst_has_no_wait_and_further_turns_have_an_interval() {
        let interval = Duration::from_millis(100);
        let throttle = Throttle::new(3, interval);
        let long_after = Instant::now() + Duration::from_hours(1);
        let waits: Vec<_> = (0..6).map(|_| throttle.take(long_after)).collect();
        let zero = Duration::ZERO;
        assert_eq!(
            waits,
            [zero, zero, zero, interval, interval * 2, interval * 3]
        );
        let waits = throttle.take(long_after + interval * 4);
        assert_eq!(waits, zero);
        let later = long_after + Duration::from_hours(1);
        let at_once = (0..10).take_while(|_| throttle.take(later).is_zero());
        assert_eq!(at_once.count(), 3);
    }
}
