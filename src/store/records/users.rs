//! Accounts, devices, their keys, pushers and connections.

use serde::{Deserialize, Serialize};

use super::{Record, record, servers::Backoff};
use crate::store::ids::{DeviceNum, Position, RoomNum, UserNum};

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
    /// A server notice for all users.
    Announcement {
        /// The user id of the sender.
        sender: String,
        body: String,
        /// The first user who may not have it.
        next_user: UserNum,
        /// When everybody had it, in milliseconds since the epoch.
        finished_ts: Option<u64>,
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
    /// An invitation of the owner to make accounts.
    RegistrationToken {
        /// Whom or what it is for, in the owner's words.
        name: Option<String>,
        /// In milliseconds since the epoch.
        created_ts: u64,
        /// In milliseconds since the epoch; `None`: never.
        expires_ts: Option<u64>,
        /// How many accounts were made with it.
        uses: u32,
        /// How many can be; `None`: any number.
        max_uses: Option<u32>,
        /// The ids of rooms that the new users join.
        rooms: Vec<String>,
        /// Who invites them to rooms that they cannot join otherwise.
        inviter: Option<UserNum>,
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
