//! Devices that a user's clients leave here (MSC3814; see [`dehydrated_devices`]).

use ruma::{
    api::{
        IncomingRequest, Metadata,
        client::dehydrated_device::{
            delete_dehydrated_device, get_dehydrated_device, get_events, put_dehydrated_device,
        },
        error::DeserializationError,
    },
    serde::Raw,
};

use serde::Serialize;
use serde_json::value::RawValue;
use smol::stream;

use super::keys::uploaded;
use crate::{
    api::{Api, Error, Session, Streamed},
    store::{self, Position, Tx},
    users::dehydrated_devices::{self, NewDevice},
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
    let keep = move |tx: &Tx| device.store(tx, who.user, now);
    api.store.write(keep).await?;
    Ok(put_dehydrated_device::unstable::Response::new(device_id))
}

/// `GET /_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device`
pub async fn get_dehydrated_device(
    api: Api,
    who: Session,
    _request: get_dehydrated_device::unstable::Request,
) -> Result<get_dehydrated_device::unstable::Response, Error> {
    let device = api.store.read(|s| dehydrated_devices::load(s, who.user))?;
    let (device_id, data) = device.ok_or(dehydrated_devices::NO_DEHYDRATED_DEVICE)?;
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
    let remove = move |tx: &Tx| dehydrated_devices::remove(tx, who.user);
    let device_id = api.store.write_shrinking(remove).await?;
    Ok(delete_dehydrated_device::unstable::Response::new(device_id))
}

/// [`get_events`] by `GET`, the token in the query: as matrix-js-sdk asks. Others, which go by an
/// earlier text of the proposal, ask by `POST`, as ruma does.
#[derive(Debug)]
pub struct GetEvents(get_events::unstable::Request);

impl Metadata for GetEvents {
    const METHOD: http::Method = http::Method::GET;
    const RATE_LIMITED: bool = get_events::unstable::Request::RATE_LIMITED;
    type Authentication = <get_events::unstable::Request as Metadata>::Authentication;
    type PathBuilder = <get_events::unstable::Request as Metadata>::PathBuilder;
    const PATH_BUILDER: Self::PathBuilder = get_events::unstable::Request::PATH_BUILDER;
}

impl IncomingRequest for GetEvents {
    type EndpointError = <get_events::unstable::Request as IncomingRequest>::EndpointError;
    type OutgoingResponse = get_events::unstable::Response;

    fn try_from_http_request_inner(
        request: http::Request<&[u8]>,
        path_args: &[&str],
    ) -> Result<Self, DeserializationError> {
        let mut pairs = request.uri().query().unwrap_or_default().split('&');
        let from = pairs.find_map(|pair| pair.strip_prefix("from="));
        let from = from.map(str::to_owned);
        let empty = request.map(|_| &b"{}"[..]);
        let mut request =
            get_events::unstable::Request::try_from_http_request_inner(empty, path_args)?;
        request.next_batch = from;
        Ok(Self(request))
    }
}

/// `GET /_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device/{device_id}/events`
pub async fn get_events(
    api: Api,
    who: Session,
    GetEvents(request): GetEvents,
) -> Result<Streamed, Error> {
    post_events(api, who, request).await
}

/// `POST /_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device/{device_id}/events`. The last
/// page is the one without events, and without a token: some look at the one, some at the other.
/// Nothing is forgotten by being read, as whoever reads may not get to the end.
pub async fn post_events(
    api: Api,
    who: Session,
    request: get_events::unstable::Request,
) -> Result<Streamed, Error> {
    let after = match &request.next_batch {
        None => Position::MIN,
        Some(token) => position(token)?,
    };
    let upto = api.notifier.position().stored;
    let device = (who.user, &*request.device_id);
    let told = api
        .store
        .read(|s| dehydrated_devices::messages(s, device, (after, upto)))?;
    let (messages, upto) =
        told.ok_or_else(|| Error::forbidden("that is not your dehydrated device"))?;
    let events = Events {
        next_batch: (!messages.is_empty()).then(|| format!("{TOKEN}{}", upto.0)),
        events: messages,
    };
    let answer = serde_json::to_vec(&events)
        .map_err(|_| Error::Internal("messages that do not serialize"))?;
    Ok(Streamed::new(stream::once(Ok(answer))))
}

/// What ruma's response has, which would say `null` for no token: matrix-js-sdk goes on with that.
#[derive(Serialize)]
struct Events {
    events: Vec<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch: Option<String>,
}

fn position(token: &str) -> Result<Position, Error> {
    let position = token.strip_prefix(TOKEN).and_then(|text| text.parse().ok());
    let position = position.ok_or_else(|| Error::invalid_param("that is no token of this device"));
    position.map(Position)
}
