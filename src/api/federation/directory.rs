//! The public room directory, for other servers (server-server API, "Published Room Directory").

use ruma::api::federation::directory::{get_public_rooms, get_public_rooms_filtered};

use crate::{
    api::{
        Api, Error, Origin, Streamed,
        directory::{page, with_join_rules},
    },
    rooms::directory::Audience,
};

/// `GET /_matrix/federation/v1/publicRooms`
pub async fn get_public_rooms(
    api: Api,
    _origin: Origin,
    request: get_public_rooms::v1::Request,
) -> Result<Streamed, Error> {
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
    with_join_rules(response, "chunk")
}

/// `POST /_matrix/federation/v1/publicRooms`
pub async fn get_public_rooms_filtered(
    api: Api,
    _origin: Origin,
    request: get_public_rooms_filtered::v1::Request,
) -> Result<Streamed, Error> {
    let page = page(&api, request, Audience::OtherServers).await?;
    with_join_rules(page, "chunk")
}
