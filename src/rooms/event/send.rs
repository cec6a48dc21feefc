//! Idempotent requests of clients: requests are deduplicated by their transaction ids, which are
//! kept for as long as a client may retry.
//!
//! Source: client-server API, "Transaction identifiers".

use std::ops::Bound;

use ruma::{MilliSecondsSinceUnixEpoch, OwnedEventId};

use super::append::{self, Sending};
use crate::{
    protocol::build::EventDraft,
    rooms::{Error, Local, event},
    store::{DeviceNum, EventNum, Reader, Records, Rows, Tx, records::Transaction},
};

/// How long a transaction id is kept.
const RETENTION_MS: u64 = 24 * 60 * 60 * 1000;
/// How many rows of the device each request looks at to remove expired ones. More than one, so that
/// rows are removed faster than they are added.
const EXPIRY_CANDIDATES: usize = 4;

/// A client's transaction id with its scope.
#[derive(Clone, Debug)]
pub struct ClientTransaction {
    pub device: DeviceNum,
    /// The endpoint with the arguments of its path.
    pub scope: String,
    pub id: String,
}

impl ClientTransaction {
    fn key(&self) -> String {
        format!("{} {}", self.id, self.scope)
    }
}

/// Makes `draft` the newest event of its room, unless the same transaction did so before. Returns the
/// id of the event.
///
/// # Errors
/// Those of [`append::append`].
pub fn send_once(
    tx: &Tx,
    local: &Local,
    transaction: &ClientTransaction,
    draft: &EventDraft,
    sending: &Sending,
) -> Result<OwnedEventId, Error> {
    if let Some(before) = sent(tx, transaction)? {
        return Ok(before);
    }
    let sending = Sending {
        sent_by: Some((transaction.device, transaction.id.clone())),
        ..sending.clone()
    };
    let appended = append::append(tx, local, draft, &sending)?;
    remember(tx, transaction, appended.num, sending.now)?;
    Ok(appended.id)
}

/// The event that the transaction made.
pub fn sent(
    r: &impl Reader,
    transaction: &ClientTransaction,
) -> Result<Option<OwnedEventId>, Error> {
    let key = transaction.key();
    let made = r.transactions()?.load((transaction.device, key.as_str()))?;
    made.map(|made| event::id(r, made.event)).transpose()
}

/// Forgets that the transaction `id` of the device made `event`, which is deleted.
pub(in crate::rooms) fn forget(
    tx: &Tx,
    device: DeviceNum,
    id: &str,
    event: EventNum,
) -> Result<(), Error> {
    let mut transactions = tx.transactions()?;
    let start = format!("{id} ");
    let mut made = None;
    for row in transactions.prefix_from(device, Bound::Included((device, start.as_str())))? {
        let (key, row) = row?;
        let (_, name) = key.value();
        if !name.starts_with(&start) {
            break;
        }
        if row.record(&key)?.event == event {
            made = Some(name.to_owned());
            break;
        }
    }
    if let Some(name) = made {
        transactions.remove((device, name.as_str()))?;
    }
    Ok(())
}

/// Stores that the transaction made `event`.
pub fn remember(
    tx: &Tx,
    transaction: &ClientTransaction,
    event: EventNum,
    now: MilliSecondsSinceUnixEpoch,
) -> Result<(), Error> {
    let key = transaction.key();
    let ts = now.get().into();
    tx.transactions()?.put(
        (transaction.device, key.as_str()),
        &Transaction { event, ts },
    )?;
    remove_expired(tx, transaction.device, &key, ts)
}

/// Stores a transaction that makes no event. Whether it is new.
pub fn is_new(
    tx: &Tx,
    transaction: &ClientTransaction,
    now: MilliSecondsSinceUnixEpoch,
) -> Result<bool, Error> {
    let key = transaction.key();
    if tx.transactions()?.has((transaction.device, key.as_str()))? {
        return Ok(false);
    }
    remember(tx, transaction, EventNum(0), now)?;
    Ok(true)
}

/// Removes expired rows among the first ones and those behind `key`. New ids sort anywhere between
/// the others, so in time every row is looked at.
fn remove_expired(tx: &Tx, device: DeviceNum, key: &str, now_ms: u64) -> Result<(), Error> {
    let mut old = Vec::new();
    let mut transactions = tx.transactions()?;
    for from in [key, ""] {
        let rows = transactions.prefix_from(device, Bound::Included((device, from)))?;
        for row in rows.take(EXPIRY_CANDIDATES / 2) {
            let (row_key, made) = row?;
            if made.record(&row_key)?.ts.saturating_add(RETENTION_MS) < now_ms {
                old.push(row_key.value().1.to_owned());
            }
        }
    }
    for name in old {
        transactions.remove((device, name.as_str()))?;
    }
    Ok(())
}
