//! State resolution of room version 1, which ruma does not have.
//!
//! Where the specification leaves it open, this is what Synapse does: a key that only some states have, with
//! the same event in all of them, is not conflicted; while the events of one key are resolved, the events
//! of other keys of the same type are not used.
//!
//! Source: room version 1, "State resolution".

use std::{cmp::Reverse, collections::HashMap, sync::Arc};

use ruma::{events::StateEventType, room_version_rules::RoomVersionRules};
use sha1::{Digest, Sha1};

use super::source::{Conflict, Entries, StateKey, StateSource};
use crate::protocol::{
    Pdu,
    authorize::{AuthError, check_by_state},
};

type Numbered<N> = (N, Arc<Pdu>);

/// The events of the states at one key.
type Candidates<N> = Vec<Numbered<N>>;

/// As [`resolve`](super::resolve).
pub(super) fn resolve<S: StateSource>(
    rules: &RoomVersionRules,
    conflicts: &[Conflict<S::Num>],
    source: &S,
) -> Result<Entries<S::Num>, S::Error> {
    let mut resolution = Resolution {
        rules,
        source,
        resolved: HashMap::new(),
    };
    let mut open: Vec<(&StateKey, Candidates<S::Num>)> = Vec::new();
    for Conflict { key, entries } in conflicts {
        let mut candidates = Candidates::new();
        for num in entries.iter().flatten() {
            if candidates.iter().all(|(other, _)| other != num) {
                candidates.push((*num, source.pdu(*num)?));
            }
        }
        match candidates.as_slice() {
            [] => resolution.set(key, None),
            [(num, pdu)] => resolution.set(key, Some((*num, pdu.clone()))),
            _ => {
                // Until it is resolved, no event is there.
                resolution.set(key, None);
                candidates.sort_by_cached_key(|(_, pdu)| order(pdu));
                open.push((key, candidates));
            }
        }
    }
    for kind in [
        StateEventType::RoomPowerLevels,
        StateEventType::RoomJoinRules,
        StateEventType::RoomMember,
    ] {
        let of_kind = open.extract_if(.., |(key, _)| key.0 == kind && is_auth_key(key));
        let of_kind: Vec<_> = of_kind.collect();
        let mut resolved = Vec::new();
        for (key, candidates) in of_kind {
            resolved.push((key, resolution.auth_event(key, candidates)?));
        }
        for (key, event) in resolved {
            resolution.set(key, Some(event));
        }
    }
    let mut resolved = Vec::new();
    for (key, candidates) in open {
        resolved.push((key, resolution.other_event(candidates)?));
    }
    for (key, event) in resolved {
        resolution.set(key, Some(event));
    }
    let resolved = resolution.resolved.into_iter();
    Ok(resolved
        .filter_map(|(key, event)| Some((key, event?.0)))
        .collect())
}

/// Power levels count only under the empty state key. Join rules count under any in this resolution, but
/// the authorization rules read those under the empty one.
fn is_auth_key((kind, state_key): &StateKey) -> bool {
    *kind != StateEventType::RoomPowerLevels || state_key.is_empty()
}

/// Descending depth, then ascending SHA-1 of the event id in hexadecimal: the first one wins.
pub fn order(pdu: &Pdu) -> (Reverse<u64>, [u8; 20]) {
    let hash = Sha1::digest(pdu.event_id().as_str().as_bytes());
    (Reverse(pdu.depth()), hash.into())
}

struct Resolution<'a, S: StateSource> {
    rules: &'a RoomVersionRules,
    source: &'a S,
    /// The keys of the conflicts, with what they are resolved to.
    resolved: HashMap<StateKey, Option<Numbered<S::Num>>>,
}

impl<S: StateSource> Resolution<'_, S> {
    fn set(&mut self, key: &StateKey, event: Option<Numbered<S::Num>>) {
        self.resolved.insert(key.clone(), event);
    }

    /// Of power levels, join rules or memberships at one key: the last that its predecessors allow, from the
    /// least depth on.
    fn auth_event(
        &self,
        key: &StateKey,
        candidates: Candidates<S::Num>,
    ) -> Result<Numbered<S::Num>, S::Error> {
        let mut ascending = candidates.into_iter().rev();
        let mut last = ascending.next().expect("a conflict has events");
        for next in ascending {
            if !self.allows(&next.1, Some((key, &last.1)))? {
                break;
            }
            last = next;
        }
        Ok(last)
    }

    /// Of other events at one key: the deepest that is allowed. If none is, the one with the least depth, as
    /// in Synapse.
    fn other_event(
        &self,
        mut candidates: Candidates<S::Num>,
    ) -> Result<Numbered<S::Num>, S::Error> {
        for (num, pdu) in &candidates {
            if self.allows(pdu, None)? {
                return Ok((*num, pdu.clone()));
            }
        }
        Ok(candidates.pop().expect("a conflict has events"))
    }

    /// Whether the state that is resolved so far, with `last` in it, allows the event.
    fn allows(&self, pdu: &Pdu, last: Option<(&StateKey, &Arc<Pdu>)>) -> Result<bool, S::Error> {
        let checked = check_by_state(pdu, self.rules, |kind, state_key| {
            let key = (kind.clone(), state_key.to_owned());
            if let Some((_, last)) = last.filter(|(of, _)| **of == key) {
                return Ok(Some(last.clone()));
            }
            if let Some(resolved) = self.resolved.get(&key) {
                return Ok(resolved.as_ref().map(|(_, pdu)| pdu.clone()));
            }
            let num = self.source.common(kind, state_key)?;
            num.map(|num| self.source.pdu(num)).transpose()
        });
        match checked {
            Ok(_) => Ok(true),
            Err(AuthError::Rejected(_)) => Ok(false),
            Err(AuthError::Read(error)) => Err(error),
        }
    }
}
