//! Policy servers: a room may name a server that recommends events by its signature. Others are not sent, or
//! soft-failed when they are received.
//!
//! An event of a local user is made in a transaction, which cannot wait for another server. So
//! [`signed`] fails with [`Error::Unsigned`] if the signature is not here; the caller asks for it, puts it into
//! [`PolicySignatures`](super::policy_signatures::PolicySignatures), and runs its job again. The same event is made again unless the room has changed.
//!
//! Source: server-server API, "Policy Servers".

use ruma::{
    OwnedServerName, events::TimelineEventType, room_version_rules::RoomVersionRules, serde::Base64,
};
use serde::Deserialize;

use super::{
    Error, Local,
    policy_signatures::PolicyAnswer,
    servers::in_room,
    state::current,
    stored_event,
    unsigned_event::{PolicyServer, UnsignedEvent},
};
use crate::{
    protocol::{Pdu, build::BuiltEvent, policy_signature},
    store::{Reader, RoomNum},
};

/// Sends requests to the policy servers of rooms.
pub trait PolicySigner: Sync {
    /// Requests the signature of `event`, and puts the answer into
    /// [`PolicySignatures`](super::policy_signatures::PolicySignatures).
    fn request_signature(&self, event: &UnsignedEvent) -> impl Future<Output = ()> + Send;
}

/// The policy server that the room uses now.
///
/// Source: server-server API, "Determining if a Policy Server is enabled in a room".
fn of_room(r: &impl Reader, room: RoomNum) -> Result<Option<PolicyServer>, Error> {
    #[derive(Deserialize)]
    struct Policy {
        content: Content,
    }
    #[derive(Deserialize)]
    struct Content {
        via: OwnedServerName,
        public_keys: PublicKeys,
    }
    #[derive(Deserialize)]
    struct PublicKeys {
        ed25519: Base64,
    }
    let Some(num) = current::get(r, room, "m.room.policy", "")? else {
        return Ok(None);
    };
    let Ok(Policy { content }) = stored_event::load(r, num)?.parse::<Policy>() else {
        return Ok(None);
    };
    let server = PolicyServer {
        name: content.via,
        key: content.public_keys.ed25519,
    };
    Ok(in_room::is_in(r, room, &server.name)?.then_some(server))
}

/// The policy server that still has to sign the event `pdu`, if the room uses one.
pub fn missing_signature(
    r: &impl Reader,
    room: RoomNum,
    rules: &RoomVersionRules,
    pdu: &Pdu,
    json: &[u8],
) -> Result<Option<PolicyServer>, Error> {
    let is_policy = *pdu.event_type() == TimelineEventType::from("m.room.policy");
    if is_policy && pdu.state_key() == Some("") {
        return Ok(None);
    }
    let Some(server) = of_room(r, room)? else {
        return Ok(None);
    };
    let is_signed = policy_signature::is_signed(json, rules, &server.name, &server.key)?;
    Ok((!is_signed).then_some(server))
}

/// `event`, which is about to be sent, with the signature of the room's policy server if it uses one.
///
/// # Errors
/// [`Error::Unsigned`] if the signature is not here; [`Error::Forbidden`] if there is none to be had.
pub fn signed(
    r: &impl Reader,
    local: &Local,
    room: RoomNum,
    rules: &'static RoomVersionRules,
    event: BuiltEvent,
) -> Result<BuiltEvent, Error> {
    if !local.asks_policy_servers() {
        return Ok(event);
    }
    let Some(server) = missing_signature(r, room, rules, &event.pdu, &event.json)? else {
        return Ok(event);
    };
    let id = event.pdu.event_id();
    match local.policy_signatures().get(id) {
        Some(PolicyAnswer::Refused) => {
            return Err(Error::forbidden(format!(
                "the policy server {} does not sign the event",
                server.name
            )));
        }
        Some(PolicyAnswer::Unavailable) => return Ok(event),
        Some(PolicyAnswer::Signature(signature)) => {
            let json = policy_signature::add(&event.json, rules, &server.name, &signature)?;
            if policy_signature::is_signed(&json, rules, &server.name, &server.key)? {
                return Ok(BuiltEvent { json, ..event });
            }
        }
        None => {}
    }
    Err(Error::Unsigned(Box::new(UnsignedEvent {
        room_id: event.pdu.room_id().to_owned(),
        event_id: id.to_owned(),
        json: event.json,
        rules,
        server,
    })))
}
