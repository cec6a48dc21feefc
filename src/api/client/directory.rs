//! The directory of published rooms (client-server API, "Published room directory").

use ruma::{
    ServerName, UInt,
    api::{
        IncomingRequest, Metadata,
        client::{
            directory::{
                get_public_rooms, get_public_rooms_filtered, get_room_visibility,
                set_room_visibility,
            },
            room::Visibility,
        },
        error::DeserializationError,
    },
    directory::{Filter, RoomNetwork},
    serde::JsonObject,
};

use crate::{
    api::{Anyone, Api, Error, Session},
    rooms::{self, directory, directory::Page},
};

/// `GET /_matrix/client/v3/directory/list/room/{roomId}`
pub async fn get_room_visibility(
    api: Api,
    _who: Anyone,
    request: get_room_visibility::v3::Request,
) -> Result<get_room_visibility::v3::Response, Error> {
    let listed = api.store.read(|s| {
        let room = rooms::num(s, &request.room_id)?;
        directory::is_listed(s, room)
    })?;
    let visibility = if listed {
        Visibility::Public
    } else {
        Visibility::Private
    };
    Ok(get_room_visibility::v3::Response::new(visibility))
}

/// A request to list a room or not. Without a visibility it is to be listed, which ruma's type
/// does not know.
#[derive(Debug)]
pub struct SetRoomVisibility(set_room_visibility::v3::Request);

impl Metadata for SetRoomVisibility {
    const METHOD: http::Method = set_room_visibility::v3::Request::METHOD;
    const RATE_LIMITED: bool = set_room_visibility::v3::Request::RATE_LIMITED;
    type Authentication = <set_room_visibility::v3::Request as Metadata>::Authentication;
    type PathBuilder = <set_room_visibility::v3::Request as Metadata>::PathBuilder;
    const PATH_BUILDER: Self::PathBuilder = set_room_visibility::v3::Request::PATH_BUILDER;
}

impl IncomingRequest for SetRoomVisibility {
    type EndpointError = <set_room_visibility::v3::Request as IncomingRequest>::EndpointError;
    type OutgoingResponse = set_room_visibility::v3::Response;

    fn try_from_http_request_inner(
        request: http::Request<&[u8]>,
        path_args: &[&str],
    ) -> Result<Self, DeserializationError> {
        let (parts, body) = request.into_parts();
        let body: &[u8] = if body.is_empty() { b"{}" } else { body };
        let mut body: JsonObject = serde_json::from_slice(body)?;
        body.entry("visibility")
            .or_insert_with(|| Visibility::Public.as_str().into());
        let body = serde_json::to_vec(&body)?;
        let request = http::Request::from_parts(parts, &*body);
        set_room_visibility::v3::Request::try_from_http_request_inner(request, path_args).map(Self)
    }
}

/// `PUT /_matrix/client/v3/directory/list/room/{roomId}`
pub async fn set_room_visibility(
    api: Api,
    who: Session,
    SetRoomVisibility(request): SetRoomVisibility,
) -> Result<set_room_visibility::v3::Response, Error> {
    let listed = match request.visibility {
        Visibility::Public => true,
        Visibility::Private => false,
        _ => return Err(Error::invalid_param("a visibility is public or private")),
    };
    let actor = api.actor(&who);
    let write = api.store.write(move |tx| {
        let room = rooms::num(tx, &request.room_id)?;
        directory::set_listed(tx, &actor, room, listed)
    });
    write.await?;
    Ok(set_room_visibility::v3::Response::new())
}

/// `GET /_matrix/client/v3/publicRooms`
pub async fn get_public_rooms(
    api: Api,
    _who: Anyone,
    request: get_public_rooms::v3::Request,
) -> Result<get_public_rooms::v3::Response, Error> {
    only_local(&api, request.server.as_deref())?;
    let page = page(&api, Filter::new(), request.since.as_deref(), request.limit).await?;
    let mut response = get_public_rooms::v3::Response::new(page.rooms);
    response.next_batch = page.next.map(|since| since.to_string());
    response.prev_batch = page.previous.map(|since| since.to_string());
    response.total_room_count_estimate = UInt::try_from(page.total).ok();
    Ok(response)
}

/// `POST /_matrix/client/v3/publicRooms`
pub async fn get_public_rooms_filtered(
    api: Api,
    _who: Session,
    request: get_public_rooms_filtered::v3::Request,
) -> Result<get_public_rooms_filtered::v3::Response, Error> {
    only_local(&api, request.server.as_deref())?;
    let mut response = get_public_rooms_filtered::v3::Response::new();
    if let RoomNetwork::ThirdParty(_) = request.room_network {
        // No other network is known here, so none of its rooms are.
        return Ok(response);
    }
    let page = page(
        &api,
        request.filter,
        request.since.as_deref(),
        request.limit,
    )
    .await?;
    response.chunk = page.rooms;
    response.next_batch = page.next.map(|since| since.to_string());
    response.prev_batch = page.previous.map(|since| since.to_string());
    response.total_room_count_estimate = UInt::try_from(page.total).ok();
    Ok(response)
}

fn only_local(api: &Api, server: Option<&ServerName>) -> Result<(), Error> {
    match server {
        Some(server) if server != api.local.server_name() => Err(Error::not_found(
            "this server does not ask others for their rooms",
        )),
        _ => Ok(()),
    }
}

async fn page(
    api: &Api,
    filter: Filter,
    since: Option<&str>,
    limit: Option<UInt>,
) -> Result<Page, Error> {
    let since = since.map(str::parse).transpose()?;
    let limit = limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let scan = api.store.scan("public rooms", move |s| {
        directory::page(s, &filter, since, limit)
    });
    Ok(scan.await?)
}
