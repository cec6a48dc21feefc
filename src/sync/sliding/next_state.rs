//! What a client will have received with a response.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use super::required_state::size;
use crate::store::{
    RoomNum,
    records::{RequiredState, SentRoom, SlidingSyncState},
};

/// The size of the required states in the room configs of a request, of which each combination of lists and a
/// subscription has its own; and the size above which those with which rooms were sent earlier are forgotten.
pub const MAX_REQUIRED_BYTES: usize = 256 * 1024;

/// How the stored state of the connection changes by a response.
#[derive(Debug)]
pub struct NextState {
    pub required_states: Vec<Arc<Vec<RequiredState>>>,
    /// The indexes of those that the request has.
    wanted: BTreeSet<u16>,
    /// `None` where the client is to get the whole room when it comes again.
    rooms: BTreeMap<RoomNum, Option<SentRoom>>,
    pub has_account_data: bool,
    pub is_changed: bool,
}

impl NextState {
    pub fn new(state: &SlidingSyncState) -> Self {
        let required_states = state.required_states.iter().cloned().map(Arc::new);
        Self {
            required_states: required_states.collect(),
            wanted: BTreeSet::new(),
            rooms: BTreeMap::new(),
            has_account_data: state.has_account_data,
            is_changed: false,
        }
    }

    pub fn required_state(&mut self, wanted: &[RequiredState]) -> u16 {
        let known = self.required_states.iter();
        let index = known.clone().position(|known| known.as_slice() == wanted);
        let index = index.unwrap_or_else(|| {
            self.required_states.push(Arc::new(wanted.to_vec()));
            self.required_states.len() - 1
        });
        let index = u16::try_from(index).unwrap_or(u16::MAX);
        self.wanted.insert(index);
        index
    }

    pub fn set(&mut self, before: Option<SentRoom>, room: RoomNum, after: Option<SentRoom>) {
        if before != after {
            self.rooms.insert(room, after);
            self.is_changed = true;
        }
    }

    /// Changes the room that `before` or an earlier change has.
    pub fn edit(
        &mut self,
        before: &SlidingSyncState,
        room: RoomNum,
        edit: impl FnOnce(&mut SentRoom),
    ) {
        let before = match self.rooms.get(&room) {
            Some(changed) => *changed,
            None => sent(before, room).copied(),
        };
        if let Some(before) = before {
            let mut after = before;
            edit(&mut after);
            self.set(Some(before), room, Some(after));
        }
    }

    /// The state after the response to a request for `before`.
    pub fn apply(&self, before: &SlidingSyncState) -> SlidingSyncState {
        let mut rooms: BTreeMap<_, _> = before.rooms.iter().copied().collect();
        for (room, after) in &self.rooms {
            match after {
                Some(after) => drop(rooms.insert(*room, *after)),
                None => drop(rooms.remove(room)),
            }
        }
        let used: BTreeSet<u16> = rooms.values().map(|sent| sent.required_state).collect();
        let known = |index: u16| self.required_states.get(usize::from(index));
        let sizes = used.iter().filter_map(|index| known(*index));
        let is_large = sizes.map(|known| size(known)).sum::<usize>() > MAX_REQUIRED_BYTES;
        let mut indexes = HashMap::new();
        let mut required_states = Vec::new();
        for sent in rooms.values_mut() {
            let index = *indexes.entry(sent.required_state).or_insert_with(|| {
                // With nothing known, the state is sent again when the room is.
                let is_kept = !is_large || self.wanted.contains(&sent.required_state);
                let known = known(sent.required_state).filter(|_| is_kept);
                required_states.push(known.map_or_else(Vec::new, |known| known.to_vec()));
                required_states.len() - 1
            });
            sent.required_state = u16::try_from(index).unwrap_or(u16::MAX);
        }
        SlidingSyncState {
            required_states,
            rooms: rooms.into_iter().collect(),
            has_account_data: self.has_account_data,
        }
    }
}

/// What the client has of `room`.
pub fn sent(state: &SlidingSyncState, room: RoomNum) -> Option<&SentRoom> {
    let index = state.rooms.binary_search_by_key(&room, |(room, _)| *room);
    index.ok().map(|index| &state.rooms[index].1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::records::StatePattern;

    fn required(name: &str) -> Vec<RequiredState> {
        let pattern = |number: usize| StatePattern {
            kind: Some(format!("{name}.{number}")),
            state_key: None,
        };
        vec![RequiredState {
            include: (0..1000).map(pattern).collect(),
            ..RequiredState::default()
        }]
    }

    fn sent_with(required_state: u16) -> SentRoom {
        SentRoom {
            required_state,
            timeline_limit: 1,
            upto: None,
            is_dm: false,
            has_receipts: true,
            has_account_data: true,
        }
    }

    #[test]
    fn many_required_states_are_forgotten_but_for_those_of_the_request() {
        let mut state = SlidingSyncState::default();
        for number in 1..=100 {
            let mut next = NextState::new(&state);
            let index = next.required_state(&required(&number.to_string()));
            next.set(None, RoomNum(number), Some(sent_with(index)));
            state = next.apply(&state);
            let bytes: usize = state.required_states.iter().map(|known| size(known)).sum();
            assert!(bytes <= 2 * MAX_REQUIRED_BYTES, "{bytes} with {number}");
            let last = sent(&state, RoomNum(number)).expect("the room");
            let known = &state.required_states[usize::from(last.required_state)];
            assert_eq!(*known, required(&number.to_string()));
        }
        assert_eq!(state.rooms.len(), 100);
        let first = sent(&state, RoomNum(1)).expect("the room");
        let known = &state.required_states[usize::from(first.required_state)];
        assert!(known.is_empty());
    }
}
