//! Account data (client-server API, "Client Config").

use ruma::{
    UserId,
    api::client::config::{
        get_global_account_data, get_room_account_data, set_global_account_data,
        set_room_account_data,
    },
    serde::Raw,
};

use crate::api::{Api, Error, Session};

/// `GET /_matrix/client/v3/user/{userId}/account_data/{type}`
pub async fn get_global_account_data(
    api: Api,
    session: Session,
    request: get_global_account_data::v3::Request,
) -> Result<get_global_account_data::v3::Response, Error> {
    check_own(&session, &request.user_id)?;
    let kind = request.event_type.to_string();
    let data = api.users.account_data(session.user, None, &kind)?;
    Ok(get_global_account_data::v3::Response::new(Raw::from_json(
        data,
    )))
}

/// `PUT /_matrix/client/v3/user/{userId}/account_data/{type}`
pub async fn set_global_account_data(
    api: Api,
    session: Session,
    request: set_global_account_data::v3::Request,
) -> Result<set_global_account_data::v3::Response, Error> {
    check_own(&session, &request.user_id)?;
    let (kind, data) = (request.event_type.to_string(), request.data.into_json());
    let set = api.users.set_account_data(session.user, None, kind, data);
    set.await?;
    Ok(set_global_account_data::v3::Response::new())
}

/// `GET /_matrix/client/v3/user/{userId}/rooms/{roomId}/account_data/{type}`
pub async fn get_room_account_data(
    api: Api,
    session: Session,
    request: get_room_account_data::v3::Request,
) -> Result<get_room_account_data::v3::Response, Error> {
    check_own(&session, &request.user_id)?;
    let kind = request.event_type.to_string();
    let room = Some(&*request.room_id);
    let data = api.users.account_data(session.user, room, &kind)?;
    Ok(get_room_account_data::v3::Response::new(Raw::from_json(
        data,
    )))
}

/// `PUT /_matrix/client/v3/user/{userId}/rooms/{roomId}/account_data/{type}`
pub async fn set_room_account_data(
    api: Api,
    session: Session,
    request: set_room_account_data::v3::Request,
) -> Result<set_room_account_data::v3::Response, Error> {
    check_own(&session, &request.user_id)?;
    let (kind, data) = (request.event_type.to_string(), request.data.into_json());
    let room = Some(&*request.room_id);
    let set = api.users.set_account_data(session.user, room, kind, data);
    set.await?;
    Ok(set_room_account_data::v3::Response::new())
}

/// Fails unless `user_id`, in the path, is the user of the session.
pub(super) fn check_own(session: &Session, user_id: &UserId) -> Result<(), Error> {
    if session.user_id == user_id {
        Ok(())
    } else {
        Err(Error::forbidden(format!(
            "userId must be {}, the user of the access token; found {user_id}",
            session.user_id
        )))
    }
}
