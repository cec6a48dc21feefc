//! Responses with many events, which are read in batches while they are sent.

use std::collections::VecDeque;

use smol::stream;

use crate::{
    api::Streamed,
    rooms::{self, event},
    store::{EventNum, Store},
};

const EVENTS_PER_BATCH: usize = 64;

/// The parts of a JSON response, in order.
#[derive(Debug, Default)]
pub struct EventStream(VecDeque<Part>);

#[derive(Debug)]
enum Part {
    Text(Vec<u8>),
    Events(Vec<EventNum>),
}

impl EventStream {
    /// Appends JSON text.
    pub fn text(mut self, text: impl Into<Vec<u8>>) -> Self {
        self.0.push_back(Part::Text(text.into()));
        self
    }

    /// Appends an array of events.
    pub fn events(self, nums: Vec<EventNum>) -> Self {
        let mut parts = self.text("[");
        for (index, batch) in nums.chunks(EVENTS_PER_BATCH).enumerate() {
            if index > 0 {
                parts = parts.text(",");
            }
            parts.0.push_back(Part::Events(batch.to_vec()));
        }
        parts.text("]")
    }

    /// Appends an event.
    pub fn event(mut self, num: EventNum) -> Self {
        self.0.push_back(Part::Events(vec![num]));
        self
    }

    /// Encloses all parts so far.
    pub fn enclosed(mut self, before: &str, after: &str) -> Self {
        self.0.push_front(Part::Text(before.into()));
        self.text(after)
    }

    pub fn into_response(self, store: &Store) -> Streamed {
        let start = (self.0, store.clone());
        let parts = stream::try_unfold(start, async |(mut parts, store)| {
            let part = match parts.pop_front() {
                None => return Ok(None),
                Some(Part::Text(text)) => text,
                Some(Part::Events(nums)) => store.scan("events", |s| join_events(s, nums)).await?,
            };
            Ok(Some((part, (parts, store))))
        });
        Streamed::new(parts)
    }
}

/// The JSON of the events, separated by commas.
fn join_events(
    r: &impl crate::store::Reader,
    nums: Vec<EventNum>,
) -> Result<Vec<u8>, rooms::Error> {
    let mut list = Vec::new();
    for num in nums {
        if !list.is_empty() {
            list.push(b',');
        }
        list.extend(event::load(r, num)?.json);
    }
    Ok(list)
}
