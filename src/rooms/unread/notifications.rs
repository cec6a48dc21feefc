//! The events that notified a user, from what is stored for the unread counts ([`super::counts`]): an event
//! notified the user if it raised the user's totals. So no row is written for a notification.

use super::{
    counts::{NO_THREAD, UserThread, notified, thread_total},
    receipts::{self, MAIN, ReceiptKey},
};
use crate::{
    rooms::{Error, event, event::insert::Verdict, room, timeline},
    store::{
        EventNum, Place, Position, Reader, Records, RoomNum, UserNum,
        records::{MemberRow, Receipt, RoomHeads, TimelineRow},
    },
};

const BATCH: usize = 32;

/// An event that notified a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notification {
    pub event: EventNum,
    pub position: Position,
    pub place: Place,
    pub highlight: bool,
    pub is_read: bool,
}

/// What [`Notifications::newest`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    Notification(Notification),
    /// There is none.
    End,
    /// As many rows as were allowed have none; the next one to read is at this place or before.
    OutOfRows(Place),
}

/// The notifications of a joined user in a room.
pub struct Notifications {
    room: RoomNum,
    user: UserNum,
    joined: Place,
    heads: RoomHeads,
    receipts: Vec<(ReceiptKey, Receipt)>,
}

impl Notifications {
    pub fn new(
        r: &impl Reader,
        room: RoomNum,
        user: UserNum,
        member: &MemberRow,
    ) -> Result<Self, Error> {
        Ok(Self {
            room,
            user,
            joined: member.since,
            heads: room::heads(r, room)?,
            receipts: receipts::of_user(r, room, user)?,
        })
    }

    pub fn last_place(&self) -> Place {
        self.heads.last_place
    }

    pub fn last_position(&self) -> Position {
        self.heads.last_position
    }

    /// The newest one at `from` or before whose position is after `after`, among the next `rows` rows, which
    /// are counted down.
    pub fn newest(
        &self,
        r: &impl Reader,
        mut from: Place,
        after: Position,
        rows: &mut usize,
    ) -> Result<Found, Error> {
        loop {
            let mut batch = timeline::backwards(r, self.room, from, BATCH + 1)?;
            let has_more = batch.len() > BATCH;
            // The last one is read again in the next batch: here it says what was before the others.
            let first = has_more.then(|| batch.pop()).flatten();
            for (index, (place, row)) in batch.iter().enumerate() {
                if *place <= self.joined || row.position <= after {
                    return Ok(Found::End);
                }
                if *rows == 0 {
                    return Ok(Found::OutOfRows(*place));
                }
                *rows -= 1;
                let before = batch.get(index + 1).or(first.as_ref());
                let verdict = self.verdict(r, *place, row, before.map(|(_, row)| row))?;
                if verdict.notify {
                    return Ok(Found::Notification(Notification {
                        event: row.event,
                        position: row.position,
                        place: *place,
                        highlight: verdict.highlight,
                        is_read: self.is_read(r, *place, row.thread)?,
                    }));
                }
            }
            match first {
                Some((place, _)) => from = place,
                None => return Ok(Found::End),
            }
        }
    }

    /// Whether the user has read the event at `place`.
    pub fn is_read(
        &self,
        r: &impl Reader,
        place: Place,
        thread: Option<EventNum>,
    ) -> Result<bool, Error> {
        let user_thread = UserThread {
            room: self.room,
            user: self.user,
            root: thread.unwrap_or(NO_THREAD),
        };
        let (receipt, own_event) = match thread {
            None => (
                receipts::read_upto(&self.receipts, MAIN),
                user_thread.last_own_event(r, &self.heads.last_own_events)?,
            ),
            Some(root) => {
                let recent = r.threads()?.load((self.room, root))?;
                let recent = recent.map_or_else(Vec::new, |thread| thread.last_own_events);
                let id = event::id(r, root)?;
                (
                    receipts::read_upto(&self.receipts, id.as_str()),
                    user_thread.last_own_event(r, &recent)?,
                )
            }
        };
        Ok(receipt.max(own_event) >= Some(place))
    }

    /// What the event at `place` meant to the user when it was stored. `before` is the row before it.
    fn verdict(
        &self,
        r: &impl Reader,
        place: Place,
        row: &TimelineRow,
        before: Option<&TimelineRow>,
    ) -> Result<Verdict, Error> {
        let previous = Place(place.0.saturating_sub(1));
        let (now, before) = match row.thread {
            None => (
                row.main,
                before.map_or_else(Default::default, |row| row.main),
            ),
            Some(root) => (
                thread_total(r, self.room, root, place)?,
                thread_total(r, self.room, root, previous)?,
            ),
        };
        let root = row.thread.unwrap_or(NO_THREAD);
        let own_now = notified(r, self.room, self.user, root, place)?;
        let own_before = notified(r, self.room, self.user, root, previous)?;
        let is_raised = |now: u32, before: u32, own_now: i32, own_before: i32| {
            i64::from(now) - i64::from(before) + i64::from(own_now) - i64::from(own_before) > 0
        };
        Ok(Verdict {
            notify: is_raised(now.notify, before.notify, own_now.notify, own_before.notify),
            highlight: is_raised(
                now.highlight,
                before.highlight,
                own_now.highlight,
                own_before.highlight,
            ),
        })
    }
}
