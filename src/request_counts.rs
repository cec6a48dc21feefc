//! How many requests were answered.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// By endpoint and status: as many entries as the routes have, times the statuses that occur.
#[derive(Debug, Default)]
pub struct RequestCounts(Mutex<BTreeMap<RequestKind, u64>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestKind {
    pub method: &'static str,
    /// The pattern of the route, such as `/_matrix/client/v3/rooms/{room_id}/send`.
    pub endpoint: &'static str,
    pub status: u16,
}

impl RequestCounts {
    pub fn add(&self, kind: RequestKind) {
        *self.lock().entry(kind).or_default() += 1;
    }

    pub fn all(&self) -> Vec<(RequestKind, u64)> {
        let counts = self.lock();
        counts.iter().map(|(kind, count)| (*kind, *count)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<RequestKind, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
