//! The public room directory of this server, for clients and for other servers.

use ruma::{UInt, api::federation::directory::get_public_rooms_filtered, directory::RoomNetwork};

use super::{Api, Error};
use crate::rooms::directory::{self, Audience, DirectoryQuery};

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
