//! What happened in a room at a certain time.
//!
//! Source: client-server API, `GET /rooms/{roomId}/timestamp_to_event`.
//!
//! NOTSPEC: events stand in the order in which they came about, which is that of their times unless
//! a server's clock is wrong. So the time is looked for in the middle, and then in the middle of the
//! half, and only around what is found is every event compared.

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

/// Of how many neighbours the time in the middle is believed: one clock may be wrong.
const NEIGHBOURS: usize = 5;
/// How many events are compared, before that time and after it.
const AROUND: usize = 200;
/// How many are looked at further on if none of these is fit.
const FURTHER: usize = 2000;

/// The event of a room that is nearest to some time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nearest {
    /// Its id, and its time in milliseconds since the epoch.
    pub event: Option<(OwnedEventId, u64)>,
    /// Where history is missing in which there may be one that is nearer.
    pub gap: Option<Place>,
}

/// The event of the room nearest to `ts` (milliseconds since the epoch), not before it or not after
/// it, of those that are `fit`. Reads many events: not for the thread.
pub fn nearest(
    r: &impl Reader,
    room: RoomNum,
    (ts, dir): (u64, Direction),
    mut fit: impl FnMut(&StoredEvent) -> Result<bool, Error>,
) -> Result<Nearest, Error> {
    let Some((first, _)) = timeline::forwards(r, room, Place::MIN, 1)?.pop() else {
        return Ok(Nearest::default());
    };
    let middle = place_of(r, room, ts, first)?;
    let before = timeline::backwards(r, room, self::before(middle), AROUND)?;
    let after = timeline::forwards(r, room, middle, AROUND)?;
    let mut around = Vec::new();
    for (place, row) in before.iter().chain(&after) {
        around.push((time(&event::load(r, row.event)?)?, *place, row.event));
    }
    around.sort_unstable();
    let further = match dir {
        Direction::Forward => {
            let end = after.last().map_or(middle, |(place, _)| place.next());
            timeline::forwards(r, room, end, FURTHER)?
        }
        Direction::Backward => {
            around.reverse();
            let end = before.last().map_or(first, |(place, _)| *place);
            timeline::backwards(r, room, self::before(end), FURTHER)?
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
        if is_on_side && fit(&stored)? {
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

/// The first place from which on events are of `ts` or later, as far as one can believe them.
fn place_of(r: &impl Reader, room: RoomNum, ts: u64, first: Place) -> Result<Place, Error> {
    let last = timeline::backwards(r, room, Place::MAX, 1)?.pop();
    let (mut low, mut high) = (first, last.map_or(first, |(last, _)| last.next()));
    while low < high {
        let middle = Place(low.0 + (high.0 - low.0) / 2);
        if usual_time(r, room, middle)?.is_none_or(|time| time >= ts) {
            high = middle;
        } else {
            low = middle.next();
        }
    }
    Ok(low)
}

/// About when the events from `place` on were sent.
fn usual_time(r: &impl Reader, room: RoomNum, place: Place) -> Result<Option<u64>, Error> {
    let rows = timeline::forwards(r, room, place, NEIGHBOURS)?;
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

/// The gap between the event at `place` and the time that was asked for, if there is one.
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
