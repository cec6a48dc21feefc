//! Keeping the tables of relations.

use ruma::{OwnedUserId, UserId};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::rows::{Kind, Parent};
use crate::{
    protocol::{Pdu, relation::Relation},
    rooms::{
        Error,
        event::{self, StoredEvent},
    },
    store::{EventNum, Place, Reader, RoomNum, Rows, Tx, UserNum},
};

/// In the key of `thread_senders`: all senders together.
pub(super) const ALL_SENDERS: UserNum = UserNum::MIN;

/// An event that relates to another one.
struct RelatedEvent<'a> {
    room: RoomNum,
    num: EventNum,
    id: &'a str,
    place: Place,
    sender: &'a UserId,
    origin_server_ts: u64,
    relation: Relation,
}

/// Indexes an event that gets its place in the timeline.
pub(in crate::rooms) fn add(
    tx: &Tx,
    room: RoomNum,
    num: EventNum,
    place: Place,
    pdu: &Pdu,
) -> Result<(), Error> {
    let Some(relation) = Relation::of(pdu.content()) else {
        return Ok(());
    };
    // An outlier may have been redacted.
    if event::header(tx, num)?.redacted_by.is_some() {
        return Ok(());
    }
    let event = RelatedEvent {
        room,
        num,
        id: pdu.event_id().as_str(),
        place,
        sender: pdu.sender(),
        origin_server_ts: pdu.origin_server_ts().get().into(),
        relation,
    };
    event.add(tx)
}

/// Removes an event that is about to be redacted.
pub(in crate::rooms) fn remove(tx: &Tx, stored: &StoredEvent) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Parsed {
        content: Box<RawValue>,
        sender: OwnedUserId,
        origin_server_ts: u64,
    }
    let Some(place) = stored.header.place else {
        return Ok(());
    };
    let parsed = stored.parse::<Parsed>()?;
    let Some(relation) = Relation::of(&parsed.content) else {
        return Ok(());
    };
    let event = RelatedEvent {
        room: stored.header.room,
        num: stored.num,
        id: &stored.header.id,
        place,
        sender: &parsed.sender,
        origin_server_ts: parsed.origin_server_ts,
        relation,
    };
    event.remove(tx)
}

impl RelatedEvent<'_> {
    fn kind(&self) -> Kind {
        Kind::of(&self.relation.rel_type)
    }

    fn parent(&self) -> Parent<'_> {
        Parent {
            room: self.room,
            id: self.relation.event_id.as_str(),
        }
    }

    fn add(&self, tx: &Tx) -> Result<(), Error> {
        let sender = tx.user_num(self.sender.as_str())?;
        let (Parent { room, id }, kind) = (self.parent(), self.kind());
        tx.relations()?
            .insert((room, id, kind as u8, self.place), (self.num, sender))?;
        match kind {
            Kind::Replacement => {
                let key = (room, id, sender, self.origin_server_ts, self.id);
                tx.edits()?.insert(key, self.num)?;
            }
            Kind::Thread => {
                for user in [sender, ALL_SENDERS] {
                    let count = sent_by(tx, self.parent(), user)?;
                    tx.thread_senders()?
                        .insert((room, id, user), count.saturating_add(1))?;
                }
                let newest = self.parent().newest(tx, kind, .., 2)?;
                if newest
                    .first()
                    .is_some_and(|child| child.place == self.place)
                {
                    let mut list = tx.thread_list()?;
                    if let Some(before) = newest.get(1) {
                        list.remove((room, before.place))?;
                    }
                    list.insert((room, self.place), id)?;
                }
            }
            Kind::Reference | Kind::Annotation | Kind::Other => {}
        }
        Ok(())
    }

    fn remove(&self, tx: &Tx) -> Result<(), Error> {
        let sender = tx.user_num(self.sender.as_str())?;
        let (Parent { room, id }, kind) = (self.parent(), self.kind());
        if !tx.relations()?.remove((room, id, kind as u8, self.place))? {
            return Ok(());
        }
        match kind {
            Kind::Replacement => {
                let key = (room, id, sender, self.origin_server_ts, self.id);
                tx.edits()?.remove(key)?;
            }
            Kind::Thread => {
                for user in [sender, ALL_SENDERS] {
                    let count = sent_by(tx, self.parent(), user)?;
                    let mut senders = tx.thread_senders()?;
                    match count {
                        0 | 1 => senders.remove((room, id, user)).map(drop)?,
                        _ => senders.insert((room, id, user), count - 1)?,
                    }
                }
                let newest = self.parent().newest(tx, kind, .., 1)?.pop();
                let mut list = tx.thread_list()?;
                if list.remove((room, self.place))?
                    && let Some(newest) = newest
                {
                    list.insert((room, newest.place), id)?;
                }
            }
            Kind::Reference | Kind::Annotation | Kind::Other => {}
        }
        Ok(())
    }
}

/// How many events of the thread with this root `user` sent.
pub(super) fn sent_by(r: &impl Reader, root: Parent<'_>, user: UserNum) -> Result<u32, Error> {
    let senders = r.thread_senders()?;
    let count = senders.get((root.room, root.id, user))?;
    Ok(count.map_or(0, |row| row.value()))
}
