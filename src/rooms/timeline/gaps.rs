//! The gaps of a room's timeline, and the index by which the gap of a missing event is found.

use ruma::EventId;

use crate::{
    rooms::Error,
    store::{Place, Reader, Records, RoomNum, Rows, Tx, records::Gap},
};

/// The gap directly before the event at `place`.
pub fn gap(r: &impl Reader, room: RoomNum, place: Place) -> Result<Option<Gap>, Error> {
    Ok(r.gaps()?.load((room, place))?)
}

/// The places of the gaps that list the event `id` as missing.
pub(in crate::rooms) fn gaps_of(
    r: &impl Reader,
    room: RoomNum,
    id: &EventId,
) -> Result<Vec<Place>, Error> {
    let index = r.missing_events()?;
    let rows = index.prefix((room, id.as_str()))?;
    rows.map(|row| Ok(row?.0.value().2)).collect()
}

/// The place of the first gap that lists the event `id` as missing.
pub fn gap_of(r: &impl Reader, room: RoomNum, id: &EventId) -> Result<Option<Place>, Error> {
    let index = r.missing_events()?;
    let first = index.prefix((room, id.as_str()))?.next().transpose()?;
    Ok(first.map(|(key, _)| key.value().2))
}

/// Leaves `gap` before the event at `place`, instead of one that is there. A gap in which nothing is
/// missing is removed.
pub(in crate::rooms) fn put(tx: &Tx, room: RoomNum, place: Place, gap: &Gap) -> Result<(), Error> {
    remove(tx, room, place)?;
    if gap.missing.is_empty() {
        return Ok(());
    }
    let mut index = tx.missing_events()?;
    for id in &gap.missing {
        index.insert((room, id.as_str(), place), ())?;
    }
    Ok(tx.gaps()?.put((room, place), gap)?)
}

/// Removes the gap before the event at `place`.
pub(in crate::rooms) fn remove(tx: &Tx, room: RoomNum, place: Place) -> Result<(), Error> {
    let Some(gap) = gap(tx, room, place)? else {
        return Ok(());
    };
    let mut index = tx.missing_events()?;
    for id in &gap.missing {
        index.remove((room, id.as_str(), place))?;
    }
    tx.gaps()?.remove((room, place))?;
    Ok(())
}
