//! What a client asks of `/sync`.

use std::collections::BTreeSet;

use ruma::{OwnedUserId, api::client::filter::FilterDefinition};

use super::{lazy_members::OfDevice, notifier::StreamPosition, token::SyncToken};
use crate::store::{DeviceNum, UserNum};

/// How many events a timeline has if the filter does not say.
pub const TIMELINE_LIMIT: usize = 20;
/// The most events that a timeline has, whatever the filter says.
pub const MOST_IN_TIMELINE: usize = 100;

/// What a client asks of `/sync`, and from where to where.
#[derive(Clone, Debug)]
pub struct Request {
    /// Who asks.
    pub user: UserNum,
    /// The same, by user id.
    pub user_id: OwnedUserId,
    /// From which device.
    pub device: DeviceNum,
    /// What is wanted.
    pub filter: FilterDefinition,
    /// Where the last answer ended; none for an initial sync.
    pub since: Option<SyncToken>,
    /// Whether the whole state is wanted of every room.
    pub full_state: bool,
    /// Whether the state after the timeline is wanted in place of the one before it.
    pub state_after: StateAfter,
    /// Whom the user ignores.
    pub ignored: BTreeSet<OwnedUserId>,
    /// Which members the device has been told of.
    pub known: OfDevice,
}

/// Whether a client wants the state after the timeline, and under which name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateAfter {
    /// It wants the state before the timeline.
    No,
    /// `state_after`.
    Stable,
    /// `org.matrix.msc4222.state_after`.
    Unstable,
}

/// From where to where an answer goes.
#[derive(Clone, Copy, Debug)]
pub struct SyncRange {
    /// Where the last answer ended; none for an initial sync.
    pub since: Option<Since>,
    /// Where this one ends.
    pub end: StreamPosition,
    /// When it is made, in milliseconds since the epoch.
    pub now_ms: u64,
}

/// Where the last answer ended.
#[derive(Clone, Copy, Debug)]
pub struct Since {
    /// Everything stored up to here was told.
    pub position: crate::store::Position,
    /// What is not stored, up to here, was told; 0 if that was by another start of the server.
    pub ephemeral: u64,
}

impl Request {
    /// How many events a timeline may have.
    pub fn limit(&self) -> usize {
        let limit = self
            .filter
            .room
            .timeline
            .limit
            .map(|limit| u64::from(limit) as usize);
        limit.unwrap_or(TIMELINE_LIMIT).min(MOST_IN_TIMELINE)
    }

    /// The range from the request's token to `end`; `instance` is that of the notifier.
    pub fn range(&self, end: StreamPosition, instance: u64, now_ms: u64) -> SyncRange {
        let since = self.since.map(|token| Since {
            position: token.position,
            ephemeral: if token.instance == instance {
                token.ephemeral
            } else {
                0
            },
        });
        SyncRange { since, end, now_ms }
    }
}
