//! Paging through a room's timeline.
//!
//! Source: client-server API, `GET /rooms/{roomId}/messages` and `…/context/{eventId}`.

use std::collections::BTreeSet;

use ruma::{OwnedRoomId, OwnedUserId, api::Direction};
use serde::Deserialize;

use super::{
    filter::{self, EventFilter, VisibleChildren},
    history_visibility::UserVisibility,
};
use crate::{
    rooms::{
        Error,
        event::{self, StoredEvent},
        state, timeline,
    },
    store::{EventNum, Place, Reader, RoomNum},
};

const BATCH_ROWS: usize = 64;
/// The most rows that are read for one page. If few of them are visible or match the filter, the page
/// has fewer events than its limit, and its `end` is the position reached.
const MAX_ROWS: usize = 1000;
/// A page ends with the event by which its events have more bytes.
const MAX_BYTES: usize = 512 * 1024;

#[derive(Clone, Copy, Debug)]
pub struct PageRequest<'a> {
    pub room: RoomNum,
    /// The point to start from: after this place.
    pub from: Place,
    /// The point to stop at: after this place.
    pub to: Option<Place>,
    pub dir: Direction,
    /// The most events of the page.
    pub limit: usize,
    /// Users whose messages are left out.
    pub ignored: &'a BTreeSet<OwnedUserId>,
}

/// A page of a timeline.
#[derive(Debug)]
pub struct Page {
    /// In the direction of the request.
    pub events: Vec<StoredEvent>,
    /// The point at which the next page begins; `None` if there are no more events. After the newest event it is
    /// the point from which later ones are read.
    pub end: Option<Place>,
    /// The place of the event at which the page ends because the events before it are missing here.
    pub gap: Option<Place>,
}

/// The next events that `filter` accepts and the user may see.
pub fn page(
    r: &impl Reader,
    request: PageRequest<'_>,
    room_id: &OwnedRoomId,
    filter: &EventFilter,
    visibility: &mut UserVisibility,
) -> Result<Page, Error> {
    let mut page = Page {
        events: Vec::new(),
        end: Some(request.from),
        gap: None,
    };
    let backward = request.dir == Direction::Backward;
    if backward && timeline::gap(r, request.room, request.from.next())?.is_some() {
        page.gap = Some(request.from.next());
        return Ok(page);
    }
    let mut point = request.from;
    let (mut rows_read, mut relations_read, mut bytes) = (0, 0, 0);
    let accepts_room = filter::accepts_room(filter, room_id);
    let children = VisibleChildren::new(r, request.ignored, visibility)?;
    loop {
        let rows = match request.dir {
            Direction::Backward => timeline::backwards(r, request.room, point, BATCH_ROWS)?,
            Direction::Forward => timeline::forwards(r, request.room, point.next(), BATCH_ROWS)?,
        };
        if rows.is_empty() {
            let is_live_end = !backward && !page.events.is_empty();
            page.end = is_live_end.then_some(point);
            return Ok(page);
        }
        for (place, row) in rows {
            let is_past_end = request.to.is_some_and(|to| match request.dir {
                Direction::Backward => place <= to,
                Direction::Forward => place > to,
            });
            if is_past_end {
                page.end = None;
                return Ok(page);
            }
            let is_full = page.events.len() >= request.limit
                || rows_read >= MAX_ROWS
                || relations_read >= filter::MAX_RELATIONS
                || bytes >= MAX_BYTES;
            if is_full {
                page.end = Some(point);
                return Ok(page);
            }
            rows_read += 1;
            point = match request.dir {
                Direction::Backward => Place(place.0.saturating_sub(1)),
                Direction::Forward => place,
            };
            let stored = event::load(r, row.event)?;
            if accepts_room
                && filter::accepts(r, filter, children, &stored, &mut relations_read)?
                && !filter::is_left_out(r, request.ignored, &stored)?
            {
                let visible = visibility.visible(r, stored)?;
                bytes += visible.as_ref().map_or(0, |event| event.json.len());
                page.events.extend(visible);
            }
            if backward && timeline::gap(r, request.room, place)?.is_some() {
                page.end = Some(point);
                page.gap = Some(place);
                return Ok(page);
            }
        }
    }
}

/// The membership events of the senders of `events`, in the state before each: for lazy-loaded members.
pub fn sender_members(
    r: &impl Reader,
    room: RoomNum,
    events: &[StoredEvent],
) -> Result<Vec<EventNum>, Error> {
    #[derive(Deserialize)]
    struct Sender {
        sender: OwnedUserId,
    }
    let (mut seen, mut members) = (BTreeSet::new(), BTreeSet::new());
    for event in events {
        let sender = event.parse::<Sender>()?.sender;
        if seen.insert(sender.clone()) {
            let root = event.header.state_before;
            members.extend(state::get_named(
                r,
                room,
                root,
                "m.room.member",
                sender.as_str(),
            )?);
        }
    }
    Ok(members.into_iter().collect())
}
