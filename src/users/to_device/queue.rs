//! What the queues of local devices and of other servers have in common. Their size is known without
//! reading them: each row has the sum of the units before it.

use std::fmt;

use serde_json::value::RawValue;

use crate::store::{self, Packed, Range, records::ToDeviceMessage};

/// Of the messages for one device or one server: 20 MB, or 5,000 messages.
pub(super) const MAX_QUEUE_UNITS: u64 = 5000;
/// A message counts as its size in these units, rounded up.
pub(super) const UNIT_BYTES: usize = 4 * 1024;

const EMPTY: ToDeviceMessage = ToDeviceMessage {
    index: 0,
    json: String::new(),
};

/// Where a message goes in a queue.
pub(super) struct Slot {
    /// See [`ToDeviceMessage::index`].
    pub(super) index: u64,
    /// The size of the queue with it.
    pub(super) queue_units: u64,
}

/// The slot of the message `json` behind `rows`.
pub(super) fn next_slot<K: store::Field>(
    mut rows: Range<'_, K, Packed<ToDeviceMessage>>,
    json: &str,
) -> Result<Slot, store::Error> {
    let Some(first) = rows.next().transpose()? else {
        return Ok(Slot {
            index: 0,
            queue_units: units(json),
        });
    };
    let last = rows.next_back().transpose()?;
    // A corrupt row, which counts as an empty message, must not stop the messages after it.
    let first = first.1.record(&first.0).unwrap_or(EMPTY);
    let begin = first.index;
    let last = last.map_or(first, |(key, last)| last.record(&key).unwrap_or(EMPTY));
    let index = last.index.saturating_add(units(&last.json));
    Ok(Slot {
        index,
        queue_units: index.saturating_sub(begin).saturating_add(units(json)),
    })
}

fn units(json: &str) -> u64 {
    json.len().div_ceil(UNIT_BYTES).max(1) as u64
}

/// Parses the row of `table` at `key`.
pub(super) fn parse_stored(
    json: String,
    table: &'static str,
    key: impl fmt::Debug,
) -> Result<Box<RawValue>, store::Error> {
    RawValue::from_string(json).map_err(|_| store::Error::corrupt(table, key, "not JSON"))
}
