//! What clients have received on their connections, as it is stored.
//!
//! A connection has at most two states: the one that the client has confirmed by its last request, and the one
//! of the response to that request, which may have been lost. Their numbers only grow, so a token of an
//! earlier state is never that of another. A number is the time at which the state was stored, or one more than
//! the last: it says when a connection expires.

use std::collections::BTreeMap;

use crate::{
    rooms::Error,
    store::{DeviceNum, Reader, Records, Rows, Tx, records::SlidingSyncState},
};

/// The most connections of a device. Beyond it the one whose state is the oldest is dropped.
const MAX_CONNECTIONS: usize = 16;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// A connection expires so long after its last state was stored.
const EXPIRY_MS: u64 = 30 * DAY_MS;
/// A state that is older is stored again, although nothing has changed, so that it does not expire.
const REFRESH_MS: u64 = DAY_MS;

/// The state with this number; `None` if there is none or it has expired.
pub fn load(
    r: &impl Reader,
    device: DeviceNum,
    connection: &str,
    number: u64,
    now_ms: u64,
) -> Result<Option<SlidingSyncState>, Error> {
    if is_expired(number, now_ms) {
        return Ok(None);
    }
    Ok(r.sliding_sync_states()?
        .load((device, connection, number))?)
}

pub fn is_to_be_refreshed(number: u64, now_ms: u64) -> bool {
    number.saturating_add(REFRESH_MS) < now_ms
}

/// Stores the state after the one numbered `after` and returns its number.
pub fn put(
    tx: &Tx,
    device: DeviceNum,
    connection: &str,
    after: Option<u64>,
    state: &SlidingSyncState,
    now_ms: u64,
) -> Result<u64, Error> {
    let mut states = tx.sliding_sync_states()?;
    let mut numbers = Vec::new();
    for row in states.prefix((device, connection))? {
        numbers.push(row?.0.value().2);
    }
    if numbers.is_empty() {
        let mut last_numbers = BTreeMap::new();
        for row in states.prefix(device)? {
            let (key, _) = row?;
            let (_, connection, number) = key.value();
            last_numbers.insert(connection.to_owned(), number);
        }
        let mut by_age: Vec<_> = last_numbers.into_iter().collect();
        by_age.sort_by_key(|(_, number)| *number);
        let surplus = (by_age.len() + 1).saturating_sub(MAX_CONNECTIONS);
        for (index, (other, number)) in by_age.iter().enumerate() {
            if index < surplus || is_expired(*number, now_ms) {
                states.remove_prefix((device, other.as_str()))?;
            }
        }
    }
    let last = numbers.last().copied();
    let number = last.map_or(now_ms, |last| now_ms.max(last.saturating_add(1)));
    for old in numbers {
        if Some(old) != after {
            states.remove((device, connection, old))?;
        }
    }
    states.put((device, connection, number), state)?;
    Ok(number)
}

fn is_expired(number: u64, now_ms: u64) -> bool {
    number.saturating_add(EXPIRY_MS) < now_ms
}
