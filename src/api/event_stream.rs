//! Responses with many events, which are read piece by piece while they are sent.

use std::collections::VecDeque;

use super::{Error, Streamed};
use crate::{
    rooms::{self, event},
    store::{EventNum, PIECE_BYTES, Pieces, Snapshot, Store},
};

/// The parts of a JSON response, in order.
#[derive(Debug, Default)]
pub struct EventStream(VecDeque<Part>);

#[derive(Debug)]
enum Part {
    Text(Vec<u8>),
    Events {
        nums: VecDeque<EventNum>,
        /// Whether the next one comes after a comma.
        follows: bool,
    },
}

impl EventStream {
    /// Appends JSON text.
    pub fn text(mut self, text: impl Into<Vec<u8>>) -> Self {
        self.0.push_back(Part::Text(text.into()));
        self
    }

    /// Appends an array of events.
    pub fn events(self, nums: Vec<EventNum>) -> Self {
        self.text("[").items(nums).text("]")
    }

    /// Appends an event, or several separated by commas.
    pub fn items(mut self, nums: impl IntoIterator<Item = EventNum>) -> Self {
        self.0.push_back(Part::Events {
            nums: nums.into_iter().collect(),
            follows: false,
        });
        self
    }

    /// Encloses all parts so far.
    pub fn enclosed(mut self, before: &str, after: &str) -> Self {
        self.0.push_front(Part::Text(before.into()));
        self.text(after)
    }

    /// The response with the events as they are stored.
    pub async fn into_response(self, store: &Store) -> Result<Streamed, Error> {
        let stored = |s: &_, num| Ok(Some(event::load(s, num)?.json));
        self.formatted(store, stored).await
    }

    /// The response with the JSON that `format` makes of each event. An event of which it makes none is left
    /// out.
    pub async fn formatted<F>(self, store: &Store, format: F) -> Result<Streamed, Error>
    where
        F: FnMut(&Snapshot, EventNum) -> Result<Option<Vec<u8>>, rooms::Error> + Send + 'static,
    {
        let parts = self.0;
        Streamed::read(store, Formatted { parts, format }).await
    }
}

struct Formatted<F> {
    parts: VecDeque<Part>,
    format: F,
}

impl<F> Pieces for Formatted<F>
where
    F: FnMut(&Snapshot, EventNum) -> Result<Option<Vec<u8>>, rooms::Error> + Send + 'static,
{
    type Error = rooms::Error;
    const NAME: &'static str = "events";

    fn is_complete(&self) -> bool {
        self.parts.is_empty()
    }

    fn next_piece(&mut self, s: &Snapshot) -> Result<Vec<u8>, rooms::Error> {
        let mut piece = Vec::new();
        while piece.len() < PIECE_BYTES
            && let Some(part) = self.parts.front_mut()
        {
            match part {
                Part::Text(text) => piece.append(text),
                Part::Events { nums, follows } => {
                    if let Some(num) = nums.pop_front() {
                        if let Some(json) = (self.format)(s, num)? {
                            if std::mem::replace(follows, true) {
                                piece.push(b',');
                            }
                            piece.extend(json);
                        }
                        continue;
                    }
                }
            }
            self.parts.pop_front();
        }
        Ok(piece)
    }
}

#[cfg(test)]
mod tests {
    use smol::{channel, future::poll_once, stream::StreamExt};

    use super::EventStream;
    use crate::{
        api::Error,
        rooms::{self, tests::with_store},
        store::{PIECE_BYTES, Snapshot},
    };

    #[test]
    fn a_full_pool_refuses_a_response_but_does_not_break_off_one_that_has_begun() {
        with_store(async |store| {
            let response = || {
                EventStream::default()
                    .text(vec![b' '; PIECE_BYTES])
                    .text("{}")
            };
            let begun = response().into_response(store).await.expect("a free pool");
            let (end, ended) = channel::bounded::<()>(1);
            let mut scans = Vec::new();
            loop {
                let ended = ended.clone();
                let scan = move |_: &Snapshot| Ok::<_, rooms::Error>(ended.recv_blocking().is_ok());
                let mut scan = Box::pin(store.scan("a test", scan));
                if poll_once(&mut scan).await.is_some() {
                    break;
                }
                scans.push(scan);
            }
            let refused = response().into_response(store).await;
            assert!(matches!(refused, Err(Error::Rooms(rooms::Error::Pool(_)))));

            let mut pieces = begun.into_inner();
            let first = pieces.next().await.expect("a piece").expect("read");
            assert_eq!(first.len(), PIECE_BYTES);
            let mut second = pieces.next();
            assert!(poll_once(&mut second).await.is_none(), "it waits");
            drop((end, scans));
            assert_eq!(second.await.expect("a piece").expect("read"), b"{}");
        });
    }
}
