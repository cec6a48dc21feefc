//! Filters of lists (MSC4186, `SlidingRoomFilter`).

use super::{
    request::Filters,
    room_list::{Entry, RoomList},
};
use crate::store::{RoomNum, records::Membership};

/// Filters whose spaces have been looked up.
pub struct ResolvedFilters<'a> {
    pub filters: &'a Filters,
    pub spaces: Vec<RoomNum>,
    /// `room_name_like` in lower case.
    pub name: Option<String>,
}

impl ResolvedFilters<'_> {
    pub fn accept(&self, list: &RoomList, entry: &Entry) -> bool {
        let filters = self.filters;
        let is = |wanted: Option<bool>, actual: bool| wanted.is_none_or(|wanted| wanted == actual);
        let details = entry.details();
        let attributes = &details.attributes;
        let has_type = |types: &Vec<Option<String>>| types.contains(&attributes.room_type);
        let has_tag = |tags: &Vec<String>| tags.iter().any(|tag| details.tags.contains(tag));
        let has_name = |part: &String| {
            let name = attributes.name.as_ref();
            name.is_some_and(|name| name.contains(part))
        };
        is(filters.is_invite, entry.membership == Membership::Invite)
            && is(filters.is_encrypted, attributes.is_encrypted)
            && is(filters.is_dm, entry.is_dm)
            && filters.room_types.as_ref().is_none_or(has_type)
            && !filters.not_room_types.as_ref().is_some_and(has_type)
            && filters.tags.as_ref().is_none_or(has_tag)
            && !filters.not_tags.as_ref().is_some_and(has_tag)
            && self.name.as_ref().is_none_or(has_name)
            && (filters.spaces.is_none()
                || self
                    .spaces
                    .iter()
                    .any(|space| list.is_child(*space, entry.room)))
    }
}
