//! Responses with many events, which are read piece by piece while they are sent.

use std::collections::VecDeque;

use smol::stream;

use super::Streamed;
use crate::{
    rooms::{self, event},
    store::{EventNum, Snapshot, Store},
};

/// A piece ends with the event that makes it larger.
const PIECE_BYTES: usize = 64 * 1024;

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
    pub fn into_response(self, store: &Store) -> Streamed {
        self.formatted(store, |s, num| Ok(Some(event::load(s, num)?.json)))
    }

    /// The response with the JSON that `format` makes of each event. An event of which it makes none is left
    /// out.
    pub fn formatted<F>(self, store: &Store, format: F) -> Streamed
    where
        F: FnMut(&Snapshot, EventNum) -> Result<Option<Vec<u8>>, rooms::Error> + Send + 'static,
    {
        let start = (self, format, store.clone());
        let pieces = stream::try_unfold(start, async |(mut parts, mut format, store)| {
            if parts.0.is_empty() {
                return Ok(None);
            }
            let read = move |s: &_| {
                let piece = parts.next_piece(s, &mut format)?;
                Ok::<_, rooms::Error>((piece, parts, format))
            };
            let (piece, parts, format) = store.scan("events", read).await?;
            Ok(Some((piece, (parts, format, store))))
        });
        Streamed::new(pieces)
    }

    fn next_piece(
        &mut self,
        s: &Snapshot,
        format: &mut impl FnMut(&Snapshot, EventNum) -> Result<Option<Vec<u8>>, rooms::Error>,
    ) -> Result<Vec<u8>, rooms::Error> {
        let mut piece = Vec::new();
        while piece.len() < PIECE_BYTES
            && let Some(part) = self.0.front_mut()
        {
            match part {
                Part::Text(text) => piece.append(text),
                Part::Events { nums, follows } => {
                    if let Some(num) = nums.pop_front() {
                        if let Some(json) = format(s, num)? {
                            if std::mem::replace(follows, true) {
                                piece.push(b',');
                            }
                            piece.extend(json);
                        }
                        continue;
                    }
                }
            }
            self.0.pop_front();
        }
        Ok(piece)
    }
}
