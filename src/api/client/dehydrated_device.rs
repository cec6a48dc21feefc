//! Devices that a user's clients leave here (MSC3814; see [`dehydrated`]).

use ruma::{
    api::client::dehydrated_device::{
        delete_dehydrated_device, get_dehydrated_device, get_events, put_dehydrated_device,
    },
    serde::Raw,
};

use super::keys::uploaded;
use crate::{
    api::{Api, Error, Session},
    store::{self, Position, Tx},
    users::dehydrated::{self, NewDevice},
};

/// What a token of [`get_events`] begins with; a position follows.
const TOKEN: &str = "d1_";

/// `PUT /_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device`
pub async fn put_dehydrated_device(
    api: Api,
    who: Session,
    request: put_dehydrated_device::unstable::Request,
) -> Result<put_dehydrated_device::unstable::Response, Error> {
    let device_id = request.device_id;
    let name = request.initial_device_display_name;
    let device = NewDevice::new(
        (&who.user_id, device_id.clone(), name),
        (request.device_data.json(), request.device_keys.json()),
        (
            uploaded(request.one_time_keys),
            uploaded(request.fallback_keys),
        ),
    )?;
    let now = api.clock.now_ms();
    let keep = move |tx: &Tx| device.keep(tx, who.user, now);
    api.store.write(keep).await?;
    Ok(put_dehydrated_device::unstable::Response::new(device_id))
}

/// `GET /_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device`
pub async fn get_dehydrated_device(
    api: Api,
    who: Session,
    _request: get_dehydrated_device::unstable::Request,
) -> Result<get_dehydrated_device::unstable::Response, Error> {
    let device = api.store.read(|s| dehydrated::load(s, who.user))?;
    let (device_id, data) = device.ok_or(dehydrated::NONE)?;
    let data = Raw::from_json_string(data)
        .map_err(|_| store::Error::Corrupt("a dehydrated device that is no JSON"))?;
    Ok(get_dehydrated_device::unstable::Response::new(
        device_id, data,
    ))
}

/// `DELETE /_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device`
pub async fn delete_dehydrated_device(
    api: Api,
    who: Session,
    _request: delete_dehydrated_device::unstable::Request,
) -> Result<delete_dehydrated_device::unstable::Response, Error> {
    let remove = move |tx: &Tx| dehydrated::remove(tx, who.user);
    let device_id = api.store.write_shrinking(remove).await?;
    Ok(delete_dehydrated_device::unstable::Response::new(device_id))
}

/// `POST /_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device/{device_id}/events`. The last
/// page is the one without events; nothing is forgotten by being read, as whoever reads may not get to
/// the end.
pub async fn get_events(
    api: Api,
    who: Session,
    request: get_events::unstable::Request,
) -> Result<get_events::unstable::Response, Error> {
    let after = match &request.next_batch {
        None => Position::MIN,
        Some(token) => position(token)?,
    };
    let upto = api.hub.now().position;
    let device = (who.user, &*request.device_id);
    let told = api
        .store
        .read(|s| dehydrated::messages(s, device, (after, upto)))?;
    let (messages, upto) =
        told.ok_or_else(|| Error::forbidden("that is not your dehydrated device"))?;
    let events = messages.into_iter().map(Raw::from_json).collect();
    let mut response = get_events::unstable::Response::new(events);
    response.next_batch = Some(format!("{TOKEN}{}", upto.0));
    Ok(response)
}

fn position(token: &str) -> Result<Position, Error> {
    let position = token.strip_prefix(TOKEN).and_then(|text| text.parse().ok());
    let position = position.ok_or_else(|| Error::invalid_param("that is no token of this device"));
    position.map(Position)
}
