//! The rows of a room's timeline.

use crate::{
    rooms::Error,
    store::{self, Packed, Place, Position, Reader, RoomNum, Row, Rows, records::TimelineRow},
};

/// The events at and before `from`, newest first, at most `limit`.
pub fn backwards(
    r: &impl Reader,
    room: RoomNum,
    from: Place,
    limit: usize,
) -> Result<Vec<(Place, TimelineRow)>, Error> {
    let timeline = r.timeline()?;
    let rows = timeline.prefix_range(room, ..=from)?;
    rows.rev().take(limit).map(unpack).collect()
}

/// The events at and after `from`, oldest first, at most `limit`.
pub fn forwards(
    r: &impl Reader,
    room: RoomNum,
    from: Place,
    limit: usize,
) -> Result<Vec<(Place, TimelineRow)>, Error> {
    let timeline = r.timeline()?;
    let rows = timeline.prefix_range(room, from..)?;
    rows.take(limit).map(unpack).collect()
}

type Entry<'r> = Row<'r, (RoomNum, Place), Packed<TimelineRow>>;

fn unpack(row: Result<Entry<'_>, store::Error>) -> Result<(Place, TimelineRow), Error> {
    let (key, row) = row?;
    Ok((key.value().1, row.record(&key)?))
}

/// The last place of the room's timeline at `position`; `None` if the timeline was empty then. A binary
/// search, since positions ascend with places from [`Place::FIRST`] on.
pub fn place_at(
    r: &impl Reader,
    room: RoomNum,
    position: Position,
) -> Result<Option<Place>, Error> {
    let Some((last, row)) = backwards(r, room, Place::MAX, 1)?.pop() else {
        return Ok(None);
    };
    if row.position <= position {
        return Ok(Some(last));
    }
    // The first place later than `position` is in (low, high].
    let (mut low, mut high) = (Place(Place::FIRST.0 - 1), last);
    while high.0 - low.0 > 1 {
        let middle = Place(low.0 + (high.0 - low.0) / 2);
        match forwards(r, room, middle, 1)?.pop() {
            Some((_, row)) if row.position > position => high = middle,
            Some((place, _)) => low = place,
            None => high = middle,
        }
    }
    Ok(backwards(r, room, Place(high.0 - 1), 1)?
        .pop()
        .map(|(place, _)| place))
}
