//! Answers full of events, which are read a few at a time while they are sent.

use std::collections::VecDeque;

use smol::stream;

use crate::{
    api::Streamed,
    rooms::{self, event},
    store::{EventNum, Store},
};

/// How many events are in memory at once.
const SLICE: usize = 64;

/// The pieces of an answer.
#[derive(Debug, Default)]
pub struct Pieces(VecDeque<Piece>);

#[derive(Debug)]
enum Piece {
    Text(Vec<u8>),
    /// A slice of a list of events.
    Events(Vec<EventNum>),
}

impl Pieces {
    /// Adds JSON as it is.
    pub fn text(mut self, text: impl Into<Vec<u8>>) -> Self {
        self.0.push_back(Piece::Text(text.into()));
        self
    }

    /// Adds a list of the events `nums`.
    pub fn events(self, nums: Vec<EventNum>) -> Self {
        let mut pieces = self.text("[");
        for (index, slice) in nums.chunks(SLICE).enumerate() {
            if index > 0 {
                pieces = pieces.text(",");
            }
            pieces.0.push_back(Piece::Events(slice.to_vec()));
        }
        pieces.text("]")
    }

    /// Adds one event.
    pub fn event(mut self, num: EventNum) -> Self {
        self.0.push_back(Piece::Events(vec![num]));
        self
    }

    /// Puts text before it all, and behind.
    pub fn within(mut self, before: &str, behind: &str) -> Self {
        self.0.push_front(Piece::Text(before.into()));
        self.text(behind)
    }

    /// The answer, read from `store`.
    pub fn streamed(self, store: &Store) -> Streamed {
        let start = (self.0, store.clone());
        let pieces = stream::try_unfold(start, async |(mut pieces, store)| {
            let piece = match pieces.pop_front() {
                None => return Ok(None),
                Some(Piece::Text(text)) => text,
                Some(Piece::Events(nums)) => store.scan("events", |s| list(s, nums)).await?,
            };
            Ok(Some((piece, (pieces, store))))
        });
        Streamed::new(pieces)
    }
}

/// The events one behind the other.
fn list(r: &impl crate::store::Reader, nums: Vec<EventNum>) -> Result<Vec<u8>, rooms::Error> {
    let mut list = Vec::new();
    for num in nums {
        if !list.is_empty() {
            list.push(b',');
        }
        list.extend(event::load(r, num)?.json);
    }
    Ok(list)
}
