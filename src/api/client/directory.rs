//! The public room directory (client-server API, "Published room directory").

use std::{borrow::Cow, time::Duration};

use ruma::{
    OwnedServerName, UInt,
    api::{
        client::{
            directory::{
                get_public_rooms, get_public_rooms_filtered, get_room_visibility,
                set_room_visibility,
            },
            room::Visibility,
        },
        error::DeserializationError,
        federation::directory::get_public_rooms_filtered as federation_directory,
    },
};

use crate::{
    api::{
        Adapted, Api, Error, Quirk, Session, Streamed, Unauthenticated,
        adapted::edit_body,
        directory::{page as own_page, with_join_rules},
    },
    federation::Limits,
    rooms::{
        directory::{self, Audience},
        room,
    },
};

/// Of requests to the directory of another server.
const LIMITS: Limits = Limits {
    timeout: Duration::from_secs(20),
    max_bytes: 1024 * 1024,
};

/// `GET /_matrix/client/v3/directory/list/room/{roomId}`
pub async fn get_room_visibility(
    api: Api,
    _client: Unauthenticated,
    request: get_room_visibility::v3::Request,
) -> Result<get_room_visibility::v3::Response, Error> {
    let listed = api.store.read(|s| {
        let room = room::num(s, &request.room_id)?;
        directory::is_listed(s, room)
    })?;
    let visibility = if listed {
        Visibility::Public
    } else {
        Visibility::Private
    };
    Ok(get_room_visibility::v3::Response::new(visibility))
}

/// `visibility` is optional and `public` by default; ruma requires it.
#[derive(Debug)]
pub struct DefaultVisibility;

impl Quirk for DefaultVisibility {
    fn apply(
        request: &mut http::Request<Cow<'_, [u8]>>,
        _path_arguments: &[&str],
    ) -> Result<Self, DeserializationError> {
        edit_body(request, |body| {
            body.entry("visibility")
                .or_insert_with(|| Visibility::Public.as_str().into());
        })?;
        Ok(Self)
    }
}

/// `PUT /_matrix/client/v3/directory/list/room/{roomId}`
pub async fn set_room_visibility(
    api: Api,
    session: Session,
    Adapted { request, .. }: Adapted<set_room_visibility::v3::Request, DefaultVisibility>,
) -> Result<set_room_visibility::v3::Response, Error> {
    let listed = match request.visibility {
        Visibility::Public => true,
        Visibility::Private => false,
        _ => return Err(Error::invalid_param("visibility must be public or private")),
    };
    let actor = api.actor(&session);
    let write = api.store.write(move |tx| {
        let room = room::num(tx, &request.room_id)?;
        directory::set_listed(tx, &actor, room, listed)
    });
    write.await?;
    Ok(set_room_visibility::v3::Response::new())
}

/// `GET /_matrix/client/v3/publicRooms`
pub async fn get_public_rooms(
    api: Api,
    client: Unauthenticated,
    request: get_public_rooms::v3::Request,
) -> Result<Streamed, Error> {
    let _permit = match request.server {
        Some(_) => Some(api.remote_lookup_permit(client).await?),
        None => None,
    };
    let mut own_request = federation_directory::v1::Request::new();
    own_request.limit = request.limit;
    own_request.since = request.since;
    let page = page(&api, request.server, own_request).await?;
    let mut response = get_public_rooms::v3::Response::new(page.chunk);
    response.next_batch = page.next_batch;
    response.prev_batch = page.prev_batch;
    response.total_room_count_estimate = page.total_room_count_estimate;
    with_join_rules(response, "chunk")
}

/// `POST /_matrix/client/v3/publicRooms`
pub async fn get_public_rooms_filtered(
    api: Api,
    session: Session,
    request: get_public_rooms_filtered::v3::Request,
) -> Result<Streamed, Error> {
    let _permit = match request.server {
        Some(_) => Some(api.user_lookup_permit(session.user).await?),
        None => None,
    };
    let mut own_request = federation_directory::v1::Request::new();
    own_request.limit = request.limit;
    own_request.since = request.since;
    own_request.filter = request.filter;
    own_request.room_network = request.room_network;
    let page = page(&api, request.server, own_request).await?;
    let mut response = get_public_rooms_filtered::v3::Response::new();
    response.chunk = page.chunk;
    response.next_batch = page.next_batch;
    response.prev_batch = page.prev_batch;
    response.total_room_count_estimate = page.total_room_count_estimate;
    with_join_rules(response, "chunk")
}

/// A page of the directory of this server, or of `server`.
async fn page(
    api: &Api,
    server: Option<OwnedServerName>,
    mut request: federation_directory::v1::Request,
) -> Result<federation_directory::v1::Response, Error> {
    let other = server.filter(|server| server != api.local.server_name());
    let Some(other) = other else {
        return own_page(api, request, Audience::Users).await;
    };
    let max = UInt::from(directory::MAX_PAGE_SIZE);
    request.limit = Some(request.limit.map_or(max, |limit| limit.min(max)));
    let page = api
        .federation
        .client()
        .send_with_limits(&other, request, LIMITS);
    Ok(page.await?)
}
