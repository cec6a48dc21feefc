//! What other servers tell that is not stored as an event.
//!
//! What makes no sense, or is not the server's to tell, is dropped: a transaction is not refused for
//! it (server-server API, "EDUs").

use std::{collections::BTreeMap, sync::Arc};

use ruma::{
    OwnedUserId, RoomId, ServerName, UserId,
    api::federation::transactions::edu::{
        DirectDeviceContent, Edu, PresenceContent, PresenceUpdate, ReceiptContent, TypingContent,
    },
    events::receipt::ReceiptType,
    serde::Raw,
};

use crate::{
    api::{Api, Error},
    federation::DeviceUpdate,
    rooms::{
        self,
        state::{current, server_acl},
        typing::TypingUpdate,
        unread::receipts::{self, ReceiptKey},
    },
    store::{RoomNum, Tx, UserNum, records::Membership},
    users::{self, to_device},
};

/// For how long somebody types of whom another server says so, in milliseconds.
const TYPING_MS: u64 = 60_000;
/// How many bytes of a status message are kept.
const LONGEST_STATUS: usize = 1024;
/// How long the id of a message to devices can be, in bytes.
const LONGEST_ID: usize = 255;
/// How many users' presence one EDU may tell, and how many receipts; the rest is dropped.
const PRESENCES: usize = 200;
const RECEIPTS: usize = 500;

/// What `origin` tells: the messages to devices, and the rest.
pub(super) fn read(
    origin: &ServerName,
    edus: Vec<Raw<Edu>>,
) -> (Vec<DirectDeviceContent>, Vec<Edu>) {
    let (mut messages, mut others) = (Vec::new(), Vec::new());
    for edu in edus {
        match edu.deserialize() {
            Ok(Edu::DirectToDevice(content)) if is_proper(origin, &content) => {
                messages.push(content);
            }
            Ok(edu) => others.push(edu),
            Err(error) => log::debug!("{origin} sends a broken EDU: {error}"),
        }
    }
    (messages, others)
}

/// Takes what `origin` tells beside messages to devices.
pub(super) async fn take(api: &Api, origin: &ServerName, edus: Vec<Edu>) -> Result<(), Error> {
    let mut updates = Vec::new();
    for edu in edus {
        match edu {
            Edu::DeviceListUpdate(update) => updates.push(DeviceUpdate::Device(update)),
            Edu::SigningKeyUpdate(update) => updates.push(DeviceUpdate::Keys(update)),
            Edu::Typing(typing) => typing_changed(api, origin, typing).await?,
            Edu::Receipt(content) => have_read(api, origin, content)?,
            Edu::Presence(content) => present(api, origin, content).await?,
            _ => {}
        }
    }
    updates.retain(|update| update.user().server_name() == origin);
    Ok(api.federation.device_lists().follow(updates).await?)
}

/// Whether a message to devices is `origin`'s to send, and not too long.
fn is_proper(origin: &ServerName, content: &DirectDeviceContent) -> bool {
    let mut messages = content.messages.values().flat_map(BTreeMap::values);
    content.sender.server_name() == origin
        && content.ev_type.to_string().len() <= to_device::MAX_TYPE_BYTES
        && content.message_id.as_str().len() <= LONGEST_ID
        && messages.all(|message| message.json().get().len() <= to_device::MAX_CONTENT_BYTES)
}

/// Leaves messages to the devices of this server, each once however often it comes (server-server API,
/// "Send-to-device messaging").
pub(super) async fn deliver(
    api: &Api,
    origin: &ServerName,
    messages: Vec<DirectDeviceContent>,
) -> Result<(), Error> {
    if messages.is_empty() {
        return Ok(());
    }
    let (origin, messages) = (origin.to_owned(), Arc::new(messages));
    let mut next = 0;
    while next < messages.len() {
        let (origin, messages) = (origin.clone(), Arc::clone(&messages));
        let job = move |tx: &Tx| {
            let server = tx.server_num(origin.as_str())?;
            let knows = |user, sender: &UserId| current::share_a_room(tx, user, sender);
            to_device::deliver_remote(tx, server, (&messages, next), knows)
        };
        next = api.store.write(job).await?;
    }
    Ok(())
}

async fn typing_changed(
    api: &Api,
    origin: &ServerName,
    content: TypingContent,
) -> Result<(), Error> {
    let Some(room) = shared(api, origin, &content.room_id, &content.user_id)? else {
        return Ok(());
    };
    let user = num_of(api, content.user_id).await?;
    let for_ms = content.typing.then_some(TYPING_MS);
    let change = api.typing.set(room, user, for_ms, api.clock.now_ms());
    if change == TypingUpdate::Changed {
        api.typing
            .changed(room, api.notifier.ephemeral_changed_in(room));
    }
    Ok(())
}

fn have_read(api: &Api, origin: &ServerName, content: ReceiptContent) -> Result<(), Error> {
    let mut moves = Vec::new();
    let receipts = content.receipts.into_iter().flat_map(|(room, receipts)| {
        let of_users = receipts.read.into_iter();
        of_users.map(move |(user, receipt)| (room.clone(), user, receipt))
    });
    for (room, user, receipt) in receipts.take(RECEIPTS) {
        let Some(room) = shared(api, origin, &room, &user)? else {
            continue;
        };
        let ts = receipt.data.ts.map_or(api.clock.now_ms(), |ts| ts.0.into());
        if let Some(of) = ReceiptKey::new(ReceiptType::Read, &receipt.data.thread)
            && let Some(event) = receipt.event_ids.into_iter().next()
        {
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
            // Any other error says that the event is not here, or not yet.
            if let Err(error @ rooms::Error::Store(_)) = moved {
                return Err(error);
            }
        }
        Ok(())
    };
    // The next transaction, which may have messages, does not wait for it.
    let store = api.store.clone();
    api.federation.spawn(async move {
        if let Err(error) = store.write_soon(job).await {
            log::debug!("receipts are lost: {error}");
        }
    });
    Ok(())
}

async fn present(api: &Api, origin: &ServerName, content: PresenceContent) -> Result<(), Error> {
    let now = api.clock.now_ms();
    for update in content.push.into_iter().take(PRESENCES) {
        let PresenceUpdate {
            user_id,
            presence: state,
            mut status_msg,
            last_active_ago,
            ..
        } = update;
        if user_id.server_name() != origin {
            continue;
        }
        let concerned = api
            .store
            .read(|s| current::sharing_rooms_with(s, &user_id))?;
        if concerned.is_empty() {
            continue;
        }
        if let Some(status) = &mut status_msg {
            status.truncate(status.floor_char_boundary(LONGEST_STATUS));
        }
        let user = num_of(api, user_id).await?;
        let active_ms = now.saturating_sub(last_active_ago.into());
        if api
            .presence
            .set_remote(user, (state, status_msg), active_ms, now)
        {
            api.presence
                .set_change_number(user, api.notifier.ephemeral_changed_for(concerned));
        }
    }
    Ok(())
}

/// The room, if the user is one of `origin` and in it, and it lets `origin` take part.
fn shared(
    api: &Api,
    origin: &ServerName,
    room: &RoomId,
    user: &UserId,
) -> Result<Option<RoomNum>, Error> {
    if user.server_name() != origin {
        return Ok(None);
    }
    let shared = api.store.read(|s| {
        let room = server_acl::shared_with(s, room, origin)?;
        let is_in = current::membership(s, room, user)? == Membership::Join;
        Ok(is_in.then_some(room))
    });
    match shared {
        Ok(room) => Ok(room),
        Err(rooms::Error::UnknownRoom | rooms::Error::Forbidden(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The number of a user, who gets one if they have none.
async fn num_of(api: &Api, user: OwnedUserId) -> Result<UserNum, Error> {
    if let Some(num) = api.store.read(|s| users::num_of(s, &user))? {
        return Ok(num);
    }
    let job = move |tx: &Tx| Ok::<_, rooms::Error>(tx.user_num(user.as_str())?);
    Ok(api.store.write(job).await?)
}
