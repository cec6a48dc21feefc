//! Which events a client wants: [client-server API, "Filtering"].
//!
//! [client-server API, "Filtering"]: https://spec.matrix.org/v1.19/client-server-api/#filtering

use ruma::{
    OwnedUserId, RoomId,
    api::client::filter::{RoomEventFilter, UrlFilter},
};
use serde::{Deserialize, de::IgnoredAny};

use crate::rooms::{Error, event::StoredEvent};

/// What a filter looks at in an event.
#[derive(Deserialize)]
struct Looked {
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

/// Whether the filter lets any event of `room` through.
pub fn wants_room(filter: &RoomEventFilter, room: &RoomId) -> bool {
    !filter.not_rooms.iter().any(|id| id == room)
        && filter
            .rooms
            .as_ref()
            .is_none_or(|rooms| rooms.iter().any(|id| id == room))
}

/// Whether the filter lets the event through, of a room that it wants.
pub fn wants(filter: &RoomEventFilter, event: &StoredEvent) -> Result<bool, Error> {
    if wants_everything(filter) {
        return Ok(true);
    }
    let looked = event.parse::<Looked>()?;
    let url = match filter.url_filter {
        None => true,
        Some(UrlFilter::EventsWithUrl) => looked.content.url.is_some(),
        Some(UrlFilter::EventsWithoutUrl) => looked.content.url.is_none(),
    };
    Ok(url
        && wants_type(&filter.types, &filter.not_types, &looked.kind)
        && !filter.not_senders.contains(&looked.sender)
        && filter
            .senders
            .as_ref()
            .is_none_or(|senders| senders.contains(&looked.sender)))
}

fn wants_everything(filter: &RoomEventFilter) -> bool {
    filter.types.is_none()
        && filter.not_types.is_empty()
        && filter.senders.is_none()
        && filter.not_senders.is_empty()
        && filter.url_filter.is_none()
}

/// Whether a filter of types lets `kind` through. `*` stands for any characters; what is not
/// wanted wins.
pub fn wants_type(types: &Option<Vec<String>>, not_types: &[String], kind: &str) -> bool {
    !not_types.iter().any(|pattern| matches(pattern, kind))
        && types
            .as_ref()
            .is_none_or(|types| types.iter().any(|pattern| matches(pattern, kind)))
}

/// Whether `text` is what `pattern` says, in which `*` stands for any characters. Takes the first
/// place where each piece fits, which is enough where only `*` is special.
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
