//! Server administration (client-server API, "Server Administration").

use std::collections::BTreeMap;

use ruma::{
    UserId,
    api::client::admin::{
        get_user_info, is_user_locked, is_user_suspended, lock_user, suspend_user,
    },
    serde::JsonObject,
};
use serde_json::{Value, json};

use crate::{
    api::{Api, Error, Session, Streamed},
    store::records::Device,
    users::accounts::Restriction,
};

/// `GET /_matrix/client/v3/admin/whois/{userId}`: for the user and for administrators.
pub async fn get_user_info(
    api: Api,
    session: Session,
    request: get_user_info::v3::Request,
) -> Result<Streamed, Error> {
    let is_own = request.user_id == session.user_id;
    if !is_own && !api.users.is_admin(session.user)? {
        return Err(Error::forbidden(
            "only administrators of this server may see the sessions of others",
        ));
    }
    if !api.local.has(&request.user_id) {
        return Err(Error::invalid_param("user_id is not of this server"));
    }
    let account = api.users.account(&request.user_id)?;
    let (user, _) = account.ok_or_else(|| Error::not_found("there is no such user"))?;
    let devices = api.users.devices(user)?.into_iter();
    let devices: BTreeMap<String, Value> = devices
        .map(|(id, device)| (id.into(), info(device)))
        .collect();
    Streamed::json(&json!({ "user_id": request.user_id, "devices": devices }))
}

/// A device has one session, of which the last connection is known. ruma writes what is unknown as `null`.
fn info(device: Device) -> Value {
    let mut connection = JsonObject::new();
    if let Some(ip) = device.last_seen_ip {
        connection.insert("ip".to_owned(), ip.into());
    }
    if let Some(ts) = device.last_seen_ts {
        connection.insert("last_seen".to_owned(), ts.into());
    }
    json!({ "sessions": [{ "connections": [connection] }] })
}

/// `GET /_matrix/client/v1/admin/lock/{userId}`
pub async fn is_user_locked(
    api: Api,
    session: Session,
    request: is_user_locked::v1::Request,
) -> Result<is_user_locked::v1::Response, Error> {
    let moderation = api.users.moderation(session.user, &request.user_id)?;
    Ok(is_user_locked::v1::Response::new(moderation.locked))
}

/// `PUT /_matrix/client/v1/admin/lock/{userId}`
pub async fn lock_user(
    api: Api,
    session: Session,
    request: lock_user::v1::Request,
) -> Result<lock_user::v1::Response, Error> {
    let (user, locked) = (&request.user_id, request.locked);
    restrict(&api, &session, user, Restriction::Locked, locked).await?;
    Ok(lock_user::v1::Response::new(locked))
}

/// `GET /_matrix/client/v1/admin/suspend/{userId}`
pub async fn is_user_suspended(
    api: Api,
    session: Session,
    request: is_user_suspended::v1::Request,
) -> Result<is_user_suspended::v1::Response, Error> {
    let moderation = api.users.moderation(session.user, &request.user_id)?;
    Ok(is_user_suspended::v1::Response::new(moderation.suspended))
}

/// `PUT /_matrix/client/v1/admin/suspend/{userId}`
pub async fn suspend_user(
    api: Api,
    session: Session,
    request: suspend_user::v1::Request,
) -> Result<suspend_user::v1::Response, Error> {
    let (user, suspended) = (&request.user_id, request.suspended);
    restrict(&api, &session, user, Restriction::Suspended, suspended).await?;
    Ok(suspend_user::v1::Response::new(suspended))
}

async fn restrict(
    api: &Api,
    session: &Session,
    user: &UserId,
    restriction: Restriction,
    is_set: bool,
) -> Result<(), Error> {
    let restrict = api.users.restrict(session.user, user, restriction, is_set);
    restrict.await?;
    let change = if is_set { "is" } else { "is no longer" };
    let restriction = match restriction {
        Restriction::Locked => "locked",
        Restriction::Suspended => "suspended",
    };
    log::info!("{user} {change} {restriction} by {}", session.user_id);
    Ok(())
}
