//! One room of a response.

use std::collections::BTreeMap;

use ruma::{
    OwnedRoomId, OwnedUserId,
    api::client::sync::sync_events::{
        UnreadNotificationsCount,
        v3::{JoinedRoom, LeftRoom, Timeline},
    },
    events::AnySyncTimelineEvent,
    serde::Raw,
};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    ephemeral,
    event_format::format_timeline,
    membership_history::{Continuity, continuity, last_leave},
    request::{Request, StateAfter, SyncRange},
    state::{self, StateEvents, Wanted},
    summary,
    timeline::{self, Part, Selected},
};
use crate::{
    rooms::{
        Error, event,
        relations::aggregations::Aggregator,
        room,
        state::{self as room_state, current, overlay::StateOverlay},
        timeline::{
            self as room_timeline,
            client_event::{Formatter, RoomIdField},
            filter::{self, VisibleChildren},
            pagination_token::PaginationToken,
        },
        typing::Typing,
        unread::{self, receipts},
    },
    store::{
        EventNum, Place, Position, Reader, RoomNum, Rows,
        records::{Counts, MemberRow, Membership, RoomHeads},
    },
    users::account_data as stored_account_data,
};

/// What a response has of a room.
#[derive(Debug)]
pub enum Content {
    Whole(Box<RawValue>),
    /// With state and account data that are loaded while the response is sent.
    Streamed {
        /// An object with the other fields.
        json: String,
        /// The room and the types.
        account_data: (RoomNum, Vec<String>),
        state_field: &'static str,
        state: Box<StateEvents>,
    },
}

/// A joined room; `None` if nothing changed.
pub fn joined(
    r: &impl Reader,
    request: &Request,
    range: SyncRange,
    room: RoomNum,
    member: MemberRow,
    typing: &Typing,
) -> Result<Option<Content>, Error> {
    let mut builder = Builder::new(r, request, range, room, member)?;
    let (last, end) = end_of_range(r, room, &builder.heads, builder.upto)?;
    let selected = builder.select_timeline(r, last)?;
    let mut joined = JoinedRoom::new();
    if builder.has_new_summary(r)? {
        joined.summary = summary::summary(r, room, &builder.heads, &request.user_id)?;
    }
    let state = builder.state(r, &selected, &end, &joined.summary.heroes)?;
    let room_range = SyncRange {
        since: range.since.filter(|_| builder.since.is_some()),
        ..range
    };
    joined.ephemeral.events =
        ephemeral::events(r, request, room_range, room, &builder.room_id, typing)?;
    let account_data = builder.account_data(r)?;
    let timeline = builder.timeline(r, &selected)?;
    let is_empty = joined.is_empty()
        && account_data.is_empty()
        && timeline.is_empty()
        && state.is_empty()
        && !builder.own_receipt_moved(r)?;
    if is_empty && builder.since.is_some() {
        return Ok(None);
    }
    builder.add_unread(r, &mut joined)?;
    builder
        .content(joined, timeline, account_data, state)
        .map(Some)
}

/// A room that the user has left, up to the leave; `None` if nothing changed.
pub fn left(
    r: &impl Reader,
    request: &Request,
    range: SyncRange,
    room: RoomNum,
    member: MemberRow,
) -> Result<Option<Content>, Error> {
    let since = range.since.map_or(Position::MIN, |since| since.position);
    let mut builder = Builder::new(r, request, range, room, member)?;
    let Some(leave) = last_leave(r, room, &builder.member, since)? else {
        return builder.never_joined(r).map(Some);
    };
    let header = event::header(r, leave)?;
    let Some(last) = header.place else {
        return Ok(None);
    };
    let end = StateOverlay::after(r, leave, &header)?;
    builder.upto = header.position;
    let mut selected = builder.select_timeline(r, last)?;
    let state = builder.state(r, &selected, &end, &[])?;
    if leave != builder.member.event {
        // A ban after the leave: history visibility hides it, but the user must learn of it.
        selected.events.push(event::load(r, builder.member.event)?);
    }
    let timeline = builder.timeline(r, &selected)?;
    let account_data = builder.account_data(r)?;
    builder
        .content(LeftRoom::new(), timeline, account_data, state)
        .map(Some)
}

/// The place of the last event of a room at `upto`, and the state after it.
pub fn end_of_range(
    r: &impl Reader,
    room: RoomNum,
    heads: &RoomHeads,
    upto: Position,
) -> Result<(Place, StateOverlay), Error> {
    let last = room_timeline::place_at(r, room, upto)?.unwrap_or(Place::MIN);
    let mut state = StateOverlay::of(heads.state);
    // The snapshot may be later than the end of the range: undo the later changes.
    let later = Position(upto.0.saturating_add(1))..;
    for row in r.state_changes()?.prefix_range(room, later)?.rev() {
        let (key, change) = row?;
        let (before, _) = change.value();
        let key = room_state::key_name(r, room, key.value().2)?;
        state = state.with(key, (before != EventNum(0)).then_some(before));
    }
    Ok((last, state))
}

struct Builder<'a> {
    request: &'a Request,
    room: RoomNum,
    room_id: OwnedRoomId,
    heads: RoomHeads,
    member: MemberRow,
    formatter: Formatter,
    /// The start of the range; `None` if the client gets the whole room.
    since: Option<Position>,
    /// The start of the range, if the user was joined then and has rejoined since.
    before_absence: Option<Position>,
    /// The end of the range.
    upto: Position,
}

impl<'a> Builder<'a> {
    fn new(
        r: &impl Reader,
        request: &'a Request,
        range: SyncRange,
        room: RoomNum,
        member: MemberRow,
    ) -> Result<Self, Error> {
        let (user, device) = (&request.user_id, Some(request.device));
        let formatter = Formatter::new(r, room, user, device, range.now_ms, RoomIdField::Omit)?;
        let since = range.since.map(|since| since.position);
        let continuity = match since {
            Some(since) => continuity(r, room, &member, since)?,
            None => Continuity::New,
        };
        Ok(Self {
            request,
            room,
            room_id: room::id(r, room)?,
            heads: room::heads(r, room)?,
            member,
            formatter,
            since: since.filter(|_| continuity == Continuity::Unbroken),
            before_absence: since.filter(|_| continuity == Continuity::Rejoined),
            upto: range.end.stored,
        })
    }

    fn select_timeline(&mut self, r: &impl Reader, upto: Place) -> Result<Selected, Error> {
        let part = Part {
            room: self.room,
            room_id: &self.room_id,
            upto,
            after: self.since,
            limit: self.request.timeline_limit(),
            ignored: &self.request.ignored,
        };
        let wanted = &self.request.filter.room.timeline;
        let mut selected = timeline::select(r, part, wanted, &mut self.formatter)?;
        // In an incremental sync the client may have older events of a whole room. They need not be
        // adjacent to these.
        selected.limited |= self.since.is_none() && self.request.since.is_some();
        Ok(selected)
    }

    fn timeline(&mut self, r: &impl Reader, selected: &Selected) -> Result<Timeline, Error> {
        let mut timeline = Timeline::new();
        // "When the relevant section has a `limited` value of `true`."
        let aggregator = if selected.limited {
            let (user, ignored) = (self.request.user, self.request.ignored.clone());
            Some(Aggregator::new(r, &self.formatter, user, ignored)?)
        } else {
            None
        };
        let (request, formatter) = (self.request, &mut self.formatter);
        let aggregator = aggregator.as_ref();
        timeline.events = format_timeline(r, request, formatter, aggregator, &selected.events)?;
        timeline.limited = selected.limited;
        if selected.limited || !selected.events.is_empty() {
            timeline.prev_batch = Some(PaginationToken::Place(selected.before).to_string());
        }
        Ok(timeline)
    }

    /// A room that the user was only invited to or knocking at: the event that ended that. An invitation
    /// that gave way to others was ended by none.
    fn never_joined(mut self, r: &impl Reader) -> Result<Content, Error> {
        let event = event::load(r, self.member.event)?;
        let mut timeline = Timeline::new();
        if matches!(
            current::membership_of(r, event.num)?,
            Membership::Leave | Membership::Ban
        ) {
            timeline.events =
                format_timeline(r, self.request, &mut self.formatter, None, &[event])?;
        }
        let state = self.state_events(Vec::new());
        self.content(LeftRoom::new(), timeline, Vec::new(), state)
    }

    fn state(
        &self,
        r: &impl Reader,
        selected: &Selected,
        end: &StateOverlay,
        heroes: &[OwnedUserId],
    ) -> Result<StateEvents, Error> {
        let request = self.request;
        if !filter::accepts_room(&request.filter.room.state, &self.room_id) {
            return Ok(self.state_events(Vec::new()));
        }
        let wanted = Wanted {
            room: self.room,
            timeline: &selected.events,
            end,
            filter: &request.filter.room.state,
            children: VisibleChildren::new(r, &request.ignored, &self.formatter.visibility)?,
            state_after: request.state_after != StateAfter::No,
            user_id: &request.user_id,
            heroes,
            lazy_loaded: &request.lazy_loaded,
            upto: self.upto,
        };
        let events = match self.since {
            Some(since) if !request.full_state => state::changed(r, &wanted, since)?,
            _ => state::full(r, &wanted, self.before_absence)?,
        };
        state::note_timeline_members(&wanted)?;
        Ok(self.state_events(events))
    }

    fn state_events(&self, nums: Vec<EventNum>) -> StateEvents {
        StateEvents::new(self.room, nums, self.formatter.clone(), self.upto)
    }

    fn has_new_summary(&self, r: &impl Reader) -> Result<bool, Error> {
        match self.since {
            Some(since) if !self.request.full_state => {
                state::members_changed(r, self.room, since, self.upto)
            }
            _ => Ok(true),
        }
    }

    /// The types of the room's account data that changed.
    fn account_data(&self, r: &impl Reader) -> Result<Vec<String>, Error> {
        let user = self.request.user;
        let mut kinds: Vec<String> = match self.since {
            Some(since) => stored_account_data::changes_between(r, user, since, self.upto)?
                .into_iter()
                .filter_map(|(room, kind)| (room == self.room).then_some(kind))
                .collect(),
            None => stored_account_data::kinds_in(r, user, self.room)?,
        };
        let wanted = &self.request.filter.room.account_data;
        kinds.retain(|kind| {
            filter::accepts_room(wanted, &self.room_id)
                && filter::accepts_type(&wanted.types, &wanted.not_types, kind)
        });
        Ok(kinds)
    }

    /// Whether a receipt of the user moved, perhaps on another device: the unread counts changed.
    fn own_receipt_moved(&self, r: &impl Reader) -> Result<bool, Error> {
        let since = self.since.unwrap_or(Position::MIN);
        let own = receipts::of_user(r, self.room, self.request.user)?;
        Ok(own.iter().any(|(_, receipt)| receipt.position > since))
    }

    fn add_unread(&self, r: &impl Reader, joined: &mut JoinedRoom) -> Result<(), Error> {
        let user = self.request.user;
        let unread = unread::count(r, self.room, &self.heads, user, self.member.since)?;
        let timeline = &self.request.filter.room.timeline;
        if !timeline.unread_thread_notifications {
            joined.unread_notifications = notification_count(unread.all());
            return Ok(());
        }
        joined.unread_notifications = notification_count(unread.main);
        let threads = unread.threads.iter();
        joined.unread_thread_notifications = threads
            .map(|(root, count)| Ok((event::id(r, *root)?, notification_count(*count))))
            .collect::<Result<BTreeMap<_, _>, Error>>()?;
        Ok(())
    }

    /// `room` with its state under the name that the client requested. matrix-nio ignores left rooms without
    /// that field, so it is there even if the state is empty; `timeline` as in Synapse. ruma leaves `limited` out
    /// where it is false, which some clients take for an unknown.
    fn content(
        &self,
        room: impl Serialize,
        timeline: Timeline,
        account_data: Vec<String>,
        state: StateEvents,
    ) -> Result<Content, Error> {
        #[derive(Serialize)]
        struct Update<T> {
            #[serde(flatten)]
            room: T,
            timeline: WithLimited,
        }

        #[derive(Serialize)]
        struct WithLimited {
            limited: bool,
            #[serde(skip_serializing_if = "Option::is_none")]
            prev_batch: Option<String>,
            events: Vec<Raw<AnySyncTimelineEvent>>,
        }

        let timeline = WithLimited {
            limited: timeline.limited,
            prev_batch: timeline.prev_batch,
            events: timeline.events,
        };
        let json = serde_json::to_string(&Update { room, timeline });
        let json = json.map_err(|_| Error::not_serializable("a room"))?;
        let state_field = match self.request.state_after {
            StateAfter::No => "state",
            StateAfter::Stable => "state_after",
            StateAfter::Unstable => "org.matrix.msc4222.state_after",
        };
        Ok(Content::Streamed {
            json,
            account_data: (self.room, account_data),
            state_field,
            state: Box::new(state),
        })
    }
}

fn notification_count(count: Counts) -> UnreadNotificationsCount {
    let mut notifications = UnreadNotificationsCount::new();
    notifications.notification_count = Some(count.notify.into());
    notifications.highlight_count = Some(count.highlight.into());
    notifications
}
