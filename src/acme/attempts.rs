//! What became of the orders for a name, and how long a failure is waited out: 12 minutes, then twice as long
//! each time, at most a day. Let's Encrypt allows five failures an hour.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::failure::Failure;
use crate::clock::as_ms;

pub(super) const FIRST_BACKOFF: Duration = Duration::from_mins(12);
const RATE_LIMITED_BACKOFF: Duration = Duration::from_hours(3);
pub(super) const MAX_BACKOFF: Duration = Duration::from_hours(24);

/// What became of the orders for a name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Attempts {
    /// The authority's directory. Of another authority, nothing counts.
    pub(super) directory: String,
    /// Since the last certificate.
    pub(super) failures: u32,
    /// In words, of the last one.
    pub(super) failure: Option<String>,
    pub(super) retry_at_ms: u64,
    /// When the authority suggests to renew the certificate.
    pub(super) renew_at_ms: Option<u64>,
}

impl Attempts {
    pub(super) fn failed(&mut self, failure: &Failure, now_ms: u64) {
        self.failures = self.failures.saturating_add(1);
        let doubled = 1 << (self.failures - 1).min(16);
        let mut backoff = FIRST_BACKOFF * doubled;
        if failure.is_rate_limited {
            backoff = backoff.max(RATE_LIMITED_BACKOFF);
        }
        self.retry_at_ms = now_ms + as_ms(backoff.min(MAX_BACKOFF));
        self.failure = Some(failure.words.clone());
    }
}
