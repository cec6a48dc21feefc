//! Rooms and who is in them.

use serde::{Deserialize, Serialize};

use super::{Record, record};
use crate::store::ids::{EventNum, NodeNum, Place, Position, RoomNum, StateKeyNum, UserNum};

record! {
    /// What a user reported to the owner of the server.
    Report {
        reporter: UserNum,
        /// In milliseconds since the epoch.
        ts: u64,
        target: ReportTarget,
        reason: String,
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReportTarget {
    /// The id of the room, and that of the event in it.
    Event(String, String),
    /// The id of the room.
    Room(String),
    /// The user id.
    User(String),
}

record! {
    /// A room, the part that rarely changes.
    Room {
        id: String,
        version: String,
    }
}

record! {
    /// A room, the part that every event changes.
    RoomHeads {
        /// The events that no other event names as its predecessor.
        extremities: Vec<EventNum>,
        /// The greatest depth among the extremities.
        depth: u64,
        /// The place of the newest event.
        last_place: Place,
        /// The position of the last change that anyone in the room can see.
        last_position: Position,
        /// The position of the last change of the current state.
        state_position: Position,
        /// The root of the current state.
        state: NodeNum,
        /// How many users are joined.
        joined: u32,
        /// How many users are invited.
        invited: u32,
        /// What its events outside all threads mean under the default rules.
        main: Counts,
        /// Local users who wrote outside all threads lately, each with the place of the last thing
        /// they wrote: they have read up to there. Those before them are in the table `last_own_event`.
        last_own_events: Vec<(UserNum, Place)>,
    }
}

record! {
    /// An invite to, or a knock on, a room that this server is not in.
    OutOfBandMembership {
        /// The server through which it came, which is in the room.
        server: String,
        /// The room version according to that server. The room itself gets its version from its
        /// create event when a user joins.
        version: String,
        /// Stripped state events as JSON.
        stripped_state: Vec<String>,
    }
}

record! {
    /// A rejected invite or a retracted knock that the server through which it came does not know of yet.
    PendingLeave {
        /// The leave event as it is here.
        event: EventNum,
        /// The room version according to that server.
        version: String,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u8)]
pub enum Membership {
    /// Left, kicked, or never in the room.
    Leave = 0,
    Join = 1,
    Invite = 2,
    Knock = 3,
    Ban = 4,
}

record! {
    /// The membership of a local user in a room.
    MemberRow {
        membership: Membership,
        /// The membership event.
        event: EventNum,
        position: Position,
        /// The place of the event that set this membership, before changes of the profile.
        since: Place,
        /// Whether the user forgot the room.
        forgotten: bool,
    }
}

record! {
    /// A room alias of this server.
    Alias {
        room: RoomNum,
        creator: UserNum,
    }
}

record! {
    /// A read receipt.
    Receipt {
        /// The user has read up to this event.
        event: EventNum,
        place: Place,
        /// In milliseconds since the epoch.
        ts: u64,
        /// When the receipt moved.
        position: Position,
    }
}

record! {
    /// Numbers of notifications.
    #[derive(Copy, Default)]
    Counts {
        notify: u32,
        highlight: u32,
    }
}

record! {
    /// The difference between a user's [`Counts`] up to an event and those of the default rules.
    #[derive(Copy, Default)]
    Notified {
        notify: i32,
        highlight: i32,
    }
}

record! {
    /// A node of a state tree.
    StateNode {
        /// How many levels are below it; the slots of level 0 hold event numbers, those of the
        /// others node numbers.
        level: u8,
        /// Bit `i` says whether slot `i` is filled.
        filled: u16,
        /// What the filled slots hold, in the order of the slots.
        slots: Vec<u64>,
    }
}

record! {
    /// A room that is being deleted.
    RoomDeletion {
        room: RoomNum,
        phase: DeletionPhase,
        /// How many local users have left it for that.
        left: u32,
        /// How many events are deleted.
        events: u64,
    }
}

/// What is being done to delete a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeletionPhase {
    /// All local users leave.
    Leave,
    /// Other servers get what `outgoing` has for them up to this position; since when, in milliseconds since
    /// the epoch.
    Send { upto: Position, since_ts: u64 },
    /// The rows of local users from this one on are deleted.
    Users { next: UserNum },
    /// The events from `next` on are deleted. None is behind `last`.
    Events { next: EventNum, last: EventNum },
    /// All other rows are deleted.
    Rows,
}

record! {
    /// A room that was deleted after a local user had left it: clients that have it still get the leave.
    LeftDeletedRoom {
        id: String,
        /// Of the leave.
        position: Position,
        /// The membership event as clients get it, as JSON.
        event: String,
    }
}

record! {
    /// A room upgrade of which bans and space children are still to be copied.
    PendingUpgrade {
        /// The room that is replaced.
        old_room: RoomNum,
        /// Who sends the copies.
        upgraded_by: UserNum,
        /// The first state key of `old_room` that has not been copied.
        next_key: StateKeyNum,
    }
}
