//! The state of rooms (client-server API, "Getting events for a room" and "Sending events to a room").

use std::collections::BTreeMap;

use ruma::{
    OwnedRoomId, RoomId, UserId,
    api::client::{
        membership::{get_member_events, joined_members},
        state::{
            get_state_event_for_key::{self, v3::StateEventFormat},
            get_state_events, send_state_event,
        },
    },
    events::{StateEventType, room::member::MembershipState},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::membership;
use crate::{
    api::{Api, Error, EventStream, Session, Streamed},
    protocol::build::{canonical_content, content_of_client},
    rooms::{
        self,
        create::checks,
        event::{
            self, StoredEvent,
            append::{self, Sending},
            state_event::StateEvent,
        },
        membership::change::MembershipChange,
        room,
        state::{self, current, overlay::StateOverlay},
        timeline::{
            client_event::{Formatter, RoomIdField, membership_state},
            history_visibility,
            pagination_token::PaginationToken,
        },
        unread::notify,
    },
    store::{EventNum, Place, RoomNum, Snapshot, Tx, records::Membership},
};

/// `PUT /_matrix/client/v3/rooms/{roomId}/state/{eventType}/{stateKey}`
pub async fn send_state_event(
    api: Api,
    session: Session,
    request: send_state_event::v3::Request,
) -> Result<send_state_event::v3::Response, Error> {
    let sent = request.body.json();
    let read = match request.event_type {
        // The rules of a room depend on these.
        StateEventType::RoomMember | StateEventType::RoomPowerLevels => {
            canonical_content(sent).map(|content| (content, None))
        }
        _ => content_of_client(sent),
    };
    let (content, text) = read.map_err(rooms::Error::from)?;
    let event = StateEvent {
        kind: request.event_type,
        state_key: request.state_key,
        content,
    };
    if event.kind == StateEventType::RoomMember {
        let change = MembershipChange::from_client(&event)?;
        let is_leave =
            change.membership == MembershipState::Leave && change.target == session.user_id;
        if session.is_suspended && !is_leave {
            return Err(Error::suspended());
        }
        let id = membership::send_member_event(&api, &session, request.room_id, change).await?;
        return Ok(send_state_event::v3::Response::new(id));
    }
    if session.is_suspended {
        return Err(Error::suspended());
    }
    let mut draft = event.draft(request.room_id.clone(), &session.user_id);
    draft.text = text;
    let now = api.actor(&session).now;
    let sending = Sending {
        now,
        sent_by: None,
        notify: notify::evaluate(&api.store, &api.local, &draft).await?,
    };
    let local = api.local.clone();
    let job = move |tx: &Tx| {
        let room = room::num(tx, &request.room_id)?;
        checks::state_event(tx, room, &event)?;
        if draft.text.is_none()
            && let Some(id) = event.current(tx, room, &draft.sender)?
        {
            return Ok::<_, rooms::Error>(id);
        }
        Ok(append::append(tx, &local, &draft, &sending)?.id)
    };
    Ok(send_state_event::v3::Response::new(
        api.write_events(job).await?,
    ))
}

/// The room and its state, at `at` or now, as far as the user may see it.
fn readable(
    s: &Snapshot,
    session: &Session,
    room_id: &OwnedRoomId,
    at: Option<&str>,
    now_ms: u64,
) -> Result<(RoomNum, StateOverlay, Formatter), rooms::Error> {
    let room = history_visibility::readable_room(s, room_id, session.user)?;
    let (user, device) = (&session.user_id, Some(session.device));
    let mut formatter = Formatter::new(s, room, user, device, now_ms, RoomIdField::Include)?;
    let place = match at {
        Some(token) => token.parse::<PaginationToken>()?.place(s, room)?,
        None => Place::MAX,
    };
    let state = formatter.visibility.readable_state(s, place)?;
    let state =
        state.ok_or_else(|| rooms::Error::forbidden("you may not see this state of the room"))?;
    Ok((room, state, formatter))
}

/// `GET /_matrix/client/v3/rooms/{roomId}/state/{eventType}/{stateKey}`
pub async fn get_state_event_for_key(
    api: Api,
    session: Session,
    request: get_state_event_for_key::v3::Request,
) -> Result<get_state_event_for_key::v3::Response, Error> {
    #[derive(Deserialize)]
    struct WithContent {
        content: Box<RawValue>,
    }
    let now_ms = api.clock.now_ms();
    let event = api.store.read(|s| {
        let (room, state, mut formatter) = readable(s, &session, &request.room_id, None, now_ms)?;
        let num = state.get(s, room, &request.event_type.to_string(), &request.state_key)?;
        let num = num.ok_or(rooms::Error::NotFound(
            "the room has no state event with this type and state key",
        ))?;
        let stored = event::load(s, num)?;
        match request.format {
            StateEventFormat::Event => formatter.format(s, &stored),
            _ => {
                let visible = formatter.visibility.visible_state(s, &stored)?;
                Ok(visible.parse::<WithContent>()?.content)
            }
        }
    })?;
    Ok(get_state_event_for_key::v3::Response::new(event))
}

/// `GET /_matrix/client/v3/rooms/{roomId}/state`
pub async fn get_state_events(
    api: Api,
    session: Session,
    request: get_state_events::v3::Request,
) -> Result<Streamed, Error> {
    let (events, formatter) = state_of(&api, session, request.room_id).await?;
    let response = EventStream::default().events(events);
    response.formatted(&api.store, formatted(formatter)).await
}

/// The events of the room's state, and what formats them.
pub(super) async fn state_of(
    api: &Api,
    session: Session,
    room_id: OwnedRoomId,
) -> Result<(Vec<EventNum>, Formatter), rooms::Error> {
    let now_ms = api.clock.now_ms();
    let read = move |s: &Snapshot| {
        let (room, state, formatter) = readable(s, &session, &room_id, None, now_ms)?;
        let entries = state.entries(s, room)?.into_iter();
        Ok((entries.map(|(_, num)| num).collect(), formatter))
    };
    api.store.scan("state", read).await
}

/// Formats events for [`EventStream`].
pub(super) fn formatted(
    mut formatter: Formatter,
) -> impl FnMut(&Snapshot, EventNum) -> Result<Option<Vec<u8>>, rooms::Error> {
    move |s, num| {
        let json = formatter.format(s, &event::load(s, num)?)?;
        Ok(Some(String::from(Box::<str>::from(json)).into_bytes()))
    }
}

/// `GET /_matrix/client/v3/rooms/{roomId}/members`
pub async fn get_member_events(
    api: Api,
    session: Session,
    request: get_member_events::v3::Request,
) -> Result<Streamed, Error> {
    let now_ms = api.clock.now_ms();
    let read = move |s: &Snapshot| members_of(s, &session, now_ms, &request);
    let (members, formatter) = api.store.scan("members", read).await?;
    let response = EventStream::default().events(members);
    let response = response.enclosed(r#"{"chunk":"#, "}");
    response.formatted(&api.store, formatted(formatter)).await
}

fn members_of(
    s: &Snapshot,
    session: &Session,
    now_ms: u64,
    request: &get_member_events::v3::Request,
) -> Result<(Vec<EventNum>, Formatter), rooms::Error> {
    let at = request.at.as_deref();
    let (room, state, formatter) = readable(s, session, &request.room_id, at, now_ms)?;
    let is_wanted = |membership: Membership| {
        let membership: MembershipState = membership_state(membership);
        request
            .membership
            .as_ref()
            .is_none_or(|only| *only == membership)
            && request
                .not_membership
                .as_ref()
                .is_none_or(|not| *not != membership)
    };
    let mut members = Vec::new();
    for (key, num) in state.entries(s, room)? {
        if state::key_name(s, room, key)?.0 == "m.room.member"
            && is_wanted(current::membership_of(s, num)?)
        {
            members.push(num);
        }
    }
    Ok((members, formatter))
}

/// `GET /_matrix/client/v3/rooms/{roomId}/joined_members`
pub async fn joined_members(
    api: Api,
    session: Session,
    request: joined_members::v3::Request,
) -> Result<Streamed, Error> {
    let read = move |s: &Snapshot| joined_of(s, &session, &request.room_id);
    let joined: Vec<EventNum> = api.store.scan("joined members", read).await?;
    let response = EventStream::default().items(joined);
    let response = response.enclosed(r#"{"joined":{"#, "}}");
    let formatted = response.formatted(&api.store, |s, num| joined_member(&event::load(s, num)?));
    formatted.await
}

fn joined_of(
    s: &Snapshot,
    session: &Session,
    room_id: &RoomId,
) -> Result<Vec<EventNum>, rooms::Error> {
    let room = history_visibility::readable_room(s, room_id, session.user)?;
    if current::membership(s, room, &session.user_id)? != Membership::Join {
        return Err(rooms::Error::forbidden("you are not joined to this room"));
    }
    let mut joined = Vec::new();
    for (user, num) in current::of_type(s, room, &StateEventType::RoomMember.to_string())? {
        if <&UserId>::try_from(&*user).is_ok()
            && current::membership_of(s, num)? == Membership::Join
        {
            joined.push(num);
        }
    }
    Ok(joined)
}

/// The entry of a member in the response of `/joined_members`.
fn joined_member(event: &StoredEvent) -> Result<Option<Vec<u8>>, rooms::Error> {
    #[derive(Deserialize)]
    struct Member {
        content: Content,
    }
    #[derive(Default, Deserialize, Serialize)]
    struct Content {
        #[serde(rename(serialize = "display_name"))]
        #[serde(skip_serializing_if = "Option::is_none")]
        displayname: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        avatar_url: Option<String>,
    }
    let Some(user) = event.member()? else {
        return Ok(None);
    };
    // A malformed name or avatar does not hide the member.
    let content = event.parse::<Member>().map(|member| member.content);
    let entry = serde_json::to_vec(&BTreeMap::from([(user, content.unwrap_or_default())]));
    let entry = entry.map_err(|_| rooms::Error::not_serializable("a member"))?;
    // Without the braces.
    Ok(entry.get(1..entry.len() - 1).map(<[u8]>::to_vec))
}
