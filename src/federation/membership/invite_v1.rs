//! `PUT /_matrix/federation/v1/invite/{roomId}/{eventId}`, for rooms of versions 1 and 2 (server-server API,
//! "Inviting to a room"). The body is the event, with `invite_room_state` in its `unsigned`.
//!
//! ruma's request has only some of the fields of the event.

use std::collections::BTreeMap;

use ruma::{
    OwnedEventId, OwnedRoomId,
    api::{
        IncomingRequest, IncomingResponse, Metadata, OutgoingBodyJson, OutgoingRequest,
        OutgoingResponse,
        error::{DeserializationError, Error as MatrixError, IntoHttpError},
        federation::{authentication::ServerSignatures, membership::RawStrippedState},
        metadata,
    },
};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

const INVITE_ROOM_STATE: &str = "invite_room_state";

type Fields = BTreeMap<String, Box<RawValue>>;

metadata! {
    method: PUT,
    rate_limited: false,
    authentication: ServerSignatures,
    path: "/_matrix/federation/v1/invite/{room_id}/{event_id}",
}

#[derive(Clone, Debug)]
pub struct Request {
    pub room_id: OwnedRoomId,
    pub event_id: OwnedEventId,
    pub event: Box<RawValue>,
}

#[derive(Clone, Debug, Serialize, OutgoingBodyJson)]
#[serde(transparent)]
pub struct RequestBody(Box<RawValue>);

impl OutgoingRequest for Request {
    type Body = RequestBody;
    type EndpointError = MatrixError;
    type IncomingResponse = Response;

    fn try_into_http_request_inner(
        self,
        base_url: &str,
        (): (),
    ) -> Result<http::Request<RequestBody>, IntoHttpError> {
        let url = Self::make_endpoint_url((), base_url, &[&self.room_id, &self.event_id], "")?;
        let request = http::Request::builder().method(Self::METHOD).uri(url);
        request.body(RequestBody(self.event)).map_err(Into::into)
    }
}

impl IncomingRequest for Request {
    type EndpointError = MatrixError;
    type OutgoingResponse = Response;

    fn try_from_http_request_inner(
        request: http::Request<&[u8]>,
        path_arguments: &[&str],
    ) -> Result<Self, DeserializationError> {
        let argument = |index: usize| path_arguments.get(index).copied().unwrap_or_default();
        Ok(Self {
            room_id: argument(0).try_into()?,
            event_id: argument(1).try_into()?,
            event: serde_json::from_slice(request.body())?,
        })
    }
}

/// 200, and the event with the signature of the invited user's server.
#[derive(Clone, Debug, Deserialize, Serialize, OutgoingBodyJson)]
pub struct Response(u16, SignedEvent);

#[derive(Clone, Debug, Deserialize, Serialize)]
struct SignedEvent {
    event: Box<RawValue>,
}

impl Response {
    pub fn new(event: Box<RawValue>) -> Self {
        Self(200, SignedEvent { event })
    }

    pub fn into_event(self) -> Box<RawValue> {
        self.1.event
    }
}

impl OutgoingResponse for Response {
    type Body = Self;

    fn try_into_http_response_inner(self) -> Result<http::Response<Self>, IntoHttpError> {
        Ok(http::Response::new(self))
    }
}

impl IncomingResponse for Response {
    type EndpointError = MatrixError;

    fn try_from_http_response_inner(
        response: http::Response<&[u8]>,
    ) -> Result<Self, DeserializationError> {
        Ok(serde_json::from_slice(response.body())?)
    }
}

/// `event` with `stripped_state` in its `unsigned`.
pub fn with_stripped_state(
    event: &RawValue,
    stripped_state: &[RawStrippedState],
) -> serde_json::Result<Box<RawValue>> {
    let mut fields: Fields = serde_json::from_str(event.get())?;
    let mut unsigned: Fields = match fields.get("unsigned") {
        Some(unsigned) => serde_json::from_str(unsigned.get())?,
        None => Fields::new(),
    };
    unsigned.insert(INVITE_ROOM_STATE.to_owned(), to_raw_value(stripped_state)?);
    fields.insert("unsigned".to_owned(), to_raw_value(&unsigned)?);
    to_raw_value(&fields)
}

/// The event without its stripped state, and that.
pub fn split_stripped_state(
    event: &RawValue,
) -> serde_json::Result<(Box<RawValue>, Vec<RawStrippedState>)> {
    let mut fields: Fields = serde_json::from_str(event.get())?;
    let unsigned = fields.remove("unsigned");
    let unsigned = unsigned.map(|unsigned| serde_json::from_str::<Fields>(unsigned.get()));
    let mut unsigned = unsigned.transpose()?.unwrap_or_default();
    let state = unsigned.remove(INVITE_ROOM_STATE);
    let state = state.map(|state| serde_json::from_str(state.get()));
    if !unsigned.is_empty() {
        fields.insert("unsigned".to_owned(), to_raw_value(&unsigned)?);
    }
    Ok((
        to_raw_value(&fields)?,
        state.transpose()?.unwrap_or_default(),
    ))
}
