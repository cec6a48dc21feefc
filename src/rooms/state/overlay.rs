//! A stored state with changes laid over it, which need not be stored itself.

use std::collections::BTreeMap;

use crate::{
    protocol::Pdu,
    rooms::{Error, state},
    store::{
        EventNum, NodeNum, Reader, RoomNum, StateKeyNum, Tx,
        records::{EventHeader, Status},
    },
};

/// A (type, state key).
pub type Key = (String, String);

/// A stored state with changes laid over it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateOverlay {
    base: NodeNum,
    over: BTreeMap<Key, Option<EventNum>>,
}

impl StateOverlay {
    /// Stands for an event that is not stored yet. It is larger than every number, as an event's
    /// number is larger than those of its auth events.
    pub const UNNUMBERED: EventNum = EventNum::MAX;

    pub fn of(root: NodeNum) -> Self {
        Self {
            base: root,
            over: BTreeMap::new(),
        }
    }

    /// The state after the event `num`: the state before it, with the event unless it was rejected.
    pub fn after(r: &impl Reader, num: EventNum, header: &EventHeader) -> Result<Self, Error> {
        let before = Self::of(header.state_before);
        match (header.status, header.state_key) {
            (Status::Accepted | Status::SoftFailed, Some(key)) => {
                Ok(before.with(state::key_name(r, header.room, key)?, Some(num)))
            }
            _ => Ok(before),
        }
    }

    /// The same with `event` at `key`, or with no event there.
    pub fn with(mut self, key: Key, event: Option<EventNum>) -> Self {
        self.over.insert(key, event);
        self
    }

    /// The state of `entries`, as a difference from this one, with which it shares most. Grows with the
    /// room: not for the thread.
    pub fn with_entries(
        &self,
        r: &impl Reader,
        room: RoomNum,
        mut entries: BTreeMap<StateKeyNum, EventNum>,
    ) -> Result<Self, Error> {
        let mut state = self.clone();
        for (key, num) in self.entries(r, room)? {
            match entries.remove(&key) {
                Some(same) if same == num => {}
                other => state = state.with(state::key_name(r, room, key)?, other),
            }
        }
        for (key, num) in entries {
            state = state.with(state::key_name(r, room, key)?, Some(num));
        }
        Ok(state)
    }

    /// The same after the event `pdu` with the number `num`: unchanged if it is no state event.
    pub fn with_event(self, pdu: &Pdu, num: EventNum) -> Self {
        match pdu.state_pair() {
            Some((kind, key)) => self.with((kind.to_string(), key.to_owned()), Some(num)),
            None => self,
        }
    }

    pub fn base(&self) -> NodeNum {
        self.base
    }

    /// The keys of the changes.
    pub fn changed(&self) -> impl Iterator<Item = &Key> {
        self.over.keys()
    }

    /// The event at (`kind`, `state_key`).
    pub fn get(
        &self,
        r: &impl Reader,
        room: RoomNum,
        kind: &str,
        state_key: &str,
    ) -> Result<Option<EventNum>, Error> {
        match self.over.get(&(kind.to_owned(), state_key.to_owned())) {
            Some(event) => Ok(*event),
            None => state::get_named(r, room, self.base, kind, state_key),
        }
    }

    /// Every (key, event) in it. Grows with the room: not for the thread.
    pub fn entries(
        &self,
        r: &impl Reader,
        room: RoomNum,
    ) -> Result<Vec<(StateKeyNum, EventNum)>, Error> {
        let mut entries = state::entries(r, room, self.base)?;
        for ((kind, state_key), event) in &self.over {
            if let Some(key) = state::key_num(r, room, kind, state_key)? {
                entries.retain(|(other, _)| *other != key);
                entries.extend(event.map(|event| (key, event)));
            }
        }
        Ok(entries)
    }

    /// Stores it; `unnumbered` is the number of the event that stands in it as
    /// [`UNNUMBERED`](Self::UNNUMBERED).
    pub fn store(&self, tx: &Tx, room: RoomNum, unnumbered: EventNum) -> Result<NodeNum, Error> {
        let mut root = self.base;
        for ((kind, state_key), event) in &self.over {
            let event = event.map(|num| {
                if num == Self::UNNUMBERED {
                    unnumbered
                } else {
                    num
                }
            });
            let key = state::key_num_or_new(tx, room, kind, state_key)?;
            if state::get(tx, room, root, key)? != event {
                root = state::set(tx, room, root, key, event)?;
            }
        }
        Ok(root)
    }
}
