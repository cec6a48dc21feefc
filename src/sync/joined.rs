//! What is told of one room that the user is in, or was in until just now.

use std::collections::BTreeMap;

use ruma::{
    OwnedRoomId, OwnedUserId,
    api::client::sync::sync_events::{
        UnreadNotificationsCount,
        v3::{Ephemeral, JoinedRoom, LeftRoom, RoomAccountData, Timeline},
    },
    events::AnySyncStateEvent,
    serde::Raw,
};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::{
    ephemeral,
    request::{Request, StateAfter, SyncRange},
    shown::show,
    state::{self, Wanted},
    summary,
    timeline::{self, Part, Selected},
};
use crate::{
    rooms::{
        Error, event, room,
        state::{self as room_state, current, overlay::StateOverlay},
        timeline::{
            self as room_timeline,
            client_event::{Formatter, RoomIdField},
            filter,
            pagination_token::PaginationToken,
        },
        typing::Typing,
        unread::{self, receipts},
    },
    store::{
        EventNum, Place, Position, Reader, RoomNum, Rows, StateKeyNum,
        records::{Counts, MemberRow, Membership, RoomHeads},
    },
    users::account_data,
};

/// How many of a user's memberships are looked back at to find whether the user was away.
const MEMBERSHIPS: usize = 64;

/// One room of one answer.
struct InRoom<'a> {
    request: &'a Request,
    room: RoomNum,
    room_id: OwnedRoomId,
    heads: RoomHeads,
    row: MemberRow,
    formatter: Formatter,
    /// After what something is news; none if everything is.
    since: Option<Position>,
    /// Where the last answer ended, if the user was in the room then and has been away since.
    before_absence: Option<Position>,
    /// Up to where something is told.
    upto: Position,
}

/// What is told of a room that the user is in; `None` if nothing is.
pub fn joined(
    r: &impl Reader,
    request: &Request,
    range: SyncRange,
    (room, row): (RoomNum, MemberRow),
    typing: &Typing,
) -> Result<Option<Box<RawValue>>, Error> {
    let mut within = InRoom::new(r, request, range, room, row)?;
    let (last, end) = within.end(r)?;
    let selected = within.timeline(r, last)?;
    let mut answer = JoinedRoom::new();
    if within.summary_changed(r)? {
        answer.summary = summary::summary(r, room, &within.heads, &request.user_id)?;
    }
    let news = within.state(r, &selected, &end, &answer.summary.heroes)?;
    answer.ephemeral = Ephemeral::default();
    let room_id = within.room_id.clone();
    let range = SyncRange {
        since: range.since.filter(|_| within.since.is_some()),
        ..range
    };
    answer.ephemeral.events = ephemeral::in_room(r, request, range, (room, &room_id), typing)?;
    answer.account_data = within.account_data(r)?;
    answer.timeline = within.shown_timeline(r, &selected)?;
    let nothing = answer.is_empty() && news.is_empty() && !within.read_elsewhere(r)?;
    if nothing && within.since.is_some() {
        return Ok(None);
    }
    within.add_unread(r, &mut answer)?;
    with_state(request, answer, news).map(Some)
}

/// What is told of a room that the user has left, up to the leaving; `None` if nothing is.
pub fn left(
    r: &impl Reader,
    request: &Request,
    range: SyncRange,
    (room, row): (RoomNum, MemberRow),
) -> Result<Option<Box<RawValue>>, Error> {
    let since = range.since.map_or(Position::MIN, |since| since.position);
    let mut within = InRoom::new(r, request, range, room, row)?;
    let Some(end) = end_of_stay(r, room, &within.row, since)? else {
        return within.turned_away(r).map(Some);
    };
    let header = event::header(r, end)?;
    let Some(last) = header.place else {
        return Ok(None);
    };
    let state_after = StateOverlay::after(r, end, &header)?;
    within.upto = header.position;
    let mut selected = within.timeline(r, last)?;
    let news = within.state(r, &selected, &state_after, &[])?;
    if end != within.row.event {
        // Who left and was banned then does not see that, but is told.
        selected.events.push(event::load(r, within.row.event)?);
    }
    let mut answer = LeftRoom::new();
    answer.timeline = within.shown_timeline(r, &selected)?;
    answer.account_data = within.account_data(r)?;
    with_state(request, answer, news).map(Some)
}

/// The event after `since` that ended the user's last stay in the room, in which the user is not
/// any more.
fn end_of_stay(
    r: &impl Reader,
    room: RoomNum,
    row: &MemberRow,
    since: Position,
) -> Result<Option<EventNum>, Error> {
    let mut event = row.event;
    for _ in 0..MEMBERSHIPS {
        let header = event::header(r, event)?;
        let Some(key) = header.state_key.filter(|_| header.position > since) else {
            break;
        };
        let Some(before) = room_state::get(r, room, header.state_before, key)? else {
            break;
        };
        if current::membership_of(r, before)? == Membership::Join {
            return Ok(Some(event));
        }
        event = before;
    }
    Ok(None)
}

impl<'a> InRoom<'a> {
    fn new(
        r: &impl Reader,
        request: &'a Request,
        range: SyncRange,
        room: RoomNum,
        row: MemberRow,
    ) -> Result<Self, Error> {
        let (user, device) = (&request.user_id, Some(request.device));
        let formatter = Formatter::new(r, room, user, device, range.now_ms, RoomIdField::Omit)?;
        let stay = match range.since {
            Some(since) => stay(r, room, &row, since.position)?,
            None => Stay::New,
        };
        let since = range.since.map(|since| since.position);
        Ok(Self {
            request,
            room,
            room_id: room::id(r, room)?,
            heads: room::heads(r, room)?,
            row,
            formatter,
            since: since.filter(|_| stay == Stay::Throughout),
            before_absence: since.filter(|_| stay == Stay::Interrupted),
            upto: range.end.stored,
        })
    }

    fn timeline(&mut self, r: &impl Reader, upto: Place) -> Result<Selected, Error> {
        let part = Part {
            upto,
            after: self.since,
            limit: self.request.limit(),
            ignored: &self.request.ignored,
        };
        let wanted = &self.request.filter.room.timeline;
        let room = (self.room, &self.room_id);
        let mut selected = timeline::select(r, room, part, wanted, &mut self.formatter)?;
        // To a room that is news to a client of long standing it may have come before: what it has
        // does not lead up to this.
        selected.limited |= self.since.is_none() && self.request.since.is_some();
        Ok(selected)
    }

    fn shown_timeline(&mut self, r: &impl Reader, selected: &Selected) -> Result<Timeline, Error> {
        let mut timeline = Timeline::new();
        timeline.events = show(r, self.request, &mut self.formatter, &selected.events)?;
        timeline.limited = selected.limited;
        if selected.limited || !selected.events.is_empty() {
            timeline.prev_batch = Some(PaginationToken::Place(selected.before).to_string());
        }
        Ok(timeline)
    }

    /// The place of the last event that is told, and the state after it.
    fn end(&self, r: &impl Reader) -> Result<(Place, StateOverlay), Error> {
        let last = room_timeline::place_at(r, self.room, self.upto)?.unwrap_or(Place::MIN);
        let mut state = StateOverlay::of(self.heads.state);
        // Where the room has moved on since this answer's end, what changed is taken back.
        let later = (
            self.room,
            Position(self.upto.0.saturating_add(1)),
            StateKeyNum::MIN,
        );
        let changes = r.state_changes()?;
        for row in changes
            .range(later..=(self.room, Position::MAX, StateKeyNum::MAX))?
            .rev()
        {
            let (key, change) = row?;
            let (before, _) = change.value();
            let key = room_state::key_name(r, self.room, key.value().2)?;
            state = state.with(key, (before != EventNum(0)).then_some(before));
        }
        Ok((last, state))
    }

    /// What is told of a room that the user was invited to, or knocked at, and never was in: the
    /// event that ended that.
    fn turned_away(&mut self, r: &impl Reader) -> Result<Box<RawValue>, Error> {
        let event = event::load(r, self.row.event)?;
        let mut answer = LeftRoom::new();
        answer.timeline.events = show(r, self.request, &mut self.formatter, &[event])?;
        with_state(self.request, answer, Vec::new())
    }

    fn state<T>(
        &mut self,
        r: &impl Reader,
        selected: &Selected,
        end: &StateOverlay,
        heroes: &[OwnedUserId],
    ) -> Result<Vec<Raw<T>>, Error> {
        let request = self.request;
        if !filter::accepts_room(&request.filter.room.state, &self.room_id) {
            return Ok(Vec::new());
        }
        let wanted = Wanted {
            room: self.room,
            timeline: &selected.events,
            end,
            filter: &request.filter.room.state,
            after: request.state_after.wanted(),
            user_id: &request.user_id,
            heroes,
            known: &request.known,
            upto: self.upto,
        };
        let events = match self.since {
            Some(since) if !request.full_state => state::changed(r, &wanted, since)?,
            _ => state::whole(r, &wanted, self.before_absence)?,
        };
        show(r, request, &mut self.formatter, &events)
    }

    fn summary_changed(&self, r: &impl Reader) -> Result<bool, Error> {
        match self.since {
            Some(since) if !self.request.full_state => {
                state::members_changed(r, self.room, (since, self.upto))
            }
            _ => Ok(true),
        }
    }

    fn account_data(&self, r: &impl Reader) -> Result<RoomAccountData, Error> {
        let wanted = &self.request.filter.room.account_data;
        let changed = match self.since {
            Some(since) => {
                let changed =
                    account_data::changed_between(r, self.request.user, since, self.upto)?;
                changed
                    .into_iter()
                    .filter(|changed| changed.room == self.room)
                    .collect()
            }
            None => account_data::all_in(r, self.request.user, self.room)?,
        };
        let mut answer = RoomAccountData::new();
        for changed in changed {
            if filter::accepts_room(wanted, &self.room_id)
                && filter::accepts_type(&wanted.types, &wanted.not_types, &changed.kind)
            {
                answer.events.push(account_data_event(&changed)?);
            }
        }
        Ok(answer)
    }

    /// Whether a receipt of the user's own has moved, so that less is unread.
    fn read_elsewhere(&self, r: &impl Reader) -> Result<bool, Error> {
        let since = self.since.unwrap_or(Position::MIN);
        let own = receipts::of_user(r, self.room, self.request.user)?;
        Ok(own.iter().any(|(_, receipt)| receipt.position > since))
    }

    fn add_unread(&self, r: &impl Reader, answer: &mut JoinedRoom) -> Result<(), Error> {
        let unread = unread::count(r, self.room, &self.heads, self.request.user, self.row.since)?;
        let by_thread = self
            .request
            .filter
            .room
            .timeline
            .unread_thread_notifications;
        let count = if by_thread { unread.main } else { unread.all() };
        answer.unread_notifications = told(count);
        if by_thread {
            let threads = unread.threads.iter();
            answer.unread_thread_notifications = threads
                .map(|(root, count)| Ok((event::id(r, *root)?, told(*count))))
                .collect::<Result<BTreeMap<_, _>, Error>>()?;
        }
        Ok(())
    }
}

fn told(count: Counts) -> UnreadNotificationsCount {
    let mut told = UnreadNotificationsCount::new();
    told.notification_count = Some(count.notify.into());
    told.highlight_count = Some(count.highlight.into());
    told
}

/// A piece of account data as an event.
pub fn account_data_event<T>(changed: &account_data::Changed) -> Result<Raw<T>, Error> {
    let corrupt = |_| Error::corrupt("account_data", (changed.room, &changed.kind), "not JSON");
    let event = Event {
        kind: &changed.kind,
        content: serde_json::from_str(&changed.data.content).map_err(corrupt)?,
    };
    let event = to_raw_value(&event);
    event.map(Raw::from_json).map_err(corrupt)
}

#[derive(Serialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    content: &'a RawValue,
}

/// Whether a user was in a room from some position until it ended or until now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stay {
    /// All the time.
    Throughout,
    /// At first, and again later: the room is news as a whole.
    Interrupted,
    /// Only later: the room is news as a whole.
    New,
}

/// How the user, who stands to the room as `row` says, was in it from `since` on.
fn stay(r: &impl Reader, room: RoomNum, row: &MemberRow, since: Position) -> Result<Stay, Error> {
    let mut event = row.event;
    let mut ended = row.membership == Membership::Join;
    let mut stay = Stay::Throughout;
    for _ in 0..MEMBERSHIPS {
        let header = event::header(r, event)?;
        if header.position <= since {
            let was_in = current::membership_of(r, event)? == Membership::Join;
            return Ok(if was_in { stay } else { Stay::New });
        }
        let Some(key) = header.state_key else { break };
        let Some(before) = room_state::get(r, room, header.state_before, key)? else {
            return Ok(Stay::New);
        };
        // One leaving is the end that is told; another one before it is an absence.
        let left = current::membership_of(r, before)? != Membership::Join;
        if left && ended {
            stay = Stay::Interrupted;
        }
        ended = true;
        event = before;
    }
    Ok(Stay::Interrupted)
}

/// The room's answer as JSON, with its state under the name that the client wants. The state is
/// there even if it is empty: nio takes no room that was left without it.
fn with_state<T: serde::Serialize>(
    request: &Request,
    answer: T,
    events: Vec<Raw<AnySyncStateEvent>>,
) -> Result<Box<RawValue>, Error> {
    #[derive(serde::Serialize)]
    struct State {
        events: Vec<Raw<AnySyncStateEvent>>,
    }

    #[derive(serde::Serialize)]
    #[serde(rename_all = "snake_case")]
    enum Named {
        State(State),
        StateAfter(State),
        #[serde(rename = "org.matrix.msc4222.state_after")]
        Unstable(State),
    }

    #[derive(serde::Serialize)]
    struct Room<T> {
        #[serde(flatten)]
        answer: T,
        #[serde(flatten)]
        state: Named,
    }

    let state = State { events };
    let state = match request.state_after {
        StateAfter::No => Named::State(state),
        StateAfter::Stable => Named::StateAfter(state),
        StateAfter::Unstable => Named::Unstable(state),
    };
    to_raw_value(&Room { answer, state }).map_err(|_| Error::not_serializable("a room"))
}
