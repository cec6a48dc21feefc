//! The event format and the size limits.

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, ID_MAX_BYTES, OwnedEventId,
    room_version_rules::RoomVersionRules, signatures::reference_hash, state_res::check_pdu_format,
};

use super::depth::{MAX_DEPTH, is_too_deep};

/// The most bytes of an event in canonical JSON, with its signatures.
///
/// Source: client-server API, "Size limits".
pub const MAX_EVENT_BYTES: usize = 65_536;

/// The fields of at most [`ID_MAX_BYTES`] bytes.
const SHORT_FIELDS: [&str; 5] = ["sender", "room_id", "type", "state_key", "event_id"];

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    #[error("{what} has {bytes} bytes, the limit is {limit}")]
    TooLarge {
        /// The name of the field, or "the event".
        what: &'static str,
        bytes: usize,
        limit: usize,
    },
    #[error("nested more than {MAX_DEPTH} levels deep")]
    TooDeep,
    /// Not JSON, or with floats or integers beyond ±(2^53 − 1).
    #[error("not canonical JSON: {0}")]
    NotCanonical(String),
    /// A field is missing, or has the wrong type or value.
    #[error("not an event of this room version: {0}")]
    Malformed(String),
}

/// Checks an event that is made here: as [`check_received`], and the limits of bytes.
pub(super) fn check(
    object: &mut CanonicalJsonObject,
    rules: &RoomVersionRules,
) -> Result<Vec<u8>, FormatError> {
    for field in SHORT_FIELDS {
        if let Some(CanonicalJsonValue::String(value)) = object.get(field) {
            limit(field, value.len(), ID_MAX_BYTES)?;
        }
    }
    check_received(object, rules)
}

/// Checks an event against the event format of its room version and the limits of size and depth; returns it as
/// canonical JSON. The object is unchanged afterwards.
///
/// Before room version 11, Synapse had limits of code points instead of bytes. Rooms have such events, and
/// others follow them. So they pass here, and are rejected by `authorize.rs` instead of dropped, as by Synapse.
///
/// Source: client-server API, "Size limits"; room versions, "Event format".
pub(super) fn check_received(
    object: &mut CanonicalJsonObject,
    rules: &RoomVersionRules,
) -> Result<Vec<u8>, FormatError> {
    let json = serde_json::to_vec(object).map_err(not_canonical)?;
    limit("the event", json.len(), MAX_EVENT_BYTES)?;
    if is_too_deep(&json) {
        return Err(FormatError::TooDeep);
    }
    // Room version 11, which brought this rule too, is the first in which Synapse drops such events.
    let limits_bytes = rules.authorization.use_room_create_sender;
    let mut removed = Vec::new();
    for field in SHORT_FIELDS {
        let Some(CanonicalJsonValue::String(value)) = object.get_mut(field) else {
            continue;
        };
        let is_lenient = !limits_bytes && matches!(field, "type" | "state_key");
        if is_lenient && value.len() > ID_MAX_BYTES && value.chars().count() <= ID_MAX_BYTES {
            // ruma would refuse it.
            removed.push((field.to_owned(), std::mem::take(value).into()));
        } else {
            limit(field, value.len(), ID_MAX_BYTES)?;
        }
    }
    // ruma rejects 65,536 bytes, which the spec and other servers accept. The exact limit was checked
    // above; an event without its signatures is well below ruma's.
    removed.extend(object.remove_entry("signatures"));
    let verdict = check_pdu_format(object, &rules.event_format).map_err(FormatError::Malformed);
    object.extend(removed);
    verdict.map(|()| json)
}

fn limit(what: &'static str, bytes: usize, limit: usize) -> Result<(), FormatError> {
    if bytes > limit {
        Err(FormatError::TooLarge { what, bytes, limit })
    } else {
        Ok(())
    }
}

pub(super) fn not_canonical(error: impl ToString) -> FormatError {
    FormatError::NotCanonical(error.to_string())
}

/// The id of an event: its reference hash. The content hash must be in place.
///
/// Source: room version 4, "Event IDs"; server-server API, "Calculating the reference hash".
pub(super) fn event_id(
    object: &CanonicalJsonObject,
    rules: &RoomVersionRules,
) -> Result<OwnedEventId, FormatError> {
    let hash =
        reference_hash(object, rules).map_err(|error| FormatError::Malformed(error.to_string()))?;
    OwnedEventId::try_from(format!("${hash}"))
        .map_err(|error| FormatError::Malformed(error.to_string()))
}
