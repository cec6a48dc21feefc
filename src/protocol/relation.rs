//! How an event says that it relates to another one.
//!
//! Source: client-server API, "Forming relationships between events".

use ruma::OwnedEventId;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::json::field;

/// A relation with a type. Rich replies have none.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Relation {
    pub rel_type: String,
    /// The parent.
    pub event_id: OwnedEventId,
}

impl Relation {
    /// The relation in the content of an event; `None` if there is none, or none that is valid.
    pub fn of(content: &RawValue) -> Option<Self> {
        field(content, "m.relates_to").ok().flatten()
    }
}
