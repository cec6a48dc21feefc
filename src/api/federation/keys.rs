//! The signing keys of this server, and as a notary those of others (server-server API, "Retrieving server
//! keys"). Requests need no signature.

use std::collections::BTreeMap;

use ruma::api::federation::discovery::{
    get_remote_server_keys, get_remote_server_keys_batch, get_server_keys,
};

use crate::{
    api::{Api, Error, Unauthenticated},
    federation::keys::{Query, WantedKey},
    rates::site,
};

/// `GET /_matrix/key/v2/server`
pub async fn get_server_keys(
    api: Api,
    _client: Unauthenticated,
    _request: get_server_keys::v2::Request,
) -> Result<get_server_keys::v2::Response, Error> {
    let keys = api.federation.published_keys()?;
    Ok(get_server_keys::v2::Response::new(keys))
}

/// `GET /_matrix/key/v2/query/{serverName}`
pub async fn get_remote_server_keys(
    api: Api,
    client: Unauthenticated,
    request: get_remote_server_keys::v2::Request,
) -> Result<get_remote_server_keys::v2::Response, Error> {
    let at = u64::from(request.minimum_valid_until_ts.get());
    let wanted = BTreeMap::from([(request.server_name, Query::ValidAt(at))]);
    let keys = api
        .federation
        .notarized_keys(wanted, site(client.address))
        .await?;
    Ok(get_remote_server_keys::v2::Response::new(keys))
}

/// `POST /_matrix/key/v2/query`
pub async fn get_remote_server_keys_batch(
    api: Api,
    client: Unauthenticated,
    request: get_remote_server_keys_batch::v2::Request,
) -> Result<get_remote_server_keys_batch::v2::Response, Error> {
    let now = api.clock.now_ms();
    let servers = request.server_keys.into_iter();
    let wanted = servers.map(|(server, keys)| {
        let keys = keys.into_iter().map(|(id, criteria)| {
            let ts = criteria.minimum_valid_until_ts;
            WantedKey {
                id: id.to_string(),
                valid_at_ts: ts.map_or(now, |ts| u64::from(ts.get())),
            }
        });
        let keys: Vec<_> = keys.collect();
        let query = if keys.is_empty() {
            Query::ValidAt(now)
        } else {
            Query::These(keys)
        };
        (server, query)
    });
    let keys = api
        .federation
        .notarized_keys(wanted.collect(), site(client.address))
        .await?;
    Ok(get_remote_server_keys_batch::v2::Response::new(keys))
}
