//! Deriving states again when a gap is filled.
//!
//! The state before an event whose prev_events were missing rests on what another server claimed.
//! Once all its prev_events are here, and nothing between them and the events from before the gap
//! rests on a claim, the state before it follows from what is known and the claim is dropped. Until
//! then the claim is resolved together with the states after those prev_events that are here.
//!
//! If the state before an event changes, so do the states before the events that follow on it, and
//! they are authorized again.

use std::collections::{BTreeMap, HashSet};

use super::{
    authorize::{ParsedEvents, allowed},
    states::{Derived, States},
};
use crate::{
    protocol::Pdu,
    rooms::{
        Error, event,
        state::{overlay::StateOverlay, resolution},
    },
    store::{
        EventNum, Place, Reader, RoomNum, Rows, Tx,
        records::{ClaimedState, Status},
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
    settled: Vec<EventNum>,
    /// The known prev_events of the accepted events that rest, or rested, on claims.
    pub(in crate::rooms) followed: Vec<EventNum>,
}

/// Derives again what rests on claims, with the events of `states.derived` in the gap; `unsettled`
/// are those of them that rest on claims themselves.
///
/// # Errors
/// [`Error::Unresolvable`] if there is no end to it.
pub(in crate::rooms) fn rederive<R: Reader>(
    states: &mut States<'_, R>,
    unsettled: HashSet<EventNum>,
) -> Result<Rederived, Error> {
    let (r, room) = (states.r, states.room);
    let mut claims = BTreeMap::new();
    for row in r.claimed_states()?.prefix(room)? {
        let (key, claim) = row?;
        let num = key.value().1;
        if let Some(place) = event::header(r, num)?.place {
            claims.insert(place, (num, claim.record(&key)?));
        }
    }
    let mut walk = Walk {
        states,
        unsettled,
        claims,
        changed: HashSet::new(),
        settled: HashSet::new(),
        is_done: false,
    };
    let claimed = walk.claims.values().map(|(num, _)| *num);
    walk.unsettled.extend(claimed);
    for _ in 0..MAX_ROUNDS {
        if walk.is_done {
            return walk.result();
        }
        walk.round()?;
    }
    Err(Error::Unresolvable(
        "states after a gap cannot be derived again".into(),
    ))
}

struct Walk<'a, 'r, R> {
    states: &'a mut States<'r, R>,
    /// The events with claimed states, by their places.
    claims: BTreeMap<Place, (EventNum, ClaimedState)>,
    /// The events that rest on claims.
    unsettled: HashSet<EventNum>,
    changed: HashSet<EventNum>,
    settled: HashSet<EventNum>,
    /// Whether the last round has changed nothing.
    is_done: bool,
}

impl<R: Reader> Walk<'_, '_, R> {
    fn result(self) -> Result<Rederived, Error> {
        let mut result = Rederived {
            settled: self.settled.into_iter().collect(),
            ..Rederived::default()
        };
        for num in self.changed {
            if let Some(derived) = self.states.derived.get(&num) {
                let state_before = derived.state_before.clone();
                result.changed.push((num, derived.status, state_before));
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

    /// Looks at the events with claims only, until one of them changes; then at every later event.
    fn round(&mut self) -> Result<(), Error> {
        self.is_done = true;
        let claims = self.claims.clone();
        for (place, (num, claim)) in &claims {
            if !self.changed.is_empty() {
                return self.rederive_from(*place, &claims);
            }
            self.rederive_claimed(*num, claim)?;
        }
        match claims.last_key_value() {
            Some((place, _)) if !self.changed.is_empty() => {
                self.rederive_from(place.next(), &claims)
            }
            _ => Ok(()),
        }
    }

    /// Derives again the events of the timeline from `place` on that follow on one that has changed.
    fn rederive_from(
        &mut self,
        place: Place,
        claims: &BTreeMap<Place, (EventNum, ClaimedState)>,
    ) -> Result<(), Error> {
        let timeline = self.states.r.timeline()?;
        for row in timeline.prefix_range(self.states.room, place..)? {
            let (key, row) = row?;
            let num = row.record(&key)?.event;
            if let Some((num, claim)) = claims.get(&key.value().1) {
                self.rederive_claimed(*num, claim)?;
                continue;
            }
            let pdu = self.states.pdu(num)?;
            let (prev, missing) = self.states.prev_events(&pdu)?;
            if missing.is_empty() && self.follows_on_changed(&prev)? {
                let states = self.states.after_each(&prev)?;
                self.derive(num, pdu, &states)?;
            }
        }
        Ok(())
    }

    /// Whether one of `prev` has changed, or what comes before it if it is without effect.
    fn follows_on_changed(&self, prev: &[EventNum]) -> Result<bool, Error> {
        let before = self.states.superseded(prev.to_vec())?;
        Ok(before.iter().any(|num| self.changed.contains(num)))
    }

    fn rederive_claimed(&mut self, num: EventNum, claim: &ClaimedState) -> Result<(), Error> {
        let pdu = self.states.pdu(num)?;
        let (prev, missing) = self.states.prev_events(&pdu)?;
        let mut states = self.states.after_each(&prev)?;
        let was_settled = self.settled.contains(&num);
        if was_settled || missing.is_empty() && self.is_settled(&prev, claim.known_upto)? {
            self.is_done &= was_settled;
            self.unsettled.remove(&num);
            self.settled.insert(num);
        } else {
            states.push(StateOverlay::of(claim.state));
        }
        self.derive(num, pdu, &states)
    }

    /// Whether everything between `prev` and the events that were known before the gap is here and
    /// rests on no claim.
    fn is_settled(&self, prev: &[EventNum], known_upto: Place) -> Result<bool, Error> {
        let mut open = prev.to_vec();
        let mut seen: HashSet<EventNum> = open.iter().copied().collect();
        while let Some(num) = open.pop() {
            if self.unsettled.contains(&num) {
                return Ok(false);
            }
            let place = match self.states.derived.contains_key(&num) {
                true => None,
                false => event::header(self.states.r, num)?.place,
            };
            if place.is_some_and(|place| place <= known_upto) {
                continue;
            }
            let (prev, missing) = self.states.prev_events(&self.states.pdu(num)?)?;
            if !missing.is_empty() {
                return Ok(false);
            }
            open.extend(prev.into_iter().filter(|num| seen.insert(*num)));
        }
        Ok(true)
    }

    /// Derives the state before an event of the timeline from `states`, and authorizes it again.
    fn derive(&mut self, num: EventNum, pdu: Pdu, states: &[StateOverlay]) -> Result<(), Error> {
        let (r, room, rules) = (self.states.r, self.states.room, self.states.rules);
        let state_before = resolution::resolve(r, room, rules, states, None)?;
        let known = match self.states.derived.get(&num) {
            Some(derived) => derived.state_before.clone(),
            None => StateOverlay::of(event::header(r, num)?.state_before),
        };
        if resolution::is_same_state(r, room, &state_before, &known)? {
            return Ok(());
        }
        let events = ParsedEvents::new(r, room, rules);
        let is_allowed = match allowed(&pdu, events.authorize(&pdu))? {
            Some(authorized) => authorized.is_allowed_by(&state_before)?,
            None => false,
        };
        let status = if is_allowed {
            Status::Accepted
        } else {
            Status::RejectedByState
        };
        self.is_done = false;
        self.changed.insert(num);
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
    pub(in crate::rooms) fn has(&self, event: EventNum) -> bool {
        self.changed.iter().any(|(num, ..)| *num == event)
    }

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
