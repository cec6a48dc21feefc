//! Resolution of stored states ([`protocol::resolve`]).

use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use ruma::{EventId, events::StateEventType, room_version_rules::RoomVersionRules};

use super::overlay::{Key, StateOverlay};
use crate::{
    protocol::{
        Pdu,
        resolve::{self, Conflict, Entries, ResolveError, StateSource},
    },
    rooms::{Error, state, stored_event as event},
    store::{EventNum, Reader, RoomNum, Rows, StateKeyNum, records::Status},
};

/// How many parsed events are cached during one resolution; others are parsed again.
const MAX_PARSED_EVENTS: usize = 10_000;

/// An event that is not stored yet.
#[derive(Clone, Debug)]
pub(in crate::rooms) struct Unnumbered {
    pub pdu: Arc<Pdu>,
    pub auth: Vec<EventNum>,
}

/// What resolution is to know of events that is not stored yet.
#[derive(Default)]
pub(in crate::rooms) struct Unstored<'a> {
    /// The event that stands in the states as [`StateOverlay::UNNUMBERED`].
    pub new: Option<Unnumbered>,
    /// The statuses of events that have another one than is stored.
    pub status: Option<&'a dyn Fn(EventNum) -> Option<Status>>,
}

/// Resolves `states`.
///
/// The time grows with their difference, at worst with the room: for the pool.
pub(in crate::rooms) fn resolve(
    r: &impl Reader,
    room: RoomNum,
    rules: &RoomVersionRules,
    states: &[StateOverlay],
    unstored: Unstored<'_>,
) -> Result<StateOverlay, Error> {
    let [first, others @ ..] = states else {
        return Ok(StateOverlay::default());
    };
    if others.iter().all(|other| other == first) {
        return Ok(first.clone());
    }
    let conflicts = conflicts(r, room, states)?;
    if conflicts.is_empty() {
        return Ok(first.clone());
    }
    let source = Source::new(r, room, rules, first, &conflicts, unstored);
    let resolved = source.resolve(&conflicts)?;
    let cleared = source.conflicts.iter().cloned();
    let cleared = cleared.fold(first.clone(), |state, key| state.with(key, None));
    Ok(resolved
        .into_iter()
        .fold(cleared, |state, (at, num)| state.with(key(&at), Some(num))))
}

/// What resolution gives at the key of `conflict`, which has the entries of states that are `common` at all
/// other keys.
pub(in crate::rooms) fn resolve_one(
    r: &impl Reader,
    room: RoomNum,
    rules: &RoomVersionRules,
    common: &StateOverlay,
    conflict: Conflict<EventNum>,
    unstored: Unstored<'_>,
) -> Result<Option<EventNum>, Error> {
    let conflicts = [conflict];
    let source = Source::new(r, room, rules, common, &conflicts, unstored);
    let resolved = source.resolve(&conflicts)?.into_iter();
    let mut at_key = resolved.filter(|(key, _)| *key == conflicts[0].key);
    Ok(at_key.next().map(|(_, num)| num))
}

/// Whether two states have the same events.
pub(in crate::rooms) fn is_same_state(
    r: &impl Reader,
    room: RoomNum,
    one: &StateOverlay,
    other: &StateOverlay,
) -> Result<bool, Error> {
    Ok(one == other || conflicts(r, room, &[one.clone(), other.clone()])?.is_empty())
}

fn key((kind, state_key): &resolve::StateKey) -> Key {
    (kind.to_string(), state_key.clone())
}

/// The keys at which the states differ, with the events of each.
pub(in crate::rooms) fn conflicts(
    r: &impl Reader,
    room: RoomNum,
    states: &[StateOverlay],
) -> Result<Vec<Conflict<EventNum>>, Error> {
    let bases: Vec<_> = states.iter().map(StateOverlay::base).collect();
    let mut keys: BTreeSet<Key> = states
        .iter()
        .flat_map(StateOverlay::changed)
        .cloned()
        .collect();
    for num in state::differing_keys(r, room, &bases)? {
        keys.insert(state::key_name(r, room, num)?);
    }
    let mut conflicts = Vec::new();
    for (kind, state_key) in keys {
        let entries = states
            .iter()
            .map(|state| state.get(r, room, &kind, &state_key))
            .collect::<Result<Vec<_>, _>>()?;
        if entries.iter().any(|entry| *entry != entries[0]) {
            conflicts.push(Conflict {
                key: (kind.into(), state_key),
                entries,
            });
        }
    }
    Ok(conflicts)
}

/// The room as resolution reads it.
struct Source<'a, R> {
    r: &'a R,
    room: RoomNum,
    rules: &'a RoomVersionRules,
    /// Any of the states: all have the same unconflicted events.
    common: &'a StateOverlay,
    conflicts: HashSet<Key>,
    unstored: Unstored<'a>,
    parsed: RefCell<HashMap<EventNum, Arc<Pdu>>>,
}

impl<'a, R: Reader> Source<'a, R> {
    fn new(
        r: &'a R,
        room: RoomNum,
        rules: &'a RoomVersionRules,
        common: &'a StateOverlay,
        conflicts: &[Conflict<EventNum>],
        unstored: Unstored<'a>,
    ) -> Self {
        let conflicts = conflicts.iter().map(|conflict| key(&conflict.key));
        Self {
            r,
            room,
            rules,
            common,
            conflicts: conflicts.collect(),
            unstored,
            parsed: RefCell::default(),
        }
    }

    fn resolve(&self, conflicts: &[Conflict<EventNum>]) -> Result<Entries<EventNum>, Error> {
        resolve::resolve(self.rules, conflicts, self).map_err(|error| match error {
            ResolveError::Read(error) => error,
            other => Error::Unresolvable(other.to_string().into()),
        })
    }
}

impl<R: Reader> StateSource for Source<'_, R> {
    type Num = EventNum;
    type Error = Error;

    fn auth_events(&self, num: EventNum, auth_events: &mut Vec<EventNum>) -> Result<(), Error> {
        match &self.unstored.new {
            Some(new) if num == StateOverlay::UNNUMBERED => auth_events.extend(&new.auth),
            _ => {
                let table = self.r.auth()?;
                let row = table.get((self.room, num))?;
                let row = row.ok_or_else(|| Error::corrupt("auth", (self.room, num), "missing"))?;
                let (nums, _) = row.value().as_chunks::<8>();
                auth_events.extend(nums.iter().map(|num| EventNum(u64::from_le_bytes(*num))));
            }
        }
        Ok(())
    }

    fn pdu(&self, num: EventNum) -> Result<Arc<Pdu>, Error> {
        if let Some(new) = &self.unstored.new
            && num == StateOverlay::UNNUMBERED
        {
            return Ok(new.pdu.clone());
        }
        if let Some(pdu) = self.parsed.borrow().get(&num) {
            return Ok(pdu.clone());
        }
        let mut stored = event::load(self.r, num)?;
        if let Some(status) = self.unstored.status.and_then(|status| status(num)) {
            stored.header.status = status;
        }
        let pdu = Arc::new(stored.pdu(self.rules)?);
        let mut parsed = self.parsed.borrow_mut();
        if parsed.len() < MAX_PARSED_EVENTS {
            parsed.insert(num, pdu.clone());
        }
        Ok(pdu)
    }

    fn number(&self, id: &EventId) -> Result<Option<EventNum>, Error> {
        match &self.unstored.new {
            Some(new) if new.pdu.event_id() == id => Ok(Some(StateOverlay::UNNUMBERED)),
            _ => event::num_in(self.r, self.room, id),
        }
    }

    fn common(&self, kind: &StateEventType, state_key: &str) -> Result<Option<EventNum>, Error> {
        self.common
            .get(self.r, self.room, &kind.to_string(), state_key)
    }

    fn each_common(&self, visit: &mut dyn FnMut(EventNum)) -> Result<(), Error> {
        let mut elsewhere: HashSet<StateKeyNum> = HashSet::new();
        for (kind, state_key) in self.conflicts.iter().chain(self.common.changed()) {
            elsewhere.extend(state::key_num(self.r, self.room, kind, state_key)?);
        }
        for (key, num) in state::entries(self.r, self.room, self.common.base())? {
            if !elsewhere.contains(&key) {
                visit(num);
            }
        }
        for (kind, state_key) in self.common.changed() {
            if !self.conflicts.contains(&(kind.clone(), state_key.clone()))
                && let Some(num) = self.common.get(self.r, self.room, kind, state_key)?
            {
                visit(num);
            }
        }
        Ok(())
    }
}
