//! How much a user has not read: arithmetic over running counts.
//!
//! Every row of the timeline carries what the events outside threads up to it mean under the
//! default rules, and `thread_timeline` the same for each thread. What a user has unread is the
//! count at the end less the count where the user's receipt stands; where events mean something
//! else to the user, `notified` carries the difference, running as well ([`super::notify`] decides
//! it before an event is stored). Nobody's unread events are counted one by one.
//!
//! Who wrote something has read up to it: outside all threads, or in that thread.
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

/// How many threads of a room are looked at: those with something new last. NOTSPEC: what is
/// unread in others is not counted.
const THREADS: usize = 200;
/// What stands for the root of a thread where there is none.
pub const NO_THREAD: EventNum = EventNum(0);

/// What a user has not read in a room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unread {
    /// Outside threads.
    pub main: Counts,
    /// In each thread where there is something, by its root.
    pub threads: BTreeMap<EventNum, Counts>,
}

impl Unread {
    /// Everything together, for clients that do not know threads.
    pub fn all(&self) -> Counts {
        let add = |a: Counts, b: &Counts| Counts {
            notify: a.notify + b.notify,
            highlight: a.highlight + b.highlight,
        };
        self.threads.values().fold(self.main, add)
    }
}

/// What `user`, who is in the room since `joined`, has not read.
pub fn count(
    r: &impl Reader,
    room: RoomNum,
    heads: &RoomHeads,
    user: UserNum,
    joined: Place,
) -> Result<Unread, Error> {
    let receipts = receipts::of_user(r, room, user)?;
    let read = |last_own: Option<Place>, thread: &str| {
        let receipt = receipts::read_upto(&receipts, thread);
        receipt.max(last_own).unwrap_or(joined).max(joined)
    };
    let main_read = read(
        last_own_event(r, (room, NO_THREAD, user), &heads.last_own_events)?,
        MAIN,
    );
    let before = timeline::backwards(r, room, main_read, 1)?.pop();
    let before = before.map_or_else(Counts::default, |(_, row)| row.main);
    let mut unread = Unread {
        main: since(r, (room, user, NO_THREAD), main_read, (before, heads.main))?,
        threads: BTreeMap::new(),
    };
    // What counts for all threads has been read of each.
    let floor = receipts::read_upto_anywhere(&receipts).unwrap_or(joined);
    for root in lively(r, room, floor.max(joined))? {
        let thread = r.threads()?.load((room, root))?;
        let thread = thread.ok_or_else(|| Error::corrupt("threads", (room, root), "missing"))?;
        let root_id = event::id(r, root)?;
        let last_own = last_own_event(r, (room, root, user), &thread.last_own_events)?;
        let read = read(last_own, root_id.as_str());
        if thread.last_place <= read {
            continue;
        }
        let before = in_thread(r, (room, root), read)?;
        let counts = since(r, (room, user, root), read, (before, thread.counts))?;
        if counts != Counts::default() {
            unread.threads.insert(root, counts);
        }
    }
    Ok(unread)
}

/// The roots of the threads in which something happened after `floor`, the last first.
fn lively(r: &impl Reader, room: RoomNum, floor: Place) -> Result<Vec<EventNum>, Error> {
    let order = r.thread_order()?;
    let rows = order.range((room, floor.next())..=(room, Place::MAX))?;
    rows.rev()
        .take(THREADS)
        .map(|row| Ok(row?.1.value()))
        .collect()
}

/// Where the user last wrote, if that is known.
fn last_own_event(
    r: &impl Reader,
    (room, root, user): (RoomNum, EventNum, UserNum),
    lately: &[(UserNum, Place)],
) -> Result<Option<Place>, Error> {
    match lately.iter().find(|(writer, _)| *writer == user) {
        Some((_, place)) => Ok(Some(*place)),
        None => Ok(r
            .last_own_event()?
            .get((room, root, user))?
            .map(|row| row.value())),
    }
}

/// What the thread's events up to `read` mean under the default rules.
fn in_thread(
    r: &impl Reader,
    (room, root): (RoomNum, EventNum),
    read: Place,
) -> Result<Counts, Error> {
    let counts = r.thread_timeline()?;
    let row = counts
        .range((room, root, Place::MIN)..=(room, root, read))?
        .next_back()
        .transpose()?;
    Ok(match row {
        Some((_, counts)) => counts.value().unpack()?,
        None => Counts::default(),
    })
}

/// What happened in a thread, or outside all, after `read`, as it is for the user; the counts are
/// those of the default rules, at `read` and now.
fn since(
    r: &impl Reader,
    of: (RoomNum, UserNum, EventNum),
    read: Place,
    (before, now): (Counts, Counts),
) -> Result<Counts, Error> {
    let (own_before, own_now) = (notified(r, of, read)?, notified(r, of, Place::MAX)?);
    let count = |before: u32, now: u32, own_before: i32, own_now: i32| {
        now.saturating_sub(before)
            .saturating_add_signed(own_now.saturating_sub(own_before))
    };
    Ok(Counts {
        notify: count(before.notify, now.notify, own_before.notify, own_now.notify),
        highlight: count(
            before.highlight,
            now.highlight,
            own_before.highlight,
            own_now.highlight,
        ),
    })
}

/// By how much the user's counts up to `upto` differ from those of the default rules.
pub(in crate::rooms) fn notified(
    r: &impl Reader,
    (room, user, root): (RoomNum, UserNum, EventNum),
    upto: Place,
) -> Result<Notified, Error> {
    let rows = r.notified()?;
    let row = rows
        .range((room, user, root, Place::MIN)..=(room, user, root, upto))?
        .next_back()
        .transpose()?;
    Ok(match row {
        Some((_, notified)) => notified.value().unpack()?,
        None => Notified::default(),
    })
}
