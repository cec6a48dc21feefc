//! How much a user has not read: arithmetic over the timeline's running counts.
//!
//! Every row of the timeline carries how many events up to it notify under the default rules, in
//! the room and in its thread. What a user has unread is the count at the end less the count where
//! the user's receipt stands, corrected by the few rows of events that notify this user otherwise
//! ([`Notified`]). Who wrote something has read up to it.

use std::collections::BTreeMap;

use super::{Error, event, receipts, timeline};
use crate::store::{
    EventNum, Place, Reader, RoomNum, Rows, UserNum,
    records::{Notified, RoomHot},
};

/// How many threads of a room are counted at most, those with something new last.
const THREADS: usize = 100;

/// What is unread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// How many events notify.
    pub notify: u32,
    /// How many of them are highlighted.
    pub highlight: u32,
}

/// What a user has not read in a room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unread {
    /// Outside threads.
    pub main: Count,
    /// In each thread where there is something, by its root.
    pub threads: BTreeMap<EventNum, Count>,
}

impl Unread {
    /// Everything together, for clients that do not know threads.
    pub fn all(&self) -> Count {
        let add = |a: Count, b: &Count| Count {
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
    hot: &RoomHot,
    user: UserNum,
    joined: Place,
) -> Result<Unread, Error> {
    let receipts = receipts::of_user(r, room, user)?;
    let wrote = hot
        .wrote
        .iter()
        .find(|(writer, _)| *writer == user)
        .map(|(_, place)| *place);
    let floor = wrote.max(Some(joined));
    let main_read = receipts::read_upto(&receipts, Some("main")).max(floor);
    let mut unread = Unread::default();
    unread.main.notify = hot
        .notifying_main
        .saturating_sub(main_count(r, room, main_read)?);
    let mut reads = BTreeMap::new();
    for (root, thread) in threads(r, room)? {
        let root_id = event::id(r, root)?;
        let read = receipts::read_upto(&receipts, Some(root_id.as_str())).max(floor);
        reads.insert(root, read);
        if read.is_some_and(|read| thread.last_place <= read) {
            continue;
        }
        let before = thread_count(r, room, root, read)?;
        let notify = thread.notifying.saturating_sub(before);
        unread.threads.insert(
            root,
            Count {
                notify,
                highlight: 0,
            },
        );
    }
    let from = reads.values().chain([&main_read]).copied().min().flatten();
    correct(r, (room, user), from, main_read, &reads, &mut unread)?;
    unread.threads.retain(|_, count| *count != Count::default());
    Ok(unread)
}

fn threads(
    r: &impl Reader,
    room: RoomNum,
) -> Result<Vec<(EventNum, crate::store::records::Thread)>, Error> {
    let mut found = Vec::new();
    for row in r
        .threads()?
        .range((room, EventNum::MIN)..=(room, EventNum::MAX))?
        .rev()
    {
        let (key, thread) = row?;
        found.push((key.value().1, thread.value().unpack()?));
        if found.len() >= THREADS {
            break;
        }
    }
    Ok(found)
}

fn main_count(r: &impl Reader, room: RoomNum, read: Option<Place>) -> Result<u32, Error> {
    let Some(read) = read else { return Ok(0) };
    let row = timeline::backwards(r, room, read, 1)?.pop();
    Ok(row.map_or(0, |(_, row)| row.notifying_main))
}

/// How many events of the thread notify up to `read`: the count of its last event there.
fn thread_count(
    r: &impl Reader,
    room: RoomNum,
    root: EventNum,
    read: Option<Place>,
) -> Result<u32, Error> {
    let Some(read) = read else { return Ok(0) };
    let table = r.timeline()?;
    for row in table.range((room, Place::MIN)..=(room, read))?.rev() {
        let row = row?.1.value().unpack()?;
        match row.thread {
            Some((thread, count)) if thread == root => return Ok(count),
            _ if row.event <= root => return Ok(0),
            _ => {}
        }
    }
    Ok(0)
}

/// Puts right what the counts say for everybody and is not so for this user.
fn correct(
    r: &impl Reader,
    (room, user): (RoomNum, UserNum),
    from: Option<Place>,
    main_read: Option<Place>,
    reads: &BTreeMap<EventNum, Option<Place>>,
    unread: &mut Unread,
) -> Result<(), Error> {
    let from = from.map_or(Place::MIN, Place::next);
    for row in r
        .notified()?
        .range((user, room, from)..=(user, room, Place::MAX))?
    {
        let (key, notified) = row?;
        let place = key.value().2;
        let Notified {
            notify,
            highlight,
            thread,
        } = notified.value().unpack()?;
        let (read, count) = match thread {
            None => (main_read, &mut unread.main),
            Some(root) => {
                let read = reads.get(&root).copied().flatten();
                (read, unread.threads.entry(root).or_default())
            }
        };
        if read.is_some_and(|read| place <= read) {
            continue;
        }
        match notify {
            Some(true) => count.notify += 1,
            Some(false) => count.notify = count.notify.saturating_sub(1),
            None => {}
        }
        count.highlight += u32::from(highlight);
    }
    Ok(())
}
