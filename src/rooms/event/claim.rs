//! What another server's account of a room may change here.
//!
//! An account is the state before an event of which prev_events are missing (a claimed state), the
//! state in a send_join response for a room in which this server has been, or such an event itself.
//! Its events are genuine, but which of them it names is up to the server. The rule: *a claim adds
//! knowledge and takes none away.*
//!
//! - The known state is the room's current state, with what is news in the states after those
//!   prev_events that are here. A state from before may not be the ground: a claim that adds some of
//!   the later events to it would undo the others.
//! - An entry of a claim is news if it is later than the known entry of its key, if there is one, and
//!   follows the known state. Everything else stays as known, also what the claim leaves out.
//! - *Later* means of greater depth. Along a history the depth of a key's events grows, so an event
//!   that was replaced is never later than the one that replaced it. At the limit of depths, which
//!   one false event reaches, all are equal: equal is not later, but an event of which all prev_events
//!   are here may be found to follow on the known one.
//! - An event *follows* the known state if each of its auth events stands in that state, or is later
//!   than the one that does and follows the known state itself, and if it refers to all of those that
//!   its authorization needs. So whoever has lost a power by the known state makes no news with it.
//! - An event rests on a claim if there is one before it, its own or one before an event that it
//!   follows. It is authorized as any other. A state event must be later than the event of its key in
//!   the state before it, too: if that state is the true one, it always is. What is not accepted then
//!   is not rejected for good, either: it stays an outlier, so it is missing to the events that follow
//!   on it, and it is decided again with the events between, or when another event needs it.
//! - A state that rests on a claim includes the current state of then, so to resolve it with the state
//!   after another event is to resolve that twice. What none of the states lacks is not gone then
//!   ([`super::states::States::keep_known`]).
//!
//! In a history without forks, all that came after the known state is news, so a true claim is
//! accepted whole. A false one gives its author no more than events on the known prev_events would.
//!
//! Synapse resolves the whole claim with the known states. Then each key that the claim leaves out
//! is conflicted, and its known entry is authorized again: if the room is invite-only by now, those
//! who joined when it was public fall out of it. Resolution of the true events does not do that.
//!
//! The price: what was made concurrently with the known state is accepted only with the events
//! between. With them, a claim is not needed any more: [`super::rederive`] derives the states after
//! the gap from the graph. So a server in the room first fetches many events between, and only then
//! asks for a state.

use std::collections::HashMap;

use ruma::{
    events::StateEventType, room_version_rules::RoomVersionRules, state_res::auth_types_for_event,
};

use super::authorize::ParsedEvents;
use crate::{
    protocol::Pdu,
    rooms::{
        Error,
        state::{overlay::StateOverlay, resolution},
    },
    store::{EventNum, Reader, RoomNum},
};

/// How many parsed events are kept, about; others are parsed again.
const MAX_PARSED_EVENTS: usize = 1000;

/// The known state of a room, which meets a claim.
pub(in crate::rooms) struct KnownState<'r, R> {
    r: &'r R,
    room: RoomNum,
    rules: &'static RoomVersionRules,
    state: StateOverlay,
    events: ParsedEvents<'r, R>,
    /// Which events follow the state.
    follow: HashMap<EventNum, bool>,
}

impl<'r, R: Reader> KnownState<'r, R> {
    pub(in crate::rooms) fn new(
        r: &'r R,
        room: RoomNum,
        rules: &'static RoomVersionRules,
        state: StateOverlay,
    ) -> Self {
        Self {
            r,
            room,
            rules,
            state,
            events: ParsedEvents::new(r, room, rules),
            follow: HashMap::new(),
        }
    }

    /// The state with what of `claimed` is news. If nothing at all is known, as before the join of
    /// this server, the claim is believed.
    pub(in crate::rooms) fn with_news(
        mut self,
        claimed: &StateOverlay,
    ) -> Result<StateOverlay, Error> {
        if self.state == StateOverlay::default() {
            return Ok(claimed.clone());
        }
        let mut state = self.state.clone();
        let states = [self.state.clone(), claimed.clone()];
        for conflict in resolution::conflicts(self.r, self.room, &states)? {
            let (kind, state_key) = conflict.key;
            if let [known, Some(num)] = conflict.entries[..]
                && self.is_later(&*self.events.get(num)?, known)?
                && self.follows(num)?
            {
                state = state.with((kind.to_string(), state_key), Some(num));
            }
        }
        Ok(state)
    }

    pub(in crate::rooms) fn into_state(self) -> StateOverlay {
        self.state
    }

    /// Whether `pdu` is no state event, or later than the known event of its key.
    pub(in crate::rooms) fn may_get(&self, pdu: &Pdu) -> Result<bool, Error> {
        match pdu.state_pair() {
            Some((kind, state_key)) => self.is_later(pdu, self.get(&kind, state_key)?),
            None => Ok(true),
        }
    }

    /// The known event of the key of `pdu`, if it is as deep.
    pub(in crate::rooms) fn as_deep(&self, pdu: &Pdu) -> Result<Option<EventNum>, Error> {
        let Some((kind, state_key)) = pdu.state_pair() else {
            return Ok(None);
        };
        let Some(known) = self.get(&kind, state_key)? else {
            return Ok(None);
        };
        let depth = self.events.get(known)?.depth();
        Ok((depth == pdu.depth()).then_some(known))
    }

    fn get(&self, kind: &StateEventType, state_key: &str) -> Result<Option<EventNum>, Error> {
        self.state
            .get(self.r, self.room, &kind.to_string(), state_key)
    }

    fn is_later(&self, pdu: &Pdu, known: Option<EventNum>) -> Result<bool, Error> {
        match known {
            Some(known) => Ok(pdu.depth() > self.events.get(known)?.depth()),
            None => Ok(true),
        }
    }

    fn follows(&mut self, num: EventNum) -> Result<bool, Error> {
        let mut open = vec![num];
        while let Some(num) = open.last().copied() {
            if self.events.len() > MAX_PARSED_EVENTS {
                self.events = ParsedEvents::new(self.r, self.room, self.rules);
            }
            let before = open.len();
            let verdict = self.follows_by(num, &mut open)?;
            if open.len() == before {
                self.follow.insert(num, verdict);
                open.pop();
            }
        }
        Ok(self.follow[&num])
    }

    /// The verdict on one event. Pushes its auth events that need a verdict before it to `open`.
    fn follows_by(&self, num: EventNum, open: &mut Vec<EventNum>) -> Result<bool, Error> {
        let pdu = self.events.get(num)?;
        let mut auth_events = HashMap::new();
        for id in pdu.auth_events() {
            if let Some((num, auth_event)) = self.events.find(id)?
                && let Some((kind, state_key)) = auth_event.state_pair()
            {
                auth_events.insert((kind, state_key.to_owned()), (num, auth_event.clone()));
            }
        }
        let needed = auth_types_for_event(
            pdu.event_type(),
            pdu.sender(),
            pdu.state_key(),
            pdu.content(),
            &self.rules.authorization,
        );
        let Ok(needed) = needed else {
            return Ok(false);
        };
        for (kind, state_key) in needed {
            let known = self.get(&kind, &state_key)?;
            match auth_events.get(&(kind.clone(), state_key)) {
                Some((num, _)) if Some(*num) == known => {}
                Some((num, auth_event)) if self.is_later(auth_event, known)? => {
                    match self.follow.get(num) {
                        Some(false) => return Ok(false),
                        Some(true) => {}
                        None => open.push(*num),
                    }
                }
                None if known.is_none() || kind == StateEventType::RoomCreate => {}
                _ => return Ok(false),
            }
        }
        Ok(true)
    }
}
