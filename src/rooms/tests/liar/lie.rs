//! What the liar makes and claims.

use std::sync::Arc;

use rand::{RngExt, seq::IndexedRandom};
use ruma::{EventId, OwnedEventId, events::StateEventType};
use serde_json::json;

use super::{ALICE, BEN, BOB, DAVE, LIARS, Liar};
use crate::{
    protocol::{
        build::BuiltEvent,
        history::{Action, Index, State},
    },
    rooms::{Error, event, room},
};

impl Liar<'_> {
    /// Any state that the liar knows of.
    fn any_state(&mut self) -> Arc<State> {
        let index = self.rng.random_range(0..self.history.events.len());
        self.history.events[index].state_after.clone()
    }

    /// A new event of the liar's.
    pub(super) fn lie(&mut self) -> Result<Index, Error> {
        let mut prev: Vec<Index> = Vec::new();
        let ends = room::heads(self.tx, self.room)?.extremities;
        if self.rng.random_bool(0.6) {
            for end in ends.iter().take(5) {
                let id = event::id(self.tx, *end)?;
                prev.extend(self.history.index(&id));
            }
        }
        if self.rng.random_bool(0.7) {
            prev.extend(self.hidden.choose(&mut self.rng));
        }
        for _ in 0..self.rng.random_range(0..2) {
            let visible = (0..self.received).chain(self.truth..self.history.events.len());
            prev.extend(visible.collect::<Vec<_>>().choose(&mut self.rng));
        }
        prev.sort_unstable();
        prev.dedup();
        let mut missing = Vec::new();
        if prev.is_empty() || self.rng.random_bool(0.25) {
            let id = format!("${:043}", self.rng.random::<u32>());
            missing.push(EventId::parse(id).expect("an event id"));
        }
        let sender = *LIARS.choose(&mut self.rng).expect("not empty");
        let action = self.action(sender);
        let cited = if self.rng.random_bool(0.85) {
            self.current()?
        } else {
            self.any_state()
        };
        let depth = self.depth(&prev);
        let built = self
            .history
            .build_at(depth, &prev, &missing, &cited, action);
        // What the liar says about the state after its event.
        let state = self.any_state();
        Ok(self.push(&prev, state, built))
    }

    /// The right depth of an event on `prev`, or any other.
    fn depth(&mut self, prev: &[Index]) -> u64 {
        let depths = prev.iter();
        let depths = depths.map(|index| self.history.events[*index].pdu.depth());
        let equal = depths.max().unwrap_or(1);
        let right = equal.saturating_add(1);
        let depths = [right, right, right, 1, equal, 1_000_000_000, (1 << 53) - 1];
        *depths.choose(&mut self.rng).expect("not empty")
    }

    fn push(&mut self, prev: &[Index], state: Arc<State>, built: BuiltEvent) -> Index {
        self.history.push(prev, state, built, true)
    }

    fn action(&mut self, sender: &'static str) -> Action {
        let users = [ALICE, BOB, BEN, DAVE, sender];
        let target = *users.choose(&mut self.rng).expect("not empty");
        let n = self.rng.random::<u32>();
        match self.rng.random_range(0..10) {
            0 => {
                let memberships = ["leave", "ban", "invite", "join"];
                let membership = memberships.choose(&mut self.rng).expect("not empty");
                let content = json!({ "membership": membership, "n": n });
                Action::state(sender, "m.room.member", target, content)
            }
            1 => Action::state(
                sender,
                "m.room.member",
                sender,
                json!({ "membership": "join", "n": n }),
            ),
            2 => {
                let levels = self
                    .history
                    .levels(&[(sender, 100)], json!({ "users_default": n % 60 }));
                Action::state(sender, "m.room.power_levels", "", levels)
            }
            3 => {
                let visibility = json!({ "history_visibility": "world_readable", "n": n });
                Action::state(sender, "m.room.history_visibility", "", visibility)
            }
            4 => Action::state(sender, "test.state", sender, json!({ "n": n })),
            _ => Action::message(sender, "m.room.message", json!({ "n": n })),
        }
    }

    /// Any selection of events as a state, some of them forged. They are here as outliers.
    pub(super) fn claim(&mut self) -> Result<(Vec<OwnedEventId>, Arc<State>), Error> {
        let mut claimed = State::clone(&*self.any_state());
        let keep = *[0.3, 0.7, 0.95, 1.0]
            .choose(&mut self.rng)
            .expect("not empty");
        // In an order that the seed decides.
        let mut keys: Vec<_> = claimed.keys().cloned().collect();
        keys.sort();
        for key in keys {
            if !self.rng.random_bool(keep) {
                claimed.remove(&key);
            }
        }
        for _ in 0..self.rng.random_range(0..4) {
            let index = self.rng.random_range(0..self.history.events.len());
            if let Some((kind, key)) = self.history.events[index].pdu.state_pair() {
                claimed.insert((kind, key.to_owned()), index);
            }
        }
        self.store_outliers(claimed.values().copied().chain([0]))?;
        let ids = claimed.values().map(|index| self.id(*index)).collect();
        // Rejected events are in no state, and the create event in every one.
        let mut state = State::new();
        for (key, index) in claimed {
            if !self.is_rejected(index)? {
                state.insert(key, index);
            }
        }
        state.insert((StateEventType::RoomCreate, String::new()), 0);
        self.mark_rejected()?;
        Ok((ids, Arc::new(state)))
    }
}
