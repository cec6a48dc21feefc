//! What changed since the start of a range, as far as it is known in memory.

use std::collections::BTreeSet;

use super::{
    notifier::Notifier,
    request::{Request, Since, SyncRange},
};
use crate::{
    rooms::typing::Typing,
    store::{RoomNum, UserNum},
    users::presence::{Presence, UserPresence},
};

/// Of so many changed rooms, the user's membership is looked up on the thread.
const MAX_ROOMS_LOOKED_UP: usize = 64;

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
            Some(rooms.into_iter().chain(typing.rooms_after(since.ephemeral)))
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

    /// Whether what a response has of them takes few rows.
    pub fn are_few(&self) -> bool {
        let rooms = self.rooms.as_ref();
        !self.own
            && self.presence.is_empty()
            && rooms.is_some_and(|rooms| rooms.len() <= MAX_ROOMS_LOOKED_UP)
    }
}
