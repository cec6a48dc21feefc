//! What every client asks of every server, for things that this server does not have: the true answers
//! are empty, or an error that says so.

use ruma::api::client::push::{get_notifications, get_pushers};

use crate::api::{Api, Error, Session};

/// `GET /_matrix/client/v3/pushers`
pub async fn get_pushers(
    _api: Api,
    _session: Session,
    _request: get_pushers::v3::Request,
) -> Result<get_pushers::v3::Response, Error> {
    Ok(get_pushers::v3::Response::new(Vec::new()))
}

/// `GET /_matrix/client/v3/notifications`
pub async fn get_notifications(
    _api: Api,
    _session: Session,
    _request: get_notifications::v3::Request,
) -> Result<get_notifications::v3::Response, Error> {
    Ok(get_notifications::v3::Response::new(Vec::new()))
}
