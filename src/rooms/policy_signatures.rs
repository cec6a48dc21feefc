//! What policy servers answer, between the request for a signature and the job that stores the event.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use ruma::{EventId, OwnedEventId};

/// How many answers wait for the second run of their jobs.
const MAX_ANSWERS: usize = 256;

/// The answer of a policy server to the request for its signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyAnswer {
    Signature(String),
    Refused,
    /// None for now: the event is sent without, and the servers that receive it ask again.
    Unavailable,
}

/// The answers for events that are about to be stored.
#[derive(Debug, Default)]
pub struct PolicySignatures(Mutex<VecDeque<(OwnedEventId, PolicyAnswer)>>);

impl PolicySignatures {
    pub fn insert(&self, event: OwnedEventId, answer: PolicyAnswer) {
        let mut answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= MAX_ANSWERS {
            answers.pop_front();
        }
        answers.push_back((event, answer));
    }

    pub(super) fn get(&self, event: &EventId) -> Option<PolicyAnswer> {
        let answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = answers.iter().rev().find(|(id, _)| id == event);
        found.map(|(_, answer)| answer.clone())
    }
}
