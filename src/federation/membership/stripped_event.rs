//! Received stripped state: `invite_room_state` and `knock_room_state` (server-server API, "Inviting to a
//! room", "Knocking upon a room"). It is unverified: the sending server can make it up. So clients get an
//! event of it only if
//!
//! 1. its type is one that the client-server API lists under "Stripped state", or it is the member event
//!    of the inviter;
//! 2. its sender is not a local user, or it is a PDU of the room with a valid signature of this server.

use ruma::{
    OwnedUserId, RoomId, UserId, api::federation::membership::RawStrippedState,
    room_version_rules::RoomVersionRules,
};
use serde::Deserialize;

use crate::{
    federation::inbound::{PduReceiver, RemoteEventSource},
    protocol::receive::Incoming,
    rooms::{Local, membership::stripped_state},
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
    use ruma::user_id;

    use super::{StrippedEvent, is_listed};

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
