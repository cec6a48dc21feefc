//! The filters of clients. ruma's types lack what is selected by relations.

use ruma::{
    OwnedRoomId, OwnedUserId, UInt,
    api::client::filter::{EventFormat, LazyLoadOptions, UrlFilter},
};
use serde::{Deserialize, Deserializer, de::Error as _};

use crate::rooms::{Error, relations::related::RelatedBy};

/// A filter for events of rooms.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct EventFilter {
    pub types: Option<Vec<String>>,
    #[serde(default)]
    pub not_types: Vec<String>,
    pub senders: Option<Vec<OwnedUserId>>,
    #[serde(default)]
    pub not_senders: Vec<OwnedUserId>,
    pub rooms: Option<Vec<OwnedRoomId>>,
    #[serde(default)]
    pub not_rooms: Vec<OwnedRoomId>,
    #[serde(default, deserialize_with = "integral")]
    pub limit: Option<UInt>,
    pub contains_url: Option<UrlFilter>,
    #[serde(flatten)]
    pub related_by: RelatedBy,
    #[serde(flatten)]
    pub lazy_load_options: LazyLoadOptions,
    #[serde(default)]
    pub unread_thread_notifications: bool,
}

/// A limit, which some clients send as `10.0`.
fn integral<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<UInt>, D::Error> {
    let Some(number) = Option::<f64>::deserialize(deserializer)? else {
        return Ok(None);
    };
    if number < 0.0 || number.fract() != 0.0 {
        return Err(D::Error::custom(format!(
            "limit: expected a whole number that is not negative, found {number}"
        )));
    }
    Ok(Some(UInt::new_saturating(number as u64)))
}

/// A filter for account data or presence events.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Filter {
    pub types: Option<Vec<String>>,
    #[serde(default)]
    pub not_types: Vec<String>,
    pub senders: Option<Vec<OwnedUserId>>,
    #[serde(default)]
    pub not_senders: Vec<OwnedUserId>,
}

/// A filter for `/sync`.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct SyncFilter {
    pub event_fields: Option<Vec<String>>,
    #[serde(default)]
    pub event_format: EventFormat,
    #[serde(default)]
    pub presence: Filter,
    #[serde(default)]
    pub account_data: Filter,
    #[serde(default)]
    pub room: RoomFilter,
}

/// What a filter for `/sync` says of rooms.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct RoomFilter {
    pub rooms: Option<Vec<OwnedRoomId>>,
    #[serde(default)]
    pub not_rooms: Vec<OwnedRoomId>,
    #[serde(default)]
    pub include_leave: bool,
    #[serde(default)]
    pub account_data: EventFilter,
    #[serde(default)]
    pub ephemeral: EventFilter,
    #[serde(default)]
    pub state: EventFilter,
    #[serde(default)]
    pub timeline: EventFilter,
}

/// The most entries of the lists of a filter, and bytes of those with wildcards: each may be compared with
/// each event.
const MAX_ENTRIES: usize = 1000;
const MAX_WILDCARD_BYTES: usize = 2048;

impl EventFilter {
    /// Checks the size of a filter for one room.
    ///
    /// # Errors
    /// [`Error::TooLarge`].
    pub fn check_size(&self) -> Result<(), Error> {
        let mut size = Size::default();
        size.add_room_events(self);
        size.check()
    }
}

impl SyncFilter {
    /// # Errors
    /// [`Error::TooLarge`].
    pub fn check_size(&self) -> Result<(), Error> {
        let mut size = Size::default();
        let RoomFilter {
            rooms,
            not_rooms,
            account_data,
            timeline,
            ephemeral,
            state,
            ..
        } = &self.room;
        size.add(rooms, not_rooms);
        for filter in [account_data, timeline, ephemeral, state] {
            size.add_room_events(filter);
        }
        for filter in [&self.presence, &self.account_data] {
            size.add_types(&filter.types, &filter.not_types);
            size.add(&filter.senders, &filter.not_senders);
        }
        size.check()
    }
}

#[derive(Default)]
struct Size {
    entries: usize,
    wildcard_bytes: usize,
}

impl Size {
    fn add_room_events(&mut self, filter: &EventFilter) {
        self.add_types(&filter.types, &filter.not_types);
        self.add(&filter.senders, &filter.not_senders);
        self.add(&filter.rooms, &filter.not_rooms);
        let RelatedBy {
            related_by_rel_types,
            related_by_senders,
        } = &filter.related_by;
        self.entries += related_by_rel_types.len() + related_by_senders.len();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_limited_in_its_entries_and_in_its_wildcards() {
        let with = |types: Vec<String>| {
            let filter = EventFilter {
                types: Some(types),
                ..EventFilter::default()
            };
            let mut definition = SyncFilter::default();
            definition.room.state = filter.clone();
            let is_accepted = filter.check_size().is_ok();
            assert_eq!(definition.check_size().is_ok(), is_accepted);
            is_accepted
        };
        assert!(with(vec!["m.room.message".to_owned(); MAX_ENTRIES]));
        assert!(!with(vec!["m.room.message".to_owned(); MAX_ENTRIES + 1]));
        assert!(with(vec!["*".repeat(MAX_WILDCARD_BYTES)]));
        assert!(!with(vec!["*".repeat(MAX_WILDCARD_BYTES), "*".to_owned()]));
    }
}
