//! The state after several events, such as the extremities of a room.
//!
//! A state that rests on a claim includes the current state of the moment when the claim came ([`super::claim`]).
//! So an end that stood in the timeline then is not resolved with it: that would be to resolve it twice, which
//! can undo what the claim has added. The state takes what is news in the end instead, as the end may have been
//! derived again since.

use super::states::States;
use crate::{
    rooms::{
        Error, event,
        state::{
            overlay::{Key, StateOverlay},
            resolution::Unnumbered,
        },
    },
    store::{EventNum, Place, Reader, records::Status},
};

/// An event of which the state after it is resolved with those after others.
pub(in crate::rooms) struct End {
    /// The state before it.
    pub(in crate::rooms) before: StateOverlay,
    /// What it adds to that.
    pub(in crate::rooms) adds: Option<(Key, EventNum)>,
    pub(in crate::rooms) place: Option<Place>,
    /// The last place before the claims on which it rests.
    pub(in crate::rooms) claimed_upto: Option<Place>,
}

impl End {
    fn after(&self, before: StateOverlay) -> StateOverlay {
        match &self.adds {
            Some((key, num)) => before.with(key.clone(), Some(*num)),
            None => before,
        }
    }

    fn includes(&self, other: &Self) -> bool {
        match (self.claimed_upto, other.place) {
            (Some(upto), Some(place)) => place <= upto,
            _ => false,
        }
    }
}

impl<R: Reader> States<'_, R> {
    /// Resolves `states`, which are those after `nums`.
    pub(in crate::rooms) fn resolve_after(
        &self,
        nums: &[EventNum],
        states: &[StateOverlay],
    ) -> Result<StateOverlay, Error> {
        if let [state] = states {
            return Ok(state.clone());
        }
        let ends = nums.iter().zip(states);
        let ends: Result<Vec<_>, _> = ends.map(|(num, after)| self.end(*num, after)).collect();
        self.resolve_ends(&ends?, None)
    }

    /// The event `num` with the state `after` it.
    pub(in crate::rooms) fn end(&self, num: EventNum, after: &StateOverlay) -> Result<End, Error> {
        let header = event::header(self.r, num)?;
        let is_accepted = self.status(num)? == Status::Accepted;
        let gap = self
            .gap
            .filter(|_| header.status.is_outlier() && is_accepted);
        let mut end = End {
            before: after.clone(),
            adds: None,
            place: header.place.or(gap),
            claimed_upto: self.claimed_upto(&[num])?,
        };
        if end.claimed_upto.is_some() && is_accepted {
            let pdu = self.pdu(num)?;
            end.before = match self.derived.get(&num) {
                Some(derived) => derived.state_before.clone(),
                None => StateOverlay::of(header.state_before),
            };
            let key = pdu.state_pair();
            end.adds = key.map(|(kind, key)| ((kind.to_string(), key.to_owned()), num));
        }
        Ok(end)
    }

    /// Resolves the states after `ends`; `new` stands in them as [`StateOverlay::UNNUMBERED`].
    pub(in crate::rooms) fn resolve_ends(
        &self,
        ends: &[End],
        new: Option<Unnumbered>,
    ) -> Result<StateOverlay, Error> {
        let (mut states, mut rest_on_claims) = (Vec::new(), Vec::new());
        for (index, end) in ends.iter().enumerate() {
            let others = ends.iter().enumerate();
            let others = others.filter(|(other, _)| *other != index);
            let others: Vec<&End> = others.map(|(_, other)| other).collect();
            if others.iter().any(|other| other.includes(end)) {
                continue;
            }
            let included = others.into_iter().filter(|other| end.includes(other));
            let included = included.map(|other| other.after(other.before.clone()));
            let before = self.with_news_of(end.before.clone(), included.collect())?;
            states.push(end.after(before));
            rest_on_claims.push(end.claimed_upto.is_some());
        }
        if states.is_empty() {
            // Events that fill older gaps can include each other.
            for end in ends {
                states.push(end.after(end.before.clone()));
                rest_on_claims.push(end.claimed_upto.is_some());
            }
        }
        let resolved = self.resolve_with(&states, new)?;
        self.keep_known(resolved, &states, &rest_on_claims)
    }
}
