//! The keys by which others check what this server signs.

use ruma::api::federation::discovery::get_server_keys;

use crate::api::{Anyone, Api, Error};

/// `GET /_matrix/key/v2/server`
pub async fn get_server_keys(
    api: Api,
    _who: Anyone,
    _request: get_server_keys::v2::Request,
) -> Result<get_server_keys::v2::Response, Error> {
    let keys = api.federation.published_keys()?;
    Ok(get_server_keys::v2::Response::new(keys))
}
