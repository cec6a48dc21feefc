//! Exponential backoff of servers that do not answer. It is stored, so that a restart does not try
//! servers at once that have been unreachable for days.

use std::time::Duration;

use ruma::ServerName;
use smol::{Timer, channel::Receiver, future::FutureExt};

use crate::{
    clock::{Clock, as_ms},
    federation::Error,
    rooms::{self, servers},
    store::{Reader, Records, Rows, ServerNum, Store, Tx, records::Backoff},
    users::to_device,
};

const MIN_INTERVAL: Duration = Duration::from_secs(2);
const MAX_INTERVAL: Duration = Duration::from_hours(1);
const MAX_JITTER: Duration = Duration::from_secs(30);
/// While the interval is not longer, a server still gets requests if a client waits for the response.
const MAX_INTERVAL_WITH_REQUESTS: Duration = Duration::from_mins(1);
/// The to-device messages queued for a server that has been unreachable for longer are dropped.
const GIVE_UP_AFTER: Duration = Duration::from_hours(30 * 24);

/// The backoffs of all servers. Clones are the same.
#[derive(Clone)]
pub struct Backoffs {
    store: Store,
    clock: Clock,
}

impl Backoffs {
    pub fn new(store: &Store, clock: &Clock) -> Self {
        Self {
            store: store.clone(),
            clock: clock.clone(),
        }
    }

    /// Whether a request of a client may wait for `server`.
    ///
    /// # Errors
    /// [`Error::Unreachable`] while the server's backoff is long and not over.
    pub fn check(&self, server: &ServerName) -> Result<(), Error> {
        let backoff = self.store.read(|s| match servers::num(s, server)? {
            Some(server) => load(s, server),
            None => Ok(None),
        });
        let backoff = backoff.map_err(|error| Error::Disk(error.to_string().into()))?;
        let now = self.clock.now_ms();
        if backoff.is_some_and(|backoff| is_long(&backoff, now)) {
            return Err(Error::Unreachable("it has not answered lately".into()));
        }
        Ok(())
    }
}

pub fn load(r: &impl Reader, server: ServerNum) -> Result<Option<Backoff>, rooms::Error> {
    Ok(r.backoffs()?.load(server)?)
}

/// Stores the backoff of `server` at `now`. Some of the to-device messages that are queued for it are
/// dropped each time if it has been unreachable for too long.
pub fn save(tx: &Tx, server: ServerNum, backoff: &Backoff, now: u64) -> Result<(), rooms::Error> {
    tx.backoffs()?.put(server, backoff)?;
    let mut unreachable_since = tx.unreachable_since()?;
    let since = unreachable_since.get(server)?.map(|row| row.value());
    let Some(since) = since else {
        return Ok(unreachable_since.insert(server, now)?);
    };
    drop(unreachable_since);
    if since.saturating_add(as_ms(GIVE_UP_AFTER)) < now {
        to_device::discard_outbound(tx, server)?;
    }
    Ok(())
}

/// Ends the backoff of `server`.
pub fn clear(tx: &Tx, server: ServerNum) -> Result<(), rooms::Error> {
    let mut backoffs = tx.backoffs()?;
    if backoffs.has(server)? {
        backoffs.remove(server)?;
        drop(backoffs);
        tx.unreachable_since()?.remove(server)?;
    }
    Ok(())
}

/// The backoff that begins at `now` after a request failed, with jitter. `random` is between 0 and 1.
pub fn next(before: Option<&Backoff>, now: u64, random: f64) -> Backoff {
    let (min, max) = (as_ms(MIN_INTERVAL), as_ms(MAX_INTERVAL));
    let interval_ms = before.map_or(min, |before| before.interval_ms.saturating_mul(2).min(max));
    let max_jitter = (Duration::from_millis(interval_ms) / 2).min(MAX_JITTER);
    let jitter_ms = as_ms(max_jitter.mul_f64(random));
    Backoff {
        interval_ms,
        retry_at_ts: now.saturating_add(interval_ms).saturating_add(jitter_ms),
    }
}

fn is_long(backoff: &Backoff, now: u64) -> bool {
    backoff.interval_ms > as_ms(MAX_INTERVAL_WITH_REQUESTS) && !remaining(backoff, now).is_zero()
}

/// Waits for the end of a backoff, or for a request of the server, which `alive` announces; whether
/// one came. A server that sends requests and answers none is still left alone for the shortest
/// interval.
pub async fn wait(backoff: &Backoff, clock: &Clock, alive: &Receiver<()>) -> bool {
    let remaining = remaining(backoff, clock.now_ms());
    let at_least = remaining.min(MIN_INTERVAL);
    Timer::after(at_least).await;
    let is_over = async {
        Timer::after(remaining - at_least).await;
        false
    };
    let is_alive = async { alive.recv().await.is_ok() };
    is_alive.or(is_over).await
}

/// Bounded, so that a clock that is set back prolongs no backoff.
fn remaining(backoff: &Backoff, now: u64) -> Duration {
    let remaining = Duration::from_millis(backoff.retry_at_ts.saturating_sub(now));
    remaining.min(MAX_INTERVAL + MAX_JITTER)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use ruma::server_name;
    use smol::channel;

    use super::{
        Backoffs, MAX_INTERVAL, MAX_INTERVAL_WITH_REQUESTS, MAX_JITTER, MIN_INTERVAL, clear,
        is_long, next, remaining, save, wait,
    };
    use crate::{
        clock::{Clock, as_ms},
        executor::Executor,
        pool::Pool,
        rooms,
        store::{Options, Store, Tx, records::Backoff},
    };

    const NOW: u64 = 1_000_000;

    #[test]
    fn each_backoff_is_twice_as_long_up_to_the_maximum() {
        let mut backoff = next(None, NOW, 0.0);
        assert_eq!(
            (backoff.interval_ms, backoff.retry_at_ts),
            (2000, NOW + 2000)
        );
        for _ in 0..100 {
            let longer = next(Some(&backoff), NOW, 0.0);
            let expected = (backoff.interval_ms * 2).min(as_ms(MAX_INTERVAL));
            assert_eq!(longer.interval_ms, expected);
            backoff = longer;
        }
        assert_eq!(backoff.retry_at_ts, NOW + as_ms(MAX_INTERVAL));
    }

    #[test]
    fn jitter_spreads_the_retries_of_servers_that_failed_at_once() {
        let waits = [0.0, 0.5, 1.0].map(|random| next(None, NOW, random).retry_at_ts - NOW);
        assert_eq!(waits, [2000, 2500, 3000]);
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_prolong_a_backoff() {
        let backoff = next(None, NOW * 1000, 0.0);
        assert!(remaining(&backoff, NOW) <= MAX_INTERVAL + MAX_JITTER);
        assert_eq!(remaining(&backoff, u64::MAX), Duration::ZERO);
    }

    #[test]
    fn clients_do_not_wait_for_a_server_in_a_long_backoff() {
        let (mut backoff, mut now) = (next(None, NOW, 0.0), NOW);
        while backoff.interval_ms <= as_ms(MAX_INTERVAL_WITH_REQUESTS) {
            assert!(!is_long(&backoff, now));
            now = backoff.retry_at_ts;
            backoff = next(Some(&backoff), now, 0.0);
        }
        assert!(is_long(&backoff, now));
        assert!(!is_long(&backoff, backoff.retry_at_ts));
    }

    #[test]
    fn a_request_of_the_server_ends_its_backoff_after_the_shortest_interval() {
        let backoff = Backoff {
            interval_ms: as_ms(MAX_INTERVAL),
            retry_at_ts: NOW + as_ms(MAX_INTERVAL),
        };
        let (announce, alive) = channel::bounded(1);
        announce.try_send(()).unwrap();
        let begun = Instant::now();
        let clock = Clock::manual(NOW);
        assert!(smol::block_on(wait(&backoff, &clock, &alive)));
        assert!(begun.elapsed() >= MIN_INTERVAL);
        clock.advance(MAX_INTERVAL);
        assert!(!smol::block_on(wait(&backoff, &clock, &alive)));
    }

    #[test]
    fn the_check_follows_the_stored_backoff_of_a_server() {
        let directory = tempfile::tempdir().unwrap();
        let options = Options {
            directory: directory.path().to_owned(),
            cache: 1 << 20,
        };
        let store = Store::open(&options, Pool::default()).unwrap();
        let executor = Executor::default();
        executor.spawn(store.clone().publish(|_| ())).detach();
        let clock = Clock::manual(NOW);
        let backoffs = Backoffs::new(&store, &clock);
        let may_wait = || backoffs.check(server_name!("b.example")).is_ok();
        let set = |interval: Option<Duration>| {
            let now = clock.now_ms();
            let job = move |tx: &Tx| {
                let server = tx.server_num("b.example")?;
                let Some(interval_ms) = interval.map(as_ms) else {
                    return clear(tx, server);
                };
                let backoff = Backoff {
                    interval_ms,
                    retry_at_ts: now + interval_ms,
                };
                save(tx, server, &backoff, now)
            };
            smol::block_on(executor.run(store.write::<_, rooms::Error, _>(job))).unwrap();
        };
        assert!(may_wait());
        set(Some(Duration::from_mins(1)));
        assert!(may_wait());
        set(Some(Duration::from_mins(10)));
        assert!(!may_wait());
        set(None);
        assert!(may_wait());
        set(Some(Duration::from_mins(10)));
        assert!(!may_wait());
        clock.advance(Duration::from_mins(10));
        assert!(may_wait());
    }
}
