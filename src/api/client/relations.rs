//! The children of events, and threads (client-server API, "Relationships API", "Querying threads in a
//! room").

use std::borrow::Cow;

use ruma::{
    OwnedEventId, OwnedRoomId, UInt,
    api::{
        Direction,
        client::{
            relations::{
                get_relating_events, get_relating_events_with_rel_type,
                get_relating_events_with_rel_type_and_event_type,
            },
            threads::get_threads,
        },
        error::DeserializationError,
    },
    events::TimelineEventType,
    serde::Raw,
};

use super::room_reader::{RoomReader, page_limit};
use crate::{
    api::{Adapted, Api, Error, Quirk, Session},
    rooms::{
        self,
        relations::{children, threads},
        room,
        timeline::{filter::EventFilter, pagination_token::PaginationToken},
    },
    store::{Place, Snapshot},
};

/// How many events a client gets that does not say how many it wants.
const DEFAULT_PAGE: usize = 10;

/// Clients that know MSC3981 by its flag send `recurse` under its unstable name.
#[derive(Debug)]
pub struct UnstableRecurse(bool);

impl Quirk for UnstableRecurse {
    fn apply(
        request: &mut http::Request<Cow<'_, [u8]>>,
        _path_arguments: &[&str],
    ) -> Result<Self, DeserializationError> {
        let mut pairs = request.uri().query().unwrap_or_default().split('&');
        Ok(Self(
            pairs.any(|pair| pair == "org.matrix.msc3981.recurse=true"),
        ))
    }
}

/// `GET /_matrix/client/v1/rooms/{roomId}/relations/{eventId}`
pub async fn get_relating_events(
    api: Api,
    session: Session,
    Adapted {
        request,
        quirk: UnstableRecurse(recurse),
    }: Adapted<get_relating_events::v1::Request, UnstableRecurse>,
) -> Result<get_relating_events::v1::Response, Error> {
    let query = Query {
        room_id: request.room_id,
        event_id: request.event_id,
        rel_type: None,
        event_type: None,
        from: request.from,
        to: request.to,
        limit: request.limit,
        dir: request.dir,
        recurse: request.recurse || recurse,
    };
    query.answer(&api, session).await
}

/// `GET /_matrix/client/v1/rooms/{roomId}/relations/{eventId}/{relType}`
pub async fn get_relating_events_with_rel_type(
    api: Api,
    session: Session,
    Adapted {
        request,
        quirk: UnstableRecurse(recurse),
    }: Adapted<get_relating_events_with_rel_type::v1::Request, UnstableRecurse>,
) -> Result<get_relating_events_with_rel_type::v1::Response, Error> {
    let query = Query {
        room_id: request.room_id,
        event_id: request.event_id,
        rel_type: Some(request.rel_type.to_string()),
        event_type: None,
        from: request.from,
        to: request.to,
        limit: request.limit,
        dir: request.dir,
        recurse: request.recurse || recurse,
    };
    let page = query.answer(&api, session).await?;
    let mut response = get_relating_events_with_rel_type::v1::Response::new(page.chunk);
    response.next_batch = page.next_batch;
    response.prev_batch = page.prev_batch;
    response.recursion_depth = page.recursion_depth;
    Ok(response)
}

/// `GET /_matrix/client/v1/rooms/{roomId}/relations/{eventId}/{relType}/{eventType}`
pub async fn get_relating_events_with_rel_type_and_event_type(
    api: Api,
    session: Session,
    Adapted {
        request,
        quirk: UnstableRecurse(recurse),
    }: Adapted<get_relating_events_with_rel_type_and_event_type::v1::Request, UnstableRecurse>,
) -> Result<get_relating_events_with_rel_type_and_event_type::v1::Response, Error> {
    let query = Query {
        room_id: request.room_id,
        event_id: request.event_id,
        rel_type: Some(request.rel_type.to_string()),
        event_type: Some(request.event_type),
        from: request.from,
        to: request.to,
        limit: request.limit,
        dir: request.dir,
        recurse: request.recurse || recurse,
    };
    let page = query.answer(&api, session).await?;
    let mut response =
        get_relating_events_with_rel_type_and_event_type::v1::Response::new(page.chunk);
    response.next_batch = page.next_batch;
    response.prev_batch = page.prev_batch;
    response.recursion_depth = page.recursion_depth;
    Ok(response)
}

/// What the three endpoints have in common.
struct Query {
    room_id: OwnedRoomId,
    event_id: OwnedEventId,
    rel_type: Option<String>,
    event_type: Option<TimelineEventType>,
    from: Option<String>,
    to: Option<String>,
    limit: Option<UInt>,
    dir: Direction,
    recurse: bool,
}

impl Query {
    async fn answer(
        self,
        api: &Api,
        session: Session,
    ) -> Result<get_relating_events::v1::Response, Error> {
        let now_ms = api.clock.now_ms();
        let read = move |s: &Snapshot| self.read(s, &session, now_ms);
        Ok(api.store.scan("relations", read).await?)
    }

    fn read(
        &self,
        s: &Snapshot,
        session: &Session,
        now_ms: u64,
    ) -> Result<get_relating_events::v1::Response, rooms::Error> {
        let filter = EventFilter::default();
        let mut reader = RoomReader::new(s, session, now_ms, self.room_id.clone(), filter)?;
        reader.load_visible(s, &self.event_id)?;
        let from = match (reader.place(s, self.from.as_ref())?, self.dir) {
            (Some(from), _) => from,
            (None, Direction::Backward) => room::heads(s, reader.room)?.last_place,
            (None, Direction::Forward) => Place::MIN,
        };
        let wanted = children::Wanted {
            room: reader.room,
            parent: self.event_id.as_str(),
            rel_type: self.rel_type.as_deref(),
            event_type: self.event_type.as_ref(),
            recurse: self.recurse,
            from,
            to: reader.place(s, self.to.as_ref())?,
            dir: self.dir,
            limit: self.limit.map_or(DEFAULT_PAGE, page_limit).max(1),
            ignored: &reader.ignored,
        };
        let page = children::page(s, &wanted, &mut reader.formatter.visibility)?;
        let chunk = reader.format_all(s, &page.events)?;
        let chunk = chunk.into_iter().map(Raw::from_json).collect();
        let mut response = get_relating_events::v1::Response::new(chunk);
        response.next_batch = page.end.map(|end| PaginationToken::Place(end).to_string());
        response.prev_batch = self.from.clone();
        response.recursion_depth = self.recurse.then(|| children::MAX_DEPTH.into());
        Ok(response)
    }
}

/// `GET /_matrix/client/v1/rooms/{roomId}/threads`
pub async fn get_threads(
    api: Api,
    session: Session,
    request: get_threads::v1::Request,
) -> Result<get_threads::v1::Response, Error> {
    use get_threads::v1::IncludeThreads::{All, Participated};
    if !matches!(request.include, All | Participated) {
        return Err(Error::invalid_param("include must be all or participated"));
    }
    let now_ms = api.clock.now_ms();
    let read = move |s: &Snapshot| read_threads(s, &session, now_ms, &request);
    Ok(api.store.scan("threads", read).await?)
}

fn read_threads(
    s: &Snapshot,
    session: &Session,
    now_ms: u64,
    request: &get_threads::v1::Request,
) -> Result<get_threads::v1::Response, rooms::Error> {
    let filter = EventFilter::default();
    let mut reader = RoomReader::new(s, session, now_ms, request.room_id.clone(), filter)?;
    let from = reader.place(s, request.from.as_ref())?;
    let wanted = threads::Wanted {
        room: reader.room,
        participated: request.include == get_threads::v1::IncludeThreads::Participated,
        from: from.unwrap_or(Place::MAX),
        limit: request.limit.map_or(DEFAULT_PAGE, page_limit).max(1),
        ignored: &reader.ignored,
    };
    let (aggregator, visibility) = (&reader.aggregator, &mut reader.formatter.visibility);
    let page = threads::page(s, &wanted, aggregator, visibility)?;
    let chunk = reader.format_all(s, &page.roots)?;
    let chunk = chunk.into_iter().map(Raw::from_json).collect();
    let mut response = get_threads::v1::Response::new(chunk);
    response.next_batch = page.end.map(|end| PaginationToken::Place(end).to_string());
    Ok(response)
}
