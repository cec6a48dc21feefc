//! Reading events of a room for a user.

use ruma::{
    EventId, OwnedRoomId, UInt,
    api::{Direction, client::filter::LazyLoadOptions},
};
use serde_json::value::RawValue;

use crate::{
    api::Session,
    rooms::{
        self,
        event::{self, StoredEvent},
        relations::aggregations::Aggregator,
        timeline::{
            client_event::{Formatter, RoomIdField},
            filter::{self, EventFilter, VisibleChildren},
            history_visibility,
            messages::{self, Page, PageRequest},
            pagination_token::PaginationToken,
        },
    },
    store::{Place, RoomNum, Snapshot},
    users::account_data::ignored_users::{self, IgnoredUsers},
};

pub const MAX_PAGE: usize = 100;

pub const NO_EVENT: rooms::Error =
    rooms::Error::NotFound("the event does not exist in this room, or you may not see it");

pub struct RoomReader {
    pub room: RoomNum,
    pub room_id: OwnedRoomId,
    pub formatter: Formatter,
    pub aggregator: Aggregator,
    pub filter: EventFilter,
    /// Users whose messages are left out.
    pub ignored: IgnoredUsers,
}

impl RoomReader {
    /// # Errors
    /// [`rooms::Error::Forbidden`] if the user may not read the room.
    pub fn new(
        s: &Snapshot,
        session: &Session,
        now_ms: u64,
        room_id: OwnedRoomId,
        filter: EventFilter,
    ) -> Result<Self, rooms::Error> {
        let ignored = ignored_users::load(s, session.user)?;
        Self::with_ignored(s, session, now_ms, room_id, filter, ignored)
    }

    /// The same with the list of ignored users, for a request that reads many rooms.
    pub fn with_ignored(
        s: &Snapshot,
        session: &Session,
        now_ms: u64,
        room_id: OwnedRoomId,
        filter: EventFilter,
        ignored: IgnoredUsers,
    ) -> Result<Self, rooms::Error> {
        let room = history_visibility::readable_room(s, &room_id, session.user)?;
        let (user, device) = (&session.user_id, Some(session.device));
        let formatter = Formatter::new(s, room, user, device, now_ms, RoomIdField::Include)?;
        Ok(Self {
            room,
            room_id,
            aggregator: Aggregator::new(s, &formatter, session.user, ignored.clone())?,
            formatter,
            filter,
            ignored,
        })
    }

    /// The next events of the timeline that the filter accepts.
    pub fn page(
        &mut self,
        s: &Snapshot,
        from: Place,
        to: Option<Place>,
        dir: Direction,
        limit: usize,
    ) -> Result<Page, rooms::Error> {
        let request = PageRequest {
            room: self.room,
            from,
            to,
            dir,
            limit,
            ignored: &self.ignored,
        };
        messages::page(
            s,
            request,
            &self.room_id,
            &self.filter,
            &mut self.formatter.visibility,
        )
    }

    /// The events before and after `place`, at most as many of each as the limits say.
    pub fn context(
        &mut self,
        s: &Snapshot,
        place: Place,
        (before, after): (usize, usize),
    ) -> Result<EventContext, rooms::Error> {
        let place_before = Place(place.0.saturating_sub(1));
        let before = self.page(s, place_before, None, Direction::Backward, before)?;
        let after = self.page(s, place, None, Direction::Forward, after)?;
        let (before, after) = (before.events, after.events);
        let start = before.last().and_then(|event| event.header.place);
        let end = after.last().and_then(|event| event.header.place);
        Ok(EventContext {
            start: start.map_or(place_before, |place| Place(place.0.saturating_sub(1))),
            end: end.unwrap_or(place),
            before,
            after,
        })
    }

    /// The place that a pagination token of the client means.
    pub fn place(
        &self,
        s: &Snapshot,
        token: Option<&String>,
    ) -> Result<Option<Place>, rooms::Error> {
        let token = token.map(|token| token.parse::<PaginationToken>());
        token
            .transpose()?
            .map(|token| token.place(s, self.room))
            .transpose()
    }

    /// The event in the client format, with its aggregations.
    pub fn format(
        &mut self,
        s: &Snapshot,
        event: &StoredEvent,
    ) -> Result<Box<RawValue>, rooms::Error> {
        self.aggregator.format(s, &mut self.formatter, event)
    }

    /// All of `events` in the client format, with their aggregations.
    pub fn format_all(
        &mut self,
        s: &Snapshot,
        events: &[StoredEvent],
    ) -> Result<Vec<Box<RawValue>>, rooms::Error> {
        events.iter().map(|event| self.format(s, event)).collect()
    }

    /// The event `id`.
    ///
    /// # Errors
    /// [`NO_EVENT`], also if the user may not see it.
    pub fn load_visible(
        &mut self,
        s: &Snapshot,
        id: &EventId,
    ) -> Result<StoredEvent, rooms::Error> {
        let num = event::num_in(s, self.room, id)?.ok_or(NO_EVENT)?;
        let stored = event::load(s, num)?;
        let visible = self.formatter.visibility.visible(s, stored)?;
        let stored = visible.ok_or(NO_EVENT)?;
        if filter::is_left_out(s, &self.ignored, &stored)? {
            return Err(NO_EVENT);
        }
        Ok(stored)
    }

    /// The relations that count for the filter.
    pub fn children(&self) -> VisibleChildren<'_> {
        VisibleChildren {
            ignored: &self.ignored,
            upto: self.aggregator.upto(),
        }
    }

    pub fn loads_members_lazily(&self) -> bool {
        !matches!(self.filter.lazy_load_options, LazyLoadOptions::Disabled)
    }

    /// The member events of the senders of `events`.
    pub fn senders(
        &mut self,
        s: &Snapshot,
        events: &[StoredEvent],
    ) -> Result<Vec<Box<RawValue>>, rooms::Error> {
        let members = messages::sender_members(s, self.room, events)?;
        let members = members.into_iter().map(|num| event::load(s, num));
        let members = members.collect::<Result<Vec<_>, _>>()?;
        self.format_all(s, &members)
    }
}

/// The context of an event.
pub struct EventContext {
    /// From which the events before are read on.
    pub start: Place,
    pub end: Place,
    /// The newest first.
    pub before: Vec<StoredEvent>,
    pub after: Vec<StoredEvent>,
}

/// How many events a client gets that asks for `limit`.
pub fn page_limit(limit: UInt) -> usize {
    usize::try_from(u64::from(limit))
        .unwrap_or(MAX_PAGE)
        .min(MAX_PAGE)
}
