//! What every client asks of every server, for things that this server does not have: the true answers
//! are empty, or an error that says so.

use std::collections::BTreeMap;

use ruma::api::client::{
    push::{get_notifications, get_pushers},
    thirdparty::get_protocols,
    voip::get_turn_server_info,
};
use serde_json::json;

use crate::api::{Api, Error, Session, Streamed};

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

/// `GET /_matrix/client/v3/thirdparty/protocols`
pub async fn get_protocols(
    _api: Api,
    _session: Session,
    _request: get_protocols::v3::Request,
) -> Result<get_protocols::v3::Response, Error> {
    Ok(get_protocols::v3::Response::new(BTreeMap::new()))
}

/// `GET /_matrix/client/v3/voip/turnServer`. NOTSPEC: `{}` where there is none, as Synapse answers.
pub async fn get_turn_server_info(
    _api: Api,
    _session: Session,
    _request: get_turn_server_info::v3::Request,
) -> Result<Streamed, Error> {
    Streamed::json(&json!({}))
}
