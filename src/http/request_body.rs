//! Bodies of requests, read whole within limits or chunk by chunk.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Incoming};
use smol::{Timer, future};

use super::{
    error::Rejection,
    limits::{MAX_DRAINED_BYTES, Timeouts},
};

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

/// The memory for bodies of requests, shared by all connections.
#[derive(Debug)]
pub(super) struct BodyBudget {
    left: AtomicUsize,
}

impl BodyBudget {
    pub(super) fn new(bytes: usize) -> Self {
        Self {
            left: AtomicUsize::new(bytes),
        }
    }

    fn reserve(&self, bytes: usize) -> bool {
        let less = |left: usize| left.checked_sub(bytes);
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
            .is_ok()
    }
}

/// A body that was read whole. Gives its memory back to the budget when dropped.
#[derive(Debug)]
pub(super) struct BufferedBody<'a> {
    bytes: Vec<u8>,
    budget: &'a BodyBudget,
    reserved: usize,
}

impl BufferedBody<'_> {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn push(&mut self, chunk: &[u8]) -> Result<(), Rejection> {
        if !self.budget.reserve(chunk.len()) {
            return Err(Rejection::BodyBudgetExhausted);
        }
        self.reserved += chunk.len();
        self.bytes.extend_from_slice(chunk);
        Ok(())
    }
}

impl Drop for BufferedBody<'_> {
    fn drop(&mut self) {
        self.budget.left.fetch_add(self.reserved, Ordering::Relaxed);
    }
}

impl RequestBody {
    /// Reads the whole body, if it has at most `max_bytes`. After an error the rest can be
    /// [drained](Self::drain).
    pub(super) async fn read<'a>(
        &mut self,
        max_bytes: usize,
        budget: &'a BodyBudget,
        timeouts: &Timeouts,
    ) -> Result<BufferedBody<'a>, Rejection> {
        let mut read = BufferedBody {
            bytes: Vec::new(),
            budget,
            reserved: 0,
        };
        match self {
            Self::Whole(bytes) if bytes.len() > max_bytes => {
                return Err(Rejection::TooLarge(max_bytes));
            }
            Self::Whole(bytes) => read.push(bytes)?,
            Self::Incoming(body) => {
                if body.size_hint().lower() > max_bytes as u64 {
                    return Err(Rejection::TooLarge(max_bytes));
                }
                let start = Instant::now();
                while let Some(chunk) = next_chunk(body, start, timeouts).await? {
                    if read.bytes.len() + chunk.len() > max_bytes {
                        return Err(Rejection::TooLarge(max_bytes));
                    }
                    read.push(&chunk)?;
                }
            }
        }
        Ok(read)
    }

    /// The next chunk of the body, of which the first was asked for at `start`. `None` at the end.
    pub(super) async fn next_chunk(
        &mut self,
        start: Instant,
        timeouts: &Timeouts,
    ) -> Result<Option<Bytes>, Rejection> {
        match self {
            Self::Whole(bytes) if bytes.is_empty() => Ok(None),
            Self::Whole(bytes) => Ok(Some(std::mem::take(bytes).into())),
            Self::Incoming(body) => next_chunk(body, start, timeouts).await,
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
        let start = Instant::now();
        let mut left = MAX_DRAINED_BYTES;
        if body.size_hint().lower() > left as u64 {
            return;
        }
        let timeouts = Timeouts {
            body: timeouts.drain,
            body_chunk: timeouts.drain_chunk,
            ..*timeouts
        };
        while let Ok(Some(chunk)) = next_chunk(body, start, &timeouts).await {
            match left.checked_sub(chunk.len()) {
                Some(less) => left = less,
                None => return,
            }
        }
    }
}

async fn next_chunk(
    body: &mut Incoming,
    start: Instant,
    timeouts: &Timeouts,
) -> Result<Option<Bytes>, Rejection> {
    let timeout = async {
        Timer::after(timeouts.body_chunk).await;
        None
    };
    // The frame is polled first: the timer costs nothing if a frame is there already.
    let frame = future::or(async { Some(body.frame().await) }, timeout).await;
    match frame {
        None => Err(Rejection::BodyTimeout),
        Some(_) if start.elapsed() > timeouts.body => Err(Rejection::BodyTimeout),
        Some(None) => Ok(None),
        Some(Some(Err(_))) => Err(Rejection::BodyIncomplete),
        // Trailers are ignored.
        Some(Some(Ok(frame))) => Ok(Some(frame.into_data().unwrap_or_default())),
    }
}

#[cfg(test)]
mod tests {
    use super::{BodyBudget, RequestBody};
    use crate::http::{error::Rejection, limits::Timeouts};

    #[test]
    fn a_body_beyond_the_budget_is_rejected_until_another_is_dropped() {
        let budget = BodyBudget::new(10);
        let timeouts = Timeouts::default();
        smol::block_on(async {
            let six = || RequestBody::Whole(vec![0; 6]);
            let first = six().read(100, &budget, &timeouts).await.unwrap();
            let second = six().read(100, &budget, &timeouts).await;
            assert!(matches!(second, Err(Rejection::BodyBudgetExhausted)));
            drop(first);
            let third = six().read(100, &budget, &timeouts).await.unwrap();
            assert_eq!(third.bytes().len(), 6);
        });
    }
}
