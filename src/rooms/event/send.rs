//! Sending what a client sends, once: a transaction id names one event for ever, or at least for
//! as long as a client would try again.
//!
//! Source: client-server API, "Transaction identifiers".

use ruma::OwnedEventId;

use super::append::{self, Sending};
use crate::{
    protocol::build::EventDraft,
    rooms::{Error, Local, event},
    store::{DeviceNum, EventNum, Reader, Records, Rows, Tx, records::Transaction},
};

/// For how long a transaction id is remembered, in milliseconds.
const REMEMBERED_MS: u64 = 24 * 60 * 60 * 1000;
/// How many rows of the device each sending looks at to forget what is older. Two would do to
/// forget faster than is added.
const LOOKED_AT: usize = 4;

/// What a client calls a request: the endpoint with its path, and the transaction id.
#[derive(Clone, Debug)]
pub struct ClientTransaction {
    /// The device that sends.
    pub device: DeviceNum,
    /// The endpoint, and what its path names beside the transaction.
    pub scope: String,
    /// The transaction id.
    pub id: String,
}

impl ClientTransaction {
    fn key(&self) -> String {
        format!("{} {}", self.id, self.scope)
    }
}

/// Makes `draft` the newest event of its room, unless the same transaction did so before. The
/// event that it is.
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
    forget(tx, transaction.device, &key, now_ms)?;
    Ok(appended.id)
}

/// Whether the transaction comes for the first time; it is remembered. For what makes no event.
///
/// # Errors
/// If the tables cannot be read or written.
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
    forget(tx, transaction.device, &key, now_ms)?;
    Ok(true)
}

/// Forgets what is too old among the rows that follow `key`, around the end to the beginning.
/// Clients' ids fall anywhere between the others, so in time every row is looked at.
fn forget(tx: &Tx, device: DeviceNum, key: &str, now_ms: u64) -> Result<(), Error> {
    let mut old = Vec::new();
    let mut transactions = tx.transactions()?;
    for from in [key, ""] {
        for row in transactions.range((device, from)..)?.take(LOOKED_AT / 2) {
            let (row_key, made) = row?;
            let (of, name) = row_key.value();
            if of != device {
                break;
            }
            if made.record(&row_key)?.ts.saturating_add(REMEMBERED_MS) < now_ms {
                old.push(name.to_owned());
            }
        }
    }
    for name in old {
        transactions.remove((device, name.as_str()))?;
    }
    Ok(())
}
