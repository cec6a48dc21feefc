//! Bodies of requests, read whole within limits or chunk by chunk, and not too slowly.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Incoming};
use smol::{Timer, future};

use super::{
    error::Rejection,
    limits::{MAX_DRAINED_BYTES, MIN_BODY_BYTES_PER_SECOND, Timeouts},
    sender::Sender,
};
use crate::body_budget::{BufferedBody, PartialBody};

/// The body of a request, unread or partly read.
#[derive(Debug)]
pub(super) enum RequestBody {
    /// From a connection.
    Incoming(Incoming),
    /// From a test.
    Whole(Vec<u8>),
}

/// Holds the body of a request for as long as nobody has read it.
pub(super) type BodySlot = Arc<Mutex<Option<RequestBody>>>;

/// How fast a body is received. It may wait for its chunks for so long in all, and each chunk adds to that
/// what it should take at [`MIN_BODY_BYTES_PER_SECOND`].
pub(super) struct Pace {
    start: Instant,
    timeouts: Timeouts,
    may_wait: Duration,
}

impl Pace {
    pub(super) fn new(timeouts: &Timeouts) -> Self {
        Self {
            start: Instant::now(),
            timeouts: *timeouts,
            may_wait: timeouts.body_pause,
        }
    }

    fn received(&mut self, bytes: usize, waited: Duration) {
        let earned = Duration::from_secs_f64(bytes as f64 / MIN_BODY_BYTES_PER_SECOND);
        let left = self.may_wait.saturating_sub(waited) + earned;
        self.may_wait = left.min(self.timeouts.body_pause);
    }
}

impl RequestBody {
    /// Reads the whole body, if it has at most `max_bytes`. After an error the rest can be
    /// [drained](Self::drain).
    pub(super) async fn read(
        &mut self,
        max_bytes: usize,
        mut read: PartialBody<Sender>,
        timeouts: &Timeouts,
    ) -> Result<BufferedBody<Sender>, Rejection> {
        match self {
            Self::Whole(bytes) if bytes.len() > max_bytes => {
                return Err(Rejection::TooLarge(max_bytes));
            }
            Self::Whole(bytes) => read.push(bytes)?,
            Self::Incoming(body) => {
                if body.size_hint().lower() > max_bytes as u64 {
                    return Err(Rejection::TooLarge(max_bytes));
                }
                let mut pace = Pace::new(timeouts);
                while let Some(chunk) = next_chunk(body, &mut pace).await? {
                    if read.received() + chunk.len() > max_bytes {
                        return Err(Rejection::TooLarge(max_bytes));
                    }
                    read.push(&chunk)?;
                }
            }
        }
        Ok(read.finish()?)
    }

    /// The next chunk of the body. `None` at the end.
    pub(super) async fn next_chunk(&mut self, pace: &mut Pace) -> Result<Option<Bytes>, Rejection> {
        match self {
            Self::Whole(bytes) if bytes.is_empty() => Ok(None),
            Self::Whole(bytes) => Ok(Some(std::mem::take(bytes).into())),
            Self::Incoming(body) => next_chunk(body, pace).await,
        }
    }

    /// Whether the end has been read.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Whole(_) => true,
            Self::Incoming(body) => body.is_end_stream(),
        }
    }

    /// Reads and drops the rest of the body, so that its sender is not cut off before they can read the
    /// response. Gives up on a body that is too long or too slow.
    pub(super) async fn drain(mut self, timeouts: &Timeouts) {
        let Self::Incoming(body) = &mut self else {
            return;
        };
        let mut left = MAX_DRAINED_BYTES;
        if body.size_hint().lower() > left as u64 {
            return;
        }
        let mut pace = Pace::new(&Timeouts {
            body: timeouts.drain,
            body_pause: timeouts.drain_pause,
            ..*timeouts
        });
        while let Ok(Some(chunk)) = next_chunk(body, &mut pace).await {
            match left.checked_sub(chunk.len()) {
                Some(less) => left = less,
                None => return,
            }
        }
    }
}

async fn next_chunk(body: &mut Incoming, pace: &mut Pace) -> Result<Option<Bytes>, Rejection> {
    let start = Instant::now();
    let timeout = async {
        Timer::after(pace.may_wait).await;
        None
    };
    // The frame is polled first: the timer costs nothing if a frame is there already.
    let frame = future::or(async { Some(body.frame().await) }, timeout).await;
    match frame {
        None => Err(Rejection::BodyTimeout),
        Some(_) if pace.start.elapsed() > pace.timeouts.body => Err(Rejection::BodyTimeout),
        Some(None) => Ok(None),
        Some(Some(Err(_))) => Err(Rejection::BodyIncomplete),
        Some(Some(Ok(frame))) => {
            // Trailers are ignored.
            let chunk = frame.into_data().unwrap_or_default();
            pace.received(chunk.len(), start.elapsed());
            Ok(Some(chunk))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Pace;
    use crate::http::limits::{MIN_BODY_BYTES_PER_SECOND, Timeouts};

    #[test]
    fn a_slow_body_uses_up_its_pause_and_a_fast_one_keeps_it() {
        let second = Duration::from_secs(1);
        let mut pace = Pace::new(&Timeouts {
            body_pause: 20 * second,
            ..Timeouts::default()
        });
        for _ in 0..20 {
            assert!(pace.may_wait > Duration::ZERO);
            pace.received(1, second);
        }
        assert!(pace.may_wait < second);
        pace.received(10 * MIN_BODY_BYTES_PER_SECOND as usize, Duration::ZERO);
        assert!(pace.may_wait >= 10 * second);
        for _ in 0..1000 {
            pace.received(MIN_BODY_BYTES_PER_SECOND as usize, second);
        }
        assert!(pace.may_wait >= 10 * second);
        pace.received(1 << 30, second);
        assert_eq!(pace.may_wait, 20 * second);
    }
}
