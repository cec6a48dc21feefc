//! Received stripped state: `invite_room_state` and `knock_room_state` (server-server API, "Inviting to a
//! room", "Knocking upon a room"). It is unverified: the sending server can make it up. So clients get an
//! event of it only if
//!
//! 1. its type is one that the client-server API lists under "Stripped state", or it is the member event
//!    of the inviter;
//! 2. its sender is not a local user, or it is a PDU of the room with a valid signature of this server.
//!
//! Since room version 12, an invitation is refused unless its state has the create event, whose hash is the
//! room id, and is otherwise of PDUs of the room ([`check_invite_state`]).

use ruma::{
    OwnedUserId, RoomId, UserId, api::federation::membership::RawStrippedState,
    room_version_rules::RoomVersionRules,
};
use serde::Deserialize;

use crate::{
    federation::inbound::{PduReceiver, RemoteEventSource},
    protocol::{build::room_id_from_create_event, receive::Incoming},
    rooms::{self, Local, membership::stripped_state},
};

/// How many received events are looked at.
const MAX_EVENTS: usize = 64;

#[derive(Deserialize)]
struct StrippedEvent {
    sender: OwnedUserId,
    #[serde(rename = "type")]
    kind: String,
    state_key: String,
}

/// The JSON of those of `events` that clients may get.
pub async fn visible_to_clients<'a>(
    receiver: &PduReceiver<RemoteEventSource>,
    local: &Local,
    room: &RoomId,
    rules: &'static RoomVersionRules,
    events: &'a [RawStrippedState],
    inviter: Option<&UserId>,
) -> Vec<&'a str> {
    let mut visible = Vec::new();
    for json in events.iter().take(MAX_EVENTS).map(json) {
        let Ok(event) = serde_json::from_str::<StrippedEvent>(json) else {
            continue;
        };
        // 1.
        if !is_listed(&event, inviter) {
            continue;
        }
        // 2.
        if local.has(&event.sender) && !is_signed_here(receiver, local, room, rules, json).await {
            log::debug!(
                "dropped stripped state of room {room} in the name of {}",
                event.sender
            );
            continue;
        }
        visible.push(json);
    }
    visible
}

/// Checks the `invite_room_state` of an invitation to `room` (server-server API, "Inviting to a room"). The
/// specification recommends it since room version 12. Signatures are not checked: the keys of any number
/// of other servers would be fetched for an invitation from any server, and clients get the state as
/// unverified.
///
/// # Errors
/// [`rooms::Error::Invalid`].
pub fn check_invite_state(
    room: &RoomId,
    rules: &'static RoomVersionRules,
    events: &[RawStrippedState],
) -> Result<(), rooms::Error> {
    if !room_id_from_create_event(rules) {
        return Ok(());
    }
    let mut has_create_event = false;
    for json in events.iter().take(MAX_EVENTS).map(json) {
        let pdu = Incoming::parse(json.as_bytes(), rules).and_then(|event| event.unverified_pdu());
        let pdu = pdu.map_err(|error| {
            rooms::Error::invalid(format!("invite_room_state has an invalid event: {error}"))
        })?;
        if pdu.room_id() != room {
            let error = format!("invite_room_state has an event of room {}", pdu.room_id());
            return Err(rooms::Error::invalid(error));
        }
        has_create_event |= room.as_str()[1..] == pdu.event_id().as_str()[1..];
    }
    match has_create_event {
        true => Ok(()),
        false => Err(rooms::Error::invalid(
            "invite_room_state lacks the create event",
        )),
    }
}

fn is_listed(event: &StrippedEvent, inviter: Option<&UserId>) -> bool {
    let is_inviter = event.kind == "m.room.member"
        && inviter.is_some_and(|user| event.sender == user && event.state_key == user.as_str());
    is_inviter || stripped_state::contains(&event.kind, &event.state_key)
}

async fn is_signed_here(
    receiver: &PduReceiver<RemoteEventSource>,
    local: &Local,
    room: &RoomId,
    rules: &'static RoomVersionRules,
    json: &str,
) -> bool {
    let Ok(incoming) = Incoming::parse(json.as_bytes(), rules) else {
        return false;
    };
    // Keys of other servers are not fetched for this.
    let is_local = incoming
        .signers()
        .is_ok_and(|servers| servers.iter().all(|server| server == local.server_name()));
    is_local && receiver.verify(room, incoming).await.is_ok()
}

/// A PDU, or an event that is already stripped.
fn json(event: &RawStrippedState) -> &str {
    match event {
        RawStrippedState::Pdu(event) => event.get(),
        #[expect(deprecated, reason = "servers of before Matrix 1.16 send it")]
        RawStrippedState::Stripped(event) => event.json().get(),
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use ruma::{RoomVersionId, api::federation::membership::RawStrippedState, user_id};

    use super::{StrippedEvent, check_invite_state, is_listed};
    use crate::protocol::history::History;

    #[test]
    fn since_version_12_the_state_of_an_invitation_has_the_create_event_and_only_pdus_of_the_room()
    {
        let [room, other] =
            ["@alice:a", "@bob:b"].map(|user| History::public(&RoomVersionId::V12, user));
        let pdu = |history: &History, index: usize| {
            RawStrippedState::Pdu(serde_json::from_slice(&history.events[index].json).unwrap())
        };
        let is_refused = |history: &History, state: &[RawStrippedState]| {
            let id = history.create_event().room_id();
            check_invite_state(id, history.rules, state).is_err()
        };
        assert!(!is_refused(&room, &[pdu(&room, 0), pdu(&room, 2)]));
        assert!(is_refused(&room, &[pdu(&room, 2)]));
        assert!(is_refused(&room, &[]));
        assert!(is_refused(&room, &[pdu(&room, 0), pdu(&other, 2)]));
        assert!(is_refused(&room, &[pdu(&other, 0)]));
        let stripped = r#"{"type":"m.room.name","state_key":"","sender":"@a:b","content":{}}"#;
        let stripped = RawStrippedState::Pdu(serde_json::from_str(stripped).unwrap());
        assert!(is_refused(&room, &[pdu(&room, 0), stripped.clone()]));
        let earlier = History::public(&RoomVersionId::V11, "@alice:a");
        assert!(!is_refused(&earlier, &[stripped]));
    }

    #[test]
    fn of_member_events_only_the_inviters_own_is_stripped_state() {
        let listed = |kind: &str, sender: &str, state_key: &str| {
            let event = StrippedEvent {
                sender: sender.try_into().unwrap(),
                kind: kind.to_owned(),
                state_key: state_key.to_owned(),
            };
            is_listed(&event, Some(user_id!("@mallory:b")))
        };
        assert!(listed("m.room.name", "@mallory:b", ""));
        assert!(listed("m.room.member", "@mallory:b", "@mallory:b"));
        assert!(!listed("m.room.member", "@alice:a", "@alice:a"));
        assert!(!listed("m.room.member", "@mallory:b", "@alice:a"));
        assert!(!listed("m.room.name", "@mallory:b", "second"));
        assert!(!listed("m.room.power_levels", "@mallory:b", ""));
    }
}
