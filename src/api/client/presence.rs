//! Presence (client-server API, "Presence").

use std::time::Duration;

use ruma::{
    api::client::presence::{get_presence, set_presence},
    presence::PresenceState,
};

use super::config::check_own;
use crate::{
    api::{Api, Error, Session},
    rooms::servers::shared_rooms,
    users,
};

const MAX_STATUS_MSG_BYTES: usize = 1024;

/// `PUT /_matrix/client/v3/presence/{userId}/status`
pub async fn set_presence(
    api: Api,
    session: Session,
    request: set_presence::v3::Request,
) -> Result<set_presence::v3::Response, Error> {
    check_own(&session, &request.user_id)?;
    let known = matches!(
        request.presence,
        PresenceState::Online | PresenceState::Unavailable | PresenceState::Offline
    );
    if !known {
        return Err(Error::invalid_param(
            "presence must be online, unavailable or offline",
        ));
    }
    let status_msg = request.status_msg.filter(|message| !message.is_empty());
    if status_msg
        .as_ref()
        .is_some_and(|message| message.len() > MAX_STATUS_MSG_BYTES)
    {
        return Err(Error::invalid_param(
            "status_msg must have at most 1024 bytes",
        ));
    }
    let now = api.clock.now_ms();
    let state = request.presence;
    if api
        .presence
        .set(session.user, session.device, state, status_msg, now)
    {
        api.sync_handler().presence_changed(vec![session.user]);
    }
    Ok(set_presence::v3::Response::new())
}

/// `GET /_matrix/client/v3/presence/{userId}/status`
pub async fn get_presence(
    api: Api,
    session: Session,
    request: get_presence::v3::Request,
) -> Result<get_presence::v3::Response, Error> {
    // Grows with the rooms of the session's user.
    let scan = api.store.scan("a shared room", move |s| {
        let user = users::num_of(s, &request.user_id)?;
        let shared = user == Some(session.user)
            || shared_rooms::share_a_room(s, session.user, &request.user_id)?;
        Ok::<_, Error>(user.filter(|_| shared))
    });
    let user = scan.await?;
    let user = user.ok_or_else(|| Error::forbidden("you share no room with the user"))?;
    let now = api.clock.now_ms();
    let expired = api.presence.expire(now);
    api.sync_handler().presence_changed(expired);
    let Some(of) = api.presence.get(user) else {
        return Ok(get_presence::v3::Response::new(PresenceState::Offline));
    };
    let mut response = get_presence::v3::Response::new(of.state.clone());
    response.currently_active = Some(of.currently_active(now));
    response.last_active_ago = Some(Duration::from_millis(now.saturating_sub(of.last_active_ts)));
    response.status_msg = of.status_msg;
    Ok(response)
}
