//! Who does something to a room, and when.

use ruma::{MilliSecondsSinceUnixEpoch, OwnedUserId};

use super::event::{append::Sending, insert::Notify};
use crate::store::UserNum;

/// A local user who does something, with the time at which that happens.
#[derive(Clone, Debug)]
pub struct Actor {
    /// The user's number.
    pub num: UserNum,
    /// The user's id.
    pub id: OwnedUserId,
    /// The time that the events carry.
    pub now: MilliSecondsSinceUnixEpoch,
}

impl Actor {
    /// How the actor sends: now, and as long as nothing else is said, notifying nobody.
    pub(super) fn sending(&self) -> Sending {
        Sending {
            now: self.now,
            sent_by: None,
            notify: Notify::default(),
        }
    }
}
