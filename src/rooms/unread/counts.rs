//! Unread counts, from running totals.
//!
//! Each row of the timeline has the total of the notifications outside threads up to it under the
//! default push rules, and each row of `thread_timeline` that of its thread. Unread is the total now
//! less the total at the user's receipt. Where an event notifies a user otherwise than under the
//! default rules, `notified` has the running difference ([`super::notify`] evaluates the rules before
//! an event is stored). So nobody's unread events are counted one by one.
//!
//! What was redacted does not count: [`super::redacted`].
//!
//! A user's own event counts as a receipt for it, in its thread or outside all.
//!
//! Source: client-server API, "Receiving notifications", "Threaded read receipts".

use std::collections::BTreeMap;

use super::receipts::{self, MAIN};
use crate::{
    rooms::{Error, event, timeline},
    store::{
        EventNum, Place, Reader, Records, RoomNum, Rows, UserNum,
        records::{Counts, Notified, RoomHeads},
    },
};

/// The most threads of a room that are counted, the most recently active first. NOTSPEC: what is
/// unread in others is not counted.
const MAX_THREADS: usize = 200;
/// The most redacted events of a room that are left out of the counts, the newest of each thread. NOTSPEC:
/// others count as if they had not been redacted.
const MAX_REDACTED: usize = 200;
/// The thread root that stands for the events outside all threads.
pub const NO_THREAD: EventNum = EventNum(0);

/// What a user has not read in a room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unread {
    /// Of the events that are in no thread.
    pub main: Counts,
    /// By thread root; threads without unread events are absent.
    pub threads: BTreeMap<EventNum, Counts>,
}

impl Unread {
    /// The sum, for clients that do not support threads.
    pub fn all(&self) -> Counts {
        let add = |a: Counts, b: &Counts| Counts {
            notify: a.notify + b.notify,
            highlight: a.highlight + b.highlight,
        };
        self.threads.values().fold(self.main, add)
    }
}

/// The unread counts of `user`, who joined the room at `joined`.
pub fn count(
    r: &impl Reader,
    room: RoomNum,
    heads: &RoomHeads,
    user: UserNum,
    joined: Place,
) -> Result<Unread, Error> {
    let receipts = receipts::of_user(r, room, user)?;
    let read_upto = |own_event: Option<Place>, thread: &str| {
        let receipt = receipts::read_upto(&receipts, thread);
        receipt.max(own_event).unwrap_or(joined).max(joined)
    };
    let in_thread = |root| UserThread { room, user, root };
    let mut redacted = MAX_REDACTED;
    let main = in_thread(NO_THREAD);
    let read = read_upto(main.last_own_event(r, &heads.last_own_events)?, MAIN);
    let before = timeline::backwards(r, room, read, 1)?.pop();
    let before = before.map_or_else(Counts::default, |(_, row)| row.main);
    let mut unread = Unread {
        main: main.unread(r, read, before, heads.main, &mut redacted)?,
        threads: BTreeMap::new(),
    };
    // Receipts without a thread are for all threads.
    let floor = receipts::read_upto_anywhere(&receipts).unwrap_or(joined);
    for root in active_threads(r, room, floor.max(joined))? {
        let thread = r.threads()?.load((room, root))?;
        let thread = thread.ok_or_else(|| Error::corrupt("threads", (room, root), "missing"))?;
        let root_id = event::id(r, root)?;
        let user_thread = in_thread(root);
        let own_event = user_thread.last_own_event(r, &thread.last_own_events)?;
        let read = read_upto(own_event, root_id.as_str());
        if thread.last_place <= read {
            continue;
        }
        let before = thread_total(r, room, root, read)?;
        let counts = user_thread.unread(r, read, before, thread.counts, &mut redacted)?;
        if counts != Counts::default() {
            unread.threads.insert(root, counts);
        }
    }
    Ok(unread)
}

/// The roots of the threads with an event after `floor`, the most recently active first.
fn active_threads(r: &impl Reader, room: RoomNum, floor: Place) -> Result<Vec<EventNum>, Error> {
    let order = r.thread_order()?;
    let rows = order.prefix_range(room, floor.next()..)?;
    rows.rev()
        .take(MAX_THREADS)
        .map(|row| Ok(row?.1.value()))
        .collect()
}

/// The total of the thread at `place` under the default rules.
pub(super) fn thread_total(
    r: &impl Reader,
    room: RoomNum,
    root: EventNum,
    place: Place,
) -> Result<Counts, Error> {
    let totals = r.thread_timeline()?;
    let mut rows = totals.prefix_range((room, root), ..=place)?;
    Ok(match rows.next_back().transpose()? {
        Some((key, counts)) => counts.record(&key)?,
        None => Counts::default(),
    })
}

/// A user in a thread, or outside all ([`NO_THREAD`]).
pub(super) struct UserThread {
    pub room: RoomNum,
    pub user: UserNum,
    pub root: EventNum,
}

impl UserThread {
    /// The place of the user's last event, if known. `recent` is from the record of the room or thread.
    pub fn last_own_event(
        &self,
        r: &impl Reader,
        recent: &[(UserNum, Place)],
    ) -> Result<Option<Place>, Error> {
        if let Some((_, place)) = recent.iter().find(|(user, _)| *user == self.user) {
            return Ok(Some(*place));
        }
        let table = r.last_own_event()?;
        let row = table.get((self.room, self.root, self.user))?;
        Ok(row.map(|row| row.value()))
    }

    /// The user's unread counts after `read`, where the total under the default rules was `before`;
    /// it is `now` at present. At most `max_redacted` redacted events are left out, which are counted down.
    fn unread(
        &self,
        r: &impl Reader,
        read: Place,
        before: Counts,
        now: Counts,
        max_redacted: &mut usize,
    ) -> Result<Counts, Error> {
        let difference = |upto| notified(r, self.room, self.user, self.root, upto);
        let (own_before, own_now) = (difference(read)?, difference(Place::MAX)?);
        let count = |before: u32, now: u32, own_before: i32, own_now: i32| {
            now.saturating_sub(before)
                .saturating_add_signed(own_now.saturating_sub(own_before))
        };
        let counts = Counts {
            notify: count(before.notify, now.notify, own_before.notify, own_now.notify),
            highlight: count(
                before.highlight,
                now.highlight,
                own_before.highlight,
                own_now.highlight,
            ),
        };
        if counts == Counts::default() {
            return Ok(counts);
        }
        let redacted = self.redacted(r, read, max_redacted)?;
        Ok(Counts {
            notify: counts.notify.saturating_add_signed(-redacted.notify),
            highlight: counts.highlight.saturating_add_signed(-redacted.highlight),
        })
    }

    /// Whether the user's totals differ from those of the default rules otherwise after `read` than at it.
    fn has_own_totals(&self, r: &impl Reader, read: Place) -> Result<bool, Error> {
        let differences = r.notified()?;
        let key = (self.room, self.user, self.root);
        let mut rows = differences.prefix_range(key, read.next()..)?;
        Ok(rows.next().transpose()?.is_some())
    }

    /// What the redacted events after `read` added to the user's counts.
    fn redacted(&self, r: &impl Reader, read: Place, max: &mut usize) -> Result<Notified, Error> {
        let difference = |upto| notified(r, self.room, self.user, self.root, upto);
        let mut sum = Notified::default();
        // Without rules of their own for these events, the user's totals differ by the same before and after each.
        let has_own = self.has_own_totals(r, read)?;
        let rows = r.redacted_notifications()?;
        let rows = rows.prefix_range((self.room, self.root), read.next()..)?;
        for row in rows.rev().take(*max) {
            let (key, default) = row?;
            let (default, (_, _, place)) = (default.record(&key)?, key.value());
            *max -= 1;
            sum.notify += default.notify.cast_signed();
            sum.highlight += default.highlight.cast_signed();
            if has_own {
                let before = difference(Place(place.0.saturating_sub(1)))?;
                let after = difference(place)?;
                sum.notify += after.notify - before.notify;
                sum.highlight += after.highlight - before.highlight;
            }
        }
        Ok(sum)
    }
}

/// The difference between the user's total at `upto` and that of the default rules.
pub(in crate::rooms) fn notified(
    r: &impl Reader,
    room: RoomNum,
    user: UserNum,
    root: EventNum,
    upto: Place,
) -> Result<Notified, Error> {
    let differences = r.notified()?;
    let mut rows = differences.prefix_range((room, user, root), ..=upto)?;
    Ok(match rows.next_back().transpose()? {
        Some((key, notified)) => notified.record(&key)?,
        None => Notified::default(),
    })
}
