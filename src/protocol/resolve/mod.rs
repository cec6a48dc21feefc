//! State resolution. That of room version 1 is our own ([`v1`]).
//!
//! ruma resolves whole state maps with whole auth chains. In a large room almost all of both is the
//! same in all states, so ruma gets a reduced problem with the same solution:
//! - of equal states one is kept;
//! - F is the conflicted events, the auth difference D ([`difference`]) and, where the room version
//!   has it, the conflicted state subgraph ([`subgraph`]);
//! - each state is reduced to the conflicted keys, the keys of the events in F, the auth types of the
//!   events in F, and create event, power levels and join rules;
//! - the auth chains are `[D, ∅]`, whose difference is D;
//! - unconflicted entries replace those of ruma's result.
//!
//! NOTSPEC: an auth chain includes the events that it starts from, as in Synapse. By the
//! specification it does not, but then servers would not agree.
//!
//! Events have numbers, which are a topological order of the auth graph: the number of an event is
//! larger than those of its auth events. ruma breaks ties by event ids, which it compares as text.
//!
//! Sources: room versions 1, 2 and 12, "State resolution".

mod difference;
#[cfg(test)]
mod graph;
#[cfg(test)]
mod property;
mod source;
mod subgraph;
pub mod v1;

use std::{
    collections::{HashMap, HashSet},
    fmt::Debug,
    hash::Hash,
    sync::Arc,
};

use ruma::{
    EventId, OwnedEventId,
    events::StateEventType,
    room_version_rules::{RoomVersionRules, StateResolutionV2Rules},
    state_res::{self, StateMap, auth_types_for_event, utils::event_id_set::EventIdSet},
};

pub use self::source::{Conflict, Entries, StateKey, StateSource};
use self::{
    difference::{auth_difference, is_shallow},
    subgraph::conflicted_subgraph,
};
use super::{Pdu, first_error::FirstError};

/// Why state resolution failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError<E> {
    /// ruma failed.
    #[error("the state cannot be resolved: {0}")]
    Unresolvable(String),
    #[error("{0}")]
    Read(E),
}

impl<E> From<E> for ResolveError<E> {
    fn from(error: E) -> Self {
        Self::Read(error)
    }
}

/// Resolves any number of states of a room that differ at the keys of `conflicts` and nowhere else.
///
/// Returns the entries of the resolved state that are not unconflicted: any of the given states,
/// without the conflicted keys and with these entries, is the resolved state. The entries can have
/// keys that none of the given states has.
///
/// The time grows with the auth difference. If the conflict reaches far back (one message on an old
/// event is enough), it grows with the size of the state: for the pool.
pub fn resolve<S: StateSource>(
    rules: &RoomVersionRules,
    conflicts: &[Conflict<S::Num>],
    source: &S,
) -> Result<Entries<S::Num>, ResolveError<S::Error>> {
    let Some(state_res) = rules.state_res.v2_rules() else {
        return Ok(v1::resolve(rules, conflicts, source)?);
    };
    let states = distinct_states(conflicts);
    if states.len() < 2 {
        return Ok(single_state(conflicts));
    }
    let conflicted: HashSet<S::Num> = conflicts
        .iter()
        .flat_map(|conflict| conflict.entries.iter().flatten().copied())
        .collect();
    let difference = if is_shallow(&conflicted, source)? {
        HashSet::new()
    } else {
        auth_difference(conflicts, &states, source)?
    };
    let subgraph = if state_res.consider_conflicted_state_subgraph {
        conflicted_subgraph(&conflicted, source)?
    } else {
        HashSet::new()
    };
    let mut reduced = Reduced::new(rules, conflicts, &states, source)?;
    for event in conflicted.union(&difference).chain(&subgraph) {
        reduced.add_event(*event)?;
    }
    reduced.resolve(state_res, &difference, &subgraph)
}

/// The indices of the states, without those that equal an earlier one.
fn distinct_states<N: Copy + Eq + Hash>(conflicts: &[Conflict<N>]) -> Vec<usize> {
    let count = conflicts
        .first()
        .map_or(0, |conflict| conflict.entries.len());
    let state = |index: usize| {
        conflicts
            .iter()
            .map(|c| c.entries[index])
            .collect::<Vec<_>>()
    };
    let mut seen = HashSet::new();
    (0..count)
        .filter(|index| seen.insert(state(*index)))
        .collect()
}

fn single_state<N: Copy>(conflicts: &[Conflict<N>]) -> Entries<N> {
    conflicts
        .iter()
        .filter_map(|c| Some((c.key.clone(), (*c.entries.first()?)?)))
        .collect()
}

/// What ruma gets: the reduced states, and the numbers of all event ids in them and in F.
struct Reduced<'a, S: StateSource> {
    rules: &'a RoomVersionRules,
    source: &'a S,
    states: Vec<StateMap<OwnedEventId>>,
    /// The keys that were added; the conflicted ones are there from the start.
    seen: HashSet<StateKey>,
    /// Those of them that are unconflicted.
    common: HashSet<StateKey>,
    numbers: HashMap<OwnedEventId, S::Num>,
}

impl<'a, S: StateSource> Reduced<'a, S> {
    fn new(
        rules: &'a RoomVersionRules,
        conflicts: &[Conflict<S::Num>],
        states: &[usize],
        source: &'a S,
    ) -> Result<Self, S::Error> {
        let mut reduced = Self {
            rules,
            source,
            states: vec![StateMap::new(); states.len()],
            seen: conflicts
                .iter()
                .map(|conflict| conflict.key.clone())
                .collect(),
            common: HashSet::new(),
            numbers: HashMap::new(),
        };
        for Conflict { key, entries } in conflicts {
            for (index, state) in states.iter().enumerate() {
                if let Some(event) = entries[*state] {
                    let (_, id) = reduced.read(event)?;
                    reduced.states[index].insert(key.clone(), id);
                }
            }
        }
        for kind in [
            StateEventType::RoomCreate,
            StateEventType::RoomPowerLevels,
            StateEventType::RoomJoinRules,
        ] {
            reduced.add_key((kind, String::new()))?;
        }
        Ok(reduced)
    }

    /// Adds the keys that ruma reads for an event of F: its own, and its auth types.
    fn add_event(&mut self, event: S::Num) -> Result<(), S::Error> {
        let (pdu, _) = self.read(event)?;
        if let Some((kind, key)) = pdu.state_pair() {
            self.add_key((kind, key.to_owned()))?;
        }
        // An event without auth types is malformed; ruma drops it.
        let auth_types = auth_types_for_event(
            pdu.event_type(),
            pdu.sender(),
            pdu.state_key(),
            pdu.content(),
            &self.rules.authorization,
        );
        auth_types
            .unwrap_or_default()
            .into_iter()
            .try_for_each(|key| self.add_key(key))
    }

    fn add_key(&mut self, key: StateKey) -> Result<(), S::Error> {
        if self.seen.contains(&key) {
            return Ok(());
        }
        if let Some(event) = self.source.common(&key.0, &key.1)? {
            let (_, id) = self.read(event)?;
            for state in &mut self.states {
                state.insert(key.clone(), id.clone());
            }
            self.common.insert(key.clone());
        }
        self.seen.insert(key);
        Ok(())
    }

    /// Reads an event and stores its number under its id.
    fn read(&mut self, event: S::Num) -> Result<(Arc<Pdu>, OwnedEventId), S::Error> {
        let pdu = self.source.pdu(event)?;
        let id = pdu.event_id().to_owned();
        self.numbers.insert(id.clone(), event);
        Ok((pdu, id))
    }

    /// Lets ruma resolve, and removes the unconflicted entries from the result.
    fn resolve(
        &self,
        state_res: &StateResolutionV2Rules,
        difference: &HashSet<S::Num>,
        subgraph: &HashSet<S::Num>,
    ) -> Result<Entries<S::Num>, ResolveError<S::Error>> {
        let first_error = FirstError::new();
        let ids = |events: &HashSet<S::Num>| -> EventIdSet<OwnedEventId> {
            let among = self
                .numbers
                .iter()
                .filter(|(_, event)| events.contains(event));
            among.map(|(id, _)| id.clone()).collect()
        };
        // ruma's resolution is compiled once for each type of closure, so it gets one type.
        let fetch: &dyn Fn(&EventId) -> Option<Arc<Pdu>> =
            &|id| first_error.read(|| self.fetch(id));
        let subgraph: &dyn Fn(&StateMap<_>) -> _ = &|_| Some(ids(subgraph));
        let resolved = state_res::resolve(
            &self.rules.authorization,
            state_res,
            &self.states,
            vec![ids(difference), EventIdSet::new()],
            fetch,
            subgraph,
        );
        first_error.check()?;
        let resolved = resolved.map_err(|error| ResolveError::Unresolvable(error.to_string()))?;
        let number = |id: &OwnedEventId| self.numbers[id];
        let beside = resolved
            .into_iter()
            .filter(|(key, _)| !self.common.contains(key));
        Ok(beside.map(|(key, id)| (key, number(&id))).collect())
    }

    fn fetch(&self, id: &EventId) -> Result<Option<Arc<Pdu>>, S::Error> {
        let number = match self.numbers.get(id) {
            Some(number) => Some(*number),
            None => self.source.number(id)?,
        };
        number.map(|number| self.source.pdu(number)).transpose()
    }
}
