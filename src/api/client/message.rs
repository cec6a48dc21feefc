//! Sending events and paging through them (client-server API, "Sending events to a room" and
//! "Getting events for a room").

use ruma::{
    OwnedEventId, OwnedRoomId,
    api::{
        Direction,
        client::{
            context::get_context,
            filter::{LazyLoadOptions, RoomEventFilter},
            message::{get_message_events, send_message_event},
            redact::redact_event,
            room::get_room_event,
        },
    },
    events::TimelineEventType,
};
use serde_json::json;

use crate::{
    api::{Api, Error, Session},
    protocol::build::{EventDraft, canonical_content},
    rooms::{
        self,
        event::{
            self, StoredEvent,
            append::Sending,
            send::{self, ClientTransaction},
        },
        room,
        state::overlay::StateOverlay,
        timeline::{
            client_event::{Formatter, RoomIdField},
            filter, history_visibility,
            messages::{self, Page, PageRequest},
            pagination_token::PaginationToken,
        },
        unread::notify,
    },
    store::{Place, RoomNum, Snapshot},
};

/// The most events of one page.
const MOST: usize = 100;
/// How often one request has history fetched from other servers.
const FETCHES: usize = 3;

/// `PUT /_matrix/client/v3/rooms/{roomId}/send/{eventType}/{txnId}`
pub async fn send_message_event(
    api: Api,
    who: Session,
    request: send_message_event::v3::Request,
) -> Result<send_message_event::v3::Response, Error> {
    let content = canonical_content(request.body.json()).map_err(rooms::Error::from)?;
    let draft = EventDraft {
        room_id: Some(request.room_id.clone()),
        sender: who.user_id.clone(),
        event_type: TimelineEventType::from(request.event_type.to_string()),
        state_key: None,
        content,
        redacts: None,
    };
    let scope = format!("send {} {}", request.room_id, draft.event_type);
    let id = send(&api, &who, draft, (scope, request.txn_id.to_string())).await?;
    Ok(send_message_event::v3::Response::new(id))
}

/// `PUT /_matrix/client/v3/rooms/{roomId}/redact/{eventId}/{txnId}`
pub async fn redact_event(
    api: Api,
    who: Session,
    request: redact_event::v3::Request,
) -> Result<redact_event::v3::Response, Error> {
    let content = match &request.reason {
        Some(reason) => json!({ "reason": reason }),
        None => json!({}),
    };
    let draft = EventDraft {
        room_id: Some(request.room_id.clone()),
        sender: who.user_id.clone(),
        event_type: TimelineEventType::RoomRedaction,
        state_key: None,
        content: canonical_content(&content).map_err(rooms::Error::from)?,
        redacts: Some(request.event_id.clone()),
    };
    let scope = format!("redact {} {}", request.room_id, request.event_id);
    let id = send(&api, &who, draft, (scope, request.txn_id.to_string())).await?;
    Ok(redact_event::v3::Response::new(id))
}

async fn send(
    api: &Api,
    who: &Session,
    draft: EventDraft,
    (scope, id): (String, String),
) -> Result<OwnedEventId, Error> {
    let local = api.local.clone();
    let transacted = ClientTransaction {
        device: who.device,
        scope,
        id,
    };
    let now = api.actor(who).now;
    let sending = Sending {
        now,
        sent_by: None,
        notify: notify::evaluate(&api.store, &api.local, &draft).await?,
    };
    let job = move |tx: &_| send::send_once(tx, &local, &transacted, &draft, &sending);
    Ok(api.store.write(job).await?)
}

/// What a handler of this file reads with.
struct Reading {
    room: RoomNum,
    room_id: OwnedRoomId,
    formatter: Formatter,
    filter: RoomEventFilter,
}

impl Reading {
    fn new(
        s: &Snapshot,
        (who, now_ms): (&Session, u64),
        room_id: OwnedRoomId,
        filter: RoomEventFilter,
    ) -> Result<Self, rooms::Error> {
        let room = history_visibility::readable_room(s, &room_id, who.user)?;
        let (user, device) = (&who.user_id, Some(who.device));
        let formatter = Formatter::new(s, room, user, device, now_ms, RoomIdField::Include)?;
        Ok(Self {
            room,
            room_id,
            formatter,
            filter,
        })
    }

    fn page(
        &mut self,
        s: &Snapshot,
        from: Place,
        to: Option<Place>,
        (dir, limit): (Direction, usize),
    ) -> Result<Page, rooms::Error> {
        let asked = PageRequest {
            room: self.room,
            from,
            to,
            dir,
            limit,
        };
        messages::page(
            s,
            asked,
            &self.room_id,
            &self.filter,
            &mut self.formatter.visibility,
        )
    }

    fn show<T>(
        &mut self,
        s: &Snapshot,
        events: &[StoredEvent],
    ) -> Result<Vec<ruma::serde::Raw<T>>, rooms::Error> {
        let show = |event| {
            Ok(ruma::serde::Raw::from_json(
                self.formatter.format(s, event)?,
            ))
        };
        events.iter().map(show).collect()
    }

    fn is_lazy(&self) -> bool {
        !matches!(self.filter.lazy_load_options, LazyLoadOptions::Disabled)
    }

    fn senders<T>(
        &mut self,
        s: &Snapshot,
        events: &[StoredEvent],
    ) -> Result<Vec<ruma::serde::Raw<T>>, rooms::Error> {
        let members = messages::sender_members(s, self.room, events)?;
        let members = members.into_iter().map(|num| event::load(s, num));
        let members = members.collect::<Result<Vec<_>, _>>()?;
        self.show(s, &members)
    }
}

/// `GET /_matrix/client/v3/rooms/{roomId}/messages`
pub async fn get_message_events(
    api: Api,
    who: Session,
    request: get_message_events::v3::Request,
) -> Result<get_message_events::v3::Response, Error> {
    let now_ms = api.clock.now_ms();
    for _ in 0..FETCHES {
        let (who, request) = (who.clone(), request.clone());
        let read = move |s: &Snapshot| messages_of(s, (&who, now_ms), request);
        let (mut answer, gap) = api.store.scan("messages", read).await?;
        let Some((room, gap)) = gap else {
            return Ok(answer);
        };
        if !api.federation.backfill(room, gap).await? {
            // There is no more to be had now, and nothing by which to ask for it.
            if answer.chunk.is_empty() {
                answer.end = None;
            }
            return Ok(answer);
        }
    }
    let read = move |s: &Snapshot| messages_of(s, (&who, now_ms), request);
    Ok(api.store.scan("messages", read).await?.0)
}

/// A page; and, if it ended too early at a gap, the room and the place of that.
fn messages_of(
    s: &Snapshot,
    who: (&Session, u64),
    request: get_message_events::v3::Request,
) -> Result<(get_message_events::v3::Response, Option<(RoomNum, Place)>), rooms::Error> {
    let mut reading = Reading::new(s, who, request.room_id, request.filter)?;
    let place = |token: &Option<String>| match token {
        Some(token) => token
            .parse::<PaginationToken>()?
            .place(s, reading.room)
            .map(Some),
        None => Ok(None),
    };
    let (from, to) = (place(&request.from)?, place(&request.to)?);
    let from = match (from, request.dir) {
        (Some(from), _) => from,
        (None, Direction::Backward) => room::heads(s, reading.room)?.last_place,
        (None, Direction::Forward) => Place::MIN,
    };
    let limit = usize::try_from(u64::from(request.limit))
        .unwrap_or(MOST)
        .min(MOST);
    let page = reading.page(s, from, to, (request.dir, limit))?;
    let mut answer = get_message_events::v3::Response::new();
    answer.start = PaginationToken::Place(from).to_string();
    answer.end = page.end.map(|end| PaginationToken::Place(end).to_string());
    answer.chunk = reading.show(s, &page.events)?;
    if reading.is_lazy() {
        answer.state = reading.senders(s, &page.events)?;
    }
    let gap = page.gap.filter(|_| page.events.len() < limit);
    Ok((answer, gap.map(|gap| (reading.room, gap))))
}

/// `GET /_matrix/client/v3/rooms/{roomId}/event/{eventId}`
pub async fn get_room_event(
    api: Api,
    who: Session,
    request: get_room_event::v3::Request,
) -> Result<get_room_event::v3::Response, Error> {
    let now_ms = api.clock.now_ms();
    let read = |s: &Snapshot| {
        let room_id = request.room_id.clone();
        let mut reading = Reading::new(s, (&who, now_ms), room_id, RoomEventFilter::default())?;
        let stored = visible(s, &mut reading, &request.event_id)?;
        let shown = reading.formatter.format(s, &stored)?;
        Ok::<_, rooms::Error>(ruma::serde::Raw::from_json(shown))
    };
    Ok(get_room_event::v3::Response::new(api.store.read(read)?))
}

/// The event `id`, if it is in the room and the user may see it.
fn visible(
    r: &Snapshot,
    reading: &mut Reading,
    id: &OwnedEventId,
) -> Result<StoredEvent, rooms::Error> {
    const NO_EVENT: rooms::Error = rooms::Error::NotFound("there is no such event");
    let num = event::num_in(r, reading.room, id)?.ok_or(NO_EVENT)?;
    let stored = event::load(r, num)?;
    if reading.formatter.visibility.can_see(r, &stored)? {
        Ok(stored)
    } else {
        Err(NO_EVENT)
    }
}

/// `GET /_matrix/client/v3/rooms/{roomId}/context/{eventId}`
pub async fn get_context(
    api: Api,
    who: Session,
    request: get_context::v3::Request,
) -> Result<get_context::v3::Response, Error> {
    let now_ms = api.clock.now_ms();
    let read = move |s: &Snapshot| context_of(s, (&who, now_ms), request);
    Ok(api.store.scan("context", read).await?)
}

fn context_of(
    s: &Snapshot,
    who: (&Session, u64),
    request: get_context::v3::Request,
) -> Result<get_context::v3::Response, rooms::Error> {
    let mut reading = Reading::new(s, who, request.room_id, request.filter)?;
    let stored = visible(s, &mut reading, &request.event_id)?;
    let place = stored
        .header
        .place
        .ok_or(rooms::Error::NotFound("there is no such event"))?;
    let limit = usize::try_from(u64::from(request.limit))
        .unwrap_or(MOST)
        .min(MOST);
    let behind = Place(place.0.saturating_sub(1));
    let before = reading.page(s, behind, None, (Direction::Backward, limit / 2))?;
    let after = reading.page(s, place, None, (Direction::Forward, limit - limit / 2))?;
    let mut answer = get_context::v3::Response::new();
    let start = before.events.last().and_then(|event| event.header.place);
    let start = start.map_or(behind, |place| Place(place.0.saturating_sub(1)));
    let last = after.events.last().unwrap_or(&stored);
    answer.start = Some(PaginationToken::Place(start).to_string());
    answer.end = last
        .header
        .place
        .map(|place| PaginationToken::Place(place).to_string());
    answer.events_before = reading.show(s, &before.events)?;
    answer.event = reading.show(s, std::slice::from_ref(&stored))?.pop();
    answer.events_after = reading.show(s, &after.events)?;
    let state = StateOverlay::after(s, last.num, &last.header)?;
    let shown: Vec<&StoredEvent> = before
        .events
        .iter()
        .chain([&stored])
        .chain(&after.events)
        .collect();
    answer.state = state_of(s, &mut reading, state, &shown)?;
    Ok(answer)
}

/// The events of `state` that the filter wants; with lazy loading, of the members only those who
/// sent something in `shown`.
fn state_of<T>(
    s: &Snapshot,
    reading: &mut Reading,
    state: StateOverlay,
    shown: &[&StoredEvent],
) -> Result<Vec<ruma::serde::Raw<T>>, rooms::Error> {
    let shown: Vec<StoredEvent> = shown.iter().map(|event| (*event).clone()).collect();
    let senders = messages::sender_members(s, reading.room, &shown)?;
    let mut events = Vec::new();
    for (key, num) in state.entries(s, reading.room)? {
        let is_member = rooms::state::key_name(s, reading.room, key)?.0 == "m.room.member";
        if reading.is_lazy() && is_member && !senders.contains(&num) {
            continue;
        }
        let stored = event::load(s, num)?;
        if filter::accepts(&reading.filter, &stored)? {
            events.push(stored);
        }
    }
    reading.show(s, &events)
}
