//! The list of tables. `README.md` beside this file describes the encodings.

#[cfg(test)]
use std::collections::BTreeMap;
use std::{any::TypeId, sync::OnceLock};

#[cfg(test)]
use redb::ReadableTable;
use redb::{ReadTransaction, WriteTransaction};

use super::{
    Error, Tx,
    field::Field,
    ids::{
        DeviceNum, EventNum, NodeNum, Place, Position, RoomNum, ServerNum, StateKeyNum, UserNum,
    },
    packed::Packed,
    records::{
        AccessToken, Account, AccountData, AccountModeration, Alias, Announcement, Backoff, Backup,
        ClaimedState, Counts, Device, DeviceList, DeviceListChange, EarlyRedactions, FallbackKey,
        Gap, LeftDeletedRoom, LoginToken, Media, MediaFile, MemberRow, Notified, OneTimeKey,
        OutOfBandMembership, Outgoing, PendingLeave, PendingUpgrade, Pusher, PusherState, Receipt,
        RefreshToken, RegistrationToken, RemoteDevice, RemoteDeviceList, RemoteKey, Report,
        ResolvedServer, Room, RoomDeletion, RoomHeads, ServerContact, SigningKey, SlidingSyncState,
        StateNode, Thread, Thumbnail, TimelineRow, ToDeviceMessage, Transaction, Waiting,
    },
    table::{RawSnapshotTable, Rows, SnapshotTable, TxTable, raw},
};

#[derive(Clone, Copy, Debug)]
pub struct TableInfo {
    pub name: &'static str,
    /// Raised with every change of the key's or the value's type, together with a migration.
    pub version: u32,
    pub first_key_part: fn() -> TypeId,
}

impl TableInfo {
    /// Whether its keys begin with the number of a room.
    pub fn is_by_room(&self) -> bool {
        (self.first_key_part)() == TypeId::of::<RoomNum>()
    }
}

macro_rules! tables {
    ($($(#[$meta:meta])* $name:ident: $key:ty => $value:ty, version $version:literal;)+) => {
        /// All tables.
        pub const TABLES: &[TableInfo] =
            &[$(TableInfo {
                name: stringify!($name),
                version: $version,
                first_key_part: <$key as Field>::first_part,
            }),+];

        /// The tables of a snapshot or a transaction.
        pub trait Reader {
            type Table<'r, K: Field, V: Field>: Rows<K, V>
            where
                Self: 'r;

            $(
                $(#[$meta])*
                fn $name(&self) -> Result<Self::Table<'_, $key, $value>, Error>;
            )+
        }

        /// The tables of one snapshot, each opened at its first use.
        #[derive(Default)]
        struct Open {
            $($name: OnceLock<RawSnapshotTable>,)+
        }

        impl Reader for Snapshot {
            type Table<'r, K: Field, V: Field> = SnapshotTable<'r, K, V>;

            $(
                fn $name(&self) -> Result<SnapshotTable<'_, $key, $value>, Error> {
                    Ok(SnapshotTable::new(open(&self.txn, &self.open.$name, stringify!($name))?))
                }
            )+
        }

        impl Reader for Tx {
            type Table<'r, K: Field, V: Field> = TxTable<'r, K, V>;

            $(
                fn $name(&self) -> Result<TxTable<'_, $key, $value>, Error> {
                    self.open(stringify!($name))
                }
            )+
        }
    };
}

/// A committed state of the database. Keep it for a short time: redb keeps the pages of a live snapshot.
pub struct Snapshot {
    pub(super) txn: ReadTransaction,
    open: Open,
}

impl Snapshot {
    pub(super) fn new(txn: ReadTransaction) -> Self {
        Self {
            txn,
            open: Open::default(),
        }
    }

    /// The rows of each table, as bytes.
    #[cfg(test)]
    pub(crate) fn dump(&self) -> BTreeMap<&'static str, BTreeMap<Vec<u8>, Vec<u8>>> {
        let rows = |table: &TableInfo| {
            let table = self.txn.open_table(raw(table.name)).expect("a table");
            let rows = table.iter().expect("rows").map(|row| {
                let (key, value) = row.expect("a row");
                (key.value().to_vec(), value.value().to_vec())
            });
            rows.collect()
        };
        TABLES
            .iter()
            .map(|table| (table.name, rows(table)))
            .collect()
    }
}

fn open<'s>(
    txn: &ReadTransaction,
    slot: &'s OnceLock<RawSnapshotTable>,
    name: &'static str,
) -> Result<&'s RawSnapshotTable, Error> {
    if let Some(table) = slot.get() {
        return Ok(table);
    }
    let table = txn.open_table(raw(name))?;
    Ok(slot.get_or_init(|| table))
}

/// Creates the missing tables.
pub(super) fn create_all(txn: &WriteTransaction) -> Result<(), Error> {
    for table in TABLES {
        txn.open_table(raw(table.name))?;
    }
    Ok(())
}

tables! {
    /// The version of each table's rows, by the table's name.
    table_versions: &'static str => u32, version 1;
    /// Counters that must not run backwards.
    counters: &'static str => u64, version 1;
    /// Facts about the database: `server_name`, which cannot change.
    facts: &'static str => &'static str, version 1;
    /// The server's own signing keys, by key id (`ed25519:…`).
    signing_keys: &'static str => Packed<SigningKey>, version 1;
    /// (server, key id) → a signing key of another server.
    remote_keys: (&'static str, &'static str) => Packed<RemoteKey>, version 1;
    /// Server → the keys that it published last, as signed JSON.
    published_keys: &'static str => &'static str, version 1;

    /// Every user that another row mentions: number → user id.
    users: UserNum => &'static str, version 1;
    /// User id → number.
    user_nums: &'static str => UserNum, version 1;
    /// An account of this server.
    accounts: UserNum => Packed<Account>, version 1;
    /// User → the restrictions of the account, if there are any.
    account_moderation: UserNum => Packed<AccountModeration>, version 1;
    /// (user, profile field) → the field's value as JSON.
    profiles: (UserNum, &'static str) => &'static str, version 1;
    /// (user, device id) → the device.
    devices: (UserNum, &'static str) => Packed<Device>, version 1;
    /// Device number → its user and device id.
    device_ids: DeviceNum => (UserNum, &'static str), version 1;
    /// User → the id and the `device_data` (JSON) of the dehydrated device.
    dehydrated_devices: UserNum => (&'static str, &'static str), version 1;
    /// User, local or not → the positions of the last changes of the device list.
    device_lists: UserNum => Packed<DeviceList>, version 1;
    /// Position → the change of a local user's device list.
    device_list_log: Position => Packed<DeviceListChange>, version 1;
    /// (user, device id) → the identity keys of the device, as JSON.
    device_keys: (UserNum, &'static str) => &'static str, version 1;
    /// (device, algorithm, order of upload) → an unclaimed one-time key.
    one_time_keys: (DeviceNum, &'static str, u64) => Packed<OneTimeKey>, version 1;
    /// (device, order of upload) → the id and the SHA-256 of a claimed one-time key.
    claimed_keys: (DeviceNum, u64) => (&'static str, [u8; 32]), version 1;
    /// (device, algorithm) → the fallback key.
    fallback_keys: (DeviceNum, &'static str) => Packed<FallbackKey>, version 1;
    /// Device → the position at which its key counts last changed by a claim.
    one_time_key_changes: DeviceNum => Position, version 1;
    /// (user, usage) → a cross-signing key, as JSON.
    cross_signing_keys: (UserNum, &'static str) => &'static str, version 1;
    /// (local user, another user, public key) → the signatures of the first on that key of the other, by key
    /// id, as JSON.
    key_signatures: (UserNum, UserNum, &'static str) => &'static str, version 1;
    /// (local user, position) → the other user of whose keys the first last signed one there.
    user_signature_log: (UserNum, Position) => UserNum, version 1;
    /// (user, version) → a key backup.
    backups: (UserNum, u32) => Packed<Backup>, version 1;
    /// User → the last version of a key backup, deleted or not.
    backup_versions: UserNum => u32, version 1;
    /// (user, version of the backup, room id, session id) → a room key, as JSON.
    backup_keys: (UserNum, u32, &'static str, &'static str) => &'static str, version 1;
    /// (user, version): a deleted backup whose keys are still in `backup_keys`.
    pending_deletion_backups: (UserNum, u32) => (), version 1;
    /// Position → the user of another server whose device list last changed there.
    remote_device_list_log: Position => UserNum, version 1;
    /// User of another server → the tracked device list.
    remote_device_lists: UserNum => Packed<RemoteDeviceList>, version 1;
    /// (user of another server, device id) → a device of a tracked list.
    remote_devices: (UserNum, &'static str) => Packed<RemoteDevice>, version 1;
    /// (device, position) → a queued to-device message.
    to_device: (DeviceNum, Position) => Packed<ToDeviceMessage>, version 1;
    /// Sums of the sizes of queued to-device messages (`users/to_device/queue.rs`).
    to_device_usage: (u8, u32, &'static str) => u64, version 1;
    /// SHA-256 of an access token → the session.
    access_tokens: [u8; 32] => Packed<AccessToken>, version 1;
    /// SHA-256 of a refresh token → what it refreshes.
    refresh_tokens: [u8; 32] => Packed<RefreshToken>, version 1;
    /// (device, SHA-256 of a token): the access and refresh tokens of a device.
    device_tokens: (DeviceNum, [u8; 32]) => (), version 1;
    /// SHA-256 of a login token → the user whom it logs in.
    login_tokens: [u8; 32] => Packed<LoginToken>, version 1;
    /// Token → an invitation to make accounts.
    registration_tokens: &'static str => Packed<RegistrationToken>, version 1;
    /// SHA-256 of an OpenID token → the device that requested it, and the expiry, in milliseconds since the epoch.
    openid_tokens: [u8; 32] => (DeviceNum, u64), version 1;
    /// (local user, network as an IPv6 address) → when the user was last logged in there.
    login_networks: (UserNum, [u8; 16]) => u64, version 1;
    /// (user, room, type) → account data; global ones have the room number `u32::MAX`.
    account_data: (UserNum, RoomNum, &'static str) => Packed<AccountData>, version 1;
    /// (user, position) → the (room, type) whose account data last changed there.
    account_data_log: (UserNum, Position) => (RoomNum, &'static str), version 1;
    /// (user, filter number) → the filter as JSON.
    filters: (UserNum, u32) => &'static str, version 1;
    /// (device, id of a connection of simplified sliding sync, number of the state) → what the client has
    /// received: the last state that it confirmed, and the one after it.
    sliding_sync_states: (DeviceNum, &'static str, u64) => Packed<SlidingSyncState>, version 1;
    /// (user, app id, pushkey) → the pusher.
    pushers: (UserNum, &'static str, &'static str) => Packed<Pusher>, version 1;
    /// (app id, pushkey, user): `pushers` by what other users may have too.
    pusher_users: (&'static str, &'static str, UserNum) => (), version 1;
    /// (user, app id, pushkey) → up to where the pusher has sent, and what its gateway answered.
    pusher_states: (UserNum, &'static str, &'static str) => Packed<PusherState>, version 1;

    /// Every other server that another row mentions: number → name.
    servers: ServerNum => &'static str, version 1;
    /// Server name → number.
    server_nums: &'static str => ServerNum, version 1;
    /// Server name → its result of server discovery.
    resolved_servers: &'static str => Packed<ResolvedServer>, version 1;
    /// (server, position) → a to-device message that is queued for the server.
    outbound_to_device: (ServerNum, Position) => Packed<ToDeviceMessage>, version 1;
    /// Server → the position up to which the changes in `device_list_log` were sent to it.
    device_list_cursors: ServerNum => Position, version 1;
    /// (server, message id): the last to-device messages of a server, to deduplicate them.
    messages_seen: (ServerNum, &'static str) => (), version 1;
    /// (server, number) → `messages_seen` in the order of arrival.
    messages_seen_order: (ServerNum, u64) => &'static str, version 1;
    /// Server that lacks events of `outgoing` → the position of the first that it may lack.
    destination_cursors: ServerNum => Position, version 1;
    /// Server that did not answer → when the next request is tried.
    backoffs: ServerNum => Packed<Backoff>, version 1;
    /// Server that got transactions → how it took the last ones; some 4,000 rows at most.
    server_contacts: ServerNum => Packed<ServerContact>, version 1;
    /// Server with a row in `backoffs` → when it first did not answer, in milliseconds since the epoch.
    unreachable_since: ServerNum => u64, version 1;
    /// (room, other server) → how many of its users are joined.
    room_servers: (RoomNum, ServerNum) => u32, version 1;
    /// (other server, room): the rooms that it has users in.
    server_rooms: (ServerNum, RoomNum) => (), version 1;
    /// Position → an event that other servers are to get.
    outgoing: Position => Packed<Outgoing>, version 1;

    /// Rooms, the part that rarely changes.
    rooms: RoomNum => Packed<Room>, version 1;
    /// Id of a room that the owner has blocked → when, in milliseconds since the epoch.
    blocked_rooms: &'static str => u64, version 1;
    /// Id of a room that is being deleted → how far that is; 1,000 rows at most.
    room_deletions: &'static str => Packed<RoomDeletion>, version 1;
    /// (local user, deleted room) → that the user had left it; 200 rows of a user at most.
    left_deleted_rooms: (UserNum, RoomNum) => Packed<LeftDeletedRoom>, version 1;
    /// Room id → number.
    room_nums: &'static str => RoomNum, version 1;
    /// Room with a type → the `type` in its create event.
    room_types: RoomNum => &'static str, version 1;
    /// Rooms, the part that every event changes.
    room_heads: RoomNum => Packed<RoomHeads>, version 1;
    /// Event number → a packed [`EventHeader`](super::records::EventHeader), then the event's
    /// JSON as received (as redacted, once it is).
    events: EventNum => &'static [u8], version 1;
    /// Event id → number.
    event_nums: &'static str => EventNum, version 1;
    /// (room, event id) → an event that waits for what comes before it.
    waiting: (RoomNum, &'static str) => Packed<Waiting>, version 1;
    /// (room, event id) → the redactions of an event that is not here; 10,000 rows at most.
    early_redactions: (RoomNum, &'static str) => Packed<EarlyRedactions>, version 1;
    /// (room, event) → the state before the event as another server has it, while some of the
    /// event's prev_events are not here.
    claimed_states: (RoomNum, EventNum) => Packed<ClaimedState>, version 1;
    /// room → the place and the position of the event by which this server last joined it through
    /// another server.
    joins: RoomNum => (Place, Position), version 1;
    /// (room, event) → the numbers of its auth events, for state events: eight bytes each,
    /// little-endian.
    auth: (RoomNum, EventNum) => &'static [u8], version 1;
    /// (room, place) → the event that stands there.
    timeline: (RoomNum, Place) => Packed<TimelineRow>, version 1;
    /// (room, place of the first event after it) → a gap in the timeline.
    gaps: (RoomNum, Place) => Packed<Gap>, version 1;
    /// (room, event id, place): `gaps` by missing event.
    missing_events: (RoomNum, &'static str, Place) => (), version 1;
    /// (room, root event) → a thread.
    threads: (RoomNum, EventNum) => Packed<Thread>, version 1;
    /// (room, place of a thread's newest event) → its root.
    thread_order: (RoomNum, Place) => EventNum, version 1;
    /// (room, root event, place) → what the thread's events up to the one at that place mean under
    /// the default rules.
    thread_timeline: (RoomNum, EventNum, Place) => Packed<Counts>, version 1;
    /// (room, event id, kind of relation, place of the child) → the child and its sender.
    relations: (RoomNum, &'static str, u8, Place) => (EventNum, UserNum), version 1;
    /// (room, event id, sender, `origin_server_ts`, id of the edit) → the edit.
    edits: (RoomNum, &'static str, UserNum, u64, &'static str) => EventNum, version 1;
    /// (room, id of a thread's root, sender, 0 for all) → how many events of the sender are in the thread.
    thread_senders: (RoomNum, &'static str, UserNum) => u32, version 1;
    /// (room, place of the newest event of a thread) → the id of its root.
    thread_list: (RoomNum, Place) => &'static str, version 1;
    /// (room, block of 1,024 places, word) → at which of these places the word stands, and how often: two
    /// bytes each, big-endian.
    search_postings: (RoomNum, u64, &'static str) => &'static [u8], version 1;
    /// Room → the place up to which its events are in `search_postings`.
    search_cursors: RoomNum => Place, version 1;
    /// (room, type, state key) → its number in that room.
    state_keys: (RoomNum, &'static str, &'static str) => StateKeyNum, version 1;
    /// (room, number) → type and state key.
    state_key_names: (RoomNum, StateKeyNum) => (&'static str, &'static str), version 1;
    /// (room, node) → a node of the state tree.
    state_nodes: (RoomNum, NodeNum) => Packed<StateNode>, version 1;
    /// (room, state key) → the event in the room's current state.
    current_state: (RoomNum, StateKeyNum) => EventNum, version 1;
    /// (room, position, state key) → the event before and after a change of the current state;
    /// 0 is none.
    state_changes: (RoomNum, Position, StateKeyNum) => (EventNum, EventNum), version 1;
    /// (local user, room) → the user's membership.
    memberships: (UserNum, RoomNum) => Packed<MemberRow>, version 1;
    /// (local user, room) → an invite to, or a knock on, a room that this server is not in.
    out_of_band_memberships: (UserNum, RoomNum) => Packed<OutOfBandMembership>, version 1;
    /// (another server, local user, room) → a leave event that the server is to accept.
    pending_leaves: (ServerNum, UserNum, RoomNum) => Packed<PendingLeave>, version 1;
    /// (room, local user who is joined, invited or knocks) → the
    /// [`Membership`](super::records::Membership) as a byte.
    local_members: (RoomNum, UserNum) => u8, version 1;
    /// (device, what was sent and its transaction id) → the event it made.
    transactions: (DeviceNum, &'static str) => Packed<Transaction>, version 1;
    /// Alias → its room.
    aliases: &'static str => Packed<Alias>, version 1;
    /// (room, alias): the aliases of a room.
    room_aliases: (RoomNum, &'static str) => (), version 1;
    /// Number → what a user reported; 1,000 rows at most, the oldest first.
    reports: u64 => Packed<Report>, version 1;
    /// Local user → their room of server notices.
    server_notice_rooms: UserNum => RoomNum, version 1;
    /// Transaction id → a server notice for all users that is being sent, or was in the last day; 100 rows at
    /// most.
    announcements: &'static str => Packed<Announcement>, version 1;
    /// Rooms in the published room directory.
    public_rooms: RoomNum => (), version 1;
    /// Local user whose membership events are to be updated after a change of profile, or who is to leave
    /// all rooms after deactivation → the first room that is not done.
    pending_member_updates: UserNum => RoomNum, version 1;
    /// New room of an upgrade → the state that is still to be copied from the old room.
    pending_upgrades: RoomNum => Packed<PendingUpgrade>, version 1;

    /// (room, user, receipt kind and thread) → the receipt.
    receipts: (RoomNum, UserNum, &'static str) => Packed<Receipt>, version 1;
    /// (room, position) → the (user, kind and thread) whose receipt last moved there.
    receipt_log: (RoomNum, Position) => (UserNum, &'static str), version 1;
    /// (room, user, thread root or 0, place of an event that notifies the user otherwise than under the
    /// default rules) → the difference of the totals up to there.
    notified: (RoomNum, UserNum, EventNum, Place) => Packed<Notified>, version 1;
    /// (room, thread root or 0, place of an event that was redacted after it was stored) → what it means under
    /// the default rules.
    redacted_notifications: (RoomNum, EventNum, Place) => Packed<Counts>, version 1;
    /// (room, thread root or 0, local user) → the place of the user's last own event there, for users who
    /// are not in the record of the room or thread any more.
    last_own_event: (RoomNum, EventNum, UserNum) => Place, version 1;

    /// (server or 0 for this one, media id) → the media.
    media: (ServerNum, &'static str) => Packed<Media>, version 1;
    /// File id: SHA-256 of the content, or of source and variant of a thumbnail → the file.
    media_files: [u8; 32] => Packed<MediaFile>, version 1;
    /// (file, server, media id): `media` by file.
    media_of_file: ([u8; 32], ServerNum, &'static str) => (), version 1;
    /// (local user, media id): the uploads of a user.
    uploads: (UserNum, &'static str) => (), version 1;
    /// Local user → the size of the uploads, in bytes; 0 → the size of the `cached_files`.
    media_usage: UserNum => u64, version 1;
    /// File that can be fetched or made again → its last use, in milliseconds since the epoch.
    cached_files: [u8; 32] => u64, version 1;
    /// (time, file): `cached_files` by time.
    cached_files_lru: (u64, [u8; 32]) => (), version 1;
    /// (source file, variant) → the thumbnail.
    thumbnails: ([u8; 32], &'static str) => Packed<Thumbnail>, version 1;
    /// Thumbnail file → its source file and variant.
    thumbnail_sources: [u8; 32] => ([u8; 32], &'static str), version 1;
    /// Files that are neither served nor accepted.
    quarantined_files: [u8; 32] => (), version 1;
    /// Files that are kept: they are neither quarantined nor removed with a redacted event or from the cache.
    protected_files: [u8; 32] => (), version 1;
    /// Erased users whose uploads are still to be removed.
    erased_uploaders: UserNum => (), version 1;
    /// Files that no row names, and that are to be deleted from the disk.
    pending_deletion_files: [u8; 32] => (), version 1;
    /// Media id without content → its creator and its expiry, in milliseconds since the epoch.
    pending_media: &'static str => (UserNum, u64), version 1;
    /// Media id of an upload → how many contents refer to it: of events that are not redacted, profile fields and
    /// account data.
    media_references: &'static str => u64, version 1;
}
