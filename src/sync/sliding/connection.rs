//! What clients have received on their connections, as it is stored.
//!
//! A connection has at most two states: the one that the client has confirmed by its last request, and the one
//! of the response to that request, which may have been lost. Their numbers only grow, so a token of an
//! earlier state is never that of another. A number is the time at which the state was stored, or one more than
//! the last: it says when a connection expires.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use super::required_state::size;
use crate::{
    cache::Cache,
    clock::Clock,
    rooms::Error,
    store::{
        DeviceNum, Reader, Records, RoomNum, Rows, Tx,
        records::{SentRoom, SlidingSyncState},
    },
};

/// The most connections of a device. Beyond it the one whose state is the oldest is dropped.
const MAX_CONNECTIONS: usize = 16;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// A connection expires so long after its last state was stored.
const EXPIRY_MS: u64 = 30 * DAY_MS;
/// A state that is older is stored again, although nothing has changed, so that it does not expire.
const REFRESH_MS: u64 = DAY_MS;

/// The most states in memory, and what they may take: 100,000 rooms.
const MAX_READ_STATES: usize = 1000;
const MAX_READ_BYTES: usize = 4 * 1024 * 1024;

/// States in memory as they are stored, so that those of large accounts are not decoded for each request.
/// That a state is here does not say that it is still stored.
pub struct ReadStates(Cache<(DeviceNum, String, u64), Arc<SlidingSyncState>>);

impl ReadStates {
    pub fn new(clock: &Clock) -> Self {
        let cache = Cache::with_max_bytes(clock, MAX_READ_STATES, MAX_READ_BYTES);
        Self(cache)
    }

    /// The state with this number; `None` if there is none or it has expired.
    pub(super) fn load(
        &self,
        r: &impl Reader,
        device: DeviceNum,
        connection: &str,
        number: u64,
        now_ms: u64,
    ) -> Result<Option<Arc<SlidingSyncState>>, Error> {
        let states = r.sliding_sync_states()?;
        if is_expired(number, now_ms) || !states.has((device, connection, number))? {
            return Ok(None);
        }
        if let Some(state) = self.0.get(&(device, connection.to_owned(), number)) {
            return Ok(Some(state));
        }
        let state = states.load((device, connection, number))?.map(Arc::new);
        if let Some(state) = &state {
            self.insert(device, connection, number, state.clone());
        }
        Ok(state)
    }

    /// `state` is stored under this number.
    pub(super) fn insert(
        &self,
        device: DeviceNum,
        connection: &str,
        number: u64,
        state: Arc<SlidingSyncState>,
    ) {
        let required = state.required_states.iter();
        let required: usize = required.map(|required| size(required)).sum();
        let rooms = size_of::<(RoomNum, SentRoom)>() * state.rooms.len();
        let bytes = required + rooms + connection.len();
        let key = (device, connection.to_owned(), number);
        let ttl = Duration::from_millis(EXPIRY_MS);
        self.0.insert_sized(key, state, bytes, ttl);
    }
}

impl fmt::Debug for ReadStates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ReadStates").finish_non_exhaustive()
    }
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
