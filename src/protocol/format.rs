//! The event format and the size limits.

use ruma::{ID_MAX_BYTES, room_version_rules::RoomVersionRules};

pub use super::format_error::FormatError;
pub(super) use super::format_error::not_canonical;
use super::{depth::is_too_deep, event_object::EventObject};

/// The most bytes of an event in canonical JSON, with its signatures.
///
/// Source: client-server API, "Size limits".
pub const MAX_EVENT_BYTES: usize = 65_536;

/// The fields of at most [`ID_MAX_BYTES`] bytes.
const SHORT_FIELDS: [&str; 5] = ["sender", "room_id", "type", "state_key", "event_id"];

/// Checks an event that is made here: as [`check_received`], and the limits of bytes.
pub(super) fn check(
    object: &EventObject,
    rules: &RoomVersionRules,
) -> Result<Vec<u8>, FormatError> {
    for field in SHORT_FIELDS {
        if let Some(value) = object.get::<String>(field) {
            limit(field, value.len(), ID_MAX_BYTES)?;
        }
    }
    check_received(object, rules)
}

/// Checks an event against the event format of its room version and the limits of size and depth; returns it as
/// canonical JSON.
///
/// Before room version 11, Synapse had limits of code points instead of bytes. Rooms have such events, and
/// others follow them. So they pass here, and are rejected by `authorize.rs` instead of dropped, as by Synapse.
///
/// Source: client-server API, "Size limits"; room versions, "Event format".
pub(super) fn check_received(
    object: &EventObject,
    rules: &RoomVersionRules,
) -> Result<Vec<u8>, FormatError> {
    let json = object.to_json()?;
    limit("the event", json.len(), MAX_EVENT_BYTES)?;
    if is_too_deep(&json) {
        return Err(FormatError::TooDeep);
    }
    // Room version 11, which brought this rule too, is the first in which Synapse drops such events.
    let limits_bytes = rules.authorization.use_room_create_sender;
    for field in SHORT_FIELDS {
        let Some(value) = object.get::<String>(field) else {
            continue;
        };
        let is_lenient = !limits_bytes && matches!(field, "type" | "state_key");
        if !is_lenient || value.chars().count() > ID_MAX_BYTES {
            limit(field, value.len(), ID_MAX_BYTES)?;
        }
    }
    object.check_format(rules)?;
    Ok(json)
}

fn limit(what: &'static str, bytes: usize, limit: usize) -> Result<(), FormatError> {
    if bytes > limit {
        Err(FormatError::TooLarge { what, bytes, limit })
    } else {
        Ok(())
    }
}
