//! The rooms that a user shares with another (client-server API, "Mutual rooms").

use ruma::{OwnedRoomId, OwnedUserId, UInt, api::client::membership::get_mutual_rooms};

use crate::{
    api::{Api, Error, Session},
    rooms::{self, room, servers::shared_rooms},
    store::{RoomNum, Snapshot},
};

const MAX_PAGE: usize = 200;

struct Page {
    count: UInt,
    rooms: Vec<OwnedRoomId>,
    next: Option<RoomNum>,
}

/// `GET /_matrix/client/v1/mutual_rooms`
pub async fn get_mutual_rooms(
    api: Api,
    session: Session,
    request: get_mutual_rooms::v1::Request,
) -> Result<get_mutual_rooms::v1::Response, Error> {
    let page = page(&api, session, request.user_id, request.from).await?;
    let mut response = get_mutual_rooms::v1::Response::new(page.count, page.rooms);
    response.next_batch = page.next.map(|room| room.0.to_string());
    Ok(response)
}

/// `GET /_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms`
pub async fn get_mutual_rooms_unstable(
    api: Api,
    session: Session,
    request: get_mutual_rooms::unstable::Request,
) -> Result<get_mutual_rooms::unstable::Response, Error> {
    let page = page(&api, session, request.user_id, request.from).await?;
    let mut response = get_mutual_rooms::unstable::Response::new(page.rooms);
    response.next_batch = page.next.map(|room| room.0.to_string());
    Ok(response)
}

async fn page(
    api: &Api,
    session: Session,
    other: OwnedUserId,
    from: Option<String>,
) -> Result<Page, Error> {
    if other == session.user_id || other.validate_historical().is_err() {
        return Err(Error::invalid_param(
            "user_id must be the id of another user",
        ));
    }
    let from = from.map(|from| from.parse().map(RoomNum));
    let from = from
        .transpose()
        .map_err(|_| Error::invalid_param("from is not a token of this endpoint"))?;
    let read = move |s: &Snapshot| {
        let mutual = shared_rooms::mutual_rooms(s, session.user, &other)?;
        let count = UInt::new_saturating(mutual.len() as u64);
        let start = from.map_or(0, |from| mutual.partition_point(|room| *room < from));
        let end = mutual.len().min(start + MAX_PAGE);
        let rooms = mutual[start..end].iter().map(|num| room::id(s, *num));
        Ok::<_, rooms::Error>(Page {
            count,
            rooms: rooms.collect::<Result<_, _>>()?,
            next: mutual.get(end).copied(),
        })
    };
    Ok(api.store.scan("mutual rooms", read).await?)
}
