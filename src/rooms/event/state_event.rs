//! Sending state events inside a job.

use ruma::{
    CanonicalJsonObject,
    events::{StateEventType, TimelineEventType},
};
use serde::Deserialize;

use super::append::{self, Sending};
use crate::{
    protocol::build::EventDraft,
    rooms::{Actor, Error, Local, event, room, state::current, unread::notify},
    store::{RoomNum, Tx},
};

/// A state event that is to be sent.
#[derive(Clone, Debug)]
pub struct StateEvent {
    pub kind: StateEventType,
    pub state_key: String,
    pub content: CanonicalJsonObject,
}

impl StateEvent {
    /// A state event with an empty state key.
    pub fn new(kind: StateEventType, content: CanonicalJsonObject) -> Self {
        Self {
            kind,
            state_key: String::new(),
            content,
        }
    }

    /// Sends it into the room in `actor`'s name.
    ///
    /// # Errors
    /// Those of [`append::append`].
    pub fn send(&self, tx: &Tx, local: &Local, room: RoomNum, actor: &Actor) -> Result<(), Error> {
        let draft = EventDraft {
            room_id: Some(room::id(tx, room)?),
            sender: actor.id.clone(),
            event_type: TimelineEventType::from(self.kind.clone()),
            state_key: Some(self.state_key.clone()),
            content: self.content.clone(),
            redacts: None,
        };
        let sending = Sending {
            notify: notify::evaluate_in(tx, local, room, &draft)?,
            ..actor.sending()
        };
        append::append(tx, local, &draft, &sending)?;
        Ok(())
    }

    /// Like [`send`](Self::send), but nothing is sent where the current state has an event of the
    /// same sender with the same content.
    ///
    /// # Errors
    /// Those of [`append::append`].
    pub fn send_once(
        &self,
        tx: &Tx,
        local: &Local,
        room: RoomNum,
        actor: &Actor,
    ) -> Result<(), Error> {
        #[derive(Deserialize)]
        struct Sent {
            sender: String,
            content: CanonicalJsonObject,
        }
        if let Some(num) = current::get(tx, room, &self.kind.to_string(), &self.state_key)?
            && let Ok(sent) = event::load(tx, num)?.parse::<Sent>()
            && sent.sender == actor.id.as_str()
            && sent.content == self.content
        {
            return Ok(());
        }
        self.send(tx, local, room, actor)
    }
}
