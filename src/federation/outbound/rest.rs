//! How long a server that does not answer is left alone: longer each time, until it answers or shows
//! that it is there. It is stored, so that a restart does not try everybody at once who is long gone.

use std::time::Duration;

use smol::{Timer, channel::Receiver, future::FutureExt};

use crate::{
    clock::Clock,
    rooms,
    store::{Reader, Records, Rows, ServerNum, Tx, records::Rest},
    users::to_device,
};

/// How long it rests at first, and at the most.
const FIRST: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_hours(1);

/// The longest rest of a server that is asked nevertheless when somebody waits for its answer.
const ASKED: Duration = Duration::from_mins(1);
/// For how long a server is silent before messages to its users' devices do not wait for it any more.
const GIVEN_UP: Duration = Duration::from_hours(30 * 24);

/// How long `server` rests, if it does.
pub fn of(r: &impl Reader, server: ServerNum) -> Result<Option<Rest>, rooms::Error> {
    Ok(r.resting()?.load(server)?)
}

/// Notes at `now` that `server` rests. What waits for one that has been silent for too long is thrown
/// away, some of it each time.
pub fn put(tx: &Tx, server: ServerNum, rest: &Rest, now: u64) -> Result<(), rooms::Error> {
    tx.resting()?.put(server, rest)?;
    let mut silent = tx.silent()?;
    let since = silent.get(server)?.map(|row| row.value());
    let Some(since) = since else {
        return Ok(silent.insert(server, now)?);
    };
    drop(silent);
    if since.saturating_add(ms(GIVEN_UP)) < now {
        to_device::discard_outbound(tx, server)?;
    }
    Ok(())
}

/// Notes that `server` rests no more.
pub fn end(tx: &Tx, server: ServerNum) -> Result<(), rooms::Error> {
    let mut resting = tx.resting()?;
    if resting.has(server)? {
        resting.remove(server)?;
        drop(resting);
        tx.silent()?.remove(server)?;
    }
    Ok(())
}

/// The rest that begins now, after another that was of no use. Those that fail at once do not end
/// at once: `random` is between 0 and 1.
pub fn next(before: Option<&Rest>, now: u64, random: f64) -> Rest {
    let (first, longest) = (ms(FIRST), ms(LONGEST));
    let lasts = before.map_or(first, |rest| rest.lasts_ms.saturating_mul(2).min(longest));
    let jitter = Duration::from_millis(lasts.min(60_000)).mul_f64(random / 2.0);
    Rest {
        lasts_ms: lasts,
        until_ts: now.saturating_add(lasts).saturating_add(ms(jitter)),
    }
}

/// Whether a server has failed for so long that nobody is to wait for it before this rest ends.
pub fn is_long(rest: &Rest, now: u64) -> bool {
    rest.lasts_ms > ms(ASKED) && !left(rest, now).is_zero()
}

/// Waits for the end of a rest, or until the server is `alive`; whether that is so. Who shows life
/// all the time and still does not answer rests for a moment all the same.
pub async fn wait(rest: &Rest, clock: &Clock, alive: &Receiver<()>) -> bool {
    let left = left(rest, clock.now_ms());
    let moment = left.min(FIRST);
    Timer::after(moment).await;
    let ended = async {
        Timer::after(left - moment).await;
        false
    };
    let is_alive = async { alive.recv().await.is_ok() };
    is_alive.or(ended).await
}

/// How long a rest still lasts; not longer than ever, whatever happens to the clock.
fn left(rest: &Rest, now: u64) -> Duration {
    let left = Duration::from_millis(rest.until_ts.saturating_sub(now));
    left.min(LONGEST + Duration::from_mins(1))
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use smol::channel;

    use super::{ASKED, FIRST, LONGEST, is_long, left, ms, next, wait};
    use crate::{clock::Clock, store::records::Rest};

    const NOW: u64 = 1_000_000;

    #[test]
    fn each_rest_is_twice_as_long_but_not_for_ever() {
        let mut rest = next(None, NOW, 0.0);
        assert_eq!((rest.lasts_ms, rest.until_ts), (2000, NOW + 2000));
        for _ in 0..100 {
            let longer = next(Some(&rest), NOW, 0.0);
            assert_eq!(longer.lasts_ms, (rest.lasts_ms * 2).min(ms(LONGEST)));
            rest = longer;
        }
        assert_eq!(rest.until_ts, NOW + ms(LONGEST));
    }

    #[test]
    fn those_that_fail_at_once_are_not_tried_again_at_once() {
        let rests = [0.0, 0.5, 1.0].map(|random| next(None, NOW, random).until_ts - NOW);
        assert_eq!(rests, [2000, 2500, 3000]);
    }

    #[test]
    fn a_clock_that_runs_back_makes_no_rest_longer_than_any() {
        let rest = next(None, NOW * 1000, 0.0);
        assert!(left(&rest, NOW) <= LONGEST + Duration::from_mins(1));
        assert_eq!(left(&rest, u64::MAX), Duration::ZERO);
    }

    #[test]
    fn nobody_waits_for_a_server_that_has_failed_for_a_while_until_its_rest_has_ended() {
        let (mut rest, mut now) = (next(None, NOW, 0.0), NOW);
        while rest.lasts_ms <= ms(ASKED) {
            assert!(!is_long(&rest, now));
            now = rest.until_ts;
            rest = next(Some(&rest), now, 0.0);
        }
        assert!(is_long(&rest, now));
        assert!(!is_long(&rest, rest.until_ts));
    }

    #[test]
    fn a_rest_ends_when_the_server_shows_life_but_lasts_a_moment() {
        let rest = Rest {
            lasts_ms: ms(LONGEST),
            until_ts: NOW + ms(LONGEST),
        };
        let (shows, alive) = channel::bounded(1);
        shows.try_send(()).unwrap();
        let begun = Instant::now();
        let clock = Clock::manual(NOW);
        assert!(smol::block_on(wait(&rest, &clock, &alive)));
        assert!(begun.elapsed() >= FIRST);
        clock.advance(LONGEST);
        assert!(!smol::block_on(wait(&rest, &clock, &alive)));
    }
}
