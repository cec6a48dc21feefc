//! Messages to devices of other servers.

use ruma::{
    OwnedTransactionId, ServerName, UserId,
    api::federation::transactions::edu::{DirectDeviceContent, DirectDeviceMessages},
    events::ToDeviceEventType,
};
use serde_json::value::RawValue;

use super::queue::{MAX_QUEUE_UNITS, next_slot, parse_stored};
use crate::store::{self, Effect, Position, Reader, Rows, ServerNum, Tx, records::ToDeviceMessage};

/// Of the EDUs of one transaction.
const MAX_TRANSACTION_BYTES: usize = 512 * 1024;
/// Messages that one job discards.
const MAX_DISCARDED_PER_JOB: usize = 1000;

/// Queues `messages` for `server`. The EDU has the message id `id`, by which the server deduplicates it.
pub fn queue_outbound(
    tx: &Tx,
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
    let position = tx.next_position()?;
    let mut table = tx.outbound_to_device()?;
    let slot = next_slot(table.prefix(num)?, &json)?;
    if slot.queue_units > MAX_QUEUE_UNITS {
        log::warn!(
            "dropped a to-device message of {sender} to {server}: the server's queue is full"
        );
        return Ok(());
    }
    let index = slot.index;
    table.put((num, position), &ToDeviceMessage { index, json })?;
    drop(table);
    tx.effect(Effect::ServerAddressed(num));
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

fn server_name(r: &impl Reader, server: ServerNum) -> Result<String, store::Error> {
    let servers = r.servers()?;
    let name = servers.get(server)?;
    Ok(name.map_or_else(String::new, |name| name.value().to_owned()))
}

/// Removes the messages that `server` has acknowledged: everything up to and including `upto`.
pub fn remove_outbound_until(
    tx: &Tx,
    server: ServerNum,
    upto: Position,
) -> Result<(), store::Error> {
    tx.outbound_to_device()?
        .remove_in((server, Position::MIN)..=(server, upto), |_, _| true)
}

/// Removes some of the messages for `server`, which has been unreachable for too long.
pub fn discard_outbound(tx: &Tx, server: ServerNum) -> Result<(), store::Error> {
    let mut discarded = 0;
    let range = (server, Position::MIN)..=(server, Position::MAX);
    tx.outbound_to_device()?.remove_in(range, |_, _| {
        let is_gone = discarded < MAX_DISCARDED_PER_JOB;
        discarded += usize::from(is_gone);
        is_gone
    })?;
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
