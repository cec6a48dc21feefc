//! The whole of one room in one response (deprecated). Clients ask for it to show a room before the user
//! joins it; who may not see the room gets a 403, after which they show what the directory has.
//!
//! Source: client-server API, `GET /rooms/{roomId}/initialSync`.

use ruma::{
    OwnedRoomId,
    api::{
        Direction, IncomingRequest,
        auth_scheme::AccessToken,
        client::{message::get_message_events, room::Visibility, state::get_state_events},
        error::{DeserializationError, Error as MatrixError},
        metadata,
    },
    events::room::member::MembershipState,
};
use serde_json::json;

use super::{filter::QueryFilter, message, state};
use crate::{
    api::{Adapted, Api, Error, EventStream, Session, Streamed},
    rooms::{
        self, directory, room,
        state::current,
        timeline::{client_event::membership_state, filter::EventFilter},
    },
};

metadata! {
    method: GET,
    rate_limited: true,
    authentication: AccessToken,
    history: {
        1.0 => "/_matrix/client/r0/rooms/{room_id}/initialSync",
        1.1 => "/_matrix/client/v3/rooms/{room_id}/initialSync",
    }
}

#[derive(Clone, Debug)]
pub struct Request {
    room_id: OwnedRoomId,
}

impl IncomingRequest for Request {
    type EndpointError = MatrixError;
    type OutgoingResponse = get_state_events::v3::Response;

    fn try_from_http_request_inner(
        _request: http::Request<&[u8]>,
        path_arguments: &[&str],
    ) -> Result<Self, DeserializationError> {
        let room_id = path_arguments.first().copied().unwrap_or_default();
        Ok(Self {
            room_id: OwnedRoomId::try_from(room_id)?,
        })
    }
}

/// `GET /_matrix/client/v3/rooms/{roomId}/initialSync`
pub async fn room_initial_sync(
    api: Api,
    session: Session,
    request: Request,
) -> Result<Streamed, Error> {
    let room_id = request.room_id;
    let messages = Adapted {
        request: get_message_events::v3::Request::new(room_id.clone(), Direction::Backward),
        quirk: QueryFilter(EventFilter::default()),
    };
    let mut messages = message::get_message_events(api.clone(), session.clone(), messages).await?;
    messages.chunk.reverse();
    // After the messages, which may have to be fetched.
    let state = state::state_of(&api, session.clone(), room_id.clone());
    let (state, formatter) = state.await?;
    let (membership, listed) = api.store.read(|s| {
        let room = room::num(s, &room_id)?;
        let membership = current::membership(s, room, &session.user_id)?;
        Ok::<_, rooms::Error>((membership, directory::is_listed(s, room)?))
    })?;
    let membership: MembershipState = membership_state(membership);
    let visibility = if listed {
        Visibility::Public
    } else {
        Visibility::Private
    };
    // In chronological order: `start` is the end of the page.
    let mut page = json!({ "chunk": messages.chunk, "end": messages.start });
    if let Some(start) = messages.end {
        page["start"] = start.into();
    }
    let others = json!({
        "room_id": room_id,
        "membership": membership,
        "visibility": visibility,
        "messages": page,
        "account_data": [],
        "presence": [],
        "receipts": [],
    });
    let response = EventStream::default()
        .text(r#"{"state":"#)
        .events(state)
        .text(others.to_string().replacen('{', ",", 1));
    let formatted = response.formatted(&api.store, state::formatted(formatter));
    formatted.await
}
