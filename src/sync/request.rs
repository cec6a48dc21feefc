//! A request of `/sync`, and the range of positions that its response covers.

use ruma::OwnedUserId;

use super::{lazy_members::ClientMembers, notifier::StreamPosition, token::SyncToken};
use crate::{
    rooms::timeline::filter::SyncFilter,
    store::{DeviceNum, Position, UserNum},
    users::account_data::{ignored_users::IgnoredUsers, invite_permissions::InvitePermissions},
};

/// The default and the most events of a timeline.
const DEFAULT_TIMELINE_LIMIT: usize = 20;
const MAX_TIMELINE_LIMIT: usize = 100;

#[derive(Clone, Debug)]
pub struct Request {
    pub user: UserNum,
    pub user_id: OwnedUserId,
    pub device: DeviceNum,
    pub filter: SyncFilter,
    /// `None` for an initial sync.
    pub since: Option<SyncToken>,
    pub full_state: bool,
    pub state_after: StateAfter,
    /// The users whom the user ignores.
    pub ignored: IgnoredUsers,
    pub invites: InvitePermissions,
    pub lazy_loaded: ClientMembers,
}

/// Whether the client wants the state after the timeline in place of the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateAfter {
    No,
    /// As `state_after`.
    Stable,
    /// As `org.matrix.msc4222.state_after`.
    Unstable,
}

/// The range of positions that a response covers.
#[derive(Clone, Copy, Debug)]
pub struct SyncRange {
    /// `None` for an initial sync.
    pub since: Option<Since>,
    pub end: StreamPosition,
    /// The time of the response, in milliseconds since the epoch.
    pub now_ms: u64,
}

/// Where the last response ended.
#[derive(Clone, Copy, Debug)]
pub struct Since {
    pub position: Position,
    /// 0 if the token is from another start of the server.
    pub ephemeral: u64,
}

impl Request {
    pub fn timeline_limit(&self) -> usize {
        let limit = self.filter.room.timeline.limit;
        let limit = limit.map(|limit| u64::from(limit) as usize);
        limit
            .unwrap_or(DEFAULT_TIMELINE_LIMIT)
            .min(MAX_TIMELINE_LIMIT)
    }

    /// The range from the request's token to `end`.
    pub fn range(&self, end: StreamPosition, now_ms: u64) -> SyncRange {
        let since = self.since.map(|token| Since {
            position: token.position,
            ephemeral: if token.instance == end.instance {
                token.ephemeral
            } else {
                0
            },
        });
        SyncRange { since, end, now_ms }
    }
}
