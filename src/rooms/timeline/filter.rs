//! Event filters: [client-server API, "Filtering"].
//!
//! [client-server API, "Filtering"]: https://spec.matrix.org/v1.19/client-server-api/#filtering

use std::collections::BTreeSet;

use ruma::{
    OwnedUserId, RoomId,
    api::client::filter::{FilterDefinition, RoomEventFilter, RoomFilter, UrlFilter},
};
use serde::{Deserialize, de::IgnoredAny};

use crate::{
    rooms::{
        Error,
        event::{StoredEvent, redaction},
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

/// The most entries of the lists of a filter, and bytes of those with wildcards: each may be compared with
/// each event.
const MAX_ENTRIES: usize = 1000;
const MAX_WILDCARD_BYTES: usize = 2048;

/// Checks the size of a filter for one room.
///
/// # Errors
/// [`Error::TooLarge`].
pub fn check_size(filter: &RoomEventFilter) -> Result<(), Error> {
    let mut size = Size::default();
    size.add_room_events(filter);
    size.check()
}

/// Checks the size of a filter for `/sync`.
///
/// # Errors
/// [`Error::TooLarge`].
pub fn check_definition(filter: &FilterDefinition) -> Result<(), Error> {
    let mut size = Size::default();
    let RoomFilter {
        rooms,
        not_rooms,
        account_data,
        timeline,
        ephemeral,
        state,
        ..
    } = &filter.room;
    size.add(rooms, not_rooms);
    for filter in [account_data, timeline, ephemeral, state] {
        size.add_room_events(filter);
    }
    for filter in [&filter.presence, &filter.account_data] {
        size.add_types(&filter.types, &filter.not_types);
        size.add(&filter.senders, &filter.not_senders);
    }
    size.check()
}

#[derive(Default)]
struct Size {
    entries: usize,
    wildcard_bytes: usize,
}

impl Size {
    fn add_room_events(&mut self, filter: &RoomEventFilter) {
        self.add_types(&filter.types, &filter.not_types);
        self.add(&filter.senders, &filter.not_senders);
        self.add(&filter.rooms, &filter.not_rooms);
    }

    fn add_types(&mut self, types: &Option<Vec<String>>, not_types: &[String]) {
        self.add(types, not_types);
        let types = types.iter().flatten().chain(not_types);
        let wildcards = types.filter(|kind| kind.contains('*'));
        self.wildcard_bytes += wildcards.map(String::len).sum::<usize>();
    }

    fn add<T>(&mut self, list: &Option<Vec<T>>, not: &[T]) {
        self.entries += list.as_ref().map_or(0, Vec::len) + not.len();
    }

    fn check(&self) -> Result<(), Error> {
        let Self {
            entries,
            wildcard_bytes,
        } = self;
        if *entries <= MAX_ENTRIES && *wildcard_bytes <= MAX_WILDCARD_BYTES {
            return Ok(());
        }
        let found = format!("found {entries} and {wildcard_bytes}");
        Err(Error::TooLarge(
            format!(
                "a filter may have at most {MAX_ENTRIES} entries, and {MAX_WILDCARD_BYTES} bytes of types with `*`; {found}"
            )
            .into(),
        ))
    }
}

/// Whether the filter accepts events of `room`.
pub fn accepts_room(filter: &RoomEventFilter, room: &RoomId) -> bool {
    !filter.not_rooms.iter().any(|id| id == room)
        && filter
            .rooms
            .as_ref()
            .is_none_or(|rooms| rooms.iter().any(|id| id == room))
}

/// Whether the filter accepts the event, apart from its room.
pub fn accepts(filter: &RoomEventFilter, event: &StoredEvent) -> Result<bool, Error> {
    if accepts_all(filter) {
        return Ok(true);
    }
    let filtered = event.parse::<Filtered>()?;
    let url = match filter.url_filter {
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

fn accepts_all(filter: &RoomEventFilter) -> bool {
    filter.types.is_none()
        && filter.not_types.is_empty()
        && filter.senders.is_none()
        && filter.not_senders.is_empty()
        && filter.url_filter.is_none()
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
    use ruma::api::client::filter::{FilterDefinition, RoomEventFilter};

    use super::{MAX_ENTRIES, MAX_WILDCARD_BYTES, check_definition, check_size, matches};

    #[test]
    fn a_filter_is_limited_in_its_entries_and_in_its_wildcards() {
        let with = |types: Vec<String>| {
            let mut filter = RoomEventFilter::empty();
            filter.types = Some(types);
            let mut definition = FilterDefinition::empty();
            definition.room.state = filter.clone();
            let is_accepted = check_size(&filter).is_ok();
            assert_eq!(check_definition(&definition).is_ok(), is_accepted);
            is_accepted
        };
        assert!(with(vec!["m.room.message".to_owned(); MAX_ENTRIES]));
        assert!(!with(vec!["m.room.message".to_owned(); MAX_ENTRIES + 1]));
        assert!(with(vec!["*".repeat(MAX_WILDCARD_BYTES)]));
        assert!(!with(vec!["*".repeat(MAX_WILDCARD_BYTES), "*".to_owned()]));
    }

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
