//! Deriving states when a gap is filled: before the events in the gap, and again before those after
//! it.
//!
//! The state before an event whose prev_events were missing rests on what another server claimed.
//! Once all its prev_events are here, and nothing between them and the events from before the gap
//! rests on a claim, the state before it follows from what is known and the claim is dropped. Until
//! then the claim adds to what is known ([`super::claim`]).
//!
//! If the state before an event changes, so do the states before the events that follow on it, and
//! they are authorized again.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use super::{
    authorize::{ParsedEvents, allowed},
    claim::{is_decided, undecided},
    states::{Derived, States},
};
use crate::{
    protocol::Pdu,
    rooms::{
        Error, event,
        state::{current, overlay::StateOverlay, resolution},
    },
    store::{
        EventNum, Place, Reader, RoomNum, Rows, Tx,
        records::{ClaimedState, GapOpened, Status},
    },
};

/// How often the events after a gap are gone through until nothing changes any more. More than one
/// round is needed only where an event stands before one of its prev_events in the timeline.
const MAX_ROUNDS: usize = 20;

/// What became of the events after a gap.
#[derive(Debug, Default)]
pub(in crate::rooms) struct Rederived {
    /// Those whose state before, or whose status, is another now.
    pub(in crate::rooms) changed: Vec<(EventNum, Status, StateOverlay)>,
    /// Those whose claimed states are not needed any more.
    pub(in crate::rooms) settled: Vec<EventNum>,
    /// The known prev_events of the accepted events that rest, or rested, on claims.
    pub(in crate::rooms) followed: Vec<EventNum>,
}

/// An event in the gap; what was derived of it is in [`States`].
#[derive(Debug)]
pub(in crate::rooms) struct GapEvent {
    pub(in crate::rooms) num: EventNum,
    /// The claimed state before it, if prev_events are missing; an empty one if all are from before the
    /// join.
    pub(in crate::rooms) claimed: Option<StateOverlay>,
}

/// The derivation of states with the events in a gap.
pub(in crate::rooms) struct Derivation<'r, R> {
    pub(in crate::rooms) states: States<'r, R>,
    pub(in crate::rooms) gap_events: Vec<GapEvent>,
    opened: Option<GapOpened>,
    /// The current states in which the events in the gap are checked, as if they had been received
    /// then: one has to allow them. None if this server was not in the room.
    received_in: Vec<StateOverlay>,
    /// The events with claimed states, by their places.
    claims: BTreeMap<Place, (EventNum, ClaimedState)>,
    settled: HashSet<EventNum>,
    /// The events after the gap that have changed.
    changed: HashSet<EventNum>,
    /// The events that have changed since an event was added.
    dirty: HashSet<EventNum>,
    /// Whether the last round has changed nothing.
    is_done: bool,
}

impl<'r, R: Reader> Derivation<'r, R> {
    pub(in crate::rooms) fn new(
        mut states: States<'r, R>,
        opened: Option<GapOpened>,
        received_in: Vec<StateOverlay>,
    ) -> Result<Self, Error> {
        states.fills_before_join = received_in.is_empty();
        let mut claims = BTreeMap::new();
        for row in states.r.claimed_states()?.prefix(states.room)? {
            let (key, claim) = row?;
            let num = key.value().1;
            if let Some(place) = event::header(states.r, num)?.place {
                claims.insert(place, (num, claim.record(&key)?));
            }
        }
        let unsettled = claims.values();
        states.unsettled = Some(
            unsettled
                .map(|(num, claim)| (*num, claim.known_upto))
                .collect(),
        );
        Ok(Self {
            states,
            gap_events: Vec::new(),
            opened,
            received_in,
            claims,
            settled: HashSet::new(),
            changed: HashSet::new(),
            dirty: HashSet::new(),
            is_done: false,
        })
    }

    /// Adds an event in the gap, and derives again what follows on it. `claimed` is the state before
    /// it, if prev_events are missing. Returns false if it is not added: the state before it rests on
    /// a claim, and it is not accepted.
    ///
    /// # Errors
    /// [`Error::Unresolvable`] if there is no end to it.
    pub(in crate::rooms) fn add(
        &mut self,
        num: EventNum,
        pdu: Pdu,
        claimed: Option<StateOverlay>,
    ) -> Result<bool, Error> {
        let claimed = match claimed {
            None if self.follows_on_history(&pdu)? => Some(StateOverlay::default()),
            None => None,
            Some(claimed) => Some(self.undecided(claimed)?),
        };
        let event = GapEvent { num, claimed };
        let state_before = self.state_before(&event, &pdu)?;
        let status = self.status_in_gap(&pdu, &state_before)?;
        if self.must_wait(&event, &pdu, status, &state_before)? {
            return Ok(false);
        }
        // What is from before the join is not gone through to.
        if let Some(opened) = self.opened.filter(|_| event.claimed.is_some()) {
            self.unsettled().insert(num, opened.known_upto);
        }
        let derived = Derived {
            pdu,
            status,
            state_before,
        };
        self.states.derived.insert(num, derived);
        self.gap_events.push(event);
        self.dirty.clear();
        for _ in 0..MAX_ROUNDS {
            self.round()?;
            if self.is_done {
                return Ok(true);
            }
        }
        Err(Error::Unresolvable(
            "the states after a gap cannot be derived again".into(),
        ))
    }

    /// Whether an event in the gap since the join follows on nothing but events from before it. What is
    /// known of the state before it is the state before the gap then, as if a claim added nothing to that.
    fn follows_on_history(&self, pdu: &Pdu) -> Result<bool, Error> {
        let (prev, _) = self.states.prev_events(pdu)?;
        let is_since_join = !self.received_in.is_empty();
        Ok(is_since_join && !prev.is_empty() && self.states.since_join(&prev)?.is_empty())
    }

    /// Whether an event in the gap is not accepted, or no news, because of a claim. The create event is
    /// not live here either: what follows on it without following on what is known is old.
    fn must_wait(
        &self,
        event: &GapEvent,
        pdu: &Pdu,
        status: Status,
        state_before: &StateOverlay,
    ) -> Result<bool, Error> {
        let is_before_join = self.received_in.is_empty();
        if pdu.prev_events().is_empty() && !is_before_join {
            return Ok(true);
        }
        let (prev, _) = self.states.prev_events(pdu)?;
        let is_news = match &self.opened {
            None => true,
            Some(opened) if is_decided(self.states.r, event.num, opened.position)? => false,
            Some(_) => {
                let known = self.states.known(self.known_state(pdu)?);
                let (num, pdu) = (event.num, Arc::new(pdu.clone()));
                self.states
                    .is_news(&pdu, Some(num), &prev, &known, state_before)?
            }
        };
        if status == Status::Accepted && is_news {
            return Ok(false);
        }
        if event.claimed.is_some() {
            return Ok(true);
        }
        if status == Status::RejectedByAuthEvents {
            return Ok(false);
        }
        // All states before the join are claims, in the end, and the event may stand in the state that
        // this server was given with the join: rejected, it would authorize nothing there.
        if is_before_join {
            return Ok(true);
        }
        self.states.depend_on_claim(&prev)
    }

    /// The events that rest on claims of their own.
    fn unsettled(&mut self) -> &mut HashMap<EventNum, Place> {
        self.states.unsettled.get_or_insert_default()
    }

    /// `claimed` without what was decided when the gap was left.
    fn undecided(&self, claimed: StateOverlay) -> Result<StateOverlay, Error> {
        match (&self.opened, self.received_in.first()) {
            (Some(opened), Some(known)) => {
                let (r, room) = (self.states.r, self.states.room);
                undecided(r, room, known, claimed, opened.position)
            }
            _ => Ok(claimed),
        }
    }

    fn state_before(&self, event: &GapEvent, pdu: &Pdu) -> Result<StateOverlay, Error> {
        let known = self.known_state(pdu)?;
        match &event.claimed {
            Some(claimed) => self.states.known(known).with_news(claimed),
            None => Ok(known),
        }
    }

    /// What is known of the state before an event in the gap.
    fn known_state(&self, pdu: &Pdu) -> Result<StateOverlay, Error> {
        let (prev, missing) = self.states.prev_events(pdu)?;
        match self.received_in.first() {
            None => self.states.resolve(&self.states.after_each(&prev)?),
            Some(before_gap) => {
                let before_gap = || Ok(before_gap.clone());
                self.states
                    .known_before(&prev, missing.is_empty(), before_gap)
            }
        }
    }

    fn status_in_gap(&self, pdu: &Pdu, before: &StateOverlay) -> Result<Status, Error> {
        let events = ParsedEvents::new(self.states.r, self.states.room, self.states.rules);
        let Some(authorized) = allowed(pdu, events.authorize(pdu))? else {
            return Ok(Status::RejectedByAuthEvents);
        };
        if !authorized.is_allowed_by(before)? {
            return Ok(Status::RejectedByState);
        }
        for state in &self.received_in {
            if authorized.is_allowed_by(state)? {
                return Ok(Status::Accepted);
            }
        }
        Ok(match self.received_in[..] {
            [] => Status::Accepted,
            _ => Status::SoftFailed,
        })
    }

    fn status_after_gap(&self, pdu: &Pdu, before: &StateOverlay) -> Result<Status, Error> {
        let events = ParsedEvents::new(self.states.r, self.states.room, self.states.rules);
        Ok(match events.allows(pdu, before)? {
            true => Status::Accepted,
            false => Status::RejectedByState,
        })
    }

    /// What became of the events after the gap.
    pub(in crate::rooms) fn result(&self) -> Result<Rederived, Error> {
        let mut result = Rederived {
            settled: self.settled.iter().copied().collect(),
            ..Rederived::default()
        };
        for num in &self.changed {
            if let Some(derived) = self.states.derived.get(num) {
                let state_before = derived.state_before.clone();
                result.changed.push((*num, derived.status, state_before));
            }
        }
        for (num, _) in self.claims.values() {
            if self.states.status(*num)? == Status::Accepted {
                let (prev, _) = self.states.prev_events(&self.states.pdu(*num)?)?;
                result.followed.extend(prev);
            }
        }
        Ok(result)
    }

    /// Looks at the events with claims until one of them changes; then at everything that follows.
    fn round(&mut self) -> Result<(), Error> {
        self.is_done = true;
        let claims = self.claims.clone();
        for (num, claim) in claims.values() {
            if !self.dirty.is_empty() {
                break;
            }
            self.rederive_claimed(*num, claim)?;
        }
        if self.dirty.is_empty() {
            return Ok(());
        }
        for index in 0..self.gap_events.len() {
            let num = self.gap_events[index].num;
            let pdu = self.states.pdu(num)?;
            let (prev, _) = self.states.prev_events(&pdu)?;
            if self.follows_on_dirty(&prev)? {
                let state_before = self.state_before(&self.gap_events[index], &pdu)?;
                self.set_state(num, pdu, state_before)?;
            }
        }
        let timeline = self.states.r.timeline()?;
        let first = claims
            .first_key_value()
            .map_or(Place::MAX, |(place, _)| *place);
        for row in timeline.prefix_range(self.states.room, first..)? {
            let (key, row) = row?;
            let num = row.record(&key)?.event;
            if let Some((num, claim)) = claims.get(&key.value().1) {
                self.rederive_claimed(*num, claim)?;
                continue;
            }
            let pdu = self.states.pdu(num)?;
            let (prev, missing) = self.states.prev_events(&pdu)?;
            if missing.is_empty() && self.follows_on_dirty(&prev)? {
                let current = || self.current_before(num);
                let state_before = self.states.known_before(&prev, true, current)?;
                self.set_state(num, pdu, state_before)?;
            }
        }
        Ok(())
    }

    /// Whether one of `prev` has changed, or what comes before it if it is without effect.
    fn follows_on_dirty(&self, prev: &[EventNum]) -> Result<bool, Error> {
        let before = self.states.superseded(prev.to_vec())?;
        Ok(before.iter().any(|num| self.dirty.contains(num)))
    }

    fn rederive_claimed(&mut self, num: EventNum, claim: &ClaimedState) -> Result<(), Error> {
        let pdu = self.states.pdu(num)?;
        let (prev, missing) = self.states.prev_events(&pdu)?;
        let was_settled = self.settled.contains(&num);
        let is_settled =
            was_settled || missing.is_empty() && self.is_settled(&prev, claim.known_upto)?;
        let current = || self.current_before(num);
        let mut state_before = self.states.known_before(&prev, is_settled, current)?;
        if is_settled {
            self.is_done &= was_settled;
            self.unsettled().remove(&num);
            self.settled.insert(num);
        } else {
            let claimed = StateOverlay::of(claim.state);
            state_before = self.states.known(state_before).with_news(&claimed)?;
        }
        self.set_state(num, pdu, state_before)
    }

    /// The room's current state before the event was received.
    fn current_before(&self, num: EventNum) -> Result<StateOverlay, Error> {
        let (r, room) = (self.states.r, self.states.room);
        current::before(r, room, event::header(r, num)?.position)
    }

    /// Whether everything between `prev` and the events that were known before the gap is here and
    /// rests on no claim, nor those events. What leads only to events from before the join of this server, or
    /// to the create event, rests on what was claimed then.
    fn is_settled(&self, prev: &[EventNum], known_upto: Place) -> Result<bool, Error> {
        let mut open = self.states.since_join(prev)?;
        let mut is_known = !open.is_empty();
        let mut seen: HashSet<EventNum> = open.iter().copied().collect();
        let mut known = Vec::new();
        while let Some(num) = open.pop()
            && is_known
        {
            let unsettled = self.states.unsettled.as_ref();
            is_known = unsettled.is_none_or(|unsettled| !unsettled.contains_key(&num));
            let place = event::header(self.states.r, num)?.place;
            if place.is_some_and(|place| place <= known_upto) {
                // It may have come later, into an older gap.
                known.push(num);
                continue;
            }
            let (prev, missing) = self.states.prev_events(&self.states.pdu(num)?)?;
            let prev = self.states.since_join(&prev)?;
            is_known &= missing.is_empty() && !prev.is_empty();
            open.extend(prev.into_iter().filter(|num| seen.insert(*num)));
        }
        Ok(is_known && !self.states.depend_on_claim(&known)?)
    }

    /// Sets the state before an event and authorizes it again, if that is another state.
    fn set_state(
        &mut self,
        num: EventNum,
        pdu: Pdu,
        state_before: StateOverlay,
    ) -> Result<(), Error> {
        let (r, room) = (self.states.r, self.states.room);
        let known = match self.states.derived.get(&num) {
            Some(derived) => derived.state_before.clone(),
            None => StateOverlay::of(event::header(r, num)?.state_before),
        };
        if resolution::is_same_state(r, room, &state_before, &known)? {
            return Ok(());
        }
        let status = if self.gap_events.iter().any(|event| event.num == num) {
            self.status_in_gap(&pdu, &state_before)?
        } else {
            self.changed.insert(num);
            self.status_after_gap(&pdu, &state_before)?
        };
        self.is_done = false;
        self.dirty.insert(num);
        let derived = Derived {
            pdu,
            status,
            state_before,
        };
        self.states.derived.insert(num, derived);
        Ok(())
    }
}

impl Rederived {
    pub(in crate::rooms) fn commit(&self, tx: &Tx, room: RoomNum) -> Result<(), Error> {
        for (num, status, state_before) in &self.changed {
            let mut stored = event::load(tx, *num)?;
            stored.header.status = *status;
            stored.header.state_before = state_before.store(tx, room, StateOverlay::UNNUMBERED)?;
            let row = event::row(&stored.header, &stored.json);
            tx.events()?.insert(*num, row.as_slice())?;
        }
        for num in &self.settled {
            tx.claimed_states()?.remove((room, *num))?;
        }
        Ok(())
    }
}
