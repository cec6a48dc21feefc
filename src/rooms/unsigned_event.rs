//! An event that a policy server has to sign.

use ruma::{
    OwnedEventId, OwnedRoomId, OwnedServerName, room_version_rules::RoomVersionRules, serde::Base64,
};

/// The policy server of a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyServer {
    pub name: OwnedServerName,
    /// Its Ed25519 key.
    pub key: Base64,
}

/// An event that the policy server of its room has to sign.
#[derive(Debug)]
pub struct UnsignedEvent {
    pub room_id: OwnedRoomId,
    pub event_id: OwnedEventId,
    pub json: Vec<u8>,
    pub rules: &'static RoomVersionRules,
    pub server: PolicyServer,
}
