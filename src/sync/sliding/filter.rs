//! Filters of lists (MSC4186, `SlidingRoomFilter`).

use super::{
    entry::{Entry, room_num},
    request::Filters,
};
use crate::{
    rooms::Error,
    store::{Reader, RoomNum, records::Membership},
};

/// Filters whose spaces have been looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedFilters {
    filters: Filters,
    spaces: Vec<RoomNum>,
    /// `room_name_like` in lower case.
    name: Option<String>,
}

impl ResolvedFilters {
    pub fn new(r: &impl Reader, filters: &Filters) -> Result<Self, Error> {
        let mut spaces = Vec::new();
        for space in filters.spaces.iter().flatten() {
            spaces.extend(room_num(r, space)?);
        }
        Ok(Self {
            filters: filters.clone(),
            spaces,
            name: filters
                .room_name_like
                .as_ref()
                .map(|name| name.to_lowercase()),
        })
    }

    /// The spaces in the filters that are here.
    pub fn spaces(&self) -> &[RoomNum] {
        &self.spaces
    }

    /// `is_child` is whether a room is a child of a space of which the user is a member.
    pub fn accept(&self, entry: &Entry, is_child: impl Fn(RoomNum, RoomNum) -> bool) -> bool {
        let filters = &self.filters;
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
                || self.spaces.iter().any(|space| is_child(*space, entry.room)))
    }
}
