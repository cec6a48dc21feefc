//! Dehydrated devices (MSC3814; see [`dehydrated_devices`]).

use std::borrow::Cow;

use ruma::{
    api::{
        client::dehydrated_device::{
            delete_dehydrated_device, get_dehydrated_device, get_events, put_dehydrated_device,
        },
        error::DeserializationError,
    },
    serde::Raw,
};
use serde::Serialize;
use serde_json::{json, value::RawValue};

use super::keys::uploaded;
use crate::{
    api::{Adapted, Api, Error, Quirk, Session, Streamed},
    store::{self, Position, Tx},
    users::{
        dehydrated_devices::{self, NewDevice, Upload},
        to_device::PendingMessages,
    },
};

/// The prefix of the tokens of [`get_events`]; a position follows.
const TOKEN_PREFIX: &str = "d1_";

/// `PUT /_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device`
pub async fn put_dehydrated_device(
    api: Api,
    session: Session,
    request: put_dehydrated_device::unstable::Request,
) -> Result<put_dehydrated_device::unstable::Response, Error> {
    let device_id = request.device_id;
    let upload = Upload {
        device_id: device_id.clone(),
        display_name: request.initial_device_display_name,
        device_data: request.device_data.json(),
        device_keys: request.device_keys.json(),
        one_time_keys: uploaded(request.one_time_keys),
        fallback_keys: uploaded(request.fallback_keys),
    };
    let device = NewDevice::new(&session.user_id, upload)?;
    let now = api.clock.now_ms();
    let keep = move |tx: &Tx| device.store(tx, session.user, now);
    api.store.write(keep).await?;
    Ok(put_dehydrated_device::unstable::Response::new(device_id))
}

/// `GET /_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device`
pub async fn get_dehydrated_device(
    api: Api,
    session: Session,
    _request: get_dehydrated_device::unstable::Request,
) -> Result<get_dehydrated_device::unstable::Response, Error> {
    let device = api
        .store
        .read(|s| dehydrated_devices::load(s, session.user))?;
    let (device_id, data) = device.ok_or(dehydrated_devices::NO_DEHYDRATED_DEVICE)?;
    let data = Raw::from_json_string(data)
        .map_err(|_| store::Error::corrupt("dehydrated_devices", session.user, "not JSON"))?;
    Ok(get_dehydrated_device::unstable::Response::new(
        device_id, data,
    ))
}

/// `DELETE /_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device`
pub async fn delete_dehydrated_device(
    api: Api,
    session: Session,
    _request: delete_dehydrated_device::unstable::Request,
) -> Result<delete_dehydrated_device::unstable::Response, Error> {
    let remove = move |tx: &Tx| dehydrated_devices::remove(tx, session.user);
    let device_id = api.store.write_shrinking(remove).await?;
    Ok(delete_dehydrated_device::unstable::Response::new(device_id))
}

/// matrix-js-sdk sends `GET` with the token in the query. ruma reads the `POST` of an earlier draft with
/// the token in the body, which others send.
#[derive(Debug)]
pub struct TokenInQuery;

impl Quirk for TokenInQuery {
    fn apply(
        request: &mut http::Request<Cow<'_, [u8]>>,
        _path_arguments: &[&str],
    ) -> Result<Self, DeserializationError> {
        let mut pairs = request.uri().query().unwrap_or_default().split('&');
        let from = pairs.find_map(|pair| pair.strip_prefix("from="));
        let body = serde_json::to_vec(&json!({ "next_batch": from }))?;
        *request.body_mut() = Cow::Owned(body);
        Ok(Self)
    }
}

/// `GET /_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device/{device_id}/events`
pub async fn get_events(
    api: Api,
    session: Session,
    Adapted { request, .. }: Adapted<get_events::unstable::Request, TokenInQuery>,
) -> Result<Streamed, Error> {
    post_events(api, session, request).await
}

/// `POST /_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device/{device_id}/events`
///
/// The last page has neither events nor a token: some clients look for the one, some for the other. Events
/// are not removed by being read, since a client may not get to the end.
pub async fn post_events(
    api: Api,
    session: Session,
    request: get_events::unstable::Request,
) -> Result<Streamed, Error> {
    let after = match &request.next_batch {
        None => Position::MIN,
        Some(token) => position(token)?,
    };
    let upto = api.notifier.position().stored;
    let pending = api
        .store
        .read(|s| dehydrated_devices::messages(s, session.user, &request.device_id, after, upto))?;
    let PendingMessages { messages, upto } = pending
        .ok_or_else(|| Error::forbidden("device_id must be that of your dehydrated device"))?;
    Streamed::json(&Events {
        next_batch: (!messages.is_empty()).then(|| format!("{TOKEN_PREFIX}{}", upto.0)),
        events: messages,
    })
}

/// ruma's response says `null` where there is no token, which matrix-js-sdk takes for a token.
#[derive(Serialize)]
struct Events {
    events: Vec<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch: Option<String>,
}

fn position(token: &str) -> Result<Position, Error> {
    let position = token
        .strip_prefix(TOKEN_PREFIX)
        .and_then(|text| text.parse().ok());
    let position = position
        .ok_or_else(|| Error::invalid_param("next_batch or from must be a token of this endpoint"));
    position.map(Position)
}
