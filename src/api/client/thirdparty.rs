//! Third-party networks (client-server API, "Third-party Lookups"). hearth has no application services, so no
//! network is connected, and nobody on one can be found.

use std::collections::BTreeMap;

use ruma::api::client::thirdparty::{
    get_location_for_protocol, get_location_for_room_alias, get_protocol, get_protocols,
    get_user_for_protocol, get_user_for_user_id,
};

use crate::api::{Api, Error, Session};

/// `GET /_matrix/client/v3/thirdparty/protocols`
pub async fn get_protocols(
    _api: Api,
    _session: Session,
    _request: get_protocols::v3::Request,
) -> Result<get_protocols::v3::Response, Error> {
    Ok(get_protocols::v3::Response::new(BTreeMap::new()))
}

/// `GET /_matrix/client/v3/thirdparty/location/{protocol}`
pub async fn get_location_for_protocol(
    _api: Api,
    _session: Session,
    _request: get_location_for_protocol::v3::Request,
) -> Result<get_location_for_protocol::v3::Response, Error> {
    Err(no_network())
}

/// `GET /_matrix/client/v3/thirdparty/location`
pub async fn get_location_for_room_alias(
    _api: Api,
    _session: Session,
    _request: get_location_for_room_alias::v3::Request,
) -> Result<get_location_for_room_alias::v3::Response, Error> {
    Err(no_network())
}

/// `GET /_matrix/client/v3/thirdparty/protocol/{protocol}`
pub async fn get_protocol(
    _api: Api,
    _session: Session,
    _request: get_protocol::v3::Request,
) -> Result<get_protocol::v3::Response, Error> {
    Err(no_network())
}

/// `GET /_matrix/client/v3/thirdparty/user/{protocol}`
pub async fn get_user_for_protocol(
    _api: Api,
    _session: Session,
    _request: get_user_for_protocol::v3::Request,
) -> Result<get_user_for_protocol::v3::Response, Error> {
    Err(no_network())
}

/// `GET /_matrix/client/v3/thirdparty/user`
pub async fn get_user_for_user_id(
    _api: Api,
    _session: Session,
    _request: get_user_for_user_id::v3::Request,
) -> Result<get_user_for_user_id::v3::Response, Error> {
    Err(no_network())
}

fn no_network() -> Error {
    Error::not_found("this server is not connected to other networks")
}
