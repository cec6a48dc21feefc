//! The server version (server-server API, "Server discovery").

use ruma::api::federation::discovery::get_server_version;

use crate::api::{Api, Error, Unauthenticated};

/// `GET /_matrix/federation/v1/version`
pub async fn get_server_version(
    _api: Api,
    _client: Unauthenticated,
    _request: get_server_version::v1::Request,
) -> Result<get_server_version::v1::Response, Error> {
    let mut server = get_server_version::v1::Server::new();
    server.name = Some(env!("CARGO_PKG_NAME").to_owned());
    server.version = Some(env!("CARGO_PKG_VERSION").to_owned());
    let mut answer = get_server_version::v1::Response::new();
    answer.server = Some(server);
    Ok(answer)
}
