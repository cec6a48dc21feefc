//! Receiving EDUs (server-server API, "EDUs"). An EDU or an entry of one that is invalid, or that `origin`
//! may not send, is dropped; its transaction is accepted all the same.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, btree_map::Entry},
    sync::Arc,
};

use ruma::{
    OwnedRoomId, OwnedServerName, OwnedUserId, ServerName, UserId,
    api::federation::transactions::edu::{DirectDeviceContent, Edu, TypingContent},
    events::receipt::ReceiptType,
    serde::Raw,
};

use super::edu_content::{ReceivedEdu, ReceivedPresence, ReceivedReceipt};
use crate::{
    executor::{Executor, Slices},
    federation::devices::device_lists::{DeviceLists, Update},
    pool::{self, Kind, Pool},
    protocol::depth::{MAX_DEPTH, is_too_deep},
    rooms::{
        self,
        servers::{server_acl::ServerAcls, shared_rooms},
        state::current,
        typing::{self, Typing},
        unread::receipts::{self, ReceiptKey},
    },
    store::{RoomNum, Store, Tx, UserNum, records::Membership},
    users::{self, presence::Presence, to_device},
};

/// For how long a user types after a typing EDU, in milliseconds.
const TYPING_TIMEOUT_MS: u64 = 60_000;
const MAX_STATUS_MSG_BYTES: usize = 1024;
const MAX_MESSAGE_ID_BYTES: usize = 255;
/// How many updates or receipts of one EDU are applied.
const MAX_PRESENCE_UPDATES: usize = 200;
const MAX_RECEIPTS: usize = 500;
/// How many updates or receipts are applied before other tasks get their turn. For each, a few rows are
/// read.
const STEPS_PER_SLICE: usize = 8;
/// EDUs that together have more bytes are parsed on the pool.
const MAX_BYTES_IN_PLACE: usize = 32 * 1024;

/// The EDUs of a transaction.
#[derive(Debug, Default)]
pub struct Edus {
    /// `m.direct_to_device`: applied before the PDUs, since nothing that they need can be missing.
    pub to_device: Vec<DirectDeviceContent>,
    /// All others: applied after the PDUs, which may add the members whom they concern.
    pub others: Vec<ReceivedEdu>,
}

impl Edus {
    pub async fn parse(
        pool: &Pool,
        origin: OwnedServerName,
        edus: Vec<Raw<Edu>>,
    ) -> Result<Self, pool::Error> {
        let bytes: usize = edus.iter().map(|edu| edu.json().get().len()).sum();
        if bytes <= MAX_BYTES_IN_PLACE {
            return Ok(Self::parse_in_place(&origin, edus));
        }
        let parse = move || Self::parse_in_place(&origin, edus);
        pool.run(Kind::Parse, parse).await
    }

    fn parse_in_place(origin: &ServerName, edus: Vec<Raw<Edu>>) -> Self {
        let mut parsed = Self::default();
        for edu in edus {
            if is_too_deep(edu.json().get().as_bytes()) {
                log::debug!("dropped an EDU of {origin}: nested more than {MAX_DEPTH} levels deep");
                continue;
            }
            match ReceivedEdu::parse(&edu) {
                Ok(Some(ReceivedEdu::DirectToDevice(content))) => {
                    if is_acceptable(origin, &content) {
                        parsed.to_device.push(content);
                    }
                }
                Ok(edu) => parsed.others.extend(edu),
                Err(error) => log::debug!("dropped an invalid EDU of {origin}: {error}"),
            }
        }
        parsed
    }
}

fn is_acceptable(origin: &ServerName, content: &DirectDeviceContent) -> bool {
    content.sender.server_name() == origin
        && content.ev_type.to_string().len() <= to_device::MAX_TYPE_BYTES
        && content.message_id.as_str().len() <= MAX_MESSAGE_ID_BYTES
}

/// A change that is not stored. The caller announces it to the syncs that wait for it.
#[derive(Debug)]
pub enum EphemeralChange {
    Typing(RoomNum),
    /// The user, and the local users who share a room with them.
    Presence(UserNum, BTreeSet<UserNum>),
}

/// Applies EDUs of other servers.
pub struct EduReceiver<'a> {
    pub store: &'a Store,
    pub executor: &'a Executor,
    pub server_acls: &'a ServerAcls,
    pub device_lists: &'a DeviceLists,
    pub typing: &'a Typing,
    pub presence: &'a Presence,
    pub now_ms: u64,
}

/// Delivers messages to local devices, each once: they are deduplicated by message id (server-server
/// API, "Send-to-device messaging").
pub async fn deliver_to_device(
    store: &Store,
    origin: &ServerName,
    messages: Vec<DirectDeviceContent>,
    now_ms: u64,
) -> Result<(), rooms::Error> {
    let (origin, messages) = (origin.to_owned(), Arc::new(messages));
    let mut next = 0;
    while next < messages.len() {
        let (origin, messages) = (origin.clone(), Arc::clone(&messages));
        let job = move |tx: &Tx| {
            let server = tx.server_num(origin.as_str())?;
            let shared = |user, sender: &UserId| shared_rooms::shared_with(tx, user, sender);
            to_device::deliver_remote(tx, server, &messages, next, now_ms, shared)
        };
        next = store.write(job).await?;
    }
    Ok(())
}

/// The server that sent a transaction.
struct Origin<'a> {
    name: &'a ServerName,
    /// The rooms that the EDUs name; `None` if they may not: the server is not in the room, or denied by
    /// its ACL.
    rooms: BTreeMap<OwnedRoomId, Option<RoomNum>>,
    /// The users whom the EDUs name, by room, and whether they are joined.
    members: HashMap<RoomNum, HashMap<OwnedUserId, bool>>,
    slices: Slices,
}

impl EduReceiver<'_> {
    /// Applies all EDUs but `m.direct_to_device`, in slices. Calls `announce` with each change that is not
    /// stored.
    pub async fn apply(
        &self,
        origin: &ServerName,
        edus: Vec<ReceivedEdu>,
        announce: &(dyn Fn(EphemeralChange) + Send + Sync),
    ) -> Result<(), rooms::Error> {
        let mut device_list_updates = Vec::new();
        let mut origin = Origin {
            name: origin,
            rooms: BTreeMap::new(),
            members: HashMap::new(),
            slices: Slices::of(STEPS_PER_SLICE),
        };
        for edu in edus {
            match edu {
                ReceivedEdu::DeviceListUpdate(update) => {
                    device_list_updates.push(Update::Device(update))
                }
                ReceivedEdu::SigningKeyUpdate(update) => {
                    device_list_updates.push(Update::SigningKeys(update))
                }
                ReceivedEdu::Typing(typing) => {
                    let change = self.apply_typing(&mut origin, typing).await?;
                    change.into_iter().for_each(announce);
                }
                ReceivedEdu::Receipts(receipts) => {
                    self.apply_receipts(&mut origin, receipts).await?
                }
                ReceivedEdu::Presence(updates) => {
                    self.apply_presence(&mut origin, updates, announce).await?;
                }
                ReceivedEdu::DirectToDevice(_) => {}
            }
            origin.slices.step().await;
        }
        device_list_updates.retain(|update| update.user().server_name() == origin.name);
        self.device_lists.apply_updates(device_list_updates).await
    }

    async fn apply_typing(
        &self,
        origin: &mut Origin<'_>,
        content: TypingContent,
    ) -> Result<Option<EphemeralChange>, rooms::Error> {
        let Some(room) = self.room_of_member(origin, content.room_id, &content.user_id)? else {
            return Ok(None);
        };
        let user = self.user_num(content.user_id).await?;
        let timeout = content.typing.then_some(TYPING_TIMEOUT_MS);
        let change = self
            .typing
            .set(room, user, Some(origin.name), timeout, self.now_ms);
        Ok((change == typing::TypingUpdate::Changed).then_some(EphemeralChange::Typing(room)))
    }

    async fn apply_receipts(
        &self,
        origin: &mut Origin<'_>,
        receipts: Vec<ReceivedReceipt>,
    ) -> Result<(), rooms::Error> {
        let mut moves = Vec::new();
        for receipt in receipts.into_iter().take(MAX_RECEIPTS) {
            let ReceivedReceipt {
                room,
                user,
                event,
                data,
            } = receipt;
            let room = self.room_of_member(origin, room, &user)?;
            origin.slices.step().await;
            let Some(room) = room else {
                continue;
            };
            let ts = data.ts.map_or(self.now_ms, |ts| ts.0.into());
            if let Some(of) = ReceiptKey::new(ReceiptType::Read, &data.thread) {
                moves.push((room, user, of, event, ts));
            }
        }
        if moves.is_empty() {
            return Ok(());
        }
        let job = move |tx: &Tx| {
            for (room, user, of, event, ts) in &moves {
                let user = tx.user_num(user.as_str())?;
                let moved = receipts::put(tx, *room, user, of, event, *ts);
                // Any other error means that the event is not stored.
                if let Err(error @ rooms::Error::Store(_)) = moved {
                    return Err(error);
                }
            }
            Ok(())
        };
        // The response to the transaction does not wait for a `write_deferred`.
        let (store, origin) = (self.store.clone(), origin.name.to_owned());
        let write = async move {
            if let Err(error) = store.write_deferred(job).await {
                log::debug!("cannot store receipts of {origin}: {error}");
            }
        };
        self.executor.spawn(write).detach();
        Ok(())
    }

    async fn apply_presence(
        &self,
        origin: &mut Origin<'_>,
        mut updates: Vec<ReceivedPresence>,
        announce: &(dyn Fn(EphemeralChange) + Send + Sync),
    ) -> Result<(), rooms::Error> {
        updates.truncate(MAX_PRESENCE_UPDATES);
        updates.retain(|update| update.user_id.server_name() == origin.name);
        let users: Vec<_> = updates
            .iter()
            .map(|update| update.user_id.clone())
            .collect();
        // Grows with the rooms that the servers share.
        let scan = self
            .store
            .scan_in_background("presence observers", move |s| {
                let users = users.iter();
                users
                    .map(|user| shared_rooms::local_users_sharing_with_remote(s, user))
                    .collect::<Result<Vec<_>, rooms::Error>>()
            });
        for (update, observers) in updates.into_iter().zip(scan.await?) {
            let ReceivedPresence {
                user_id,
                presence,
                mut status_msg,
                last_active_ago,
            } = update;
            origin.slices.step().await;
            if observers.is_empty() {
                continue;
            }
            if let Some(status) = &mut status_msg {
                status.truncate(status.floor_char_boundary(MAX_STATUS_MSG_BYTES));
            }
            let user = self.user_num(user_id).await?;
            let active_ts = last_active_ago.map(|ago| self.now_ms.saturating_sub(ago.into()));
            let is_changed =
                self.presence
                    .set_remote(user, presence, status_msg, active_ts, self.now_ms);
            if is_changed {
                announce(EphemeralChange::Presence(user, observers));
            }
        }
        Ok(())
    }

    /// The room, if `user` is a user of `origin` and joined, and the room's server ACL allows `origin`.
    fn room_of_member(
        &self,
        origin: &mut Origin<'_>,
        room: OwnedRoomId,
        user: &UserId,
    ) -> Result<Option<RoomNum>, rooms::Error> {
        if user.server_name() != origin.name {
            return Ok(None);
        }
        self.store.read(|s| {
            let room = match origin.rooms.entry(room) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(unknown) => {
                    let shared = self.server_acls.shared_with(s, unknown.key(), origin.name);
                    *unknown.insert(match shared {
                        Err(rooms::Error::UnknownRoom | rooms::Error::Forbidden(_)) => None,
                        room => Some(room?),
                    })
                }
            };
            let Some(room) = room else {
                return Ok(None);
            };
            let members = origin.members.entry(room).or_default();
            let is_joined = match members.get(user) {
                Some(known) => *known,
                None => {
                    let is_joined = current::membership(s, room, user)? == Membership::Join;
                    members.insert(user.to_owned(), is_joined);
                    is_joined
                }
            };
            Ok(is_joined.then_some(room))
        })
    }

    async fn user_num(&self, user: OwnedUserId) -> Result<UserNum, rooms::Error> {
        if let Some(num) = self.store.read(|s| users::num_of(s, &user))? {
            return Ok(num);
        }
        let job = move |tx: &Tx| Ok::<_, rooms::Error>(tx.user_num(user.as_str())?);
        self.store.write(job).await
    }
}
