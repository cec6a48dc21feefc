//! Changes of device lists (client-server API, "Tracking the device list for a user").

use ruma::api::client::keys::get_key_changes;

use crate::{
    api::{Api, Error, Session},
    rooms,
    sync::{DeviceListQuery, SyncToken, device_lists},
};

/// `GET /_matrix/client/v3/keys/changes`
pub async fn get_key_changes(
    api: Api,
    session: Session,
    request: get_key_changes::v3::Request,
) -> Result<get_key_changes::v3::Response, Error> {
    let position = |token: &str| {
        let token = token.parse::<SyncToken>().map_err(rooms::Error::from)?;
        Ok::<_, Error>(token.position)
    };
    let query = DeviceListQuery {
        user: session.user,
        user_id: session.user_id,
        after: position(&request.from)?,
        upto: position(&request.to)?.min(api.notifier.position().stored),
    };
    let lists = device_lists::changes(&api.store, &api.notifier, query).await?;
    Ok(get_key_changes::v3::Response::new(
        lists.changed.into_iter().collect(),
        lists.left.into_iter().collect(),
    ))
}
