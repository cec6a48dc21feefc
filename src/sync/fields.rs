//! What an answer has beside its rooms.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::rooms::Error;

/// What an answer tells beside its rooms, by name. The values stay text: what people wrote is never read
/// again here, as it might not be what it can be read as.
#[derive(Debug, Default)]
pub struct Fields(BTreeMap<&'static str, Box<RawValue>>);

impl Fields {
    /// Adds a field.
    ///
    /// # Errors
    /// If it does not serialize.
    pub fn put(&mut self, name: &'static str, value: &impl Serialize) -> Result<(), Error> {
        let value = to_raw_value(value);
        let value = value.map_err(|_| Error::not_serializable("a response"))?;
        self.0.insert(name, value);
        Ok(())
    }

    /// Adds a field that is a list of events.
    ///
    /// # Errors
    /// If they do not serialize.
    pub fn put_events(
        &mut self,
        name: &'static str,
        events: &[impl Serialize],
    ) -> Result<(), Error> {
        self.put(name, &BTreeMap::from([("events", events)]))
    }

    /// Each with its name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &RawValue)> {
        self.0.iter().map(|(name, value)| (*name, &**value))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
