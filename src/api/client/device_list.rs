//! Whose devices changed (client-server API, "End-to-End Encryption").

use ruma::api::client::keys::get_key_changes;

use crate::{
    api::{Api, Error, Session},
    rooms,
    sync::{SyncToken, device_lists},
};

/// `GET /_matrix/client/v3/keys/changes`
pub async fn get_key_changes(
    api: Api,
    who: Session,
    request: get_key_changes::v3::Request,
) -> Result<get_key_changes::v3::Response, Error> {
    let position = |token: &str| {
        let token = token.parse::<SyncToken>().map_err(rooms::Error::from)?;
        Ok::<_, Error>(token.position)
    };
    let asked = device_lists::Asked {
        user: who.user,
        user_id: who.user_id,
        after: position(&request.from)?,
        upto: position(&request.to)?.min(api.notifier.position().stored),
    };
    let lists = device_lists_between(&api, asked).await?;
    Ok(get_key_changes::v3::Response::new(
        lists.changed.into_iter().collect(),
        lists.left.into_iter().collect(),
    ))
}

/// Whose devices `asked.user` is told of.
pub(super) async fn device_lists_between(
    api: &Api,
    asked: device_lists::Asked,
) -> Result<device_lists::DeviceLists, Error> {
    let rooms = api
        .store
        .read(|s| device_lists::concerned(s, &api.notifier, &asked))?;
    let Some(rooms) = rooms else {
        return Ok(device_lists::DeviceLists::default());
    };
    let scan = move |s: &_| device_lists::between(s, &asked, &rooms);
    Ok(api.store.scan("device lists", scan).await?)
}
