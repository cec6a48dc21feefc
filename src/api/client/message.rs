//! Sending events and paginating through them (client-server API, "Sending events to a room" and
//! "Getting events for a room").

use ruma::{
    OwnedEventId,
    api::{
        Direction,
        client::{
            context::get_context,
            message::{get_message_events, send_message_event},
            redact::redact_event,
            room::get_room_event,
        },
    },
    events::TimelineEventType,
    serde::Raw,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

use super::{
    filter::QueryFilter,
    room_reader::{EventContext, NO_EVENT, RoomReader, page_limit},
    suspension,
};
use crate::{
    api::{Adapted, Api, AsSent, Error, EventStream, Session, Streamed},
    protocol::build::{EventDraft, canonical_content, content_of_client},
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
            filter::{self, EventFilter},
            messages,
            pagination_token::PaginationToken,
        },
        unread::notify,
    },
    store::{EventNum, Place, RoomNum, Snapshot},
};

/// The most requests for history that one request sends to other servers.
const MAX_BACKFILLS: usize = 3;

/// `PUT /_matrix/client/v3/rooms/{roomId}/send/{eventType}/{txnId}`
pub async fn send_message_event(
    api: Api,
    session: Session,
    request: send_message_event::v3::Request,
) -> Result<send_message_event::v3::Response, Error> {
    let (content, text) = content_of_client(request.body.json()).map_err(rooms::Error::from)?;
    let event_type = TimelineEventType::from(request.event_type.to_string());
    let redacts = match event_type {
        TimelineEventType::RoomRedaction => Some(redaction_target(request.body.json())?),
        _ => None,
    };
    let draft = EventDraft {
        room_id: Some(request.room_id.clone()),
        sender: session.user_id.clone(),
        event_type,
        state_key: None,
        content,
        text,
        redacts,
    };
    let scope = format!("send {} {}", request.room_id, draft.event_type);
    let id = send(&api, &session, draft, scope, request.txn_id.to_string()).await?;
    Ok(send_message_event::v3::Response::new(id))
}

/// What a redaction that is sent as any other event is to redact: in all room versions, clients may send it
/// with `redacts` in its content.
fn redaction_target(content: &RawValue) -> Result<OwnedEventId, Error> {
    #[derive(Deserialize)]
    struct Content {
        redacts: Option<Value>,
    }
    let content = serde_json::from_str::<Content>(content.get());
    let redacts = content.ok().and_then(|content| content.redacts);
    let redacts = redacts.ok_or_else(|| Error::missing_param("redacts is missing"))?;
    let id = redacts.as_str().and_then(|id| id.try_into().ok());
    id.ok_or_else(|| Error::invalid_param("redacts is not an event id"))
}

/// `PUT /_matrix/client/v3/rooms/{roomId}/redact/{eventId}/{txnId}`
pub async fn redact_event(
    api: Api,
    session: Session,
    Adapted {
        request,
        quirk: body,
    }: Adapted<redact_event::v3::Request, AsSent>,
) -> Result<redact_event::v3::Response, Error> {
    // MSC3912: the events that relate to it would stay.
    body.refuse(&["with_rel_types", "org.matrix.msc3912.with_relations"])?;
    let AsSent(mut content) = body;
    let redacts = content.remove("redacts");
    if redacts.is_some_and(|redacts| redacts != request.event_id.as_str()) {
        return Err(Error::invalid_param(
            "redacts names another event than the path",
        ));
    }
    let draft = EventDraft {
        room_id: Some(request.room_id.clone()),
        sender: session.user_id.clone(),
        event_type: TimelineEventType::RoomRedaction,
        state_key: None,
        content: canonical_content(&content).map_err(rooms::Error::from)?,
        text: None,
        redacts: Some(request.event_id.clone()),
    };
    let scope = format!("redact {} {}", request.room_id, request.event_id);
    let id = send(&api, &session, draft, scope, request.txn_id.to_string()).await?;
    Ok(redact_event::v3::Response::new(id))
}

async fn send(
    api: &Api,
    session: &Session,
    draft: EventDraft,
    scope: String,
    id: String,
) -> Result<OwnedEventId, Error> {
    suspension::check_message(api, session, &draft)?;
    let local = api.local.clone();
    let transaction = ClientTransaction {
        device: session.device,
        scope,
        id,
    };
    let now = api.actor(session).now;
    let sending = Sending {
        now,
        sent_by: None,
        notify: notify::evaluate(&api.store, &api.local, &draft).await?,
    };
    let job = move |tx: &_| send::send_once(tx, &local, &transaction, &draft, &sending);
    api.write_events(job).await
}

/// `GET /_matrix/client/v3/rooms/{roomId}/messages`
pub async fn get_message_events(
    api: Api,
    session: Session,
    Adapted {
        request,
        quirk: QueryFilter(filter),
    }: Adapted<get_message_events::v3::Request, QueryFilter>,
) -> Result<get_message_events::v3::Response, Error> {
    filter.check_size()?;
    let (now_ms, user) = (api.clock.now_ms(), session.user);
    for _ in 0..MAX_BACKFILLS {
        let (session, request, filter) = (session.clone(), request.clone(), filter.clone());
        let read = move |s: &Snapshot| read_messages(s, &session, now_ms, request, filter);
        let (mut answer, gap) = api.store.scan("messages", read).await?;
        let Some((room, gap)) = gap else {
            return Ok(answer);
        };
        if !api.federation.backfill(user, room, gap).await? {
            // No server has more: without a token the client stops.
            if answer.chunk.is_empty() {
                answer.end = None;
            }
            return Ok(answer);
        }
    }
    let read = move |s: &Snapshot| read_messages(s, &session, now_ms, request, filter);
    Ok(api.store.scan("messages", read).await?.0)
}

/// A page and, if it ended early at a gap in the timeline, the room and the place of the gap.
fn read_messages(
    s: &Snapshot,
    session: &Session,
    now_ms: u64,
    request: get_message_events::v3::Request,
    filter: EventFilter,
) -> Result<(get_message_events::v3::Response, Option<(RoomNum, Place)>), rooms::Error> {
    let mut reader = RoomReader::new(s, session, now_ms, request.room_id, filter)?;
    let from = reader.place(s, request.from.as_ref())?;
    let to = reader.place(s, request.to.as_ref())?;
    let from = match (from, request.dir) {
        (Some(from), _) => from,
        (None, Direction::Backward) => room::heads(s, reader.room)?.last_place,
        (None, Direction::Forward) => Place::MIN,
    };
    let limit = page_limit(request.limit);
    let page = reader.page(s, from, to, request.dir, limit)?;
    let mut answer = get_message_events::v3::Response::new();
    answer.start = PaginationToken::Place(from).to_string();
    answer.end = page.end.map(|end| PaginationToken::Place(end).to_string());
    let chunk = reader.format_all(s, &page.events)?;
    answer.chunk = chunk.into_iter().map(Raw::from_json).collect();
    if reader.loads_members_lazily() {
        let senders = reader.senders(s, &page.events)?;
        answer.state = senders.into_iter().map(Raw::from_json).collect();
    }
    let gap = page.gap.filter(|_| page.events.len() < limit);
    Ok((answer, gap.map(|gap| (reader.room, gap))))
}

/// `GET /_matrix/client/v3/rooms/{roomId}/event/{eventId}`
pub async fn get_room_event(
    api: Api,
    session: Session,
    request: get_room_event::v3::Request,
) -> Result<get_room_event::v3::Response, Error> {
    let now_ms = api.clock.now_ms();
    let read = move |s: &Snapshot| {
        let room_id = request.room_id.clone();
        let mut reader = RoomReader::new(s, &session, now_ms, room_id, EventFilter::default())?;
        let stored = reader.load_visible(s, &request.event_id)?;
        let event = reader.format(s, &stored)?;
        Ok::<_, rooms::Error>(Raw::from_json(event))
    };
    let event = api
        .store
        .scan("event", read)
        .await
        .map_err(|error| match error {
            // Who may not see an event does not learn whether it exists.
            rooms::Error::Forbidden(_) => NO_EVENT,
            error => error,
        });
    Ok(get_room_event::v3::Response::new(event?))
}

/// `GET /_matrix/client/v3/rooms/{roomId}/context/{eventId}`
pub async fn get_context(
    api: Api,
    session: Session,
    Adapted {
        request,
        quirk: QueryFilter(filter),
    }: Adapted<get_context::v3::Request, QueryFilter>,
) -> Result<Streamed, Error> {
    filter.check_size()?;
    let now_ms = api.clock.now_ms();
    let read = move |s: &Snapshot| read_context(s, &session, now_ms, request, filter);
    let (context, state, mut reader) = api.store.scan("context", read).await?;
    let context = serde_json::to_string(&context);
    let context = context.map_err(|_| Error::Internal("a context that does not serialize"))?;
    let response = EventStream::default()
        .text(r#"{"state":"#)
        .events(state)
        .text(context.replacen('{', ",", 1));
    let mut relations_read = 0;
    let formatted = response.formatted(&api.store, move |s, num| {
        let stored = event::load(s, num)?;
        let children = reader.children();
        if !filter::accepts(s, &reader.filter, children, &stored, &mut relations_read)? {
            return Ok(None);
        }
        let json = reader.formatter.format(s, &stored)?;
        Ok(Some(json.get().into()))
    });
    formatted.await
}

/// The response of `/context` without its state.
#[derive(Serialize)]
struct Context {
    start: String,
    end: String,
    events_before: Vec<Box<RawValue>>,
    events_after: Vec<Box<RawValue>>,
    event: Box<RawValue>,
}

/// The context, the state at its last event, and what formats that state.
fn read_context(
    s: &Snapshot,
    session: &Session,
    now_ms: u64,
    request: get_context::v3::Request,
    filter: EventFilter,
) -> Result<(Context, Vec<EventNum>, RoomReader), rooms::Error> {
    let mut reader = RoomReader::new(s, session, now_ms, request.room_id, filter)?;
    let stored = reader.load_visible(s, &request.event_id)?;
    let place = stored.header.place.ok_or(NO_EVENT)?;
    let limit = page_limit(request.limit);
    let EventContext {
        start,
        end,
        before,
        after,
    } = reader.context(s, place, (limit / 2, limit - limit / 2))?;
    let last = after.last().unwrap_or(&stored);
    let context = Context {
        start: PaginationToken::Place(start).to_string(),
        end: PaginationToken::Place(end).to_string(),
        events_before: reader.format_all(s, &before)?,
        events_after: reader.format_all(s, &after)?,
        event: reader.format(s, &stored)?,
    };
    let state = StateOverlay::after(s, last.num, &last.header)?;
    let events: Vec<_> = before.iter().chain([&stored]).chain(&after).collect();
    let state = state_of(s, &reader, state, &events)?;
    Ok((context, state, reader))
}

/// The events of `state`; with lazy loading, only those members who sent one of `timeline`.
fn state_of(
    s: &Snapshot,
    reader: &RoomReader,
    state: StateOverlay,
    timeline: &[&StoredEvent],
) -> Result<Vec<EventNum>, rooms::Error> {
    let timeline: Vec<StoredEvent> = timeline.iter().map(|event| (*event).clone()).collect();
    let senders = messages::sender_members(s, reader.room, &timeline)?;
    let mut events = Vec::new();
    for (key, num) in state.entries(s, reader.room)? {
        let is_member = rooms::state::key_name(s, reader.room, key)?.0 == "m.room.member";
        if !reader.loads_members_lazily() || !is_member || senders.contains(&num) {
            events.push(num);
        }
    }
    Ok(events)
}
