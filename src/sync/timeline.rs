//! The timeline of one room in a response.

use std::collections::BTreeSet;

use ruma::{OwnedRoomId, OwnedUserId};

use crate::{
    rooms::{
        Error,
        event::{self, StoredEvent},
        timeline::{
            self,
            client_event::Formatter,
            filter::{self, EventFilter, VisibleChildren},
        },
    },
    store::{Place, Position, Reader, RoomNum},
};

const BATCH: usize = 32;
/// The most rows that are read for one timeline. If the filter skips so many, the timeline is limited.
const MAX_ROWS: usize = 1000;
/// A timeline ends with the event by which its events have more bytes.
const MAX_BYTES: usize = 256 * 1024;

#[derive(Debug)]
pub struct Selected {
    /// Oldest first.
    pub events: Vec<StoredEvent>,
    pub limited: bool,
    /// The place before the first event, for `prev_batch`.
    pub before: Place,
}

/// The part of a timeline that a response covers.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    pub room: RoomNum,
    pub room_id: &'a OwnedRoomId,
    /// The last place.
    pub upto: Place,
    /// The position after which events are new; `None` if all are.
    pub after: Option<Position>,
    pub limit: usize,
    /// Users whose messages are left out.
    pub ignored: &'a BTreeSet<OwnedUserId>,
}

/// The newest events of `part` that the filter wants and the user can see.
pub fn select(
    r: &impl Reader,
    part: Part<'_>,
    wanted: &EventFilter,
    formatter: &mut Formatter,
) -> Result<Selected, Error> {
    let Part { room, room_id, .. } = part;
    let mut selected = Selected {
        events: Vec::new(),
        limited: false,
        before: part.upto,
    };
    let room_wanted = filter::accepts_room(wanted, room_id);
    let children = VisibleChildren::new(r, part.ignored, &formatter.visibility)?;
    let mut from = part.upto;
    let (mut rows_read, mut relations_read, mut bytes) = (0, 0, 0);
    'rows: loop {
        let rows = timeline::backwards(r, room, from, BATCH)?;
        let more = rows.len() == BATCH;
        for (place, row) in rows {
            if part.after.is_some_and(|after| row.position <= after) {
                break 'rows;
            }
            let is_full = selected.events.len() >= part.limit
                || rows_read >= MAX_ROWS
                || relations_read >= filter::MAX_RELATIONS
                || bytes >= MAX_BYTES;
            if is_full {
                selected.limited = true;
                break 'rows;
            }
            rows_read += 1;
            from = Place(place.0.saturating_sub(1));
            selected.before = from;
            let stored = event::load(r, row.event)?;
            let Some(stored) = formatter.visibility.visible(r, stored)? else {
                // A timeline has no holes: earlier visible events are left to `/messages`.
                selected.limited = true;
                break 'rows;
            };
            if room_wanted
                && filter::accepts(r, wanted, children, &stored, &mut relations_read)?
                && !filter::is_left_out(r, part.ignored, &stored)?
            {
                bytes += stored.json.len();
                selected.events.push(stored);
            }
            if timeline::gap(r, room, place)?.is_some() {
                selected.limited = true;
                break 'rows;
            }
        }
        if !more {
            break;
        }
    }
    if let Some(place) = selected.events.last().and_then(|event| event.header.place) {
        selected.before = Place(place.0.saturating_sub(1));
    }
    selected.events.reverse();
    Ok(selected)
}
