//! The story of one thing, from what is stored: sentences in the order in which things were decided. The first one
//! that says "no" is the reason.

mod join;
mod push;
mod send;

use serde_json::{Value, json};

pub use self::{join::join, push::push, send::send};
use crate::{
    api::Error,
    rooms::{
        self,
        stored_event::{self, StoredEvent},
    },
    store::{Reader, Rows, Snapshot, records::Status},
};
use ruma::OwnedEventId;

/// What is known, sentence by sentence.
#[derive(Default)]
struct Story(Vec<String>);

impl Story {
    fn add(&mut self, sentence: impl Into<String>) {
        self.0.push(sentence.into());
    }

    fn finish(self) -> Value {
        json!({ "story": self.0 })
    }
}

/// The event `id`, or what is known of it if it is not stored.
fn find(s: &Snapshot, id: &OwnedEventId, story: &mut Story) -> Result<Option<StoredEvent>, Error> {
    if let Some(num) = stored_event::num_of(s, id)? {
        return Ok(Some(stored_event::load(s, num)?));
    }
    for row in s.waiting()?.all()? {
        let (key, _) = row?;
        let (room, waiting) = key.value();
        if waiting == id.as_str() {
            let room = rooms::room::id(s, room)?;
            story.add(format!(
                "The event was received for {room}, and waits for events before it that other servers have."
            ));
            return Ok(None);
        }
    }
    story.add(
        "This server does not have the event: it was not received, or is not an event at all.",
    );
    Ok(None)
}

/// Why an event is not part of its room; nothing if it is.
fn refusal(event: &StoredEvent) -> Option<&'static str> {
    Some(match event.header.status {
        Status::Accepted => return None,
        Status::SoftFailed => {
            "It was soft-failed: when it came, the room no longer allowed it, so nobody here sees it."
        }
        Status::RejectedByAuthEvents | Status::RejectedOutlier => {
            "It was rejected: the events that it names as its authorization do not allow it."
        }
        Status::RejectedByState => "It was rejected: the room did not allow it at its place.",
        Status::Outlier => {
            "It is known only because other events refer to it; it is in nobody's timeline."
        }
        Status::OutOfBand => {
            "It came alone, as an invitation does; this server was not in the room."
        }
    })
}
