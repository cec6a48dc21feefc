//! Which events another server may see: those that one of its users may see (client-server API, "Room
//! History Visibility"). It gets the others redacted, so that the event graph stays complete,
//! and so those of erased users.

use std::collections::HashMap;

use ruma::{
    OwnedServerName, ServerName, UserId, events::room::history_visibility::HistoryVisibility,
    room_version_rules::RoomVersionRules,
};

use super::{erasure, history_visibility::visibility_of};
use crate::{
    rooms::{
        Error,
        event::{self, StoredEvent},
        room,
        state::{self, current},
    },
    store::{EventNum, NodeNum, Reader, RoomNum, records::Membership},
};

const VISIBILITY: &str = "m.room.history_visibility";

/// What one server may see of one room.
pub struct ServerVisibility {
    room: RoomNum,
    rules: &'static RoomVersionRules,
    server: OwnedServerName,
    /// Whether the server may see events with this state before them.
    cache: HashMap<NodeNum, bool>,
}

impl ServerVisibility {
    pub fn new(r: &impl Reader, room: RoomNum, server: &ServerName) -> Result<Self, Error> {
        Ok(Self {
            room,
            rules: room::rules(r, room)?,
            server: server.to_owned(),
            cache: HashMap::new(),
        })
    }

    /// The JSON of an event, redacted if the server may not see it or its sender was erased. Unless history is shared this reads
    /// all members: to be called on the pool.
    pub fn visible_json(
        &mut self,
        r: &impl Reader,
        mut event: StoredEvent,
    ) -> Result<Vec<u8>, Error> {
        if !self.can_see(r, &event)? || erasure::is_erased(r, &event)? {
            erasure::redact(self.rules, &mut event)?;
        }
        Ok(event.json)
    }

    /// The state before an outlier is not known. State has to be seen by all servers, as others refer to it.
    fn can_see(&mut self, r: &impl Reader, event: &StoredEvent) -> Result<bool, Error> {
        if event.header.status.is_outlier() {
            return Ok(event.header.state_key.is_some());
        }
        let before = event.header.state_before;
        let can_see = match self.cache.get(&before) {
            Some(cached) => *cached,
            None => {
                let can_see = self.can_see_with_state(r, before)?;
                self.cache.insert(before, can_see);
                can_see
            }
        };
        if can_see {
            return Ok(true);
        }
        // A server may see the joins of its own users.
        let member = event.member()?;
        Ok(member.is_some_and(|user| self.is_of_server(&user))
            && current::membership_of(r, event.num)? == Membership::Join)
    }

    fn can_see_with_state(&self, r: &impl Reader, root: NodeNum) -> Result<bool, Error> {
        let visibility = match state::get_named(r, self.room, root, VISIBILITY, "")? {
            Some(event) => visibility_of(r, event)?,
            None => HistoryVisibility::Shared,
        };
        let is_visible_to = |membership: Membership| match visibility {
            HistoryVisibility::Joined => membership == Membership::Join,
            HistoryVisibility::Invited => {
                matches!(membership, Membership::Join | Membership::Invite)
            }
            _ => true,
        };
        if is_visible_to(Membership::Leave) {
            return Ok(true);
        }
        for (key, event) in state::entries(r, self.room, root)? {
            let (kind, user) = state::key_name(r, self.room, key)?;
            if kind == "m.room.member"
                && self.is_of_server(&user)
                && is_visible_to(current::membership_of(r, event)?)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn is_of_server(&self, user: &str) -> bool {
        <&UserId>::try_from(user).is_ok_and(|user| user.server_name() == self.server)
    }
}

/// The JSON of the events `nums`, as [`ServerVisibility::visible_json`] has each.
pub fn visible_json(
    r: &impl Reader,
    room: RoomNum,
    server: &ServerName,
    nums: impl IntoIterator<Item = EventNum>,
) -> Result<Vec<Vec<u8>>, Error> {
    let mut visibility = ServerVisibility::new(r, room, server)?;
    nums.into_iter()
        .map(|num| visibility.visible_json(r, event::load(r, num)?))
        .collect()
}
