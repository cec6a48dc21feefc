//! The public room directory, for other servers (server-server API, "Published Room Directory").

use ruma::{
    UInt,
    api::federation::directory::{get_public_rooms, get_public_rooms_filtered},
    directory::RoomNetwork,
};

use crate::{
    api::{Api, Error, Origin},
    rooms::directory::{self, Audience, DirectoryQuery},
};

/// `GET /_matrix/federation/v1/publicRooms`
pub async fn get_public_rooms(
    api: Api,
    _origin: Origin,
    request: get_public_rooms::v1::Request,
) -> Result<get_public_rooms::v1::Response, Error> {
    let mut query = get_public_rooms_filtered::v1::Request::new();
    query.limit = request.limit;
    query.since = request.since;
    query.room_network = request.room_network;
    let page = page(&api, query, Audience::OtherServers).await?;
    let mut response = get_public_rooms::v1::Response::new();
    response.chunk = page.chunk;
    response.next_batch = page.next_batch;
    response.prev_batch = page.prev_batch;
    response.total_room_count_estimate = page.total_room_count_estimate;
    Ok(response)
}

/// `POST /_matrix/federation/v1/publicRooms`
pub async fn get_public_rooms_filtered(
    api: Api,
    _origin: Origin,
    request: get_public_rooms_filtered::v1::Request,
) -> Result<get_public_rooms_filtered::v1::Response, Error> {
    page(&api, request, Audience::OtherServers).await
}

/// A page of this server's directory.
pub(in crate::api) async fn page(
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
