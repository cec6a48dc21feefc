//! Messages from device to device (client-server API, "Send-to-Device messaging").
//!
//! - What is for a device of this server waits in `to_device` until a sync with a token behind it says
//!   that it has arrived; what is for another server, in `outbound_to_device` until that server has taken it.
//! - Whoever writes has decided that the sender may: [`deliver`] and [`queue_outbound`] are called in the job that
//!   makes sure that this happens once.
//! - What waits is capped for each device and each server. A message too many is left out: those that
//!   are there were promised. NOTSPEC: all are to be kept until they are delivered; the disk of a small
//!   computer is not for a device that has been off for years.

use std::{collections::BTreeMap, fmt};

use ruma::{
    CanonicalJsonObject, OwnedServerName, OwnedTransactionId, ServerName, UserId,
    api::federation::transactions::edu::{DirectDeviceContent, DirectDeviceMessages},
    events::ToDeviceEventType,
    to_device::DeviceIdOrAllDevices,
};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{Error, devices, num_of};
use crate::store::{
    self, DeviceNum, Effect, Position, Reader, Records, Rows, ServerNum, Tx, UserNum,
    records::ToDeviceMessage,
};

/// How long the content of one message can be, in bytes.
pub const MAX_CONTENT_BYTES: usize = 64 * 1024;
/// How long its type can be, in bytes.
pub const MAX_TYPE_BYTES: usize = 255;
/// How much one request, or one EDU, may leave at this server's devices, in bytes, and about how much one
/// job does.
const MOST_AT_ONCE: usize = 2 * 1024 * 1024;
/// How much waits for a device, or for a server, in units: 20 MB, or 5,000 messages.
const WAITING: u64 = 5000;
/// How much of that a user of another server can fill who is in no room with the device's owner: no
/// stranger keeps the keys away that others send.
const FOR_STRANGERS: u64 = WAITING / 10;
/// One unit of that, in bytes. No message counts as less.
const UNIT: usize = 4 * 1024;
/// How many EDUs for a server that is given up are thrown away at once.
const THROWN_AWAY: usize = 1000;
/// How many messages of a server are remembered, so that each is delivered once.
const REMEMBERED: u64 = 2000;
/// How many messages one sync tells at the most, and of how many bytes.
const TOLD: usize = 100;
const TOLD_BYTES: usize = 1024 * 1024;
/// How many EDUs one transaction takes along at the most, and of how many bytes.
const SENT_BYTES: usize = 512 * 1024;

/// What one sends to many devices.
#[derive(Clone, Debug)]
pub struct Batch {
    /// What kind of message it is.
    pub kind: ToDeviceEventType,
    /// For whom, and the content for each.
    pub messages: DirectDeviceMessages,
}

impl Batch {
    /// Whether every message is short enough, and what a message can be: what other servers are sent is
    /// signed, and canonical JSON therefore.
    ///
    /// # Errors
    /// [`Error::TooLarge`] or [`Error::BadJson`] if one is not.
    pub fn check(&self) -> Result<(), Error> {
        if self.kind.to_string().len() > MAX_TYPE_BYTES {
            return Err(Error::TooLarge(
                "the type of a message to a device has at most 255 bytes",
            ));
        }
        for content in self.messages.values().flat_map(BTreeMap::values) {
            let json = content.json().get();
            if json.len() > MAX_CONTENT_BYTES {
                return Err(Error::TooLarge("a message to a device has at most 64 KiB"));
            }
            serde_json::from_str::<CanonicalJsonObject>(json).map_err(|_| {
                Error::BadJson(
                    "a message to a device is an object of canonical JSON, so without fractions",
                )
            })?;
        }
        Ok(())
    }

    /// What of it is for each server.
    pub fn by_server(self) -> BTreeMap<OwnedServerName, DirectDeviceMessages> {
        let mut servers: BTreeMap<_, DirectDeviceMessages> = BTreeMap::new();
        for (user, messages) in self.messages {
            let server = servers.entry(user.server_name().to_owned()).or_default();
            server.insert(user, messages);
        }
        servers
    }
}

#[derive(Serialize)]
struct Event<'a> {
    sender: &'a UserId,
    #[serde(rename = "type")]
    kind: &'a ToDeviceEventType,
    content: &'a RawValue,
}

/// Leaves `messages` for those devices of this server that there are.
///
/// # Errors
/// [`Error::TooLarge`], and nothing is written, if it is too much for one request.
pub fn deliver(
    tx: &Tx,
    from: (&UserId, &ToDeviceEventType),
    messages: &DirectDeviceMessages,
) -> Result<(), Error> {
    let letters = letters(tx, from, messages)?;
    let letters = letters.ok_or(Error::TooLarge(
        "this is too much for so many devices at once; send it to some of them at a time",
    ))?;
    letters
        .iter()
        .try_for_each(|letter| put(tx, letter, || Ok(true)))
}

/// Leaves what a server has sent, each message once however often it comes, from the one of this number
/// on, for about as long as a job may take; the number to go on with. What is too much for one EDU is
/// left out. `knows` says whether a local user is in a room with a sender.
///
/// # Errors
/// If the store cannot be written.
pub fn deliver_remote<E: From<store::Error>>(
    tx: &Tx,
    server: ServerNum,
    (contents, first): (&[DirectDeviceContent], usize),
    knows: impl Fn(UserNum, &UserId) -> Result<bool, E>,
) -> Result<usize, E> {
    let mut bytes = 0;
    for (number, content) in contents.iter().enumerate().skip(first) {
        let from = (&*content.sender, &content.ev_type);
        let letters = letters(tx, from, &content.messages)?;
        let size = |letters: &Vec<Letters>| letters.iter().map(Letters::size).sum();
        bytes += letters.as_ref().map_or(0, size);
        if number > first && bytes > MOST_AT_ONCE {
            return Ok(number);
        }
        if is_new(tx, server, content.message_id.as_str())? {
            match &letters {
                Some(letters) => {
                    for letter in letters {
                        put(tx, letter, || knows(letter.user, &content.sender))?;
                    }
                }
                None => log::warn!("{} sends too much to devices at once", content.sender),
            }
        }
    }
    Ok(contents.len())
}

/// One message, and the devices that are to have it.
struct Letters {
    user: UserNum,
    devices: Vec<DeviceNum>,
    json: String,
}

impl Letters {
    fn size(&self) -> usize {
        self.json.len() * self.devices.len()
    }
}

/// What is to be written for `messages`; nothing if that is too much for one request.
fn letters(
    r: &impl Reader,
    (sender, kind): (&UserId, &ToDeviceEventType),
    messages: &DirectDeviceMessages,
) -> Result<Option<Vec<Letters>>, store::Error> {
    let (mut found, mut left) = (Vec::new(), MOST_AT_ONCE);
    for (user_id, contents) in messages {
        let Some(user) = num_of(r, user_id)? else {
            continue;
        };
        for (to, content) in contents {
            let event = Event {
                sender,
                kind,
                content: content.json(),
            };
            let json = serde_json::to_string(&event)
                .map_err(|_| store::Error::NotSerializable("a to-device message"))?;
            let letters = Letters {
                user,
                devices: addressed(r, user, to)?,
                json,
            };
            match left.checked_sub(letters.size()) {
                Some(rest) => left = rest,
                None => return Ok(None),
            }
            found.push(letters);
        }
    }
    Ok(Some(found))
}

fn addressed(
    r: &impl Reader,
    user: UserNum,
    to: &DeviceIdOrAllDevices,
) -> Result<Vec<DeviceNum>, store::Error> {
    match to {
        DeviceIdOrAllDevices::DeviceId(id) => {
            let device = r.devices()?.load((user, id.as_str()))?;
            Ok(device.iter().map(|device| device.num).collect())
        }
        DeviceIdOrAllDevices::AllDevices => {
            let devices = devices::all(r, user)?.into_iter();
            Ok(devices.map(|(_, device)| device.num).collect())
        }
    }
}

/// Leaves a message at its devices, of a sender of whom `is_known` says whether they are no stranger.
fn put<E: From<store::Error>>(
    tx: &Tx,
    letters: &Letters,
    is_known: impl Fn() -> Result<bool, E>,
) -> Result<(), E> {
    for device in &letters.devices {
        let position = tx.next_position()?;
        let range = (*device, Position::MIN)..=(*device, Position::MAX);
        let (index, waiting) = next_index(tx.to_device()?.range(range)?, &letters.json)?;
        if waiting > WAITING || waiting > FOR_STRANGERS && !is_known()? {
            log::warn!("too many messages wait for a device: one is left out");
            continue;
        }
        let json = letters.json.clone();
        tx.to_device()?
            .put((*device, position), &ToDeviceMessage { index, json })?;
        tx.effect(Effect::UserChanged(letters.user, position));
    }
    Ok(())
}

/// The index of the letter `json` behind `rows`, and how much waits then, with it.
fn next_index<K: store::Field>(
    mut rows: store::Range<'_, K, store::Packed<ToDeviceMessage>>,
    json: &str,
) -> Result<(u64, u64), store::Error> {
    let Some(first) = rows.next().transpose()? else {
        return Ok((0, units(json)));
    };
    let first = first.1.value().unpack()?;
    let (begin, last) = match rows.next_back().transpose()? {
        Some(last) => (first.index, last.1.value().unpack()?),
        None => (first.index, first),
    };
    let next = last.index.saturating_add(units(&last.json));
    let waiting = next.saturating_sub(begin).saturating_add(units(json));
    Ok((next, waiting))
}

fn units(json: &str) -> u64 {
    json.len().div_ceil(UNIT).max(1) as u64
}

/// Messages, and up to which position they are all that there are.
pub type PendingMessages = (Vec<Box<RawValue>>, Position);

/// What waits for `device` after `after`, up to and including `upto`, oldest first, as much as one
/// sync tells; and up to where that is.
///
/// # Errors
/// If the table cannot be read.
pub fn pending(
    r: &impl Reader,
    device: DeviceNum,
    after: Position,
    upto: Position,
) -> Result<PendingMessages, store::Error> {
    let (mut told, mut bytes, mut last) = (Vec::new(), 0, after);
    if after >= upto {
        return Ok((told, after));
    }
    let range = (device, Position(after.0 + 1))..=(device, upto);
    for row in r.to_device()?.range(range)? {
        let (key, letter) = row?;
        let json = letter.value().unpack()?.json;
        bytes += json.len();
        if told.len() == TOLD || !told.is_empty() && bytes > TOLD_BYTES {
            return Ok((told, last));
        }
        last = key.value().1;
        told.push(raw(json, "to_device", key.value())?);
    }
    Ok((told, upto))
}

/// Whether something waits that has arrived, if all up to `upto` has.
///
/// # Errors
/// If the table cannot be read.
pub fn has_pending_until(
    r: &impl Reader,
    device: DeviceNum,
    upto: Position,
) -> Result<bool, store::Error> {
    let table = r.to_device()?;
    let mut rows = table.range((device, Position::MIN)..=(device, upto))?;
    Ok(rows.next().transpose()?.is_some())
}

/// Forgets what has arrived at `device`: everything up to and including `upto`.
///
/// # Errors
/// If the table cannot be written.
pub fn remove_until(tx: &Tx, device: DeviceNum, upto: Position) -> Result<(), store::Error> {
    tx.to_device()?
        .remove_in((device, Position::MIN)..=(device, upto), |_, _| true)
}

/// Leaves `messages` for `server` to be sent.
///
/// # Errors
/// If the store cannot be written.
pub fn queue_outbound(
    tx: &Tx,
    server: &ServerName,
    (sender, kind): (&UserId, &ToDeviceEventType),
    (id, messages): (&OwnedTransactionId, &DirectDeviceMessages),
) -> Result<(), store::Error> {
    let server = tx.server_num(server.as_str())?;
    let mut content = DirectDeviceContent::new(sender.to_owned(), kind.clone(), id.clone());
    content.messages = messages.clone();
    let json = serde_json::to_string(&content)
        .map_err(|_| store::Error::NotSerializable("a to-device message"))?;
    let position = tx.next_position()?;
    let mut table = tx.outbound_to_device()?;
    let range = (server, Position::MIN)..=(server, Position::MAX);
    let (index, waiting) = next_index(table.range(range)?, &json)?;
    if waiting > WAITING {
        log::warn!("too many messages wait for a server: one is left out");
        return Ok(());
    }
    table.put((server, position), &ToDeviceMessage { index, json })?;
    drop(table);
    tx.effect(Effect::ServerAddressed(server));
    Ok(())
}

/// What waits for a server, and the position of the last of it.
pub type OutboundMessages = (Vec<Box<RawValue>>, Position);

/// What waits for `server`, oldest first, as much as goes into one transaction with room for `most`
/// of them; and the position of the last one.
///
/// # Errors
/// If the table cannot be read.
pub fn outbound(
    r: &impl Reader,
    server: ServerNum,
    most: usize,
) -> Result<Option<OutboundMessages>, store::Error> {
    let (mut posted, mut bytes) = (Vec::new(), 0);
    let mut last = None;
    let range = (server, Position::MIN)..=(server, Position::MAX);
    for row in r.outbound_to_device()?.range(range)?.take(most) {
        let (key, letter) = row?;
        let (_, position) = key.value();
        let message = letter.value().unpack();
        let message =
            message.and_then(|message| raw(message.json, "outbound_to_device", key.value()));
        let message = match message {
            Ok(message) => message,
            // It must not stop the messages after it.
            Err(error @ store::Error::Corrupt(_)) => {
                let server = r
                    .servers()?
                    .get(server)?
                    .map(|name| name.value().to_owned());
                let server = server.unwrap_or_default();
                log::error!("a to-device message for {server} is dropped: {error}");
                last = Some(position);
                continue;
            }
            Err(error) => return Err(error),
        };
        bytes += message.get().len();
        if !posted.is_empty() && bytes > SENT_BYTES {
            break;
        }
        last = Some(position);
        posted.push(message);
    }
    Ok(last.map(|last| (posted, last)))
}

/// Forgets what `server` has taken: everything up to and including `upto`.
///
/// # Errors
/// If the table cannot be written.
pub fn remove_outbound_until(
    tx: &Tx,
    server: ServerNum,
    upto: Position,
) -> Result<(), store::Error> {
    tx.outbound_to_device()?
        .remove_in((server, Position::MIN)..=(server, upto), |_, _| true)
}

/// Throws away some of what waits for `server`, which does not answer any more.
///
/// # Errors
/// If the table cannot be written.
pub fn discard_outbound(tx: &Tx, server: ServerNum) -> Result<(), store::Error> {
    let mut thrown_away = 0;
    let range = (server, Position::MIN)..=(server, Position::MAX);
    tx.outbound_to_device()?.remove_in(range, |_, _| {
        thrown_away += 1;
        thrown_away <= THROWN_AWAY
    })?;
    if thrown_away > 0 {
        log::warn!("messages to devices of a server that is long gone are thrown away");
    }
    Ok(())
}

/// The servers for which something waits.
///
/// # Errors
/// If the table cannot be read.
pub fn servers_with_outbound(r: &impl Reader) -> Result<Vec<ServerNum>, store::Error> {
    let mut found: Vec<ServerNum> = Vec::new();
    let table = r.outbound_to_device()?;
    loop {
        let from = match found.last() {
            Some(&ServerNum::MAX) => return Ok(found),
            Some(last) => ServerNum(last.0 + 1),
            None => ServerNum::MIN,
        };
        let Some(row) = table.range((from, Position::MIN)..)?.next() else {
            return Ok(found);
        };
        found.push(row?.0.value().0);
    }
}

/// Whether the message that `server` calls `id` comes for the first time, of those that came lately;
/// it is remembered.
///
/// # Errors
/// If the store cannot be written.
fn is_new(tx: &Tx, server: ServerNum, id: &str) -> Result<bool, store::Error> {
    let mut came = tx.messages_seen()?;
    if came.has((server, id))? {
        return Ok(false);
    }
    let mut forgotten: Vec<String> = Vec::new();
    let mut order = tx.messages_seen_order()?;
    let last = order
        .range((server, u64::MIN)..=(server, u64::MAX))?
        .next_back()
        .transpose()?
        .map_or(0, |row| row.0.value().1);
    if let Some(old) = last.checked_sub(REMEMBERED) {
        order.remove_in((server, u64::MIN)..=(server, old), |_, id| {
            forgotten.push(id.to_owned());
            true
        })?;
    }
    order.insert((server, last + 1), id)?;
    came.insert((server, id), ())?;
    for id in forgotten {
        came.remove((server, id.as_str()))?;
    }
    Ok(true)
}

fn raw(
    json: String,
    table: &'static str,
    key: impl fmt::Debug,
) -> Result<Box<RawValue>, store::Error> {
    RawValue::from_string(json).map_err(|_| store::Error::corrupt(table, key, "not JSON"))
}

#[cfg(test)]
mod tests;
