//! What policy servers say, between the request for a signature and the job that stores the event.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use ruma::{EventId, OwnedEventId};

/// How many signatures wait for the second run of their jobs.
const MAX_SIGNATURES: usize = 256;

/// Signatures of policy servers for events that are about to be stored; `None` if the server did not sign.
#[derive(Debug, Default)]
pub struct PolicySignatures(Mutex<VecDeque<(OwnedEventId, Option<String>)>>);

impl PolicySignatures {
    pub fn insert(&self, event: OwnedEventId, signature: Option<String>) {
        let mut signatures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if signatures.len() >= MAX_SIGNATURES {
            signatures.pop_front();
        }
        signatures.push_back((event, signature));
    }

    pub(super) fn get(&self, event: &EventId) -> Option<Option<String>> {
        let signatures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = signatures.iter().rev().find(|(id, _)| id == event);
        found.map(|(_, signature)| signature.clone())
    }
}
