//! The deprecated endpoints that `/sync` replaced, which old clients and bots still call. They answer from a
//! response of `/sync`, which is whole in memory here, so one that is too large is refused.
//!
//! Source: client-server API, `GET /events`, `GET /events/{eventId}`, `GET /initialSync`.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use ruma::{
    OwnedEventId, OwnedRoomId, UInt,
    api::{
        IncomingRequest,
        auth_scheme::AccessToken,
        client::sync::sync_events,
        error::{DeserializationError, Error as MatrixError, ErrorKind},
        metadata,
    },
    exports::serde_html_form,
    presence::PresenceState,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use smol::{
    future::poll_once,
    stream::{self, StreamExt},
};

use super::room_reader::{NO_EVENT, RoomReader};
use crate::{
    api::{Api, Error, Session, Streamed},
    pool::Kind,
    rooms::{
        self, directory, event, room,
        timeline::filter::{EventFilter, SyncFilter},
    },
    store::{Position, Snapshot},
    sync::{Request as SyncRequest, StateAfter, SyncToken},
    users::account_data::{ignored_users, invite_permissions},
};

/// Of the response of `/sync`: as much as a page of messages has.
const MAX_BYTES: usize = 512 * 1024;
const MAX_TIMEOUT: Duration = Duration::from_secs(120);
/// The messages of each room that a client gets that does not say how many.
const DEFAULT_LIMIT: u32 = 10;

type Response = sync_events::v3::Response;

/// A response of `/sync`, as far as it is needed. Events stay text.
#[derive(Deserialize)]
struct Synced {
    next_batch: String,
    #[serde(default)]
    presence: Events,
    #[serde(default)]
    account_data: Events,
    #[serde(default)]
    rooms: SyncedRooms,
}

#[derive(Default, Deserialize)]
struct Events {
    #[serde(default)]
    events: Vec<Box<RawValue>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct SyncedRooms {
    join: BTreeMap<OwnedRoomId, SyncedRoom>,
    invite: BTreeMap<OwnedRoomId, SyncedInvite>,
    leave: BTreeMap<OwnedRoomId, SyncedRoom>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct SyncedRoom {
    timeline: SyncedTimeline,
    state_after: Events,
    ephemeral: Events,
    account_data: Events,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct SyncedTimeline {
    events: Vec<Box<RawValue>>,
    prev_batch: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct SyncedInvite {
    invite_state: Events,
}

fn from_query<T: DeserializeOwned>(
    request: &http::Request<&[u8]>,
) -> Result<T, DeserializationError> {
    let query = request.uri().query().unwrap_or_default();
    Ok(serde_html_form::from_str(query)?)
}

pub mod get_events {
    use super::{
        AccessToken, DeserializationError, Deserialize, IncomingRequest, MatrixError, OwnedRoomId,
        Response, from_query, metadata,
    };

    metadata! {
        method: GET,
        rate_limited: false,
        authentication: AccessToken,
        history: {
            1.0 => "/_matrix/client/r0/events",
            1.1 => "/_matrix/client/v3/events",
        }
    }

    #[derive(Clone, Debug, Default, Deserialize)]
    #[serde(default)]
    pub struct Request {
        pub from: Option<String>,
        /// In milliseconds.
        pub timeout: Option<u64>,
        pub room_id: Option<OwnedRoomId>,
    }

    impl IncomingRequest for Request {
        type EndpointError = MatrixError;
        type OutgoingResponse = Response;

        fn try_from_http_request_inner(
            request: http::Request<&[u8]>,
            _path_arguments: &[&str],
        ) -> Result<Self, DeserializationError> {
            from_query(&request)
        }
    }
}

pub mod get_event {
    use super::{
        AccessToken, DeserializationError, IncomingRequest, MatrixError, OwnedEventId, Response,
        metadata,
    };

    metadata! {
        method: GET,
        rate_limited: false,
        authentication: AccessToken,
        history: {
            1.0 => "/_matrix/client/r0/events/{event_id}",
            1.1 => "/_matrix/client/v3/events/{event_id}",
        }
    }

    #[derive(Clone, Debug)]
    pub struct Request {
        pub event_id: OwnedEventId,
    }

    impl IncomingRequest for Request {
        type EndpointError = MatrixError;
        type OutgoingResponse = Response;

        fn try_from_http_request_inner(
            _request: http::Request<&[u8]>,
            path_arguments: &[&str],
        ) -> Result<Self, DeserializationError> {
            let event_id = path_arguments.first().copied().unwrap_or_default();
            Ok(Self {
                event_id: OwnedEventId::try_from(event_id)?,
            })
        }
    }
}

pub mod initial_sync {
    use super::{
        AccessToken, DeserializationError, Deserialize, IncomingRequest, MatrixError, Response,
        from_query, metadata,
    };

    metadata! {
        method: GET,
        rate_limited: true,
        authentication: AccessToken,
        history: {
            1.0 => "/_matrix/client/r0/initialSync",
            1.1 => "/_matrix/client/v3/initialSync",
        }
    }

    #[derive(Clone, Debug, Default, Deserialize)]
    #[serde(default)]
    pub struct Request {
        /// Of the messages of each room.
        pub limit: Option<u32>,
        pub archived: bool,
    }

    impl IncomingRequest for Request {
        type EndpointError = MatrixError;
        type OutgoingResponse = Response;

        fn try_from_http_request_inner(
            request: http::Request<&[u8]>,
            _path_arguments: &[&str],
        ) -> Result<Self, DeserializationError> {
            from_query(&request)
        }
    }
}

#[derive(Serialize)]
struct EventsResponse {
    start: String,
    end: String,
    chunk: Vec<Box<RawValue>>,
}

/// `GET /_matrix/client/v3/events`. NOTSPEC: to-device messages, which it does not have, are
/// deleted as by `/sync`; of more than 100 new events of a room only the newest come; a room that the user is not
/// joined to is not found.
pub async fn get_events(
    api: Api,
    session: Session,
    request: get_events::Request,
) -> Result<Streamed, Error> {
    let mut filter = SyncFilter::default();
    // As many as `/sync` gives.
    filter.room.timeline.limit = Some(UInt::MAX);
    if let Some(room) = &request.room_id {
        api.joined_room(&session, room)?;
        filter.room.rooms = Some(vec![room.clone()]);
    }
    let since = request.from.as_deref().map(str::parse::<SyncToken>);
    let since = since.transpose().map_err(rooms::Error::from)?;
    let since = since.filter(|since| !api.notifier.is_before_restore(since.position));
    let mut since = since.unwrap_or_else(|| api.notifier.position().token(Position::MIN));
    let start = since.to_string();
    let timeout = Duration::from_millis(request.timeout.unwrap_or_default()).min(MAX_TIMEOUT);
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let synced = sync(&api, &session, Some(since), filter.clone(), left).await?;
        let read = move || {
            let synced = parse(&synced)?;
            Ok::<_, Error>((synced.next_batch.clone(), events_of(synced)?))
        };
        let (end, chunk) = api.pool.run(Kind::Parse, read).await??;
        // What else `/sync` has ends its wait too.
        let is_stopping = poll_once(api.stopping.wait()).await.is_some();
        if !chunk.is_empty() || Instant::now() >= deadline || is_stopping {
            return Streamed::json(&EventsResponse { start, end, chunk });
        }
        since = end
            .parse()
            .map_err(|_| Error::Internal("a sync token that does not parse"))?;
    }
}

/// The events of all rooms, in the order of their times, then typing, receipts and presence.
fn events_of(synced: Synced) -> Result<Vec<Box<RawValue>>, Error> {
    #[derive(Deserialize)]
    struct Time {
        #[serde(default)]
        origin_server_ts: u64,
    }
    let mut timed = Vec::new();
    let mut others = Vec::new();
    let SyncedRooms {
        join,
        invite,
        leave,
    } = synced.rooms;
    for (id, room) in join.into_iter().chain(leave) {
        for event in room.timeline.events {
            let time = serde_json::from_str::<Time>(event.get());
            let time = time.map_or(0, |time| time.origin_server_ts);
            timed.push((time, with_room_id(&event, &id)?));
        }
        for event in room.ephemeral.events {
            others.push(with_room_id(&event, &id)?);
        }
    }
    for (id, room) in invite {
        if let Some(event) = room.invite_state.events.last() {
            others.push(with_room_id(event, &id)?);
        }
    }
    timed.sort_by_key(|(time, _)| *time);
    let timed = timed.into_iter().map(|(_, event)| event);
    Ok(timed.chain(others).chain(synced.presence.events).collect())
}

/// `event`, an object without a room id, with that of its room.
fn with_room_id(event: &RawValue, room: &OwnedRoomId) -> Result<Box<RawValue>, Error> {
    let room = serde_json::Value::from(room.as_str());
    let object = event.get().trim_start();
    let rest = object.strip_prefix('{').unwrap_or(object);
    let separator = if rest.trim_start().starts_with('}') {
        ""
    } else {
        ","
    };
    let json = format!(r#"{{"room_id":{room}{separator}{rest}"#);
    RawValue::from_string(json).map_err(|_| Error::Internal("an event that is no object"))
}

fn with_room_ids(
    events: &[Box<RawValue>],
    room: &OwnedRoomId,
) -> Result<Vec<Box<RawValue>>, Error> {
    let events = events.iter();
    events.map(|event| with_room_id(event, room)).collect()
}

/// `GET /_matrix/client/v3/events/{eventId}`
pub async fn get_event(
    api: Api,
    session: Session,
    request: get_event::Request,
) -> Result<Streamed, Error> {
    let now_ms = api.clock.now_ms();
    let read = move |s: &Snapshot| {
        let num = event::num_of(s, &request.event_id)?.ok_or(NO_EVENT)?;
        let room_id = room::id(s, event::header(s, num)?.room)?;
        let mut reader = RoomReader::new(s, &session, now_ms, room_id, EventFilter::default())?;
        let stored = reader.load_visible(s, &request.event_id)?;
        reader.format(s, &stored)
    };
    let event = api.store.scan("event", read).await;
    let event = event.map_err(|error| match error {
        // Who may not see an event does not learn whether it exists.
        rooms::Error::Forbidden(_) => NO_EVENT,
        error => error,
    })?;
    Streamed::json(&event)
}

#[derive(Serialize)]
struct InitialSyncResponse<'a> {
    end: &'a str,
    presence: &'a [Box<RawValue>],
    account_data: &'a [Box<RawValue>],
    rooms: Vec<InitialSyncRoom<'a>>,
}

#[derive(Serialize)]
struct InitialSyncRoom<'a> {
    room_id: &'a OwnedRoomId,
    membership: &'static str,
    state: Vec<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<Messages<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    visibility: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    account_data: Option<&'a [Box<RawValue>]>,
    /// The invite event.
    #[serde(skip_serializing_if = "Option::is_none")]
    invite: Option<Box<RawValue>>,
}

#[derive(Serialize)]
struct Messages<'a> {
    chunk: Vec<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start: Option<&'a str>,
    end: &'a str,
}

/// `GET /_matrix/client/v3/initialSync`
pub async fn initial_sync(
    api: Api,
    session: Session,
    request: initial_sync::Request,
) -> Result<Streamed, Error> {
    let mut filter = SyncFilter::default();
    filter.room.include_leave = request.archived;
    filter.room.timeline.limit = Some(UInt::from(request.limit.unwrap_or(DEFAULT_LIMIT)));
    let synced = sync(&api, &session, None, filter, Duration::ZERO).await?;
    let pool = api.pool.clone();
    let format = move || formatted_initial_sync(&api, &parse(&synced)?);
    let json = pool.run(Kind::Parse, format).await??;
    Ok(Streamed::new(stream::once(Ok(json))))
}

fn formatted_initial_sync(api: &Api, synced: &Synced) -> Result<Vec<u8>, Error> {
    let end = &synced.next_batch;
    let mut rooms = Vec::new();
    let SyncedRooms {
        join,
        invite,
        leave,
    } = &synced.rooms;
    let join = join.iter().map(|room| ("join", room));
    for (membership, (id, room)) in join.chain(leave.iter().map(|room| ("leave", room))) {
        let is_listed = |s: &_| directory::is_listed(s, room::num(s, id)?);
        rooms.push(InitialSyncRoom {
            room_id: id,
            membership,
            state: with_room_ids(&room.state_after.events, id)?,
            messages: Some(Messages {
                chunk: with_room_ids(&room.timeline.events, id)?,
                start: room.timeline.prev_batch.as_deref(),
                end,
            }),
            visibility: Some(match api.store.read(is_listed)? {
                true => "public",
                false => "private",
            }),
            account_data: Some(&room.account_data.events),
            invite: None,
        });
    }
    for (id, room) in invite {
        let state = with_room_ids(&room.invite_state.events, id)?;
        rooms.push(InitialSyncRoom {
            room_id: id,
            membership: "invite",
            invite: state.last().cloned(),
            state,
            messages: None,
            visibility: None,
            account_data: None,
        });
    }
    let response = InitialSyncResponse {
        end,
        presence: &synced.presence.events,
        account_data: &synced.account_data.events,
        rooms,
    };
    serde_json::to_vec(&response).map_err(|_| Error::Internal("a response that does not serialize"))
}

/// A response of `/sync`.
///
/// # Errors
/// `M_TOO_LARGE` if it has more than [`MAX_BYTES`].
async fn sync(
    api: &Api,
    session: &Session,
    since: Option<SyncToken>,
    filter: SyncFilter,
    timeout: Duration,
) -> Result<Vec<u8>, Error> {
    let received = since.map(|since| (0, since.position));
    let lazy_loaded = (api.lazy_loaded_members).begin((session.device, None), received);
    let request = SyncRequest {
        user: session.user,
        user_id: session.user_id.clone(),
        device: session.device,
        filter,
        since,
        full_state: false,
        state_after: StateAfter::Stable,
        ignored: api.store.read(|s| ignored_users::load(s, session.user))?,
        invites: api
            .store
            .read(|s| invite_permissions::load(s, session.user))?,
        lazy_loaded,
    };
    let handler = api.sync_handler();
    let response = handler.sync(request, &PresenceState::Online, timeout);
    let mut pieces = response.await??;
    let mut json = Vec::new();
    while let Some(piece) = pieces.next().await {
        json.extend(piece?);
        if json.len() > MAX_BYTES {
            return Err(Error::new(
                ErrorKind::TooLarge,
                "there is too much for this deprecated endpoint; /sync has it",
            ));
        }
    }
    Ok(json)
}

fn parse(synced: &[u8]) -> Result<Synced, Error> {
    serde_json::from_slice(synced).map_err(|_| Error::Internal("a sync response that is no JSON"))
}
