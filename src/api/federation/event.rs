//! Events and state of shared rooms, for other servers (server-server API, "Backfilling and retrieving
//! missing events", "Retrieving events" and "PDUs").

use ruma::{
    EventId, OwnedEventId, RoomId, UInt,
    api::federation::{
        authorization::get_event_authorization,
        backfill::get_backfill,
        event::{get_event, get_missing_events, get_room_state, get_room_state_ids},
    },
};
use serde_json::{json, value::RawValue};

use crate::{
    api::{Api, Error, EventStream, Origin, Streamed},
    rooms::{
        self,
        event::{
            self,
            graph::{self, StateWithAuthChain},
        },
        room,
        servers::server_acl::ServerAcls,
        timeline::server_history_visibility::{self, ServerVisibility},
    },
    store::{EventNum, RoomNum, Snapshot},
};

/// The most events of a response, whatever its `limit`.
const MAX_EVENTS: usize = 100;
/// The most event ids of a request.
const MAX_EVENT_IDS: usize = 100;

/// `GET /_matrix/federation/v1/event/{eventId}`
pub async fn get_event(
    api: Api,
    origin: Origin,
    request: get_event::v1::Request,
) -> Result<get_event::v1::Response, Error> {
    let server_acls = api.federation.server_acls().clone();
    let pdu = api
        .store
        .scan("an event for another server", move |s| {
            let num = event::num_of(s, &request.event_id)?.ok_or(NO_EVENT)?;
            let room = event::header(s, num)?.room;
            server_acls.shared_with(s, &room::id(s, room)?, &origin.server)?;
            let mut visible =
                server_history_visibility::visible_json(s, room, &origin.server, [num])?;
            raw(visible.pop().unwrap_or_default())
        })
        .await?;
    let server = api.local.server_name().to_owned();
    Ok(get_event::v1::Response::new(
        server,
        api.clock.timestamp(),
        pdu,
    ))
}

/// `GET /_matrix/federation/v1/backfill/{roomId}`
pub async fn get_backfill(
    api: Api,
    origin: Origin,
    request: get_backfill::v1::Request,
) -> Result<Streamed, Error> {
    let limit = capped(request.limit);
    check_count(&request.v)?;
    let server_acls = api.federation.server_acls().clone();
    let (visibility, nums) = api
        .store
        .scan("history for another server", move |s| {
            let room = server_acls.shared_with(s, &request.room_id, &origin.server)?;
            let nums = graph::backwards(s, room, &request.v, limit)?;
            Ok::<_, rooms::Error>((ServerVisibility::new(s, room, &origin.server)?, nums))
        })
        .await?;
    let others = json!({
        "origin": api.local.server_name(),
        "origin_server_ts": api.clock.timestamp(),
    });
    let response = EventStream::default()
        .text(r#"{"pdus":"#)
        .events(nums)
        .text(others.to_string().replacen('{', ",", 1));
    response
        .formatted(&api.store, visible_json(visibility))
        .await
}

/// `POST /_matrix/federation/v1/get_missing_events/{roomId}`
pub async fn get_missing_events(
    api: Api,
    origin: Origin,
    request: get_missing_events::v1::Request,
) -> Result<Streamed, Error> {
    check_count(&request.earliest_events)?;
    check_count(&request.latest_events)?;
    let server_acls = api.federation.server_acls().clone();
    let (visibility, nums) = api
        .store
        .scan("missing events for another server", move |s| {
            let room = server_acls.shared_with(s, &request.room_id, &origin.server)?;
            let (earliest, latest) = (&request.earliest_events, &request.latest_events);
            let depth = request.min_depth.into();
            let nums = graph::between(s, room, earliest, latest, depth, capped(request.limit))?;
            Ok::<_, rooms::Error>((ServerVisibility::new(s, room, &origin.server)?, nums))
        })
        .await?;
    let response = EventStream::default().events(nums);
    response
        .enclosed(r#"{"events":"#, "}")
        .formatted(&api.store, visible_json(visibility))
        .await
}

/// `GET /_matrix/federation/v1/state_ids/{roomId}`
pub async fn get_room_state_ids(
    api: Api,
    origin: Origin,
    request: get_room_state_ids::v1::Request,
) -> Result<Streamed, Error> {
    let state = api
        .store
        .scan("the ids of a state for another server", {
            let server_acls = api.federation.server_acls().clone();
            move |s| {
                state_before(
                    s,
                    &server_acls,
                    &origin,
                    &request.room_id,
                    &request.event_id,
                )
            }
        })
        .await?;
    let id = |s: &_, num| Ok(Some(json!(event::id(s, num)?).to_string().into()));
    EventStream::default()
        .text(r#"{"pdu_ids":"#)
        .events(state.state)
        .text(r#","auth_chain_ids":"#)
        .events(state.auth_chain)
        .text("}")
        .formatted(&api.store, id)
        .await
}

/// `GET /_matrix/federation/v1/state/{roomId}`
pub async fn get_room_state(
    api: Api,
    origin: Origin,
    request: get_room_state::v1::Request,
) -> Result<Streamed, Error> {
    let server_acls = api.federation.server_acls().clone();
    let state = api
        .store
        .scan("a state for another server", move |s| {
            state_before(
                s,
                &server_acls,
                &origin,
                &request.room_id,
                &request.event_id,
            )
        })
        .await?;
    EventStream::default()
        .text(r#"{"pdus":"#)
        .events(state.state)
        .text(r#","auth_chain":"#)
        .events(state.auth_chain)
        .text("}")
        .into_response(&api.store)
        .await
}

/// `GET /_matrix/federation/v1/event_auth/{roomId}/{eventId}`
pub async fn get_event_authorization(
    api: Api,
    origin: Origin,
    request: get_event_authorization::v1::Request,
) -> Result<Streamed, Error> {
    let server_acls = api.federation.server_acls().clone();
    let chain = api
        .store
        .scan("an auth chain for another server", move |s| {
            let (room, event) = shared_event(
                s,
                &server_acls,
                &origin,
                &request.room_id,
                &request.event_id,
            )?;
            graph::auth_chain(s, room, [event])
        })
        .await?;
    EventStream::default()
        .text(r#"{"auth_chain":"#)
        .events(chain.into_iter().collect())
        .text("}")
        .into_response(&api.store)
        .await
}

const NO_EVENT: rooms::Error = rooms::Error::NotFound("this server does not have the event");

/// The event and its room, which must be shared with `origin`.
fn shared_event(
    s: &Snapshot,
    server_acls: &ServerAcls,
    origin: &Origin,
    room: &RoomId,
    event: &EventId,
) -> Result<(RoomNum, EventNum), rooms::Error> {
    let room = server_acls.shared_with(s, room, &origin.server)?;
    let num = event::num_in(s, room, event)?.ok_or(NO_EVENT)?;
    if event::header(s, num)?.status.is_outlier() {
        return Err(NO_EVENT);
    }
    Ok((room, num))
}

/// The state before an event of a room that is shared with `origin`.
fn state_before(
    s: &Snapshot,
    server_acls: &ServerAcls,
    origin: &Origin,
    room: &RoomId,
    event: &EventId,
) -> Result<StateWithAuthChain, rooms::Error> {
    let room = server_acls.shared_with(s, room, &origin.server)?;
    StateWithAuthChain::before(s, room, event)?.ok_or(NO_EVENT)
}

/// Formats events for a server: those that it may not see are redacted.
fn visible_json(
    mut visibility: ServerVisibility,
) -> impl FnMut(&Snapshot, EventNum) -> Result<Option<Vec<u8>>, rooms::Error> + Send + 'static {
    move |s, num| visibility.visible_json(s, event::load(s, num)?).map(Some)
}

pub(super) fn raw(json: Vec<u8>) -> Result<Box<RawValue>, rooms::Error> {
    let corrupt = || rooms::Error::not_serializable("an event");
    let json = String::from_utf8(json).map_err(|_| corrupt())?;
    RawValue::from_string(json).map_err(|_| corrupt())
}

fn capped(limit: UInt) -> usize {
    usize::try_from(u64::from(limit)).map_or(MAX_EVENTS, |limit| limit.min(MAX_EVENTS))
}

fn check_count(event_ids: &[OwnedEventId]) -> Result<(), Error> {
    if event_ids.len() > MAX_EVENT_IDS {
        return Err(Error::invalid_param(format!(
            "a request may have at most {MAX_EVENT_IDS} event ids in one field, found {}",
            event_ids.len()
        )));
    }
    Ok(())
}
