//! Whether what has changed in the room may have changed, whatever the model says.
//!
//! For memberships, power levels, join rules, history visibility and the create event: if the room's
//! entry is another one after a step, then either
//!
//! - full resolution gives the new one, over all events that lead to the room's extremities, whether
//!   they are here or not, or over those that are here, or over those of them that came since the join
//!   and rest on no claim; an event that does not exist counts as absent, and no claim counts at all;
//!   or
//! - full resolution gives it over the true events alone, as if the liar had sent none; or
//! - full resolution gives it if each event that rests on a claim follows on all extremities that the
//!   room had when it was received. Any member may send such an event, and needs no claim for it; or
//! - full resolution gives it if the events of the true graph that stand in the room's state and are
//!   otherwise not here are extremities, too. The claim that revealed them is true as far as that: a
//!   server that receives all true events has them and resolves with them, or
//! - the new one is an event of greater depth, or of a liar, who chooses the depth, that is part of the
//!   true graph, or that the room allowed before the step; or
//! - it is the membership of a liar, which a liar has set, or which is gone.
//!
//! So nobody falls out of the room, and nothing returns to what it was, unless resolution says so.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use ruma::events::StateEventType;
use serde_json::Value;

use super::{LIARS, Liar};
use crate::{
    protocol::history::{Index, State},
    rooms::{Error, event, room},
    store::records::Status,
};

/// States by resolution of the events of a graph, without any claim.
struct Graph {
    prev: HashMap<Index, Vec<Index>>,
    after: HashMap<Index, Arc<State>>,
    allowed: HashSet<Index>,
}

impl Liar<'_> {
    pub(super) fn judge(&mut self, before: &State) -> Result<(), Error> {
        let now = self.current()?;
        let keys: HashSet<_> = before.keys().chain(now.keys()).collect();
        let is_judged = |(kind, _): &(StateEventType, String)| {
            matches!(
                kind,
                StateEventType::RoomMember
                    | StateEventType::RoomPowerLevels
                    | StateEventType::RoomJoinRules
                    | StateEventType::RoomHistoryVisibility
                    | StateEventType::RoomCreate
            )
        };
        let changed: Vec<_> = keys
            .into_iter()
            .filter(|key| is_judged(key) && before.get(*key) != now.get(*key))
            // Whoever has left, and is kicked, is out as before.
            .filter(|key| !self.has_left(before.get(*key)) || !self.has_left(now.get(*key)))
            .collect();
        if changed.is_empty() {
            return Ok(());
        }
        let whole = Graph::of(self, |_| true);
        let is_new = |key: &&(StateEventType, String)| {
            let Some(index) = now.get(*key).copied() else {
                return LIARS.contains(&&*key.1);
            };
            let pdu = &self.history.events[index].pdu;
            let is_of_liars = LIARS.contains(&pdu.sender().as_str()) && LIARS.contains(&&*key.1);
            let depth = |index: &Index| self.history.events[*index].pdu.depth();
            let known = before.get(*key);
            let is_later =
                index >= self.truth || known.is_none_or(|known| depth(&index) > depth(known));
            is_of_liars
                || is_later && (whole.allowed.contains(&index) || self.is_allowed(index, before))
        };
        let (news, other): (Vec<_>, Vec<_>) = changed.into_iter().partition(is_new);
        if !other.is_empty() {
            let part = Graph::of(self, |index| self.placed.contains_key(&index));
            let without_claims = Graph::of(self, |index| {
                let placed = self.placed.get(&index);
                placed.is_some_and(|placed| placed.claim.is_none())
                    && !self.before_join.contains(&index)
            });
            let ends = self.ends()?;
            let merged = Graph::merged(self);
            let is_true = |index: &Index| *index < self.truth;
            let truth = Graph::of(self, |index| is_true(&index));
            let accepted = self.placed.iter();
            let accepted = accepted.filter(|(_, placed)| placed.status == Status::Accepted);
            let accepted = accepted.map(|(index, _)| *index).filter(is_true);
            let accepted: Vec<Index> = accepted.collect();
            let revealed = now.values().copied().filter(is_true);
            let revealed: Vec<Index> = revealed.filter(|index| self.is_outlier(*index)).collect();
            let resolved = [
                whole.resolve(self, &ends),
                part.resolve(self, &ends),
                without_claims.resolve(self, &ends),
                whole.resolve(self, &[&*ends, &*revealed].concat()),
                truth.resolve(self, &accepted),
                truth.resolve(self, &[&*accepted, &*revealed].concat()),
                merged.resolve(self, &ends),
                merged.resolve(self, &[&*ends, &*revealed].concat()),
            ];
            for key in other.iter().copied() {
                let is_resolved = resolved.iter().any(|state| state.get(key) == now.get(key));
                assert!(
                    is_resolved,
                    "{key:?} was {:?}, is {:?}, resolution gives {:?}",
                    before.get(key),
                    now.get(key),
                    resolved.each_ref().map(|state| state.get(key)),
                );
            }
            self.count("judged");
        }
        if !news.is_empty() {
            self.count("news");
        }
        Ok(())
    }

    fn has_left(&self, member: Option<&Index>) -> bool {
        member.is_some_and(|index| {
            let pdu = &self.history.events[*index].pdu;
            let content: Value = serde_json::from_str(pdu.content().get()).expect("JSON");
            content["membership"] == "leave"
        })
    }

    fn is_outlier(&self, index: Index) -> bool {
        !self.placed.contains_key(&index)
    }

    pub(super) fn ends(&self) -> Result<Vec<Index>, Error> {
        let extremities = room::heads(self.tx, self.room)?.extremities;
        let ends = extremities.into_iter().map(|num| {
            let index = self.history.index(&event::id(self.tx, num)?);
            Ok(index.expect("an event of the history"))
        });
        ends.collect()
    }
}

impl Graph {
    /// The graph of the events that are `present`.
    fn of(liar: &Liar<'_>, present: impl Fn(Index) -> bool) -> Self {
        Self::with(liar, present, |_| &[])
    }

    /// The graph of the events that are here, where those with claims follow on all ends of then.
    fn merged(liar: &Liar<'_>) -> Self {
        let is_here = |index| liar.placed.contains_key(&index);
        Self::with(liar, is_here, |index| match &liar.placed.get(&index) {
            Some(placed) if placed.claim.is_some() => &placed.ends,
            _ => &[],
        })
    }

    fn with<'l>(
        liar: &'l Liar<'_>,
        present: impl Fn(Index) -> bool,
        merges: impl Fn(Index) -> &'l [Index],
    ) -> Self {
        let mut graph = Self {
            prev: HashMap::new(),
            after: HashMap::new(),
            allowed: HashSet::new(),
        };
        let prev_events = |index: Index| {
            let prev = liar.history.events[index].prev.iter();
            let prev = prev.chain(merges(index)).copied();
            prev.filter(|prev| present(*prev)).collect::<Vec<_>>()
        };
        let all = 0..liar.history.events.len();
        let mut open: Vec<Index> = all.filter(|index| present(*index)).collect();
        while !open.is_empty() {
            let is_next = |index: &Index| {
                let mut prev = prev_events(*index).into_iter();
                prev.all(|prev| graph.after.contains_key(&prev))
            };
            // What follows on a merge of itself, as an event does that was sent before one that it
            // follows on, follows on less.
            let index = open.remove(open.iter().position(is_next).unwrap_or(0));
            let event = &liar.history.events[index];
            let prev = prev_events(index);
            graph.prev.insert(index, prev.clone());
            let before = match liar.join {
                Some(join) if join == index => event.state_before.clone(),
                _ => graph.resolved(liar, &prev),
            };
            if index == 0
                || liar.is_allowed(index, &before) && liar.is_allowed_by_auth_events(index)
            {
                graph.allowed.insert(index);
            }
            let mut after = before;
            if graph.allowed.contains(&index)
                && let Some((kind, key)) = event.pdu.state_pair()
            {
                Arc::make_mut(&mut after).insert((kind, key.to_owned()), index);
            }
            graph.after.insert(index, after);
        }
        graph
    }

    fn resolved(&self, liar: &Liar<'_>, indices: &[Index]) -> Arc<State> {
        // What follows on nothing that exists adds nothing.
        let states = indices.iter().filter_map(|index| self.after.get(index));
        let states: Vec<&State> = states
            .map(|state| &**state)
            .filter(|state| !state.is_empty())
            .collect();
        match states[..] {
            [] => Arc::default(),
            [state] => Arc::new(state.clone()),
            _ if states.iter().all(|state| *state == states[0]) => Arc::new(states[0].clone()),
            _ => Arc::new(liar.history.resolve_fully(&states)),
        }
    }

    /// The state at `ends`, without those that others follow on.
    fn resolve(&self, liar: &Liar<'_>, ends: &[Index]) -> Arc<State> {
        let mut behind = HashSet::new();
        let mut open = ends.to_vec();
        while let Some(index) = open.pop() {
            let prev = self.prev.get(&index).into_iter().flatten().copied();
            open.extend(prev.filter(|prev| behind.insert(*prev)));
        }
        let ends: Vec<Index> = ends
            .iter()
            .copied()
            .filter(|end| !behind.contains(end))
            .collect();
        self.resolved(liar, &ends)
    }
}
