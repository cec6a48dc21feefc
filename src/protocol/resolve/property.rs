//! Resolution of random histories, compared with ruma's over whole states and whole auth chains.

use std::{collections::HashSet, sync::Arc};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use ruma::{EventId, events::StateEventType};

use super::{Conflict, ResolveError, StateKey, StateSource, resolve};
use crate::protocol::{
    Pdu,
    history::{History, Index, State},
    versions,
};

/// Some states of a history.
struct States<'a> {
    history: &'a History,
    states: Vec<&'a State>,
    /// How many more reads succeed.
    reads_left: std::cell::Cell<usize>,
}

#[derive(Debug, PartialEq)]
struct Broken;

impl<'a> States<'a> {
    fn after(history: &'a History, events: &[Index]) -> Self {
        let states = events
            .iter()
            .map(|event| &*history.events[*event].state_after)
            .collect();
        Self {
            history,
            states,
            reads_left: usize::MAX.into(),
        }
    }

    fn is_common(&self, key: &StateKey) -> bool {
        self.states
            .iter()
            .all(|state| state.get(key) == self.states[0].get(key))
    }

    fn conflicts(&self) -> Vec<Conflict<Index>> {
        let keys: HashSet<&StateKey> = self.states.iter().flat_map(|state| state.keys()).collect();
        keys.into_iter()
            .filter(|key| !self.is_common(key))
            .map(|key| Conflict {
                key: key.clone(),
                entries: self
                    .states
                    .iter()
                    .map(|state| state.get(key).copied())
                    .collect(),
            })
            .collect()
    }

    fn read(&self) -> Result<(), Broken> {
        self.reads_left
            .set(self.reads_left.get().checked_sub(1).ok_or(Broken)?);
        Ok(())
    }

    /// The reduced resolution with the unconflicted entries.
    fn resolve(&self) -> State {
        let mut resolved = self.states[0].clone();
        let conflicts = self.conflicts();
        for conflict in &conflicts {
            resolved.remove(&conflict.key);
        }
        for (key, event) in resolve(self.history.rules, &conflicts, self).expect("resolves") {
            assert_eq!(
                resolved.insert(key, event),
                None,
                "unconflicted entries are not resolved"
            );
        }
        resolved
    }
}

impl StateSource for States<'_> {
    type Num = Index;
    type Error = Broken;

    fn auth_events(&self, event: Index, auth_events: &mut Vec<Index>) -> Result<(), Broken> {
        auth_events.extend(&self.history.events[event].auth);
        self.read()
    }

    fn pdu(&self, event: Index) -> Result<Arc<Pdu>, Broken> {
        self.read()?;
        Ok(self.history.events[event].pdu.clone())
    }

    fn number(&self, event: &EventId) -> Result<Option<Index>, Broken> {
        self.read()?;
        Ok(self.history.index(event))
    }

    fn common(&self, kind: &StateEventType, key: &str) -> Result<Option<Index>, Broken> {
        self.read()?;
        Ok(self.states[0].get(&(kind.clone(), key.to_owned())).copied())
    }

    fn each_common(&self, visit: &mut dyn FnMut(Index)) -> Result<(), Broken> {
        let common = self.states[0].iter().filter(|(key, _)| self.is_common(key));
        common.for_each(|(_, event)| visit(*event));
        self.read()
    }
}

fn random_events(rng: &mut StdRng, history: &History, count: usize) -> Vec<Index> {
    (0..count)
        .map(|_| rng.random_range(4..history.events.len()))
        .collect()
}

/// Resolves random states of random histories. Returns how many resolutions had a conflict.
fn compare(seeds: std::ops::Range<u64>, events: usize, resolutions: usize) -> usize {
    let mut conflicts = 0;
    for seed in seeds {
        for version in versions::SUPPORTED {
            let history = History::random(&version, seed, events);
            let mut rng = StdRng::seed_from_u64(seed);
            for _ in 0..resolutions {
                let count = rng.random_range(2..6);
                let events = random_events(&mut rng, &history, count);
                let states = States::after(&history, &events);
                conflicts += usize::from(!states.conflicts().is_empty());
                let whole = history.resolve_fully(&states.states);
                assert_eq!(
                    states.resolve(),
                    whole,
                    "version {version}, seed {seed}, after the events {events:?}"
                );
            }
        }
    }
    conflicts
}

#[test]
fn the_reduced_resolution_equals_the_full_one() {
    let start = std::env::var("HEARTH_TEST_SEED").map_or(0, |seed| seed.parse().expect("a number"));
    let conflicts = compare(start..start + 9, 60, 50);
    assert!(
        conflicts > 2_500,
        "only {conflicts} resolutions had anything to resolve"
    );
}

#[test]
fn more_states_than_bits_in_a_mask_are_resolved() {
    for version in versions::SUPPORTED {
        let history = History::random(&version, 1, 90);
        let mut rng = StdRng::seed_from_u64(1);
        let events = random_events(&mut rng, &history, 150);
        let states = States::after(&history, &events);
        assert_eq!(
            states.resolve(),
            history.resolve_fully(&states.states),
            "version {version}"
        );
    }
}

#[test]
fn equal_states_resolve_to_themselves() {
    let history = History::random(&versions::DEFAULT, 2, 40);
    let same = Conflict {
        key: ("m.room.topic".into(), String::new()),
        entries: vec![Some(7); 3],
    };
    let states = States::after(&history, &[39]);
    let resolved = resolve(history.rules, std::slice::from_ref(&same), &states).unwrap();
    assert_eq!(resolved, [(same.key, 7)]);
    assert_eq!(resolve(history.rules, &[], &states).unwrap(), []);
}

#[test]
fn a_failed_read_is_returned_as_an_error() {
    for version in versions::SUPPORTED {
        let history = History::random(&version, 3, 60);
        let states = States::after(&history, &[25, 40, 55]);
        let conflicts = states.conflicts();
        assert!(!conflicts.is_empty());
        states.reads_left.set(1_000_000);
        resolve(history.rules, &conflicts, &states).unwrap();
        let reads = 1_000_000 - states.reads_left.get();
        // The number of reads differs between runs, as hash maps have no order.
        for failing in 0..reads - reads / 4 {
            states.reads_left.set(failing);
            let failed = resolve(history.rules, &conflicts, &states);
            assert_eq!(
                failed,
                Err(ResolveError::Read(Broken)),
                "version {version}, {failing}"
            );
        }
    }
}

/// ruma breaks ties by the order of ids.
#[test]
fn event_ids_are_compared_as_text() {
    let history = History::random(&versions::DEFAULT, 4, 60);
    let mut ids: Vec<_> = history
        .events
        .iter()
        .map(|event| event.pdu.event_id().to_owned())
        .collect();
    let mut texts: Vec<String> = ids.iter().map(|id| id.to_string()).collect();
    ids.sort();
    texts.sort();
    assert_eq!(ids, texts);
}
