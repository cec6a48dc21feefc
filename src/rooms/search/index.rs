//! Writing the index.

use std::collections::BTreeMap;

use crate::{
    rooms::{Error, event, timeline},
    store::{EventNum, Place, Reader, RoomNum, Rows, Tx},
};

use super::{
    postings::{self, Posting},
    words,
};

/// How many events one job indexes at most.
const BATCH_EVENTS: usize = 200;
/// After how many words a job ends. A job takes some milliseconds.
const BATCH_WORDS: usize = 1500;
/// How many rows of the index one job deletes.
const DELETED_ROWS: usize = 1000;

/// Indexes the next events of the room. Returns how many it has read; 0 at the end.
pub(in crate::rooms) fn index_batch(tx: &Tx, room: RoomNum) -> Result<usize, Error> {
    if !tx.room_heads()?.has(room)? {
        // It is being deleted.
        return Ok(0);
    }
    let cursor = tx.search_cursors()?.get(room)?.map(|row| row.value());
    let from = cursor.map_or(Place::MIN, Place::next);
    let mut new: BTreeMap<(u64, String), Vec<Posting>> = BTreeMap::new();
    let (mut read, mut last, mut found) = (0, None, 0);
    for (place, row) in timeline::forwards(tx, room, from, BATCH_EVENTS)? {
        for (word, count) in words::of_event(&event::load(tx, row.event)?, None)? {
            let posting = Posting { place, count };
            let key = (postings::block_of(place), word);
            new.entry(key).or_default().push(posting);
            found += 1;
        }
        (read, last) = (read + 1, Some(place));
        if found >= BATCH_WORDS {
            break;
        }
    }
    for ((_, word), postings) in &new {
        postings::add(tx, room, word, postings)?;
    }
    if let Some(last) = last {
        tx.search_cursors()?.insert(room, last)?;
    }
    Ok(read)
}

/// Indexes an event that is added to the part of the timeline that was indexed.
pub(in crate::rooms) fn add_backfilled(
    tx: &Tx,
    room: RoomNum,
    place: Place,
    num: EventNum,
) -> Result<(), Error> {
    let cursor = tx.search_cursors()?.get(room)?.map(|row| row.value());
    if cursor.is_none_or(|cursor| place > cursor) {
        return Ok(());
    }
    for (word, count) in words::of_event(&event::load(tx, num)?, None)? {
        postings::add(tx, room, &word, &[Posting { place, count }])?;
    }
    Ok(())
}

/// Whether the room has events behind the indexed ones.
pub(in crate::rooms) fn is_behind(r: &impl Reader, room: RoomNum) -> Result<bool, Error> {
    let cursor = r.search_cursors()?.get(room)?.map(|row| row.value());
    let from = cursor.map_or(Place::MIN, Place::next);
    Ok(!timeline::forwards(r, room, from, 1)?.is_empty())
}

/// Deletes a part of the index; whether something is left. The cursors go first: without them nothing is
/// added, and what is left of the postings is found and replaced if indexing begins anew.
pub(in crate::rooms) fn delete_batch(tx: &Tx) -> Result<bool, Error> {
    let mut cursors = tx.search_cursors()?;
    let rooms = cursors.all()?.take(DELETED_ROWS);
    let rooms = rooms.map(|row| Ok(row?.0.value()));
    for room in rooms.collect::<Result<Vec<_>, Error>>()? {
        cursors.remove(room)?;
    }
    if !cursors.is_empty()? {
        return Ok(true);
    }
    let mut postings = tx.search_postings()?;
    let rows = postings.all()?.take(DELETED_ROWS);
    let keys = rows.map(|row| {
        let (key, _) = row?;
        let (room, block, word) = key.value();
        Ok((room, block, word.to_owned()))
    });
    for (room, block, word) in keys.collect::<Result<Vec<_>, Error>>()? {
        postings.remove((room, block, word.as_str()))?;
    }
    Ok(!postings.is_empty()?)
}

/// Whether there is an index.
pub(in crate::rooms) fn exists(r: &impl Reader) -> Result<bool, Error> {
    Ok(!(r.search_cursors()?.is_empty()? && r.search_postings()?.is_empty()?))
}
