//! Events that were redacted after they had notified: they do not count any more. The running totals stay as
//! they are, and what such events added to them is subtracted when unread events are counted.
//!
//! Source: as in Synapse, which deletes the push actions of a redacted event.

use super::counts::{NO_THREAD, thread_total};
use crate::{
    rooms::{Error, timeline},
    store::{Place, Reader, RoomNum, Tx, records::Counts},
};

/// Stores that the event at `place` was redacted.
pub(in crate::rooms) fn add(tx: &Tx, room: RoomNum, place: Place) -> Result<(), Error> {
    let mut rows = timeline::backwards(tx, room, place, 2)?.into_iter();
    let Some((_, row)) = rows.next().filter(|(at, _)| *at == place) else {
        return Ok(());
    };
    let (now, before) = match row.thread {
        None => (row.main, rows.next().map(|(_, before)| before.main)),
        Some(root) => {
            let previous = Place(place.0.saturating_sub(1));
            let before = thread_total(tx, room, root, previous)?;
            (thread_total(tx, room, root, place)?, Some(before))
        }
    };
    let before = before.unwrap_or_default();
    let added = Counts {
        notify: now.notify.saturating_sub(before.notify),
        highlight: now.highlight.saturating_sub(before.highlight),
    };
    let root = row.thread.unwrap_or(NO_THREAD);
    Ok(tx
        .redacted_notifications()?
        .put((room, root, place), &added)?)
}
