//! Idempotent requests of clients: requests are deduplicated by their transaction ids, which are
//! kept for as long as a client may retry.
//!
//! Source: client-server API, "Transaction identifiers".

use std::ops::Bound;

use ruma::OwnedEventId;

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
    let key = transaction.key();
    if let Some(before) = tx
        .transactions()?
        .load((transaction.device, key.as_str()))?
    {
        return event::id(tx, before.event);
    }
    let sending = Sending {
        sent_by: Some((transaction.device, transaction.id.clone())),
        ..sending.clone()
    };
    let now_ms = u64::from(sending.now.get());
    let appended = append::append(tx, local, draft, &sending)?;
    let made = Transaction {
        event: appended.num,
        ts: now_ms,
    };
    tx.transactions()?
        .put((transaction.device, key.as_str()), &made)?;
    remove_expired(tx, transaction.device, &key, now_ms)?;
    Ok(appended.id)
}

/// Stores a transaction that makes no event. Whether it is new.
pub fn is_new(tx: &Tx, transaction: &ClientTransaction, now_ms: u64) -> Result<bool, Error> {
    let key = transaction.key();
    let mut transactions = tx.transactions()?;
    if transactions.has((transaction.device, key.as_str()))? {
        return Ok(false);
    }
    let made = Transaction {
        event: EventNum(0),
        ts: now_ms,
    };
    transactions.put((transaction.device, key.as_str()), &made)?;
    drop(transactions);
    remove_expired(tx, transaction.device, &key, now_ms)?;
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
