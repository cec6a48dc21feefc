//! Messages to devices of this server.

use ruma::{
    OwnedDeviceId, OwnedUserId, UserId,
    api::federation::transactions::edu::{DirectDeviceContent, DirectDeviceMessages},
    events::ToDeviceEventType,
    to_device::DeviceIdOrAllDevices,
};
use serde::Serialize;
use serde_json::value::RawValue;

use super::queue::{MAX_QUEUE_UNITS, next_slot, parse_stored};
use crate::{
    store::{
        self, DeviceNum, Effect, Position, Reader, Records, Rows, ServerNum, Tx, UserNum,
        records::ToDeviceMessage,
    },
    users::{Error, devices, id_of, num_of},
};

/// What one request or one EDU may add to the queues of local devices, and about what one job adds.
const MAX_JOB_BYTES: usize = 2 * 1024 * 1024;
/// Of a queue, what users of other servers can fill who share no room with the device's owner.
pub(super) const MAX_UNRELATED_UNITS: u64 = MAX_QUEUE_UNITS / 10;
/// Message ids of one server that are remembered to deduplicate its messages.
const MAX_SEEN_PER_SERVER: u64 = 2000;
/// What one sync returns.
const MAX_SYNC_MESSAGES: usize = 100;
const MAX_SYNC_BYTES: usize = 1024 * 1024;

#[derive(Serialize)]
struct Event<'a> {
    sender: &'a UserId,
    #[serde(rename = "type")]
    kind: &'a ToDeviceEventType,
    content: &'a RawValue,
}

/// Queues `messages` for local devices. Ids of devices that do not exist are ignored.
///
/// # Errors
/// [`Error::TooLarge`], and nothing is written.
pub fn deliver(
    tx: &Tx,
    sender: &UserId,
    kind: &ToDeviceEventType,
    messages: &DirectDeviceMessages,
) -> Result<(), Error> {
    let addressed = address(tx, sender, kind, messages)?.ok_or(Error::TooLarge(
        "the messages of this request are too large for so many devices; send it to fewer at a time",
    ))?;
    addressed
        .iter()
        .try_for_each(|message| put(tx, message, || Ok(true)))
}

/// Queues messages of `server`, each message id once, beginning with number `first`; stops after about
/// [`MAX_JOB_BYTES`]. Returns the number with which to continue. An EDU that is too large is dropped.
/// `shares_room` says whether a local user is in a room with a sender.
pub fn deliver_remote<E: From<store::Error>>(
    tx: &Tx,
    server: ServerNum,
    contents: &[DirectDeviceContent],
    first: usize,
    shares_room: impl Fn(UserNum, &UserId) -> Result<bool, E>,
) -> Result<usize, E> {
    let mut bytes = 0;
    for (number, content) in contents.iter().enumerate().skip(first) {
        let sender = &*content.sender;
        let addressed = address(tx, sender, &content.ev_type, &content.messages)?;
        let size = |messages: &Vec<Addressed>| messages.iter().map(Addressed::bytes).sum();
        bytes += addressed.as_ref().map_or(0, size);
        if number > first && bytes > MAX_JOB_BYTES {
            return Ok(number);
        }
        if is_duplicate(tx, server, content.message_id.as_str())? {
            continue;
        }
        let Some(addressed) = addressed else {
            log::warn!("dropped a to-device EDU of {sender}: more than 2 MiB for local devices");
            continue;
        };
        for message in &addressed {
            put(tx, message, || shares_room(message.user, sender))?;
        }
    }
    Ok(contents.len())
}

/// A message and the devices that get it.
pub(super) struct Addressed {
    pub(super) user: UserNum,
    pub(super) devices: Vec<DeviceNum>,
    pub(super) json: String,
}

impl Addressed {
    fn bytes(&self) -> usize {
        self.json.len() * self.devices.len()
    }
}

/// `None` if that is more than [`MAX_JOB_BYTES`].
fn address(
    r: &impl Reader,
    sender: &UserId,
    kind: &ToDeviceEventType,
    messages: &DirectDeviceMessages,
) -> Result<Option<Vec<Addressed>>, store::Error> {
    let (mut addressed, mut bytes) = (Vec::new(), 0);
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
            let message = Addressed {
                user,
                devices: devices_of(r, user, to)?,
                json,
            };
            bytes += message.bytes();
            if bytes > MAX_JOB_BYTES {
                return Ok(None);
            }
            addressed.push(message);
        }
    }
    Ok(Some(addressed))
}

pub(super) fn devices_of(
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

/// Queues a message. `is_related` says whether the sender is local or shares a room with the recipient.
pub(super) fn put<E: From<store::Error>>(
    tx: &Tx,
    message: &Addressed,
    is_related: impl Fn() -> Result<bool, E>,
) -> Result<(), E> {
    for device in &message.devices {
        let position = tx.next_position()?;
        let slot = next_slot(tx.to_device()?.prefix(*device)?, &message.json)?;
        if slot.queue_units > MAX_QUEUE_UNITS
            || slot.queue_units > MAX_UNRELATED_UNITS && !is_related()?
        {
            log::warn!(
                "dropped a to-device message to {}: the queue of one of their devices is full",
                id_of(tx, message.user)?
            );
            continue;
        }
        let row = ToDeviceMessage {
            index: slot.index,
            json: message.json.clone(),
        };
        tx.to_device()?.put((*device, position), &row)?;
        tx.effect(Effect::UserChanged(message.user, position));
    }
    Ok(())
}

/// Messages for a device.
#[derive(Debug)]
pub struct PendingMessages {
    pub messages: Vec<Box<RawValue>>,
    /// There are no others up to and including this position.
    pub upto: Position,
}

/// The messages for `device` after `after`, up to and including `upto`, oldest first, as many as one sync
/// returns.
pub fn pending(
    r: &impl Reader,
    device: DeviceNum,
    after: Position,
    upto: Position,
) -> Result<PendingMessages, store::Error> {
    let mut messages = Vec::new();
    if after >= upto {
        return Ok(PendingMessages {
            messages,
            upto: after,
        });
    }
    let (mut bytes, mut last) = (0, after);
    for row in r
        .to_device()?
        .prefix_range(device, Position(after.0 + 1)..=upto)?
    {
        let (key, message) = row?;
        let message = message.record(&key);
        let message =
            message.and_then(|message| parse_stored(message.json, "to_device", key.value()));
        let message = match message {
            Ok(message) => message,
            // It must not stop the messages after it.
            Err(error @ store::Error::Corrupt(_)) => {
                let (user, device_id) = owner(r, device)?;
                log::error!("dropped a to-device message to {device_id} of {user}: {error}");
                last = key.value().1;
                continue;
            }
            Err(error) => return Err(error),
        };
        bytes += message.get().len();
        if messages.len() == MAX_SYNC_MESSAGES || !messages.is_empty() && bytes > MAX_SYNC_BYTES {
            return Ok(PendingMessages {
                messages,
                upto: last,
            });
        }
        last = key.value().1;
        messages.push(message);
    }
    Ok(PendingMessages { messages, upto })
}

/// For log lines.
fn owner(r: &impl Reader, device: DeviceNum) -> Result<(OwnedUserId, OwnedDeviceId), store::Error> {
    let devices = r.device_ids()?;
    let row = devices.get(device)?;
    let row = row.ok_or_else(|| store::Error::corrupt("device_ids", device, "missing"))?;
    let (user, device_id) = row.value();
    Ok((id_of(r, user)?, device_id.into()))
}

/// Whether the queue of `device` has messages up to and including `upto`.
pub fn has_pending_until(
    r: &impl Reader,
    device: DeviceNum,
    upto: Position,
) -> Result<bool, store::Error> {
    let table = r.to_device()?;
    let mut rows = table.prefix_range(device, ..=upto)?;
    Ok(rows.next().transpose()?.is_some())
}

/// Removes the messages that `device` has acknowledged: everything up to and including `upto`.
pub fn remove_until(tx: &Tx, device: DeviceNum, upto: Position) -> Result<(), store::Error> {
    tx.to_device()?
        .remove_in((device, Position::MIN)..=(device, upto), |_, _| true)
}

/// Deduplicates the messages of `server`: whether `id` is one of its last; if not, it is remembered.
fn is_duplicate(tx: &Tx, server: ServerNum, id: &str) -> Result<bool, store::Error> {
    let mut seen = tx.messages_seen()?;
    if seen.has((server, id))? {
        return Ok(true);
    }
    let mut order = tx.messages_seen_order()?;
    let last = order
        .prefix(server)?
        .next_back()
        .transpose()?
        .map_or(0, |row| row.0.value().1);
    let mut evicted: Vec<String> = Vec::new();
    if let Some(old) = last.checked_sub(MAX_SEEN_PER_SERVER) {
        order.remove_in((server, u64::MIN)..=(server, old), |_, id| {
            evicted.push(id.to_owned());
            true
        })?;
    }
    order.insert((server, last + 1), id)?;
    seen.insert((server, id), ())?;
    for id in evicted {
        seen.remove((server, id.as_str()))?;
    }
    Ok(false)
}
