//! What another server reads of the rooms that it shares with this one.

use ruma::{
    EventId, OwnedEventId, RoomId, UInt,
    api::federation::{
        authorization::get_event_authorization,
        backfill::get_backfill,
        event::{get_event, get_missing_events, get_room_state, get_room_state_ids},
    },
};
use serde_json::value::RawValue;

use super::pieces::Pieces;
use crate::{
    api::{Api, Error, Origin, Streamed},
    rooms::{
        self,
        event::{
            self,
            graph::{self, Authorized},
        },
        room,
        state::server_acl,
        timeline::server_history_visibility,
    },
    store::{EventNum, Reader, RoomNum},
};

/// How many events one answer has at most.
const EVENTS: usize = 100;
/// How many events one may ask about at once.
const ASKED: usize = 100;

/// `GET /_matrix/federation/v1/event/{eventId}`
pub async fn get_event(
    api: Api,
    who: Origin,
    request: get_event::v1::Request,
) -> Result<get_event::v1::Response, Error> {
    let pdu = api
        .store
        .scan("an event for another server", move |s| {
            let num = event::num_of(s, &request.event_id)?.ok_or(NO_EVENT)?;
            let room = event::header(s, num)?.room;
            server_acl::shared_with(s, &room::id(s, room)?, &who.server)?;
            let mut shown = server_history_visibility::visible_json(s, room, &who.server, [num])?;
            raw(shown.pop().unwrap_or_default())
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
    who: Origin,
    request: get_backfill::v1::Request,
) -> Result<get_backfill::v1::Response, Error> {
    let limit = most(request.limit);
    few(&request.v)?;
    let pdus = api
        .store
        .scan("history for another server", move |s| {
            let room = server_acl::shared_with(s, &request.room_id, &who.server)?;
            let nums = graph::backwards(s, room, &request.v, limit)?;
            shown(s, room, &who, nums)
        })
        .await?;
    let server = api.local.server_name().to_owned();
    Ok(get_backfill::v1::Response::new(
        server,
        api.clock.timestamp(),
        pdus,
    ))
}

/// `POST /_matrix/federation/v1/get_missing_events/{roomId}`
pub async fn get_missing_events(
    api: Api,
    who: Origin,
    request: get_missing_events::v1::Request,
) -> Result<get_missing_events::v1::Response, Error> {
    few(&request.earliest_events)?;
    few(&request.latest_events)?;
    let events = api
        .store
        .scan("missing events for another server", move |s| {
            let room = server_acl::shared_with(s, &request.room_id, &who.server)?;
            let ends = (&*request.earliest_events, &*request.latest_events);
            let depth = request.min_depth.into();
            let nums = graph::between(s, room, ends, depth, most(request.limit))?;
            shown(s, room, &who, nums)
        })
        .await?;
    Ok(get_missing_events::v1::Response::new(events))
}

/// `GET /_matrix/federation/v1/state_ids/{roomId}`
pub async fn get_room_state_ids(
    api: Api,
    who: Origin,
    request: get_room_state_ids::v1::Request,
) -> Result<get_room_state_ids::v1::Response, Error> {
    let (auth_chain, pdus) = api
        .store
        .scan("the ids of a state for another server", move |s| {
            let (room, event) = shared_event(s, &who, (&request.room_id, &request.event_id))?;
            let told = before(s, room, event)?;
            Ok::<_, rooms::Error>((ids(s, &told.auth_chain)?, ids(s, &told.state)?))
        })
        .await?;
    Ok(get_room_state_ids::v1::Response::new(auth_chain, pdus))
}

/// `GET /_matrix/federation/v1/state/{roomId}`
pub async fn get_room_state(
    api: Api,
    who: Origin,
    request: get_room_state::v1::Request,
) -> Result<Streamed, Error> {
    let told = api
        .store
        .scan("a state for another server", move |s| {
            let (room, event) = shared_event(s, &who, (&request.room_id, &request.event_id))?;
            before(s, room, event)
        })
        .await?;
    Ok(Pieces::default()
        .text(r#"{"pdus":"#)
        .events(told.state)
        .text(r#","auth_chain":"#)
        .events(told.auth_chain)
        .text("}")
        .streamed(&api.store))
}

/// `GET /_matrix/federation/v1/event_auth/{roomId}/{eventId}`
pub async fn get_event_authorization(
    api: Api,
    who: Origin,
    request: get_event_authorization::v1::Request,
) -> Result<Streamed, Error> {
    let chain = api
        .store
        .scan("an auth chain for another server", move |s| {
            let (room, event) = shared_event(s, &who, (&request.room_id, &request.event_id))?;
            graph::auth_chain(s, room, [event])
        })
        .await?;
    Ok(Pieces::default()
        .text(r#"{"auth_chain":"#)
        .events(chain.into_iter().collect())
        .text("}")
        .streamed(&api.store))
}

const NO_EVENT: rooms::Error = rooms::Error::NotFound("this server does not have that event");

/// The event, and its room, of which `who` is.
fn shared_event(
    r: &impl Reader,
    who: &Origin,
    (room, event): (&RoomId, &EventId),
) -> Result<(RoomNum, EventNum), rooms::Error> {
    let room = server_acl::shared_with(r, room, &who.server)?;
    let num = event::num_in(r, room, event)?.ok_or(NO_EVENT)?;
    if event::header(r, num)?.status.is_outlier() {
        return Err(NO_EVENT);
    }
    Ok((room, num))
}

fn before(r: &impl Reader, room: RoomNum, num: EventNum) -> Result<Authorized, rooms::Error> {
    Authorized::state(r, room, event::header(r, num)?.state_before)
}

fn shown(
    r: &impl Reader,
    room: RoomNum,
    who: &Origin,
    nums: Vec<EventNum>,
) -> Result<Vec<Box<RawValue>>, rooms::Error> {
    let shown = server_history_visibility::visible_json(r, room, &who.server, nums)?;
    shown.into_iter().map(raw).collect()
}

pub(super) fn raw(json: Vec<u8>) -> Result<Box<RawValue>, rooms::Error> {
    let corrupt = || rooms::Error::not_serializable("an event");
    let json = String::from_utf8(json).map_err(|_| corrupt())?;
    RawValue::from_string(json).map_err(|_| corrupt())
}

fn ids(r: &impl Reader, nums: &[EventNum]) -> Result<Vec<OwnedEventId>, rooms::Error> {
    nums.iter().map(|num| event::id(r, *num)).collect()
}

fn most(limit: UInt) -> usize {
    usize::try_from(u64::from(limit)).map_or(EVENTS, |limit| limit.min(EVENTS))
}

fn few(asked: &[OwnedEventId]) -> Result<(), Error> {
    if asked.len() > ASKED {
        return Err(Error::invalid_param("that are too many events at once"));
    }
    Ok(())
}
