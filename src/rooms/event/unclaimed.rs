//! The states before events as they are without what claims add.
//!
//! Whether only a claim forbids an event that was accepted is found out by these.

use std::collections::{HashMap, HashSet};

use super::states::States;
use crate::{
    rooms::{
        Error, event,
        state::{current, overlay::StateOverlay},
    },
    store::{EventNum, Reader},
};

/// How many events that rest on claims are gone through. Before the others, the claims count.
const MAX_EVENTS: usize = 100;

/// The states after events without what claims add.
pub(in crate::rooms) struct Unclaimed<'s, 'r, R> {
    states: &'s States<'r, R>,
    /// The current state before the gap that is filled.
    before_gap: Option<&'s StateOverlay>,
    after: HashMap<EventNum, StateOverlay>,
    entered: HashSet<EventNum>,
}

impl<'s, 'r, R: Reader> Unclaimed<'s, 'r, R> {
    pub(in crate::rooms) fn new(
        states: &'s States<'r, R>,
        before_gap: Option<&'s StateOverlay>,
    ) -> Self {
        Self {
            states,
            before_gap,
            after: HashMap::new(),
            entered: HashSet::new(),
        }
    }

    /// The state before the event `num`.
    pub(in crate::rooms) fn before(&mut self, num: EventNum) -> Result<StateOverlay, Error> {
        let mut open = self.prev(num)?;
        while let Some(next) = open.last().copied() {
            let is_claimed = self.states.depend_on_claim(&[next])?;
            if is_claimed && self.entered.len() < MAX_EVENTS && self.entered.insert(next) {
                open.extend(self.prev(next)?);
                continue;
            }
            open.pop();
            if self.after.contains_key(&next) {
                continue;
            }
            let after = match is_claimed && self.entered.contains(&next) {
                true => self.states.after_in(next, self.before_from_prev(next)?)?,
                false => self.states.after(next)?,
            };
            self.after.insert(next, after);
        }
        self.before_from_prev(num)
    }

    fn prev(&self, num: EventNum) -> Result<Vec<EventNum>, Error> {
        let (prev, _) = self.states.prev_events(&self.states.pdu(num)?)?;
        self.states.since_join(&prev)
    }

    fn before_from_prev(&self, num: EventNum) -> Result<StateOverlay, Error> {
        let (prev, missing) = self.states.prev_events(&self.states.pdu(num)?)?;
        let mut after = Vec::new();
        for prev in self.states.since_join(&prev)? {
            after.push(match self.after.get(&prev) {
                Some(after) => after.clone(),
                // In room versions in which ids are no hashes, events may lead round to each other.
                None => self.states.after(prev)?,
            });
        }
        if missing.is_empty() && !after.is_empty() {
            return self.states.resolve(&after);
        }
        let known = self.known_before(num)?;
        self.states.with_news_of(known, after)
    }

    /// The room's current state before the event was received.
    fn known_before(&self, num: EventNum) -> Result<StateOverlay, Error> {
        let header = event::header(self.states.r, num)?;
        match self.before_gap.filter(|_| header.status.is_outlier()) {
            Some(before_gap) => Ok(before_gap.clone()),
            None => current::before(self.states.r, self.states.room, header.position),
        }
    }
}
