//! How an event names those that it follows on and those that authorize it.

use ruma::{
    OwnedEventId,
    room_version_rules::{EventsReferenceFormatVersion, RoomVersionRules},
    serde::base64::Standard,
};
use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};

use super::{
    event_object::EventObject,
    format_error::{FormatError, not_canonical},
};

/// A reference in `prev_events` or `auth_events`. In room versions 1 and 2, whose event ids are no hashes, it
/// has a hash of the event beside its id. Nobody checks that hash: of two events with the same id, the one
/// that came first stays.
///
/// Source: room versions 1 and 3, "Event format".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventReference {
    pub id: OwnedEventId,
    /// The reference hash in unpadded base64, where the room version has it and the event is known.
    hash: Option<String>,
}

#[derive(Deserialize)]
struct Pair(OwnedEventId, Hashes);

#[derive(Deserialize)]
struct Hashes {
    sha256: Option<String>,
}

impl From<OwnedEventId> for EventReference {
    fn from(id: OwnedEventId) -> Self {
        Self { id, hash: None }
    }
}

/// Whether references are pairs of id and hash.
pub fn has_hash(rules: &RoomVersionRules) -> bool {
    rules.events_reference_format == EventsReferenceFormatVersion::V1
}

impl EventReference {
    /// A reference to a stored event.
    pub fn new(
        id: OwnedEventId,
        json: &[u8],
        rules: &RoomVersionRules,
    ) -> Result<Self, FormatError> {
        let hash = if has_hash(rules) {
            let object = EventObject::parse(json, rules)?;
            Some(object.reference_hash::<Standard>(rules)?)
        } else {
            None
        };
        Ok(Self { id, hash })
    }

    /// The value of `prev_events` or `auth_events`.
    pub(super) fn parse_list(
        json: &RawValue,
        rules: &RoomVersionRules,
    ) -> Result<Vec<Self>, FormatError> {
        let malformed = |error: serde_json::Error| FormatError::Malformed(error.to_string());
        if !has_hash(rules) {
            let ids: Vec<OwnedEventId> = serde_json::from_str(json.get()).map_err(malformed)?;
            return Ok(ids.into_iter().map(Self::from).collect());
        }
        let pairs: Vec<Pair> = serde_json::from_str(json.get()).map_err(malformed)?;
        let pairs = pairs.into_iter();
        Ok(pairs
            .map(|Pair(id, hashes)| Self {
                id,
                hash: hashes.sha256,
            })
            .collect())
    }

    /// The value of `prev_events` or `auth_events`.
    pub(super) fn list(
        references: &[Self],
        rules: &RoomVersionRules,
    ) -> Result<Box<RawValue>, FormatError> {
        let list = if has_hash(rules) {
            let pairs = references.iter().map(|reference| {
                let hash = reference.hash.iter();
                let hashes: std::collections::BTreeMap<_, _> =
                    hash.map(|hash| ("sha256", hash)).collect();
                (&reference.id, hashes)
            });
            to_raw_value(&pairs.collect::<Vec<_>>())
        } else {
            let ids = references.iter().map(|reference| &reference.id);
            to_raw_value(&ids.collect::<Vec<_>>())
        };
        list.map_err(not_canonical)
    }
}
