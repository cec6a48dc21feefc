//! Paging through a room's timeline.
//!
//! Source: client-server API, `GET /rooms/{roomId}/messages` and `…/context/{eventId}`.

use std::collections::BTreeSet;

use ruma::{OwnedRoomId, OwnedUserId, api::Direction, api::client::filter::RoomEventFilter};
use serde::Deserialize;

use super::{filter, history_visibility::UserVisibility};
use crate::{
    rooms::{
        Error,
        event::{self, StoredEvent},
        state, timeline,
    },
    store::{EventNum, Place, Reader, RoomNum},
};

/// How many rows are read at once.
const BATCH: usize = 64;
/// How many rows are looked at for one page: where a client may see, or wants, fewer, the page is
/// shorter than it asked for, and goes on from there.
const LOOKED_AT: usize = 1000;

/// Which page is wanted.
#[derive(Clone, Copy, Debug)]
pub struct PageRequest {
    /// The room.
    pub room: RoomNum,
    /// The point from which to go: behind this place.
    pub from: Place,
    /// The point at which to stop.
    pub to: Option<Place>,
    /// In which direction.
    pub dir: Direction,
    /// How many events at most.
    pub limit: usize,
}

/// A page of a timeline.
#[derive(Debug)]
pub struct Page {
    /// The events, in the direction that was asked for.
    pub events: Vec<StoredEvent>,
    /// The point at which the next page begins; none if there is nothing more.
    pub end: Option<Place>,
    /// The place of the event at which the page ends because what is before it is not here.
    pub gap: Option<Place>,
}

/// The next events that `wanted` wants and the user may see.
pub fn page(
    r: &impl Reader,
    request: PageRequest,
    room_id: &OwnedRoomId,
    wanted: &RoomEventFilter,
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
    let mut looked_at = 0;
    let wants_room = filter::wants_room(wanted, room_id);
    loop {
        let rows = match request.dir {
            Direction::Backward => timeline::backwards(r, request.room, point, BATCH)?,
            Direction::Forward => timeline::forwards(r, request.room, point.next(), BATCH)?,
        };
        if rows.is_empty() {
            page.end = None;
            return Ok(page);
        }
        for (place, row) in rows {
            let beyond = request.to.is_some_and(|to| match request.dir {
                Direction::Backward => place <= to,
                Direction::Forward => place > to,
            });
            if beyond {
                page.end = None;
                return Ok(page);
            }
            if page.events.len() >= request.limit || looked_at >= LOOKED_AT {
                page.end = Some(point);
                return Ok(page);
            }
            looked_at += 1;
            point = match request.dir {
                Direction::Backward => Place(place.0.saturating_sub(1)),
                Direction::Forward => place,
            };
            let stored = event::load(r, row.event)?;
            if wants_room && filter::wants(wanted, &stored)? && visibility.can_see(r, &stored)? {
                page.events.push(stored);
            }
            if backward && timeline::gap(r, request.room, place)?.is_some() {
                page.end = Some(point);
                page.gap = Some(place);
                return Ok(page);
            }
        }
    }
}

/// The membership events, as they were then, of those who sent `events`.
pub fn senders(
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
