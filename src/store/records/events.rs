//! Events and their places in timelines.

use serde::{Deserialize, Serialize};

use super::{Record, record, rooms::Counts};
use crate::store::ids::{
    DeviceNum, EventNum, NodeNum, Place, Position, RoomNum, StateKeyNum, UserNum,
};

/// What became of an event when it was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// Part of the room.
    Accepted,
    /// Correct, but the room's current state forbade it: part of the graph, shown to nobody.
    SoftFailed,
    /// Its own auth events forbid it.
    RejectedByAuthEvents,
    /// The state before it forbids it.
    RejectedByState,
    /// Known only because others name it; its place in the room is not known.
    Outlier,
    /// The same, and its own auth events forbid it.
    RejectedOutlier,
    /// It came alone, as an invitation does: nothing that it names is here, so it authorizes nothing
    /// and is stored anew if it comes with its room.
    OutOfBand,
}

impl Status {
    /// Whether the state before the event is not known.
    pub fn is_outlier(self) -> bool {
        matches!(
            self,
            Self::Outlier | Self::RejectedOutlier | Self::OutOfBand
        )
    }

    /// Whether the event changes nothing and authorizes nothing.
    pub fn is_rejected(self) -> bool {
        use Status::{RejectedByAuthEvents, RejectedByState, RejectedOutlier};
        matches!(
            self,
            RejectedByAuthEvents | RejectedByState | RejectedOutlier
        )
    }
}

record! {
    /// An event of another server that cannot be worked in yet.
    Waiting {
        /// The server that sent it.
        origin: String,
        /// The signatures and the hash were checked.
        json: Vec<u8>,
    }
}

record! {
    /// The first field of [`Waiting`].
    WaitingOrigin {
        origin: String,
    }
}

record! {
    /// A place before which history is missing.
    Gap {
        /// The ids of events that come before those after the gap, as far as they are known.
        missing: Vec<String>,
        /// The event after which the gap was left, if the server was in the room then.
        opened: Option<GapOpened>,
    }
}

/// When a gap was left by an event that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GapOpened {
    /// The position of that event.
    pub position: Position,
    /// The last place of the timeline before it.
    pub known_upto: Place,
}

record! {
    /// The state before an event of which prev_events are not here, as another server has it.
    ClaimedState {
        /// The state.
        state: NodeNum,
        /// The last place of the timeline before the gap: what stands up to there was known without
        /// the claim.
        known_upto: Place,
    }
}

/// A redaction of an event that is not here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EarlyRedaction {
    /// The redaction.
    pub event: EventNum,
    /// Whether its sender may redact events of others. If not, it counts only for events of users of
    /// the sender's server.
    pub has_power: bool,
    /// The states in which the sender needs the power to redact the event.
    pub states: Vec<NodeNum>,
}

record! {
    /// The redactions of an event that is not here.
    #[derive(Default)]
    EarlyRedactions {
        /// Of those with power one of each sender, of the others one of each server.
        redactions: Vec<EarlyRedaction>,
    }
}

record! {
    /// What is known of an event beside its JSON.
    EventHeader {
        id: String,
        room: RoomNum,
        /// What became of it.
        status: Status,
        /// `None` if it is not in the timeline.
        place: Option<Place>,
        /// When it was stored; what came by backfill has the position of the event after the gap. Of an
        /// outlier: when it was replaced in the current state; 0 if it was not.
        position: Position,
        /// The state before it.
        state_before: NodeNum,
        /// `None` if it is no state event.
        state_key: Option<StateKeyNum>,
        /// The redaction that took its content.
        redacted_by: Option<EventNum>,
        /// The local device that sent it, with its transaction id.
        sent_by: Option<(DeviceNum, String)>,
    }
}

record! {
    /// An event in a room's timeline.
    TimelineRow {
        event: EventNum,
        /// When it was stored; what came by backfill has the position of the event after the gap.
        position: Position,
        /// What the events outside all threads up to here mean under the default rules.
        main: Counts,
        /// The root of the thread it is in.
        thread: Option<EventNum>,
    }
}

record! {
    /// A thread.
    Thread {
        /// The place of its newest event.
        last_place: Place,
        /// What its events mean under the default rules.
        counts: Counts,
        /// Local users who wrote in it lately, as in a room's record.
        last_own_events: Vec<(UserNum, Place)>,
    }
}

record! {
    /// What a transaction id made.
    Transaction {
        event: EventNum,
        /// When, in milliseconds since the epoch.
        ts: u64,
    }
}
