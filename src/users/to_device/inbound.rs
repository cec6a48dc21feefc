//! Messages to devices of this server.

use std::collections::{HashMap, hash_map::Entry};

use ruma::{
    OwnedDeviceId, OwnedUserId, UserId,
    api::federation::transactions::edu::{DirectDeviceContent, DirectDeviceMessages},
    events::ToDeviceEventType,
    to_device::DeviceIdOrAllDevices,
};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    queue::{self, Pushed, Queue, parse_stored},
    request::Delivery,
    sender::{Sender, SharedRooms},
};
use crate::{
    store::{self, DeviceNum, Effect, Position, Reader, Records, Rows, ServerNum, Tx, UserNum},
    users::{Error, devices, id_of, num_of},
};

/// What one request or one EDU may add to the queues of local devices, and about what one job adds.
const MAX_JOB_BYTES: usize = 2 * 1024 * 1024;
/// Message ids of one server that are remembered to deduplicate its messages.
const MAX_SEEN_PER_SERVER: u64 = 2000;
/// What one sync returns.
pub const MAX_SYNC_MESSAGES: usize = 100;
const MAX_SYNC_BYTES: usize = 1024 * 1024;

#[derive(Serialize)]
struct Event<'a> {
    sender: &'a UserId,
    #[serde(rename = "type")]
    kind: &'a ToDeviceEventType,
    content: &'a RawValue,
}

/// Queues `messages` for local devices, and counts them in `delivery`. Ids of devices that do not exist are
/// ignored. `shared_rooms` says which rooms a local user shares with the sender.
///
/// # Errors
/// [`Error::TooLarge`], and [`Error::QueueFull`] if a message does not fit to a user who shares no room with the
/// sender. Then the job has to fail, so that nothing is written.
pub fn deliver<E: From<Error> + From<store::Error>>(
    tx: &Tx,
    delivery: &mut Delivery,
    sender: &UserId,
    kind: &ToDeviceEventType,
    messages: &DirectDeviceMessages,
    now_ms: u64,
    shared_rooms: impl Fn(UserNum) -> Result<SharedRooms, E>,
) -> Result<(), E> {
    let addressed = address(tx, sender, kind, messages)?.ok_or(Error::TooLarge(
        "the messages of this request are too large for so many devices; send it to fewer at a time",
    ))?;
    let own = num_of(tx, sender)?;
    for (user, messages) in addressed {
        let shared = match own == Some(user) {
            true => SharedRooms::Closed,
            false => shared_rooms(user)?,
        };
        let sender = Sender::local(sender, shared);
        for message in &messages {
            let fits = put(tx, delivery, user, message, &sender, now_ms)?;
            if !fits && shared == SharedRooms::None {
                return Err(Error::QueueFull.into());
            }
        }
    }
    Ok(())
}

/// Queues messages of `server`, each message id once, beginning with number `first`; stops after about
/// [`MAX_JOB_BYTES`]. Returns the number with which to continue. An EDU that is too large is dropped, and what
/// does not fit into a queue. `shared_rooms` says which rooms a local user shares with a sender.
pub fn deliver_remote<E: From<store::Error>>(
    tx: &Tx,
    server: ServerNum,
    contents: &[DirectDeviceContent],
    first: usize,
    now_ms: u64,
    shared_rooms: impl Fn(UserNum, &UserId) -> Result<SharedRooms, E>,
) -> Result<usize, E> {
    let (mut bytes, mut next) = (0, contents.len());
    let (mut delivery, mut senders) = (Delivery::default(), HashMap::new());
    for (number, content) in contents.iter().enumerate().skip(first) {
        let sender = &*content.sender;
        let addressed = address(tx, sender, &content.ev_type, &content.messages)?;
        let messages = addressed
            .iter()
            .flatten()
            .flat_map(|(_, messages)| messages);
        bytes += messages.map(Addressed::bytes).sum::<usize>();
        if number > first && bytes > MAX_JOB_BYTES {
            next = number;
            break;
        }
        if is_duplicate(tx, server, content.message_id.as_str())? {
            continue;
        }
        let Some(addressed) = addressed else {
            log::warn!("dropped a to-device EDU of {sender}: more than 2 MiB for local devices");
            continue;
        };
        for (user, messages) in addressed {
            let sender = match senders.entry((user, sender)) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(unknown) => {
                    unknown.insert(Sender::remote(sender, shared_rooms(user, sender)?))
                }
            };
            for message in &messages {
                put(tx, &mut delivery, user, message, sender, now_ms)?;
            }
        }
    }
    delivery.log_refused(&queue::server_name(tx, server)?);
    Ok(next)
}

/// A message and the devices that get it.
pub(super) struct Addressed {
    pub(super) devices: Vec<DeviceNum>,
    pub(super) json: String,
}

impl Addressed {
    fn bytes(&self) -> usize {
        self.json.len() * self.devices.len()
    }
}

type AddressedByUser = Vec<(UserNum, Vec<Addressed>)>;

/// The messages for each local user. `None` if they are more than [`MAX_JOB_BYTES`].
fn address(
    r: &impl Reader,
    sender: &UserId,
    kind: &ToDeviceEventType,
    messages: &DirectDeviceMessages,
) -> Result<Option<AddressedByUser>, store::Error> {
    let (mut addressed, mut bytes) = (Vec::new(), 0);
    for (user_id, contents) in messages {
        let Some(user) = num_of(r, user_id)? else {
            continue;
        };
        let mut of_user = Vec::new();
        for (to, content) in contents {
            let event = Event {
                sender,
                kind,
                content: content.json(),
            };
            let json = serde_json::to_string(&event)
                .map_err(|_| store::Error::NotSerializable("a to-device message"))?;
            let message = Addressed {
                devices: devices_of(r, user, to)?,
                json,
            };
            bytes += message.bytes();
            if bytes > MAX_JOB_BYTES {
                return Ok(None);
            }
            of_user.push(message);
        }
        addressed.push((user, of_user));
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

/// Queues a message for devices of `user`. Returns `false` if it does not fit for one of them.
pub(super) fn put(
    tx: &Tx,
    delivery: &mut Delivery,
    user: UserNum,
    message: &Addressed,
    sender: &Sender,
    now_ms: u64,
) -> Result<bool, store::Error> {
    let mut fits = true;
    for device in &message.devices {
        let queue = Queue::Device(user, *device);
        let pushed = match delivery.is_full(user, sender.shared) {
            true => Pushed::UserIsFull,
            false => queue::push(tx, queue, sender, message.json.clone(), now_ms)?,
        };
        match pushed {
            Pushed::Stored(position) => {
                delivery.stored();
                tx.effect(Effect::UserChanged(user, position));
                continue;
            }
            Pushed::QueueIsFull => {}
            Pushed::UserIsFull => delivery.full(user, sender.shared),
        }
        delivery.refused(queue.recipient(tx)?);
        fits = false;
    }
    Ok(fits)
}

/// Messages for a device.
#[derive(Debug)]
pub struct PendingMessages {
    pub messages: Vec<Box<RawValue>>,
    /// There are no others up to and including this position.
    pub upto: Position,
}

/// The messages for `device` after `after`, up to and including `upto`, oldest first, at most `limit` and as
/// many as one sync returns.
pub fn pending(
    r: &impl Reader,
    device: DeviceNum,
    after: Position,
    upto: Position,
    limit: usize,
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
        if messages.len() == limit || !messages.is_empty() && bytes > MAX_SYNC_BYTES {
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
    let owner = tx.device_ids()?.get(device)?.map(|row| row.value().0);
    let Some(user) = owner else {
        return Ok(());
    };
    queue::remove_until(tx, Queue::Device(user, device), upto, usize::MAX).map(drop)
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
