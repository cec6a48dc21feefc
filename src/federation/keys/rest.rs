//! Servers that are not asked again for a while.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use ruma::{OwnedServerName, ServerName};

/// How long.
const REST: Duration = Duration::from_mins(5);
/// How many are remembered.
const REMEMBERED: usize = 1000;

/// Until when servers rest, in milliseconds since the epoch.
#[derive(Default)]
pub struct Resting(Mutex<HashMap<OwnedServerName, u64>>);

impl Resting {
    /// Whether `server` rests at `now`.
    pub fn has(&self, server: &ServerName, now: u64) -> bool {
        let resting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        resting.get(server).is_some_and(|until| now < *until)
    }

    /// Lets `server` rest from `now` on.
    pub fn put(&self, server: &ServerName, now: u64) {
        let mut resting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if resting.len() >= REMEMBERED {
            resting.retain(|_, until| now < *until);
            if resting.len() >= REMEMBERED {
                resting.clear();
            }
        }
        let rest = u64::try_from(REST.as_millis()).unwrap_or(u64::MAX);
        resting.insert(server.to_owned(), now.saturating_add(rest));
    }
}
