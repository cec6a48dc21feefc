//! Sending state events inside a job.

use ruma::{
    CanonicalJsonObject, OwnedEventId, OwnedRoomId, UserId,
    events::{StateEventType, TimelineEventType},
};
use serde::Deserialize;

use super::append::{self, Sending};
use crate::{
    protocol::build::EventDraft,
    rooms::{Actor, Error, Local, event, room, state::current, unread::notify},
    store::{Reader, RoomNum, Tx},
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

    /// Whether it is an invitation.
    pub fn invites(&self) -> bool {
        let membership = self.content.get("membership");
        self.kind == StateEventType::RoomMember
            && membership.and_then(|value| value.as_str()) == Some("invite")
    }

    pub fn draft(&self, room_id: OwnedRoomId, sender: &UserId) -> EventDraft {
        EventDraft {
            room_id: Some(room_id),
            sender: sender.to_owned(),
            event_type: TimelineEventType::from(self.kind.clone()),
            state_key: Some(self.state_key.clone()),
            content: self.content.clone(),
            text: None,
            redacts: None,
        }
    }

    /// Sends it into the room in `actor`'s name.
    ///
    /// # Errors
    /// Those of [`append::append`].
    pub fn send(&self, tx: &Tx, local: &Local, room: RoomNum, actor: &Actor) -> Result<(), Error> {
        let draft = self.draft(room::id(tx, room)?, &actor.id);
        let sending = Sending {
            notify: notify::evaluate_in(tx, local, room, &draft)?,
            ..actor.sending()
        };
        append::append(tx, local, &draft, &sending)?;
        Ok(())
    }

    /// Like [`send`](Self::send), but nothing is sent where the event is [current](Self::current).
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
        match self.current(tx, room, &actor.id)? {
            Some(_) => Ok(()),
            None => self.send(tx, local, room, actor),
        }
    }

    /// The id of the event in the current state that has the same sender and content. Another one like
    /// it would change nothing. (NOTSPEC: as Synapse answers.)
    pub fn current(
        &self,
        r: &impl Reader,
        room: RoomNum,
        sender: &UserId,
    ) -> Result<Option<OwnedEventId>, Error> {
        #[derive(Deserialize)]
        struct Sent {
            sender: String,
            content: CanonicalJsonObject,
        }
        if let Some(num) = current::get(r, room, &self.kind.to_string(), &self.state_key)?
            && let Ok(sent) = event::load(r, num)?.parse::<Sent>()
            && sent.sender == sender.as_str()
            && sent.content == self.content
        {
            return Ok(Some(event::id(r, num)?));
        }
        Ok(None)
    }
}
