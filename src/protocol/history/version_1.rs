//! The state resolution of room version 1 as the specification has it, over whole states.

use std::{cmp::Reverse, collections::BTreeSet};

use sha1::{Digest, Sha1};

use super::{History, Index, State};

pub(super) fn resolve(history: &History, states: &[&State]) -> State {
    let mut resolved = State::new();
    let mut conflicts: Vec<(_, Vec<Index>)> = Vec::new();
    let keys = states.iter().flat_map(|state| state.keys());
    for key in keys.collect::<BTreeSet<_>>() {
        let events = states.iter().filter_map(|state| state.get(key).copied());
        let mut events: Vec<Index> = events.collect::<BTreeSet<_>>().into_iter().collect();
        if let [event] = *events {
            resolved.insert(key.clone(), event);
        } else {
            // Ascending depth, then descending hash.
            events.sort_by_key(|event| {
                let pdu = &history.events[*event].pdu;
                (pdu.depth(), Reverse(Sha1::digest(pdu.event_id().as_str())))
            });
            conflicts.push((key.clone(), events));
        }
    }
    for kind in ["m.room.power_levels", "m.room.join_rules", "m.room.member"] {
        let before = resolved.clone();
        for (key, events) in conflicts.iter().filter(|(key, _)| key.0 == kind.into()) {
            let mut state = before.clone();
            for event in events {
                let is_first = !state.contains_key(key);
                if !is_first && !is_allowed(history, *event, &state) {
                    break;
                }
                state.insert(key.clone(), *event);
            }
            resolved.insert(key.clone(), state[key]);
        }
        conflicts.retain(|(key, _)| key.0 != kind.into());
    }
    let before = resolved.clone();
    for (key, events) in conflicts {
        let allowed = events
            .iter()
            .rev()
            .find(|event| is_allowed(history, **event, &before));
        resolved.insert(key, *allowed.unwrap_or(&events[0]));
    }
    resolved
}

fn is_allowed(history: &History, event: Index, state: &State) -> bool {
    history
        .is_allowed_by(&history.events[event].pdu, state)
        .is_ok()
}
