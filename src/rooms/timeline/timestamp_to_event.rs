//! `GET /rooms/{roomId}/timestamp_to_event`: the event nearest to a timestamp.
//!
//! NOTSPEC: the timeline is in the order of receipt, which is that of the timestamps unless a server's
//! clock is wrong. So a binary search finds the place, and only events around it are compared.

use ruma::{OwnedEventId, api::Direction};
use serde::Deserialize;

use crate::{
    rooms::{
        Error,
        event::{self, StoredEvent},
        timeline,
    },
    store::{Place, Reader, RoomNum},
};

/// The binary search uses the median timestamp of this many events, as some clocks may be wrong.
const MEDIAN_OF: usize = 5;
/// How many events before, and how many after, the place found are compared.
const COMPARED: usize = 200;
/// How many further events are read if none of those is accepted.
const MAX_FURTHER: usize = 2000;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nearest {
    /// The event's id and `origin_server_ts` in milliseconds since the epoch.
    pub event: Option<(OwnedEventId, u64)>,
    /// A gap in the timeline that may hide a nearer event.
    pub gap: Option<Place>,
}

/// The event that `accepts` accepts and that is nearest to `ts` (milliseconds since the epoch) in the
/// direction `dir`. Reads many events: to be called on the pool.
pub fn nearest(
    r: &impl Reader,
    room: RoomNum,
    ts: u64,
    dir: Direction,
    mut accepts: impl FnMut(&StoredEvent) -> Result<bool, Error>,
) -> Result<Nearest, Error> {
    let Some((first, _)) = timeline::forwards(r, room, Place::MIN, 1)?.pop() else {
        return Ok(Nearest::default());
    };
    let middle = place_of(r, room, ts, first)?;
    let before = timeline::backwards(r, room, self::before(middle), COMPARED)?;
    let after = timeline::forwards(r, room, middle, COMPARED)?;
    let mut around = Vec::new();
    for (place, row) in before.iter().chain(&after) {
        around.push((time(&event::load(r, row.event)?)?, *place, row.event));
    }
    around.sort_unstable();
    let further = match dir {
        Direction::Forward => {
            let end = after.last().map_or(middle, |(place, _)| place.next());
            timeline::forwards(r, room, end, MAX_FURTHER)?
        }
        Direction::Backward => {
            around.reverse();
            let end = before.last().map_or(first, |(place, _)| *place);
            timeline::backwards(r, room, self::before(end), MAX_FURTHER)?
        }
    };
    let around = around.into_iter().map(|(_, place, num)| (place, num));
    let further = further.into_iter().map(|(place, row)| (place, row.event));
    for (place, num) in around.chain(further) {
        let stored = event::load(r, num)?;
        let time = time(&stored)?;
        let is_on_side = match dir {
            Direction::Forward => time >= ts,
            Direction::Backward => time <= ts,
        };
        if is_on_side && accepts(&stored)? {
            return Ok(Nearest {
                event: Some((stored.id()?, time)),
                gap: gap_beside(r, room, place, dir)?,
            });
        }
    }
    let is_before_all = dir == Direction::Backward && timeline::gap(r, room, first)?.is_some();
    Ok(Nearest {
        event: None,
        gap: is_before_all.then_some(first),
    })
}

fn before(place: Place) -> Place {
    Place(place.0.saturating_sub(1))
}

/// The first place from which on events have the timestamp `ts` or a later one.
fn place_of(r: &impl Reader, room: RoomNum, ts: u64, first: Place) -> Result<Place, Error> {
    let last = timeline::backwards(r, room, Place::MAX, 1)?.pop();
    let (mut low, mut high) = (first, last.map_or(first, |(last, _)| last.next()));
    while low < high {
        let middle = Place(low.0 + (high.0 - low.0) / 2);
        if median_time(r, room, middle)?.is_none_or(|time| time >= ts) {
            high = middle;
        } else {
            low = middle.next();
        }
    }
    Ok(low)
}

/// The median timestamp of the events from `place` on.
fn median_time(r: &impl Reader, room: RoomNum, place: Place) -> Result<Option<u64>, Error> {
    let rows = timeline::forwards(r, room, place, MEDIAN_OF)?;
    let times = rows
        .iter()
        .map(|(_, row)| time(&event::load(r, row.event)?));
    let mut times = times.collect::<Result<Vec<_>, _>>()?;
    times.sort_unstable();
    Ok(times.get(times.len() / 2).copied())
}

fn time(stored: &StoredEvent) -> Result<u64, Error> {
    #[derive(Deserialize)]
    struct Sent {
        origin_server_ts: i64,
    }
    let sent = stored.parse::<Sent>()?.origin_server_ts;
    Ok(u64::try_from(sent).unwrap_or(0))
}

/// The gap between the event at `place` and the requested timestamp.
fn gap_beside(
    r: &impl Reader,
    room: RoomNum,
    place: Place,
    dir: Direction,
) -> Result<Option<Place>, Error> {
    let after = match dir {
        Direction::Forward => Some(place),
        Direction::Backward => {
            let next = timeline::forwards(r, room, place.next(), 1)?.pop();
            next.map(|(place, _)| place)
        }
    };
    match after {
        Some(after) if timeline::gap(r, room, after)?.is_some() => Ok(Some(after)),
        _ => Ok(None),
    }
}
