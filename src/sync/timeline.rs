//! The timeline of one room in one answer.

use std::collections::BTreeSet;

use ruma::{OwnedRoomId, OwnedUserId, api::client::filter::RoomEventFilter};

use crate::{
    rooms::{
        Error,
        event::{self, StoredEvent},
        timeline::{self, client_event::Formatter, filter},
    },
    store::{Place, Position, Reader, RoomNum},
};

/// How many rows of the store are read at once.
const BATCH: usize = 32;
/// How many rows are looked at for one answer; a filter that wants fewer gets a limited timeline.
const LOOKED_AT: usize = 1000;

/// The newest events that a client is to see, oldest first.
#[derive(Debug)]
pub struct Selected {
    /// The events.
    pub events: Vec<StoredEvent>,
    /// Whether there are more between these and the last answer.
    pub limited: bool,
    /// The place behind which the first event stands.
    pub before: Place,
}

/// Which part of a timeline is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// The last place.
    pub upto: Place,
    /// Events after this position; all, if none.
    pub after: Option<Position>,
    /// How many at most.
    pub limit: usize,
    /// Whose events are left out, but for state.
    pub ignored: &'a BTreeSet<OwnedUserId>,
}

/// The newest events of `part` that the filter wants and the user may see.
pub fn select(
    r: &impl Reader,
    room: (RoomNum, &OwnedRoomId),
    part: Part<'_>,
    wanted: &RoomEventFilter,
    formatter: &mut Formatter,
) -> Result<Selected, Error> {
    let (room, room_id) = room;
    let mut selected = Selected {
        events: Vec::new(),
        limited: false,
        before: part.upto,
    };
    let room_wanted = filter::accepts_room(wanted, room_id);
    let mut from = part.upto;
    let mut looked_at = 0;
    'looking: loop {
        let rows = timeline::backwards(r, room, from, BATCH)?;
        let more = rows.len() == BATCH;
        for (place, row) in rows {
            if part.after.is_some_and(|after| row.position <= after) {
                break 'looking;
            }
            if selected.events.len() >= part.limit || looked_at >= LOOKED_AT {
                selected.limited = true;
                break 'looking;
            }
            looked_at += 1;
            from = Place(place.0.saturating_sub(1));
            selected.before = from;
            let stored = event::load(r, row.event)?;
            if !formatter.visibility.can_see(r, &stored)? {
                // What is before an event that the user may not see follows on request: between
                // the first and the last of the timeline nothing is missing.
                selected.limited = true;
                break 'looking;
            }
            if room_wanted
                && filter::accepts(wanted, &stored)?
                && !is_ignored(part.ignored, &stored)?
            {
                selected.events.push(stored);
            }
            if timeline::gap(r, room, place)?.is_some() {
                selected.limited = true;
                break 'looking;
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

fn is_ignored(ignored: &BTreeSet<OwnedUserId>, event: &StoredEvent) -> Result<bool, Error> {
    let is_state = event.header.state_key.is_some();
    Ok(!is_state && !ignored.is_empty() && ignored.contains(&event.sender()?))
}
