//! A request of simplified sliding sync.

use ruma::{OwnedRoomId, OwnedUserId};
use serde::Deserialize;

use super::token::Pos;
use crate::{
    store::{DeviceNum, Position, UserNum, records::RequiredState},
    sync::lazy_members::ClientMembers,
    users::account_data::{ignored_users::IgnoredUsers, invite_permissions::InvitePermissions},
};

/// The most tags of a room that filters see.
pub const MAX_TAGS: usize = 32;

/// As which of the two endpoints the client speaks: their responses have other names for the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `/unstable/org.matrix.simplified_msc3575/sync`
    Unstable,
    /// `/v4/sync`, as the proposal has it.
    Proposal,
}

#[derive(Clone, Debug)]
pub struct SlidingSyncRequest {
    pub user: UserNum,
    pub user_id: OwnedUserId,
    pub device: DeviceNum,
    pub dialect: Dialect,
    /// The `conn_id`, which may be empty.
    pub connection: String,
    /// `None` for the first request on a connection.
    pub since: Option<Pos>,
    pub txn_id: Option<String>,
    /// At most 100.
    pub lists: Vec<List>,
    pub subscriptions: Vec<(OwnedRoomId, RoomConfig)>,
    pub extensions: Extensions,
    /// The users whom the user ignores.
    pub ignored: IgnoredUsers,
    pub invites: InvitePermissions,
    pub lazy_loaded: ClientMembers,
}

/// A window of the user's rooms.
#[derive(Clone, Debug)]
pub struct List {
    pub name: String,
    /// First and last index, counted from 0; `None` for all rooms.
    pub ranges: Option<Vec<(u64, u64)>>,
    pub config: RoomConfig,
    pub filters: Filters,
}

/// What is sent of a room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoomConfig {
    pub timeline_limit: u16,
    /// Sent is what any of these matches.
    pub required_state: Vec<RequiredState>,
}

impl RoomConfig {
    /// Makes this what gives all that both give.
    pub fn extend(&mut self, other: &Self) {
        self.timeline_limit = self.timeline_limit.max(other.timeline_limit);
        for required in &other.required_state {
            if !self.required_state.contains(required) {
                self.required_state.push(required.clone());
            }
        }
    }
}

/// Which rooms are in a list: those that match all that is set (MSC4186, `SlidingRoomFilter`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Filters {
    pub is_dm: Option<bool>,
    pub spaces: Option<Vec<String>>,
    pub is_encrypted: Option<bool>,
    #[serde(alias = "is_invited")]
    pub is_invite: Option<bool>,
    /// `null` is the type of rooms without one.
    pub room_types: Option<Vec<Option<String>>>,
    pub not_room_types: Option<Vec<Option<String>>>,
    /// Part of the name, in whatever case.
    pub room_name_like: Option<String>,
    pub tags: Option<Vec<String>>,
    pub not_tags: Option<Vec<String>>,
}

impl Filters {
    /// How much is compared at most to check one room.
    pub fn cost(&self) -> usize {
        let types = [&self.room_types, &self.not_room_types];
        let types: usize = types.into_iter().flatten().map(Vec::len).sum();
        let tags = [&self.tags, &self.not_tags];
        let tags: usize = tags.into_iter().flatten().map(Vec::len).sum();
        1 + types + self.spaces.as_ref().map_or(0, Vec::len) + tags * MAX_TAGS
    }
}

/// The extensions that the client has enabled.
#[derive(Clone, Debug, Default)]
pub struct Extensions {
    pub to_device: Option<ToDevice>,
    pub e2ee: bool,
    pub account_data: Option<Scope>,
    pub receipts: Option<Scope>,
    pub typing: Option<Scope>,
}

#[derive(Clone, Copy, Debug)]
pub struct ToDevice {
    pub limit: usize,
    /// The device has received the messages up to here.
    pub received: Position,
}

/// The rooms of an extension, among those of the windows and the subscriptions. `*` is all, which is the
/// default.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Scope {
    pub lists: Option<Vec<String>>,
    pub rooms: Option<Vec<String>>,
}

impl Scope {
    pub fn has_list(&self, name: &str) -> bool {
        has(self.lists.as_deref(), name)
    }

    pub fn has_subscription(&self, room: &str) -> bool {
        has(self.rooms.as_deref(), room)
    }
}

fn has(names: Option<&[String]>, name: &str) -> bool {
    names.is_none_or(|names| names.iter().any(|wanted| wanted == "*" || wanted == name))
}
