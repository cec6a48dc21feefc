//! What changed since the start of a range, as far as it is known in memory.

use std::collections::BTreeSet;

use super::{
    notifier::Notifier,
    request::{Request, Since, SyncRange},
};
use crate::{
    rooms::{Error, typing::Typing},
    store::{Reader, RoomNum, Rows, UserNum},
    users::presence::{Presence, UserPresence},
};

/// Of so many changed rooms, the user's membership is looked up on the thread.
const MAX_ROOMS_LOOKED_UP: usize = 64;
/// So often a user whose presence changed is looked up in a room of the user on the thread.
const MAX_PRESENCE_LOOKUPS: usize = 1024;

/// What changed in memory since the start of a range.
#[derive(Clone, Debug)]
pub struct Changes {
    /// The rooms that changed; `None` if that may be any.
    pub rooms: Option<BTreeSet<RoomNum>>,
    /// Whether the user's own data may have changed.
    pub own: bool,
    pub presence: Vec<(UserNum, UserPresence)>,
}

impl Changes {
    pub fn since(
        notifier: &Notifier,
        typing: &Typing,
        presence: &Presence,
        request: &Request,
        range: SyncRange,
    ) -> Self {
        let in_rooms = |since: Since| {
            let rooms = notifier.rooms_after(since.position)?;
            let typing = typing.rooms_after(since.ephemeral)?;
            Some(rooms.into_iter().chain(typing))
        };
        let since = range.since.filter(|_| !request.full_state);
        Self {
            rooms: since.and_then(in_rooms).map(BTreeSet::from_iter),
            own: range
                .since
                .is_some_and(|since| notifier.user_changed_after(request.user, since.position)),
            presence: presence.changed_after(range.since.map_or(0, |since| since.ephemeral)),
        }
    }

    /// Whether what a response for `user` has of them takes few rows.
    pub fn are_few(&self, r: &impl Reader, user: UserNum) -> Result<bool, Error> {
        let rooms = self.rooms.as_ref();
        let are_in_few_rooms = rooms.is_some_and(|rooms| rooms.len() <= MAX_ROOMS_LOOKED_UP);
        Ok(!self.own && are_in_few_rooms && self.has_few_presence_lookups(r, user)?)
    }

    fn has_few_presence_lookups(&self, r: &impl Reader, user: UserNum) -> Result<bool, Error> {
        let Some(max_rooms) = MAX_PRESENCE_LOOKUPS.checked_div(self.presence.len()) else {
            return Ok(true);
        };
        let memberships = r.memberships()?;
        let rooms = memberships.prefix(user)?.take(max_rooms + 1);
        Ok(rooms.count() <= max_rooms)
    }
}
