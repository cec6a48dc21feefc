//! The states after events, and where an event stands in the graph of its room.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    sync::Arc,
};

use ruma::{EventId, room_version_rules::RoomVersionRules};

use super::{
    claim::KnownState,
    graph::{self, find},
};
use crate::{
    protocol::Pdu,
    rooms::{
        Error, event,
        state::{
            overlay::StateOverlay,
            resolution::{self, Unnumbered, Unstored},
        },
    },
    store::{
        EventNum, Place, Reader, RoomNum, Rows,
        records::{EventHeader, Status},
    },
};

/// How many events are looked through for claims that come before one.
const MAX_LOOKED_BACK: usize = 300;

/// How many events are looked through for one that comes before another.
const MAX_BEHIND: usize = 2000;

/// How many rejected or soft-failed events are looked through for one decision.
const MAX_WITHOUT_EFFECT: usize = 100;

/// An event whose state was derived and is not stored yet.
#[derive(Clone, Debug)]
pub(in crate::rooms) struct Derived {
    pub(in crate::rooms) pdu: Pdu,
    pub(in crate::rooms) status: Status,
    pub(in crate::rooms) state_before: StateOverlay,
}

impl Derived {
    fn state_after(&self, num: EventNum) -> StateOverlay {
        match self.status {
            Status::Accepted | Status::SoftFailed => {
                self.state_before.clone().with_event(&self.pdu, num)
            }
            _ => self.state_before.clone(),
        }
    }
}

/// The rejected and soft-failed events that one decision has looked through.
#[derive(Default)]
struct LookedThrough {
    after: HashMap<EventNum, StateOverlay>,
    count: usize,
}

/// The events of a room with the states after them: as they are stored, and as they were derived
/// since.
pub(in crate::rooms) struct States<'r, R> {
    pub(in crate::rooms) r: &'r R,
    pub(in crate::rooms) room: RoomNum,
    pub(in crate::rooms) rules: &'static RoomVersionRules,
    pub(in crate::rooms) derived: HashMap<EventNum, Derived>,
    /// Whether those that were derived and have no place yet are from before the join.
    pub(in crate::rooms) fills_before_join: bool,
    /// The events that rest on claims of their own, if it is not those of the stored claims, each with the
    /// last place before its gap.
    pub(in crate::rooms) unsettled: Option<HashMap<EventNum, Place>>,
}

impl<'r, R: Reader> States<'r, R> {
    pub(in crate::rooms) fn new(r: &'r R, room: RoomNum, rules: &'static RoomVersionRules) -> Self {
        Self {
            r,
            room,
            rules,
            derived: HashMap::new(),
            fills_before_join: false,
            unsettled: None,
        }
    }

    /// The number of the event `id`, if its place in the graph is known: it is no outlier.
    pub(in crate::rooms) fn placed(&self, id: &EventId) -> Result<Option<EventNum>, Error> {
        let found = find(self.r, self.room, id)?;
        let is_placed = |(num, header): &(EventNum, EventHeader)| {
            !header.status.is_outlier() || self.derived.contains_key(num)
        };
        Ok(found.filter(is_placed).map(|(num, _)| num))
    }

    /// The prev_events of `pdu`: those whose place is known, and the ids of the others.
    pub(in crate::rooms) fn prev_events(
        &self,
        pdu: &Pdu,
    ) -> Result<(Vec<EventNum>, Vec<String>), Error> {
        let (mut known, mut missing) = (Vec::new(), Vec::new());
        let mut seen = HashSet::new();
        for id in pdu.prev_events().iter().filter(|id| seen.insert(*id)) {
            match self.placed(id)? {
                Some(num) => known.push(num),
                None => missing.push(id.to_string()),
            }
        }
        Ok((known, missing))
    }

    pub(in crate::rooms) fn pdu(&self, num: EventNum) -> Result<Pdu, Error> {
        match self.derived.get(&num) {
            Some(derived) => Ok(derived.pdu.clone()),
            None => event::load(self.r, num)?.pdu(self.rules),
        }
    }

    pub(in crate::rooms) fn status(&self, num: EventNum) -> Result<Status, Error> {
        match self.derived.get(&num) {
            Some(derived) => Ok(derived.status),
            None => Ok(event::header(self.r, num)?.status),
        }
    }

    /// `state` as what is known, for what other servers claim.
    pub(in crate::rooms) fn known(&self, state: StateOverlay) -> KnownState<'r, R> {
        KnownState::new(self.r, self.room, self.rules, state)
    }

    /// What is known of the state before an event: what follows from those of `prev` that are not from
    /// before the join, or the `current` state if there are none. Where others are missing, the former
    /// adds to the latter, as the claim does.
    pub(in crate::rooms) fn known_before(
        &self,
        prev: &[EventNum],
        is_complete: bool,
        current: impl FnOnce() -> Result<StateOverlay, Error>,
    ) -> Result<StateOverlay, Error> {
        let since_join = self.since_join(prev)?;
        let after = self.after_each(&since_join)?;
        if is_complete && !after.is_empty() {
            return self.resolve_after(&since_join, &after);
        }
        let mut known = current()?;
        for after in after {
            known = self.known(known).with_news(&after)?;
        }
        Ok(known)
    }

    /// Whether the event `pdu` on `prev`, which has the number `num` if it is an outlier, is no state
    /// event, or is accepted in the place of the `known` event of its key. `state` is the one before it.
    pub(in crate::rooms) fn is_news(
        &self,
        pdu: &Arc<Pdu>,
        num: Option<EventNum>,
        prev: &[EventNum],
        known: &KnownState<'r, R>,
        state: &StateOverlay,
    ) -> Result<bool, Error> {
        match known.known(pdu)? {
            None => Ok(true),
            Some(known_event) => Ok(known.is_replaced_by(pdu, num, known_event, state)?
                || self.follow_on(prev, known_event)?),
        }
    }

    /// Whether one of `prev` is the event `num`, or follows on it. An event that is an outlier since the
    /// join of this server comes before that. False if that is not found out within a limit.
    fn follow_on(&self, prev: &[EventNum], num: EventNum) -> Result<bool, Error> {
        let mut place = event::header(self.r, num)?.place;
        if place.is_none() {
            let join = graph::join(self.r, self.room)?;
            place = join.filter(|(join, _)| num < *join).map(|(_, place)| place);
        }
        let mut open = prev.to_vec();
        let mut seen: HashSet<EventNum> = open.iter().copied().collect();
        while let Some(other) = open.pop()
            && seen.len() < MAX_BEHIND
        {
            let at = event::header(self.r, other)?.place;
            if other == num || at.is_some() && at == place {
                return Ok(true);
            }
            if at.is_none() || at > place {
                let (prev, _) = self.prev_events(&self.pdu(other)?)?;
                open.extend(prev.into_iter().filter(|num| seen.insert(*num)));
            }
        }
        Ok(false)
    }

    pub(in crate::rooms) fn since_join(&self, nums: &[EventNum]) -> Result<Vec<EventNum>, Error> {
        let mut since_join = Vec::new();
        for num in nums {
            if !self.is_before_join(*num)? {
                since_join.push(*num);
            }
        }
        Ok(since_join)
    }

    pub(in crate::rooms) fn resolve(&self, states: &[StateOverlay]) -> Result<StateOverlay, Error> {
        self.resolve_with(states, None)
    }

    /// The same where `new` stands in the states as [`StateOverlay::UNNUMBERED`].
    pub(in crate::rooms) fn resolve_with(
        &self,
        states: &[StateOverlay],
        new: Option<Unnumbered>,
    ) -> Result<StateOverlay, Error> {
        let status = |num| self.derived.get(&num).map(|derived| derived.status);
        let unstored = Unstored {
            new,
            status: Some(&status),
        };
        resolution::resolve(self.r, self.room, self.rules, states, unstored)
    }

    /// Resolves `states`, which are those after `nums`.
    pub(in crate::rooms) fn resolve_after(
        &self,
        nums: &[EventNum],
        states: &[StateOverlay],
    ) -> Result<StateOverlay, Error> {
        let resolved = self.resolve(states)?;
        self.keep_known(resolved, states, |index| {
            self.depend_on_claim(&nums[index..=index])
        })
    }

    /// `resolved`, which follows from `states`, with the entries that none of those lacks. A state that
    /// rests on a claim was resolved with the current state before, and adds to that what came later. So
    /// resolving it again with a part of that can find all events of a key not allowed: even a ban, or
    /// the power levels. Resolution of the true events does not, and a claim takes nothing away. The
    /// entry is that of the last state that `rests_on_claim`.
    pub(in crate::rooms) fn keep_known(
        &self,
        mut resolved: StateOverlay,
        states: &[StateOverlay],
        rests_on_claim: impl Fn(usize) -> Result<bool, Error>,
    ) -> Result<StateOverlay, Error> {
        if states.len() < 2 {
            return Ok(resolved);
        }
        let mut last = None;
        for index in (0..states.len()).rev() {
            if rests_on_claim(index)? {
                last = Some(index);
                break;
            }
        }
        let Some(last) = last else {
            return Ok(resolved);
        };
        for conflict in resolution::conflicts(self.r, self.room, states)? {
            let (kind, state_key) = conflict.key;
            let key = (kind.to_string(), state_key);
            let is_gone = resolved.get(self.r, self.room, &key.0, &key.1)?.is_none();
            if is_gone && !conflict.entries.contains(&None) {
                resolved = resolved.with(key, conflict.entries[last]);
            }
        }
        Ok(resolved)
    }

    /// The events that rest on claims of their own, each with the last place before its gap.
    fn unsettled(&self) -> Result<Cow<'_, HashMap<EventNum, Place>>, Error> {
        if let Some(unsettled) = &self.unsettled {
            return Ok(Cow::Borrowed(unsettled));
        }
        let mut unsettled = HashMap::new();
        for row in self.r.claimed_states()?.prefix(self.room)? {
            let (key, claim) = row?;
            unsettled.insert(key.value().1, claim.record(&key)?.known_upto);
        }
        Ok(Cow::Owned(unsettled))
    }

    /// Whether the state before an event on `prev` rests on a claim. What is not found out within the limit
    /// counts as a claim.
    pub(in crate::rooms) fn depend_on_claim(&self, prev: &[EventNum]) -> Result<bool, Error> {
        let unsettled = self.unsettled()?;
        // What stands before all gaps rests on no claim. In a gap an event may stand before one of its
        // prev_events, and before the claim on which that rests.
        let Some(known_upto) = unsettled.values().min().copied() else {
            return Ok(false);
        };
        let mut open = prev.to_vec();
        let mut seen: HashSet<EventNum> = open.iter().copied().collect();
        while let Some(num) = open.pop() {
            if unsettled.contains_key(&num) || seen.len() > MAX_LOOKED_BACK {
                return Ok(true);
            }
            let place = event::header(self.r, num)?.place;
            if place.is_none_or(|place| place > known_upto) {
                let (prev, _) = self.prev_events(&self.pdu(num)?)?;
                let prev = self.since_join(&prev)?;
                open.extend(prev.into_iter().filter(|num| seen.insert(*num)));
            }
        }
        Ok(false)
    }

    /// Whether an event was back-filled from before the join of this server, or is from an earlier
    /// stay of it in the room. The states there are what other servers claimed, or outdated, and the
    /// state at the join includes all that came before it. So they add nothing to a later state.
    pub(in crate::rooms) fn is_before_join(&self, num: EventNum) -> Result<bool, Error> {
        let join = self.r.joins()?.get(self.room)?.map(|row| row.value());
        let Some((join, position)) = join else {
            return Ok(false);
        };
        let header = event::header(self.r, num)?;
        Ok(match header.place {
            Some(place) => place < join,
            // What is back-filled before the join has the position of the join.
            None if header.status.is_outlier() => {
                self.fills_before_join && self.derived.contains_key(&num)
            }
            None => header.position <= position,
        })
    }

    /// The states after events whose places are known.
    pub(in crate::rooms) fn after_each(
        &self,
        nums: &[EventNum],
    ) -> Result<Vec<StateOverlay>, Error> {
        let mut looked_through = LookedThrough::default();
        nums.iter()
            .map(|num| self.after_within(*num, &mut looked_through))
            .collect()
    }

    /// The state after the event `num`, whose place is known.
    pub(in crate::rooms) fn after(&self, num: EventNum) -> Result<StateOverlay, Error> {
        self.after_within(num, &mut LookedThrough::default())
    }

    /// A rejected or soft-failed event stands in no timeline, so the state before it is not kept up
    /// to date when states are derived again: it is derived from its prev_events. Each is derived
    /// once, and beyond the limit its stored state is taken, since another server decides how many
    /// there are and what they refer to.
    fn after_within(
        &self,
        num: EventNum,
        looked_through: &mut LookedThrough,
    ) -> Result<StateOverlay, Error> {
        if let Some(derived) = self.derived.get(&num) {
            return Ok(derived.state_after(num));
        }
        if let Some(after) = looked_through.after.get(&num) {
            return Ok(after.clone());
        }
        let header = event::header(self.r, num)?;
        let is_kept_up_to_date = header.status == Status::Accepted || header.place.is_some();
        if is_kept_up_to_date || looked_through.count == MAX_WITHOUT_EFFECT {
            return StateOverlay::after(self.r, num, &header);
        }
        looked_through.count += 1;
        let pdu = self.pdu(num)?;
        let (mut prev, _) = self.prev_events(&pdu)?;
        if !self.is_before_join(num)? {
            prev = self.since_join(&prev)?;
        }
        if prev.is_empty() {
            return StateOverlay::after(self.r, num, &header);
        }
        let states: Result<Vec<_>, _> = prev
            .iter()
            .map(|prev| self.after_within(*prev, looked_through))
            .collect();
        let derived = Derived {
            state_before: self.resolve_after(&prev, &states?)?,
            status: header.status,
            pdu,
        };
        let after = derived.state_after(num);
        looked_through.after.insert(num, after.clone());
        Ok(after)
    }

    /// The events that are no extremities any more when an event follows on `prev`: `prev`, and
    /// what comes before those of them that were rejected or soft-failed.
    pub(in crate::rooms) fn superseded(&self, prev: Vec<EventNum>) -> Result<Vec<EventNum>, Error> {
        let mut superseded = prev;
        let mut seen: HashSet<EventNum> = superseded.iter().copied().collect();
        let mut next = 0;
        while next < superseded.len() && superseded.len() < MAX_WITHOUT_EFFECT {
            let num = superseded[next];
            next += 1;
            if self.status(num)? != Status::Accepted {
                let (before, _) = self.prev_events(&self.pdu(num)?)?;
                superseded.extend(before.into_iter().filter(|num| seen.insert(*num)));
            }
        }
        Ok(superseded)
    }
}
