//! What the packed rows hold. Changing a field here means raising the record's version and
//! migrating its table.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{
    ids::{
        DeviceNum, EventNum, NodeNum, Place, Position, RoomNum, ServerNum, StateKeyNum, UserNum,
    },
    packed::Record,
};

macro_rules! record {
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $type,)+
        }

        impl Record for $name {
            const NAME: &'static str = stringify!($name);
        }
    };
}

record! {
    /// A signing key of this server.
    SigningKey {
        /// The 32 bytes from which the key pair follows. Never shown.
        seed: [u8; 32],
        /// When it was made, in milliseconds since the epoch.
        created_ts: u64,
        /// When it stopped signing, in milliseconds since the epoch.
        expired_ts: Option<u64>,
    }
}

record! {
    /// A signing key of another server.
    RemoteKey {
        /// The public key.
        key: [u8; 32],
        /// Until when it signs, or signed, in milliseconds since the epoch.
        valid_until_ts: u64,
    }
}

record! {
    /// The last changes of a user's device list.
    DeviceList {
        /// Their positions, the newest last.
        recent: Vec<Position>,
    }
}

record! {
    /// A change of a local user's device list.
    DeviceListChange {
        user: UserNum,
        what: ChangedPart,
        /// The position of the last change of a device of the user before this one; 0 if there was none.
        before: Position,
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChangedPart {
    /// The device with this id.
    Device(String),
    CrossSigningKeys,
}

record! {
    OneTimeKey {
        /// `algorithm:name`.
        id: String,
        /// As it was uploaded.
        json: String,
    }
}

record! {
    /// A tracked device list of a user of another server.
    RemoteDeviceList {
        /// The `stream_id` of the last update.
        stream_id: u64,
        /// In milliseconds since the epoch; 0 if it never was fetched.
        fetched_ts: u64,
        /// Whether it may lack changes.
        is_stale: bool,
        /// As JSON.
        master_key: Option<String>,
        /// As JSON.
        self_signing_key: Option<String>,
    }
}

record! {
    /// A device of a user of another server.
    RemoteDevice {
        display_name: Option<String>,
        /// As JSON.
        keys: Option<String>,
    }
}

record! {
    /// A message in the queue of a device or a server.
    ToDeviceMessage {
        /// Whose share of the queue it counts towards: the last part of the key in `to_device_usage`.
        sender: String,
        json: String,
    }
}

record! {
    FallbackKey {
        /// `algorithm:name`.
        id: String,
        /// As it was uploaded.
        json: String,
        /// Whether it has been claimed.
        used: bool,
    }
}

record! {
    /// The exponential backoff of a server that did not answer.
    Backoff {
        /// How long it lasts, in milliseconds.
        interval_ms: u64,
        /// When the next request is tried, in milliseconds since the epoch.
        retry_at_ts: u64,
    }
}

record! {
    /// The result of server discovery.
    ResolvedServer {
        /// The server name to which `/.well-known/matrix/server` delegates.
        delegated: Option<String>,
        /// Until when the delegation, or its absence, is cached, in milliseconds since the epoch.
        delegated_until_ts: u64,
        /// Never empty.
        endpoints: Vec<Endpoint>,
        /// Until when all of this is cached, in milliseconds since the epoch.
        until_ts: u64,
    }
}

/// A host and port of another server, with the priority and weight of its SRV record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub priority: u16,
    pub weight: u16,
    pub port: u16,
    /// Never empty.
    pub addresses: Vec<IpAddr>,
}

record! {
    /// An account of this server.
    Account {
        /// An argon2 PHC string; `None` if the account has no password.
        password_hash: Option<String>,
        /// In milliseconds since the epoch.
        created_ts: u64,
        /// The name stays taken.
        deactivated: bool,
        /// Whether its events are redacted for those who were not in the room.
        erased: bool,
        admin: bool,
    }
}

record! {
    /// The restrictions of an account.
    #[derive(Copy, Default)]
    AccountModeration {
        /// The user can do nothing but log out.
        locked: bool,
        /// The user can read, but not act in rooms.
        suspended: bool,
    }
}

record! {
    /// A device of a local user.
    Device {
        num: DeviceNum,
        display_name: Option<String>,
        /// When it last sent a request, in milliseconds since the epoch, an hour more or less.
        last_seen_ts: Option<u64>,
        last_seen_ip: Option<String>,
    }
}

record! {
    /// A pusher of the kind `http`.
    Pusher {
        /// The device that set it, with which it is removed.
        device: DeviceNum,
        app_display_name: String,
        device_display_name: String,
        profile_tag: Option<String>,
        lang: String,
        /// As JSON, with `url`.
        data: String,
        /// When it was last set, in milliseconds since the epoch.
        set_ts: u64,
    }
}

record! {
    /// What a pusher has sent, and how its gateway takes it.
    PusherState {
        /// Everything up to this position was sent, or needs not be.
        cursor: Position,
        /// The number of unread rooms that the gateway was last sent.
        badge: Option<u32>,
        backoff: Option<Backoff>,
        /// When the gateway first did not take a notification, in milliseconds since the epoch; `None` if it
        /// took the last one.
        failing_since_ts: Option<u64>,
        /// When the gateway last took a notification, in milliseconds since the epoch.
        success_ts: Option<u64>,
        /// When the gateway last answered or failed to, in milliseconds since the epoch, and how.
        answer: Option<(u64, String)>,
    }
}

record! {
    /// A version of a key backup.
    Backup {
        /// `algorithm` and `auth_data`, as JSON.
        info: String,
        /// Raised with every change of its keys.
        etag: u64,
        /// The number of its keys.
        count: u32,
    }
}

record! {
    AccessToken {
        user: UserNum,
        device: DeviceNum,
        /// In milliseconds since the epoch.
        expires_ts: Option<u64>,
        /// SHA-256 of the refresh token that is revoked, with its access token, when this token is first used.
        replaces: Option<[u8; 32]>,
    }
}

record! {
    RefreshToken {
        user: UserNum,
        device: DeviceNum,
        /// SHA-256 of the access token of the same pair.
        access: [u8; 32],
        /// As in [`AccessToken`].
        replaces: Option<[u8; 32]>,
    }
}

record! {
    LoginToken {
        user: UserNum,
        /// In milliseconds since the epoch.
        expires_ts: u64,
    }
}

record! {
    /// Account data of one type.
    AccountData {
        /// Of the last change.
        position: Position,
        /// As JSON. `{}` stays as a row, so that devices learn of the removal.
        content: String,
    }
}

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
    /// An event that other servers are to get.
    Outgoing {
        event: EventNum,
        /// Whoever is in it gets the event.
        room: RoomNum,
        /// Servers that get it although they are not in the room, or not any more.
        also: Vec<ServerNum>,
        /// The server that made it, if that is another.
        from: Option<ServerNum>,
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
    /// What a transaction id made.
    Transaction {
        event: EventNum,
        /// When, in milliseconds since the epoch.
        ts: u64,
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
    /// What a client has received on a connection of simplified sliding sync.
    #[derive(Default)]
    SlidingSyncState {
        /// The distinct required states of `rooms`.
        required_states: Vec<Vec<RequiredState>>,
        /// In the order of their numbers.
        rooms: Vec<(RoomNum, SentRoom)>,
        /// Whether it has the global account data.
        has_account_data: bool,
    }
}

/// A room that was sent on a connection of simplified sliding sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentRoom {
    /// The index in `required_states` of what the room was last sent with.
    pub required_state: u16,
    /// The limit with which it was last sent.
    pub timeline_limit: u16,
    /// The position up to which the client has the room; `None` if that is the position of its token.
    pub upto: Option<Position>,
    pub is_dm: bool,
    /// Whether the client has the receipts up to the position of its token.
    pub has_receipts: bool,
    /// The same of the room's account data.
    pub has_account_data: bool,
}

/// Which state of a room a client wants (MSC4186, `RequiredStateRequest`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequiredState {
    pub include: Vec<StatePattern>,
    pub exclude: Vec<StatePattern>,
    pub lazy_members: bool,
}

/// The type and the state key of state events; `None` is any.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatePattern {
    pub kind: Option<String>,
    pub state_key: Option<String>,
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

record! {
    Media {
        /// The id of the file with the content.
        file: [u8; 32],
        /// As the uploader sent it; empty if unknown.
        content_type: String,
        /// The file name.
        name: Option<String>,
        /// A local user; `None` if it can be fetched again.
        uploader: Option<UserNum>,
        /// In milliseconds since the epoch.
        created_ts: u64,
    }
}

record! {
    Thumbnail {
        /// The id of the file with the content.
        file: [u8; 32],
        content_type: String,
    }
}

record! {
    MediaFile {
        /// In bytes.
        size: u64,
    }
}
