//! Signatures by which a policy server recommends events.
//!
//! Source: server-server API, "Policy Servers".

use std::collections::BTreeMap;

use ruma::{
    ServerName, events::room::policy::POLICY_SERVER_ED25519_SIGNING_KEY_ID,
    room_version_rules::RoomVersionRules, serde::Base64, signatures::PublicKeySet,
};
use serde_json::value::{RawValue, to_raw_value};

use super::{
    event_object::EventObject,
    format::{FormatError, check, not_canonical},
};

/// Whether the event has a valid signature of `server` by `key`.
pub fn is_signed(
    json: &[u8],
    rules: &RoomVersionRules,
    server: &ServerName,
    key: &Base64,
) -> Result<bool, FormatError> {
    let keys = PublicKeySet::from([(POLICY_SERVER_ED25519_SIGNING_KEY_ID.to_owned(), key.clone())]);
    EventObject::parse(json, rules)?.is_signed_by(server, &keys, rules)
}

/// The event with `signature` of `server`, beside its other signatures.
pub fn add(
    json: &[u8],
    rules: &RoomVersionRules,
    server: &ServerName,
    signature: &str,
) -> Result<Vec<u8>, FormatError> {
    type Signatures = BTreeMap<String, BTreeMap<String, Box<RawValue>>>;
    let mut object = EventObject::parse(json, rules)?;
    let mut signatures: Signatures = object.get("signatures").unwrap_or_default();
    let of_server = signatures.entry(server.to_string()).or_default();
    let signature = to_raw_value(signature).map_err(not_canonical)?;
    of_server.insert(POLICY_SERVER_ED25519_SIGNING_KEY_ID.to_owned(), signature);
    object.set("signatures", &signatures)?;
    check(&object, rules)
}
