//! The tags of rooms (client-server API, "Room Tagging").

use ruma::api::client::tag::{create_tag, delete_tag, get_tags};
use serde_json::json;

use super::config::check_own;
use crate::api::{Adapted, Api, Error, Session, Streamed, Unread};

/// `GET /_matrix/client/v3/user/{userId}/rooms/{roomId}/tags`
pub async fn get_tags(
    api: Api,
    session: Session,
    request: get_tags::v3::Request,
) -> Result<Streamed, Error> {
    check_own(&session, &request.user_id)?;
    let tags = api.users.tags(session.user, &request.room_id)?;
    Streamed::json(&json!({ "tags": tags }))
}

/// `PUT /_matrix/client/v3/user/{userId}/rooms/{roomId}/tags/{tag}`
pub async fn create_tag(
    api: Api,
    session: Session,
    Adapted {
        request,
        quirk: Unread(info),
    }: Adapted<create_tag::v3::Request, Unread>,
) -> Result<create_tag::v3::Response, Error> {
    check_own(&session, &request.user_id)?;
    let (room, tag) = (&request.room_id, request.tag);
    api.users.set_tag(session.user, room, tag, info).await?;
    Ok(create_tag::v3::Response::new())
}

/// `DELETE /_matrix/client/v3/user/{userId}/rooms/{roomId}/tags/{tag}`
pub async fn delete_tag(
    api: Api,
    session: Session,
    request: delete_tag::v3::Request,
) -> Result<delete_tag::v3::Response, Error> {
    check_own(&session, &request.user_id)?;
    let remove = api
        .users
        .remove_tag(session.user, &request.room_id, request.tag);
    remove.await?;
    Ok(delete_tag::v3::Response::new())
}
