//! The public room directory of this server, for clients and for other servers.

use ruma::{
    UInt,
    api::{OutgoingResponse, federation::directory::get_public_rooms_filtered},
    directory::RoomNetwork,
    serde::JsonObject,
};
use serde_json::Value;

use super::{Api, Error, Streamed};
use crate::rooms::directory::{self, Audience, DirectoryQuery};

/// A response with a list of rooms in `list`. ruma leaves out the default join rule, which clients and
/// other servers want to read.
pub(super) fn with_join_rules(
    response: impl OutgoingResponse,
    list: &str,
) -> Result<Streamed, Error> {
    Streamed::edited(response, |body| {
        let rooms = body.get_mut(list).and_then(Value::as_array_mut);
        let rooms = rooms.into_iter().flatten();
        rooms
            .filter_map(Value::as_object_mut)
            .for_each(add_join_rule);
    })
}

/// Adds the default join rule to the summary of a room that has none.
pub(super) fn add_join_rule(room: &mut JsonObject) {
    room.entry("join_rule").or_insert("public".into());
}

/// A page of this server's directory.
pub(super) async fn page(
    api: &Api,
    request: get_public_rooms_filtered::v1::Request,
    audience: Audience,
) -> Result<get_public_rooms_filtered::v1::Response, Error> {
    let mut response = get_public_rooms_filtered::v1::Response::new();
    if let RoomNetwork::ThirdParty(_) = request.room_network {
        // No third-party network is bridged.
        return Ok(response);
    }
    let query = DirectoryQuery {
        filter: request.filter,
        since: request.since.as_deref().map(str::parse).transpose()?,
        limit: request
            .limit
            .map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
        audience,
    };
    let scan = api
        .store
        .scan("public rooms", move |s| directory::page(s, &query));
    let page = scan.await?;
    response.chunk = page.rooms;
    response.next_batch = page.next.map(|since| since.to_string());
    response.prev_batch = page.previous.map(|since| since.to_string());
    response.total_room_count_estimate = UInt::try_from(page.total).ok();
    Ok(response)
}
