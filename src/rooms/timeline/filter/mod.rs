//! Event filters: [client-server API, "Filtering"].
//!
//! [client-server API, "Filtering"]: https://spec.matrix.org/v1.19/client-server-api/#filtering

mod definition;

use std::collections::BTreeSet;

use ruma::{OwnedUserId, RoomId, api::client::filter::UrlFilter};
use serde::{Deserialize, de::IgnoredAny};

pub use self::definition::{EventFilter, RoomFilter, SyncFilter};
pub use crate::rooms::relations::related::{MAX_RELATIONS, VisibleChildren};
use crate::{
    rooms::{
        Error,
        event::{StoredEvent, redaction},
        relations::related,
    },
    store::Reader,
};

/// The parts of an event that filters use.
#[derive(Deserialize)]
struct Filtered {
    #[serde(rename = "type")]
    kind: String,
    sender: OwnedUserId,
    #[serde(default)]
    content: Content,
}

#[derive(Default, Deserialize)]
struct Content {
    url: Option<IgnoredAny>,
}

/// Whether the filter accepts events of `room`.
pub fn accepts_room(filter: &EventFilter, room: &RoomId) -> bool {
    !filter.not_rooms.iter().any(|id| id == room)
        && filter
            .rooms
            .as_ref()
            .is_none_or(|rooms| rooms.iter().any(|id| id == room))
}

/// Whether the filter accepts the event, apart from its room, for a user for whom the `children` count.
///
/// `rows_read` grows by the relations that are read.
pub fn accepts(
    r: &impl Reader,
    filter: &EventFilter,
    children: VisibleChildren<'_>,
    event: &StoredEvent,
    rows_read: &mut usize,
) -> Result<bool, Error> {
    Ok(accepts_content(filter, event)?
        && related::accepts(r, &filter.related_by, children, event, rows_read)?)
}

fn accepts_content(filter: &EventFilter, event: &StoredEvent) -> Result<bool, Error> {
    if accepts_all_content(filter) {
        return Ok(true);
    }
    let filtered = event.parse::<Filtered>()?;
    let url = match filter.contains_url {
        None => true,
        Some(UrlFilter::EventsWithUrl) => filtered.content.url.is_some(),
        Some(UrlFilter::EventsWithoutUrl) => filtered.content.url.is_none(),
    };
    Ok(url
        && accepts_type(&filter.types, &filter.not_types, &filtered.kind)
        && !filter.not_senders.contains(&filtered.sender)
        && filter
            .senders
            .as_ref()
            .is_none_or(|senders| senders.contains(&filtered.sender)))
}

/// Whether the event is left out because its sender is `ignored`. State is not: the room needs it.
///
/// Source: client-server API, "Ignoring Users".
pub fn is_ignored(ignored: &BTreeSet<OwnedUserId>, event: &StoredEvent) -> Result<bool, Error> {
    let is_state = event.header.state_key.is_some();
    Ok(!is_state && !ignored.is_empty() && ignored.contains(&event.sender()?))
}

/// Whether the event is left out of what the user reads: its sender is `ignored`, or it is a redaction that
/// redacted nothing.
pub fn is_left_out(
    r: &impl Reader,
    ignored: &BTreeSet<OwnedUserId>,
    event: &StoredEvent,
) -> Result<bool, Error> {
    Ok(is_ignored(ignored, event)? || redaction::is_withheld(r, event)?)
}

fn accepts_all_content(filter: &EventFilter) -> bool {
    filter.types.is_none()
        && filter.not_types.is_empty()
        && filter.senders.is_none()
        && filter.not_senders.is_empty()
        && filter.contains_url.is_none()
}

/// Whether a filter accepts events of type `kind`. `*` stands for any characters; `not_types` takes
/// precedence.
pub fn accepts_type(types: &Option<Vec<String>>, not_types: &[String], kind: &str) -> bool {
    !not_types.iter().any(|pattern| matches(pattern, kind))
        && types
            .as_ref()
            .is_none_or(|types| types.iter().any(|pattern| matches(pattern, kind)))
}

/// Matches a pattern in which `*` stands for any characters. The first match of each piece is enough,
/// since `*` is the only wildcard.
fn matches(pattern: &str, text: &str) -> bool {
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let Some(last) = pieces.next_back() else {
        return rest.is_empty();
    };
    for piece in pieces {
        match rest.split_once(piece) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_star_stands_for_any_characters_and_nothing_else_is_special() {
        for (pattern, text) in [
            ("m.room.message", "m.room.message"),
            ("m.room.*", "m.room.message"),
            ("*", ""),
            ("*", "anything"),
            ("m.*.a*e", "m.room.avatar.e"),
            ("*message", "m.room.message"),
            ("a*b*b", "ab-b"),
            ("m.**", "m."),
        ] {
            assert!(matches(pattern, text), "{pattern} is {text}");
        }
        for (pattern, text) in [
            ("m.room.message", "m.room.messages"),
            ("m.room.*", "m.roomy"),
            ("m.room.?", "m.room.a"),
            ("", "a"),
            ("a*b*b", "ab"),
            ("*message", "m.room.messages"),
        ] {
            assert!(!matches(pattern, text), "{pattern} is not {text}");
        }
    }
}
