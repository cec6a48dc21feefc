//! The local user who acts on a room, and the time.

use ruma::{MilliSecondsSinceUnixEpoch, OwnedUserId};

use super::event::{append::Sending, insert::Notify};
use crate::store::UserNum;

#[derive(Clone, Debug)]
pub struct Actor {
    pub num: UserNum,
    pub id: OwnedUserId,
    /// The `origin_server_ts` of the actor's events.
    pub now: MilliSecondsSinceUnixEpoch,
}

impl Actor {
    /// Without a transaction id, and notifying nobody.
    pub(super) fn sending(&self) -> Sending {
        Sending {
            now: self.now,
            sent_by: None,
            notify: Notify::default(),
        }
    }
}
