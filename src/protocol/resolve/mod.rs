//! State resolution over as little of a room as gives the exact result.
//!
//! ruma resolves whole state maps with whole auth chains. In a large room almost all of both is the
//! same on every branch, so ruma gets a reduced problem with the same solution:
//! - states that are the same throughout count once;
//! - F is the conflicted events, the auth difference D ([`difference`]) and, where the rules say
//!   so, the conflicted state subgraph ([`subgraph`]);
//! - each state is cut down to the keys in conflict, the keys of the events in F, the keys that
//!   authorize the events in F, and create event, power levels and join rules;
//! - the auth chains are `[D, ∅]`, whose difference is D;
//! - what comes out is laid over the part that all states share, which wins.
//!
//! Auth chains include the events that they start from, as other servers have it. NOTSPEC: by the
//! letter an event is not in its own auth chain; but then servers would disagree.
//!
//! Events are handled by numbers whose order is a topological order of the auth graph: every event's
//! number is larger than those of its auth events. That an event's id is text matters only inside
//! ruma, which breaks ties by it.
//!
//! Sources: room versions 2 and 12, "State resolution".

mod difference;
#[cfg(test)]
mod graph;
#[cfg(test)]
mod property;
mod subgraph;

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

use self::{
    difference::{auth_difference, is_shallow},
    subgraph::conflicted_subgraph,
};
use super::{Pdu, first_error::FirstError};

/// A key of a room's state: type and state key.
pub type StateKey = (StateEventType, String);

/// Entries of a state, in no order.
pub type Entries<N> = Vec<(StateKey, N)>;

/// What resolution reads of a room. Reads repeat: the caller caches what is expensive, parsed
/// events above all.
pub trait StateSource {
    /// An event's number, larger than those of its auth events.
    type Num: Copy + Debug + Eq + Hash + Ord;
    /// Why a read failed.
    type Error;

    /// Appends the auth events of an event to `auth_events`.
    fn auth_events(
        &self,
        event: Self::Num,
        auth_events: &mut Vec<Self::Num>,
    ) -> Result<(), Self::Error>;

    /// The event, parsed, with its `rejected` mark.
    fn pdu(&self, event: Self::Num) -> Result<Arc<Pdu>, Self::Error>;

    /// The number of an event of this room, if the event is here.
    fn number(&self, event: &EventId) -> Result<Option<Self::Num>, Self::Error>;

    /// What all states have under a key. For a key in conflict the answer of any state will do.
    fn common(&self, kind: &StateEventType, key: &str) -> Result<Option<Self::Num>, Self::Error>;

    /// Visits, in any order, all events that all states have under the same key. Asked only where
    /// the conflict reaches further back than the events in conflict.
    fn each_common(&self, visit: &mut dyn FnMut(Self::Num)) -> Result<(), Self::Error>;
}

/// A key under which the states are not all the same.
#[derive(Clone, Debug)]
pub struct Conflict<N> {
    /// The key.
    pub key: StateKey,
    /// What each of the states has there, in one order for all keys. At least two differ.
    pub entries: Vec<Option<N>>,
}

/// Why there is no resolved state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError<E> {
    /// The room's version does not have this kind of state resolution.
    #[error("the room version has no state resolution of version 2")]
    Version,
    /// The room's history is not one that resolution can work with.
    #[error("the state cannot be resolved: {0}")]
    Unresolvable(String),
    /// Something could not be read.
    #[error("{0}")]
    Read(E),
}

impl<E> From<E> for ResolveError<E> {
    fn from(error: E) -> Self {
        Self::Read(error)
    }
}

/// Resolves states of a room that differ under the keys of `conflicts` and nowhere else. Any number
/// of states.
///
/// Gives all that the resolved state has beside the part that the given states share. So the
/// resolved state is any of these with the keys in conflict taken out and the result put in; the
/// result can have keys that none of them has.
///
/// It takes time in proportion to the auth events by which the states differ; where the conflict
/// reaches further back (one message on an old event can do it), to the size of the state. It may
/// take long: run it on the pool.
pub fn resolve<S: StateSource>(
    rules: &RoomVersionRules,
    conflicts: &[Conflict<S::Num>],
    source: &S,
) -> Result<Entries<S::Num>, ResolveError<S::Error>> {
    let state_res = rules.state_res.v2_rules().ok_or(ResolveError::Version)?;
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

/// The indexes of the states, without those that are the same as an earlier one.
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

/// The problem that ruma gets: the states cut down, and numbers for all ids in them and in F.
struct Reduced<'a, S: StateSource> {
    rules: &'a RoomVersionRules,
    source: &'a S,
    states: Vec<StateMap<OwnedEventId>>,
    /// The keys that have been looked at; those in conflict are there from the start.
    seen: HashSet<StateKey>,
    /// Those of them under which all states have the same event.
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

    /// Adds what is needed to judge an event of F: the keys that authorize it. Its own key is among
    /// those of what rests on it, if that has been checked; here it need not have been.
    fn add_event(&mut self, event: S::Num) -> Result<(), S::Error> {
        let (pdu, _) = self.read(event)?;
        if let Some((kind, key)) = pdu.state_pair() {
            self.add_key((kind, key.to_owned()))?;
        }
        // An event without authorities is malformed; ruma drops it for the same reason.
        let authorities = auth_types_for_event(
            pdu.event_type(),
            pdu.sender(),
            pdu.state_key(),
            pdu.content(),
            &self.rules.authorization,
        );
        authorities
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

    /// Reads an event and keeps the number of its id.
    fn read(&mut self, event: S::Num) -> Result<(Arc<Pdu>, OwnedEventId), S::Error> {
        let pdu = self.source.pdu(event)?;
        let id = pdu.event_id().to_owned();
        self.numbers.insert(id.clone(), event);
        Ok((pdu, id))
    }

    /// Lets ruma resolve, and takes the part out that the states share.
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
        // ruma's resolution is in the program once for each type of closure, and there are several
        // sources.
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
