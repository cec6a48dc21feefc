//! Adding an event to the live end of a room's timeline: its place, its thread, whom it notifies.

use ruma::{OwnedEventId, events::TimelineEventType};
use serde::Deserialize;

use crate::{
    protocol::Pdu,
    rooms::{
        Error, Local, event,
        unread::{self, NO_THREAD},
    },
    store::{
        EventNum, Place, Position, Reader, Records, RoomNum, Tx, UserNum,
        records::{Counts, RoomHeads, Thread, TimelineRow},
    },
};

/// How many local writers the record of a room or a thread holds. The one who wrote least recently
/// moves to a row of `last_own_event`.
const MAX_RECENT_WRITERS: usize = 64;

/// Whom an event notifies.
#[derive(Clone, Debug, Default)]
pub struct Notify {
    /// What it means under the default rules.
    pub default: Verdict,
    /// What it means to those to whom it means something else.
    pub exceptions: Vec<(UserNum, Verdict)>,
}

/// What an event means to a user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it notifies.
    pub notify: bool,
    /// Whether it is highlighted.
    pub highlight: bool,
}

impl Counts {
    fn add(&mut self, verdict: Verdict) {
        self.notify += u32::from(verdict.notify);
        self.highlight += u32::from(verdict.highlight);
    }
}

/// An event that is added to the live end of its room's timeline.
pub(in crate::rooms) struct Entry<'a> {
    pub(in crate::rooms) event: EventNum,
    pub(in crate::rooms) position: Position,
    pub(in crate::rooms) place: Place,
    pub(in crate::rooms) notify: &'a Notify,
}

impl Entry<'_> {
    /// Adds the event `pdu`. The caller stores `heads`.
    pub(in crate::rooms) fn insert(
        &self,
        tx: &Tx,
        local: &Local,
        room: RoomNum,
        heads: &mut RoomHeads,
        pdu: &Pdu,
    ) -> Result<(), Error> {
        let read_by = read_by_sender(tx, local, pdu)?;
        let thread = thread_root(tx, room, pdu)?;
        match thread {
            None => {
                heads.main.add(self.notify.default);
                if let Some(user) = read_by {
                    let recent = &mut heads.last_own_events;
                    set_last_own_event(tx, room, NO_THREAD, recent, user, self.place)?;
                }
            }
            Some(root) => self.insert_into_thread(tx, room, root, read_by)?,
        }
        let row = TimelineRow {
            event: self.event,
            position: self.position,
            main: heads.main,
            thread,
        };
        tx.timeline()?.put((room, self.place), &row)?;
        for (user, verdict) in &self.notify.exceptions {
            let root = thread.unwrap_or(NO_THREAD);
            let default = self.notify.default;
            add_exception(tx, room, *user, root, self.place, *verdict, default)?;
        }
        heads.last_place = self.place;
        heads.last_position = self.position;
        Ok(())
    }

    fn insert_into_thread(
        &self,
        tx: &Tx,
        room: RoomNum,
        root: EventNum,
        read_by: Option<UserNum>,
    ) -> Result<(), Error> {
        let place = self.place;
        let before = tx.threads()?.load((room, root))?;
        if let Some(before) = &before {
            tx.thread_order()?.remove((room, before.last_place))?;
        }
        tx.thread_order()?.insert((room, place), root)?;
        let mut thread = before.unwrap_or(Thread {
            last_place: place,
            counts: Counts::default(),
            last_own_events: Vec::new(),
        });
        thread.last_place = place;
        thread.counts.add(self.notify.default);
        if let Some(user) = read_by {
            set_last_own_event(tx, room, root, &mut thread.last_own_events, user, place)?;
        }
        tx.thread_timeline()?
            .put((room, root, place), &thread.counts)?;
        tx.threads()?.put((room, root), &thread)?;
        Ok(())
    }
}

/// The local sender of `pdu`, who has read the room up to it. A member event may go to every room of
/// its sender at once (a new name or picture), so it says nothing about reading.
fn read_by_sender(tx: &Tx, local: &Local, pdu: &Pdu) -> Result<Option<UserNum>, Error> {
    if *pdu.event_type() == TimelineEventType::RoomMember || !local.has(pdu.sender()) {
        return Ok(None);
    }
    Ok(Some(tx.user_num(pdu.sender().as_str())?))
}

/// Stores the place of a user's last own event, behind those of all others in `recent`.
fn set_last_own_event(
    tx: &Tx,
    room: RoomNum,
    root: EventNum,
    recent: &mut Vec<(UserNum, Place)>,
    user: UserNum,
    place: Place,
) -> Result<(), Error> {
    recent.retain(|(writer, _)| *writer != user);
    if recent.len() >= MAX_RECENT_WRITERS {
        let (oldest, at) = recent.remove(0);
        tx.last_own_event()?.insert((room, root, oldest), at)?;
    }
    recent.push((user, place));
    Ok(())
}

/// Stores that the event at `place` has another verdict for a user than by default.
fn add_exception(
    tx: &Tx,
    room: RoomNum,
    user: UserNum,
    root: EventNum,
    place: Place,
    verdict: Verdict,
    default: Verdict,
) -> Result<(), Error> {
    let mut upto = unread::notified(tx, room, user, root, place)?;
    upto.notify += i32::from(verdict.notify) - i32::from(default.notify);
    upto.highlight += i32::from(verdict.highlight) - i32::from(default.highlight);
    tx.notified()?.put((room, user, root, place), &upto)?;
    Ok(())
}

/// The root of the thread that `pdu` is in: the one that it says it is in, or the one of the event
/// that it relates to otherwise ([client-server API, "Threading"], "Threaded read receipts").
///
/// [client-server API, "Threading"]: https://spec.matrix.org/v1.19/client-server-api/#threading
fn thread_root(r: &impl Reader, room: RoomNum, pdu: &Pdu) -> Result<Option<EventNum>, Error> {
    #[derive(Deserialize)]
    struct Relation {
        rel_type: String,
        event_id: OwnedEventId,
    }
    let Some(relation) = pdu.content_field::<Relation>("m.relates_to") else {
        return Ok(None);
    };
    let Some(parent) = event::num_in(r, room, &relation.event_id)? else {
        return Ok(None);
    };
    if relation.rel_type == "m.thread" {
        return Ok(Some(parent));
    }
    // What the parent's parents say was found when it was stored.
    match event::header(r, parent)?.place {
        Some(place) => Ok(r
            .timeline()?
            .load((room, place))?
            .and_then(|row| row.thread)),
        None => Ok(None),
    }
}
