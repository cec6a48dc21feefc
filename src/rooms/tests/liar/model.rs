//! What the room has to be, derived from the graph anew: by ruma's resolution of whole states with
//! whole auth chains.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, HashSet},
    iter,
    sync::Arc,
};

use ruma::{
    events::StateEventType, room_version_rules::StateResolutionV2Rules,
    state_res::auth_types_for_event,
};

use super::{Claim, Liar, Placed};
use crate::{
    protocol::{
        history::{Index, State},
        resolve::v1,
    },
    rooms::{Error, event, room},
    store::{Position, records::Status},
};

impl Liar<'_> {
    /// Compares the room with the model.
    pub(super) fn check(&mut self) -> Result<(), Error> {
        self.mark_rejected()?;
        let model = Model::of(self);
        for (index, placed) in &model.placed {
            let header = event::header(self.tx, self.num(*index)?)?;
            assert_eq!(header.status, placed.status, "event {index}");
        }
        let mut ends = Vec::new();
        for num in room::heads(self.tx, self.room)?.extremities {
            let index = self.history.index(&event::id(self.tx, num)?);
            ends.push(index.expect("an event of the history"));
        }
        let behind = model.behind(&ends);
        for (index, placed) in &model.placed {
            let is_end = placed.status != Status::Accepted
                || ends.contains(index)
                || self.before_join.contains(index);
            assert!(is_end || behind.contains(index), "{index} is lost");
        }
        assert_eq!(*self.current()?, *model.resolve(&ends));
        let settled = |(index, placed): (&Index, &Placed)| {
            placed.claim.is_none() && self.placed[index].claim.is_some()
        };
        let settled = model
            .placed
            .iter()
            .filter(|(index, placed)| settled((index, placed)))
            .count();
        self.placed = model.placed;
        if settled > 0 {
            self.count("settled");
        }
        Ok(())
    }
}

/// What a room is by the model: all states derived from the graph.
pub(super) struct Model<'a, 't> {
    liar: &'a Liar<'t>,
    placed: HashMap<Index, Placed>,
    after: HashMap<Index, Arc<State>>,
    /// Whether it is asked about events from before the join.
    pub(super) is_before_join: bool,
    /// What was decided before is no news.
    pub(super) upto: Position,
}

impl<'a, 't> Model<'a, 't> {
    pub(super) fn of(liar: &'a Liar<'t>) -> Self {
        let mut model = Self {
            liar,
            placed: liar.placed.clone(),
            after: HashMap::new(),
            is_before_join: false,
            upto: Position::MAX,
        };
        while model.settle_one() {}
        let mut indices: Vec<Index> = model.placed.keys().copied().collect();
        indices.sort_unstable();
        for index in indices {
            model.derive(index);
        }
        model
    }

    /// Drops a claim of which everything since the events before the gap is known.
    fn settle_one(&mut self) -> bool {
        let settled = self.placed.iter().find_map(|(index, placed)| {
            let upto = placed.claim.as_ref()?.known_upto;
            self.is_settled(*index, upto).then_some(*index)
        });
        if let Some(placed) = settled.and_then(|index| self.placed.get_mut(&index)) {
            placed.claim = None;
        }
        settled.is_some()
    }

    fn is_settled(&self, index: Index, upto: Option<Index>) -> bool {
        let at = |index: Index| self.liar.timeline.iter().position(|other| *other == index);
        let upto = upto.and_then(at);
        let since_join = |index| {
            let (mut prev, missing) = self.liar.prev(index);
            prev.retain(|index| !self.liar.before_join.contains(index));
            (!missing && !prev.is_empty()).then_some(prev)
        };
        let Some(mut open) = since_join(index) else {
            return false;
        };
        while let Some(index) = open.pop() {
            if self.placed[&index].claim.is_some() {
                return false;
            }
            if at(index).is_some_and(|at| upto.is_some_and(|upto| at <= upto)) {
                if self.depend_on_claim(&[index]) {
                    return false;
                }
                continue;
            }
            match since_join(index) {
                Some(prev) => open.extend(prev),
                None => return false,
            }
        }
        true
    }

    fn derive(&mut self, index: Index) {
        let liar = self.liar;
        let placed = self.placed[&index].clone();
        let event = &liar.history.events[index];
        let (known, _) = liar.prev(index);
        let before = match placed.fixed {
            Some(fixed) => fixed,
            None if index < liar.truth && liar.join.is_none() => event.state_before.clone(),
            None => self.state_before(&known, placed.claim.as_ref(), &placed.current),
        };
        let mut status = placed.status;
        if liar.timeline.contains(&index) && self.placed[&index].fixed.is_none() {
            status = match liar.is_allowed(index, &before) {
                true => Status::Accepted,
                false => Status::RejectedByState,
            };
        }
        self.placed.get_mut(&index).expect("it is there").status = status;
        let mut after = before;
        if matches!(status, Status::Accepted | Status::SoftFailed)
            && let Some((kind, key)) = event.pdu.state_pair()
        {
            Arc::make_mut(&mut after).insert((kind, key.to_owned()), index);
        }
        self.after.insert(index, after);
    }

    /// What an event becomes where it is checked against the states `received_in`.
    pub(super) fn status(
        &self,
        index: Index,
        known: &[Index],
        claim: Option<&Claim>,
        current: &Arc<State>,
        received_in: &[Arc<State>],
    ) -> Status {
        let before = self.state_before(known, claim, current);
        let allowed = |state: &State| self.liar.is_allowed(index, state);
        if !self.liar.is_allowed_by_auth_events(index) {
            Status::RejectedByAuthEvents
        } else if !allowed(&before) {
            Status::RejectedByState
        } else if !self.is_news(index, known, current, &before)
            || !received_in.is_empty() && !received_in.iter().any(|state| allowed(state))
        {
            Status::SoftFailed
        } else {
            Status::Accepted
        }
    }

    /// Whether an event replaces the known one of its key, if that may rest on claims.
    fn is_news(&self, index: Index, known: &[Index], current: &Arc<State>, before: &State) -> bool {
        let (_, missing) = self.liar.prev(index);
        let is_history = known
            .iter()
            .all(|index| self.liar.before_join.contains(index));
        let rests_on_claim = is_history || self.depend_on_claim(known);
        if self.is_before_join || !missing && !rests_on_claim {
            return true;
        }
        let Some(key) = self.liar.history.state_pair(index) else {
            return true;
        };
        let known_state = self.known_state(known, !missing, current);
        let Some(known_event) = known_state.get(&key).copied() else {
            return !self.liar.is_decided(index, self.upto);
        };
        !self.liar.is_decided(index, self.upto)
            && (self.replaces(index, known_event, &known_state, before)
                || self.follow_on(known, known_event))
    }

    fn replaces(&self, index: Index, known: Index, known_state: &State, before: &State) -> bool {
        if !self.is_chained(index) {
            return self.is_later(index, Some(&known), known_state);
        }
        let chain = self.chain(index);
        chain.contains(&known)
            || !self.chain(known).contains(&index) && self.wins_resolution(before, index, known)
    }

    /// Whether resolution of `state` with the `known` event, and with the event `index`, gives the latter.
    fn wins_resolution(&self, state: &State, index: Index, known: Index) -> bool {
        let history = self.liar.regardless_of_states();
        if history.allows(&history.events[known].pdu, state).is_err() {
            return false;
        }
        let key = history.state_pair(index).expect("a state event");
        let with = |index| {
            let mut with = state.clone();
            with.insert(key.clone(), index);
            with
        };
        let states = [&with(known), &with(index)];
        let resolved = match history.rules.state_res.v2_rules() {
            None => history.resolve_fully(&states),
            Some(_) => history.resolve_by(&StateResolutionV2Rules::V2_0, &states),
        };
        resolved.get(&key) == Some(&index)
    }

    fn is_allowed_regardless(&self, index: Index, state: &State) -> bool {
        let history = self.liar.regardless_of_states();
        history.allows(&history.events[index].pdu, state).is_ok()
    }

    fn is_chained(&self, index: Index) -> bool {
        let key = self.liar.history.state_pair(index);
        key.is_some_and(|(kind, _)| {
            matches!(
                kind,
                StateEventType::RoomMember | StateEventType::RoomPowerLevels
            )
        })
    }

    /// The events of the same key in the auth chain of an event.
    fn chain(&self, index: Index) -> HashSet<Index> {
        let history = &self.liar.history;
        let key = history.state_pair(index);
        let mut chain = history.auth_chain([index]);
        chain.retain(|other| *other != index && history.state_pair(*other) == key);
        chain
    }

    fn is_later(&self, index: Index, known: Option<&Index>, state: &State) -> bool {
        let events = &self.liar.history.events;
        let levels = |index: Index| {
            let mut auth = events[index].auth.iter().copied();
            auth.find(|auth| {
                let pair = self.liar.history.state_pair(*auth);
                pair.is_some_and(|(kind, _)| kind == StateEventType::RoomPowerLevels)
            })
        };
        let newest = state.get(&(StateEventType::RoomPowerLevels, String::new()));
        let mainline: Vec<Index> =
            iter::successors(newest.copied(), |index| levels(*index)).collect();
        let order = |index: Index| {
            let pdu = &events[index].pdu;
            let mut before = iter::successors(levels(index), |index| levels(*index));
            let steps = before.find_map(|levels| mainline.iter().position(|at| *at == levels));
            let time: u64 = pdu.origin_server_ts().get().into();
            (
                Reverse(steps.unwrap_or(usize::MAX)),
                time,
                pdu.event_id().to_owned(),
            )
        };
        let is_later = |known: Index| match self.liar.history.rules.state_res.v2_rules() {
            None => v1::order(&events[index].pdu) < v1::order(&events[known].pdu),
            Some(_) => order(index) > order(known),
        };
        known.is_none_or(|known| self.is_chained(index) || is_later(*known))
    }

    fn follow_on(&self, prev: &[Index], known: Index) -> bool {
        let mut behind = self.behind(prev);
        behind.extend(prev);
        let join = self.liar.join.filter(|join| {
            let num = |index| self.liar.num(index).expect("it is here");
            !self.placed.contains_key(&known) && num(known) < num(*join)
        });
        behind.contains(&known) || join.is_some_and(|join| behind.contains(&join))
    }

    /// The state before an event on `known`, with what of a claim is news.
    pub(super) fn state_before(
        &self,
        known: &[Index],
        claim: Option<&Claim>,
        current: &Arc<State>,
    ) -> Arc<State> {
        let known = self.known_state(known, claim.is_none(), current);
        match claim {
            Some(claim) if known.is_empty() => claim.state.clone(),
            Some(claim) => self.with_news(known, &claim.state),
            None => known,
        }
    }

    /// What follows from events that are not from before the join, or else the current state. If it is
    /// not complete, it adds to the current state.
    fn known_state(&self, known: &[Index], is_complete: bool, current: &Arc<State>) -> Arc<State> {
        let known = known
            .iter()
            .filter(|index| self.is_before_join || !self.liar.before_join.contains(index));
        let known: Vec<Index> = known.copied().collect();
        if !known.is_empty() && (is_complete || self.is_before_join) {
            return self.resolve(&known);
        }
        let news = |known, index: &Index| self.with_news(known, &self.after[index]);
        known.iter().fold(current.clone(), news)
    }

    fn with_news(&self, known: Arc<State>, claimed: &State) -> Arc<State> {
        let mut state = known.clone();
        let mut concurrent = BTreeMap::new();
        for (key, index) in claimed {
            if known.get(key) == Some(index) {
                continue;
            }
            if self.is_later(*index, known.get(key), &known) && self.follows(*index, &known) {
                Arc::make_mut(&mut state).insert(key.clone(), *index);
            } else if let Some(known) = known.get(key).filter(|_| self.is_chained(*index)) {
                let num = self.liar.num(*index).expect("it is here");
                concurrent.insert(num, (key, *index, *known));
            }
        }
        for (key, index, known) in concurrent.into_values() {
            if !self.chain(known).contains(&index)
                && self.is_allowed_regardless(index, &state)
                && self.wins_resolution(&state, index, known)
            {
                Arc::make_mut(&mut state).insert(key.clone(), index);
            }
        }
        state
    }

    /// Whether what authorizes an event is known, or came later and follows what is known.
    fn follows(&self, index: Index, known: &State) -> bool {
        let event = &self.liar.history.events[index];
        let pdu = &event.pdu;
        let types = auth_types_for_event(
            pdu.event_type(),
            pdu.sender(),
            pdu.state_key(),
            pdu.content(),
            &self.liar.history.rules.authorization,
        );
        types.expect("well-formed").into_iter().all(|key| {
            let cited = event.auth.iter().find(|index| {
                let pair = self.liar.history.events[**index].pdu.state_pair();
                pair.is_some_and(|(kind, state_key)| kind == key.0 && state_key == key.1)
            });
            let known_event = known.get(&key);
            match cited {
                _ if key.0 == StateEventType::RoomCreate => true,
                None => known_event.is_none(),
                cited if cited == known_event => true,
                Some(cited) => {
                    self.is_later(*cited, known_event, known) && self.follows(*cited, known)
                }
            }
        })
    }

    /// The state after several events. What none of them lacks is not gone if one rests on a claim.
    pub(super) fn resolve(&self, indices: &[Index]) -> Arc<State> {
        let states: Vec<&Arc<State>> = indices.iter().map(|index| &self.after[index]).collect();
        let Some((first, others)) = states.split_first() else {
            return Arc::default();
        };
        if others.iter().all(|other| other == first) {
            return (*first).clone();
        }
        let maps: Vec<&State> = states.iter().map(|state| &***state).collect();
        let mut resolved = self.liar.history.resolve_fully(&maps);
        let last = indices
            .iter()
            .rposition(|index| self.depend_on_claim(&[*index]));
        if let Some(last) = last.filter(|_| !self.is_before_join) {
            for (key, index) in maps[last] {
                if maps.iter().all(|state| state.contains_key(key)) {
                    resolved.entry(key.clone()).or_insert(*index);
                }
            }
        }
        Arc::new(resolved)
    }

    /// Whether events, or what comes before them since the join, rest on a claim.
    pub(super) fn depend_on_claim(&self, known: &[Index]) -> bool {
        let mut open = known.to_vec();
        let mut seen = HashSet::new();
        while let Some(index) = open.pop() {
            if self.placed[&index].claim.is_some() {
                return true;
            }
            if Some(index) != self.liar.join {
                let (prev, _) = self.liar.prev(index);
                let is_since_join = |prev: &Index| !self.liar.before_join.contains(prev);
                let prev = prev.into_iter().filter(is_since_join);
                open.extend(prev.filter(|prev| seen.insert(*prev)));
            }
        }
        false
    }

    /// All events that come before `ends`.
    fn behind(&self, ends: &[Index]) -> HashSet<Index> {
        let mut behind = HashSet::new();
        let mut open = ends.to_vec();
        while let Some(index) = open.pop() {
            let (prev, _) = self.liar.prev(index);
            open.extend(prev.into_iter().filter(|prev| behind.insert(*prev)));
        }
        behind
    }
}
