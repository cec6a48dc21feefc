//! Messages to devices of other servers.

use ruma::{
    OwnedTransactionId, ServerName, UserId,
    api::federation::transactions::edu::{DirectDeviceContent, DirectDeviceMessages},
    events::ToDeviceEventType,
};
use serde_json::value::RawValue;

use super::{
    queue::{self, Pushed, Queue, parse_stored, server_name},
    request::Delivery,
    sender::{Sender, SharedRooms},
};
use crate::store::{self, Effect, Position, Reader, Rows, ServerNum, Tx};

/// Of the EDUs of one transaction.
const MAX_TRANSACTION_BYTES: usize = 512 * 1024;
/// Messages that one job discards.
const MAX_DISCARDED_PER_JOB: usize = 1000;

/// Queues `messages` for `server`, and counts them in `delivery` as one. The EDU has the message id `id`, by
/// which the server deduplicates it.
pub fn queue_outbound(
    tx: &Tx,
    delivery: &mut Delivery,
    server: &ServerName,
    sender: &UserId,
    kind: &ToDeviceEventType,
    id: &OwnedTransactionId,
    messages: &DirectDeviceMessages,
) -> Result<(), store::Error> {
    let num = tx.server_num(server.as_str())?;
    let mut content = DirectDeviceContent::new(sender.to_owned(), kind.clone(), id.clone());
    content.messages = messages.clone();
    let json = serde_json::to_string(&content)
        .map_err(|_| store::Error::NotSerializable("a to-device message"))?;
    let queue = Queue::Server(num);
    // For a server it does not matter which rooms the sender shares.
    let sender = Sender::local(sender, SharedRooms::Open);
    match queue::push(tx, queue, &sender, json, 0)? {
        Pushed::Stored(_) => {
            delivery.stored();
            tx.effect(Effect::ServerAddressed(num));
        }
        Pushed::QueueIsFull | Pushed::UserIsFull => delivery.refused(queue.recipient(tx)?),
    }
    Ok(())
}

/// Contents of `m.direct_to_device` for a server.
pub struct OutboundMessages {
    pub contents: Vec<Box<RawValue>>,
    /// The position of the last of them.
    pub last: Position,
}

/// The first messages for `server`, at most `limit`, as much as goes into one transaction; `None` if there
/// are none.
pub fn outbound(
    r: &impl Reader,
    server: ServerNum,
    limit: usize,
) -> Result<Option<OutboundMessages>, store::Error> {
    let (mut contents, mut bytes, mut last) = (Vec::new(), 0, None);
    for row in r.outbound_to_device()?.prefix(server)?.take(limit) {
        let (key, message) = row?;
        let content = message.record(&key);
        let content =
            content.and_then(|row| parse_stored(row.json, "outbound_to_device", key.value()));
        let content = match content {
            Ok(content) => content,
            // It must not stop the messages after it.
            Err(error @ store::Error::Corrupt(_)) => {
                let name = server_name(r, server)?;
                log::error!("dropped a to-device message to {name}: {error}");
                last = Some(key.value().1);
                continue;
            }
            Err(error) => return Err(error),
        };
        bytes += content.get().len();
        if !contents.is_empty() && bytes > MAX_TRANSACTION_BYTES {
            break;
        }
        last = Some(key.value().1);
        contents.push(content);
    }
    Ok(last.map(|last| OutboundMessages { contents, last }))
}

/// Removes the messages that `server` has acknowledged: everything up to and including `upto`.
pub fn remove_outbound_until(
    tx: &Tx,
    server: ServerNum,
    upto: Position,
) -> Result<(), store::Error> {
    queue::remove_until(tx, Queue::Server(server), upto, usize::MAX).map(drop)
}

/// Removes some of the messages for `server`, which has been unreachable for too long.
pub fn discard_outbound(tx: &Tx, server: ServerNum) -> Result<(), store::Error> {
    let queue = Queue::Server(server);
    let discarded = queue::remove_until(tx, queue, Position::MAX, MAX_DISCARDED_PER_JOB)?;
    if discarded > 0 {
        let name = server_name(tx, server)?;
        log::warn!(
            "dropped {discarded} to-device messages to {name}, which has been unreachable for too long"
        );
    }
    Ok(())
}

/// The servers for which messages are queued.
pub fn servers_with_outbound(r: &impl Reader) -> Result<Vec<ServerNum>, store::Error> {
    r.outbound_to_device()?.first_parts()
}
