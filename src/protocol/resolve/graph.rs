//! Auth graphs for tests. Their events have a number and auth events, and nothing else.

use std::{cell::Cell, collections::HashSet, convert::Infallible, sync::Arc};

use rand::{RngExt, rngs::StdRng};
use ruma::{EventId, events::StateEventType};

use super::source::{Conflict, StateSource};
use crate::protocol::Pdu;

/// An auth graph, and the unconflicted events.
pub(super) struct Graph {
    /// The auth events of each event.
    pub auth: Vec<Vec<usize>>,
    /// The events that all states have.
    pub common: Vec<usize>,
    /// How many reads of auth events there were.
    pub reads: Cell<usize>,
}

impl Graph {
    pub fn new(auth: Vec<Vec<usize>>, common: &[usize]) -> Self {
        Self {
            auth,
            common: common.to_vec(),
            reads: Cell::new(0),
        }
    }

    /// A random graph in which events have recent events as auth events.
    pub fn random(rng: &mut StdRng, events: usize) -> Self {
        let mut auth = vec![vec![]];
        for event in 1..events {
            let count = rng.random_range(0..4);
            auth.push(
                (0..count)
                    .map(|_| event - rng.random_range(1..=event.min(9)))
                    .collect(),
            );
        }
        let common = (0..rng.random_range(0..4))
            .map(|_| rng.random_range(0..events))
            .collect();
        Self {
            auth,
            common,
            reads: Cell::new(0),
        }
    }

    /// The events with their auth chains.
    pub fn chain(&self, start: impl IntoIterator<Item = usize>) -> HashSet<usize> {
        let mut chain = HashSet::new();
        let mut open: Vec<usize> = start.into_iter().collect();
        while let Some(event) = open.pop() {
            if chain.insert(event) {
                open.extend(&self.auth[event]);
            }
        }
        chain
    }
}

/// Conflicted keys, each with the events of the states.
pub(super) fn conflicts(entries: &[&[Option<usize>]]) -> Vec<Conflict<usize>> {
    let key = |index: usize| ("test".into(), index.to_string());
    let entries = entries.iter().enumerate();
    entries
        .map(|(index, of)| Conflict {
            key: key(index),
            entries: of.to_vec(),
        })
        .collect()
}

impl StateSource for Graph {
    type Num = usize;
    type Error = Infallible;

    fn auth_events(&self, event: usize, auth_events: &mut Vec<usize>) -> Result<(), Infallible> {
        self.reads.set(self.reads.get() + 1);
        auth_events.extend(&self.auth[event]);
        Ok(())
    }

    fn pdu(&self, _: usize) -> Result<Arc<Pdu>, Infallible> {
        unreachable!("the graph has no PDUs")
    }

    fn number(&self, _: &EventId) -> Result<Option<usize>, Infallible> {
        unreachable!("the graph has no PDUs")
    }

    fn common(&self, _: &StateEventType, _: &str) -> Result<Option<usize>, Infallible> {
        unreachable!("the graph has no PDUs")
    }

    fn each_common(&self, visit: &mut dyn FnMut(usize)) -> Result<(), Infallible> {
        self.common.iter().for_each(|event| visit(*event));
        Ok(())
    }
}
