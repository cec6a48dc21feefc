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
//! - What was decided here is no news: an event that was received, or that has stood in the current state
//!   as an outlier and was replaced ([`undecided`]). The known state includes that decision.
//! - *Later*: each membership of a user, and each event of power levels, has the one before it among its
//!   auth events. If such an event follows the known state, it is later. Events of other keys do not name
//!   the one before: they are in the order of resolution, first by the power levels that they refer to, along
//!   those of the known state, then by time. An event's depth, which its sender chooses, is not asked for,
//!   but in room version 1, of which the resolution goes by depth.
//! - An event *follows* the known state if each of its auth events stands in that state, or is later
//!   than the one that does and follows the known state itself, and if it refers to all of those that
//!   its authorization needs. So whoever has lost a power by the known state makes no news with it.
//! - A membership or power levels that were made concurrently with the known ones, so that neither is in
//!   the auth chain of the other, are news if the known state allows both, and resolution of that state
//!   with the one and with the other gives them. So a ban is news for whom it does not find under their
//!   last display name. Known ones that are not allowed any more, as their sender has lost the power since,
//!   stay: resolution would drop them whatever the other event is. Also in room version 12 it is the
//!   resolution of version 2: the newer one authorizes from an empty state, as between the states after two
//!   events all that matters is in conflict, and here one key is.
//! - For a rejoin, entries of keys that the known state lacks are news too, if it allows them, or resolution of that
//!   state without and with them gives them. So what the server of the first join left out, and what was made
//!   concurrently with the last events before the leave, comes with the next join. Whoever can make such an event by the
//!   known state gains nothing with an old one.
//! - Whether the state before an event rejects it may depend on claims in turn. So that is not asked for
//!   when a claim meets the known state.
//! - An event rests on a claim if there is one before it, its own or one before an event that it
//!   follows. It is authorized as any other, but with a claim of its own not by the current state: the state
//!   before it is that one, with what is news. A state event must come after the known event of its key, or
//!   prevail over it, as the entries of a claim: if that state is the true one, it always does. What is
//!   not accepted then is not rejected for good, either: it stays an outlier, so it is missing to the
//!   events that follow on it, and it is decided again with the events between, or when another event
//!   needs it.
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
//! The price: what else was made concurrently with the known state is accepted only with the events
//! between. With them, a claim is not needed any more: [`super::rederive`] derives the states after
//! the gap from the graph. So a server in the room first fetches many events between, and only then
//! asks for a state.

use std::{
    cell::{Cell, OnceCell},
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use ruma::{
    OwnedEventId,
    events::StateEventType,
    room_version_rules::{RoomVersionRules, StateResolutionV2Rules, StateResolutionVersion},
    state_res::auth_types_for_event,
};

use super::{authorize::ParsedEvents, graph};
use crate::{
    protocol::{
        Pdu,
        resolve::{Conflict, v1},
    },
    rooms::{
        Error, event,
        state::{
            overlay::StateOverlay,
            resolution::{self, Unnumbered, Unstored},
        },
    },
    store::{EventNum, Position, Reader, RoomNum, records::Status},
};

/// How many parsed events are kept, about; others are parsed again.
const MAX_PARSED_EVENTS: usize = 1000;

/// How many concurrent events of one claim are resolved with the known ones. Each may take time that grows
/// with the room.
const MAX_RESOLVED: usize = 200;

/// How many events of one key are gone through along auth events, or auth events of one entry.
const MAX_AUTH_STEPS: usize = 20_000;

/// `claimed` without the events on which the room that was in the state `known` had decided before
/// `upto`: they stand in it as what is known.
pub(in crate::rooms) fn undecided(
    r: &impl Reader,
    room: RoomNum,
    known: &StateOverlay,
    mut claimed: StateOverlay,
    upto: Position,
) -> Result<StateOverlay, Error> {
    let states = [known.clone(), claimed.clone()];
    for conflict in resolution::conflicts(r, room, &states)? {
        let (kind, state_key) = conflict.key;
        if let [known, Some(num)] = conflict.entries[..]
            && is_decided(r, num, upto)?
        {
            claimed = claimed.with((kind.to_string(), state_key), known);
        }
    }
    Ok(claimed)
}

/// Whether an event was received, or replaced in the current state, before `upto`.
pub(in crate::rooms) fn is_decided(
    r: &impl Reader,
    num: EventNum,
    upto: Position,
) -> Result<bool, Error> {
    let position = event::header(r, num)?.position;
    Ok(position != Position(0) && position < upto)
}

/// The known state of a room, which meets a claim.
pub(in crate::rooms) struct KnownState<'r, R> {
    r: &'r R,
    room: RoomNum,
    rules: &'static RoomVersionRules,
    state: StateOverlay,
    events: ParsedEvents<'r, R>,
    /// Which events follow the state.
    follow: HashMap<EventNum, bool>,
    mainline: OnceCell<HashMap<EventNum, usize>>,
    /// Whether the known state may lack entries that are older than itself.
    is_partial: bool,
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
            events: ParsedEvents::new(r, room, rules).regardless_of_states(),
            follow: HashMap::new(),
            mainline: OnceCell::new(),
            is_partial: false,
        }
    }

    /// The state of a room that this server had left: it began with what one server gave, and what was made
    /// concurrently with its last events may have come after the leave.
    pub(in crate::rooms) fn partial(mut self) -> Self {
        self.is_partial = true;
        self
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
        // By number, in which an event comes after its auth events.
        let mut concurrent = BTreeMap::new();
        for conflict in resolution::conflicts(self.r, self.room, &states)? {
            let (kind, state_key) = conflict.key;
            let [known, Some(num)] = conflict.entries[..] else {
                continue;
            };
            let key = (kind.to_string(), state_key);
            let pdu = self.get(num)?;
            let is_concurrent = match known {
                Some(_) => names_the_one_before(&kind),
                None => self.is_partial,
            };
            if self.is_later(&pdu, known)? && self.follows(num)? {
                state = state.with(key, Some(num));
            } else if is_concurrent {
                concurrent.insert(num, (key, known));
            }
        }
        let mut resolved = 0;
        for (num, (key, known)) in concurrent {
            let pdu = self.get(num)?;
            let is_allowed = self.events.allows(&pdu, &state)?;
            match known {
                None if is_allowed => {
                    state = state.with(key, Some(num));
                    continue;
                }
                Some(known) if !is_allowed || self.is_before(num, known)? != Some(false) => {
                    continue;
                }
                _ => {}
            }
            if resolved == MAX_RESOLVED {
                break;
            }
            resolved += 1;
            if self.wins_resolution(&state, &pdu, Some(num), known)? {
                state = state.with(key, Some(num));
            }
        }
        Ok(state)
    }

    /// The known event of the key of `pdu`.
    pub(in crate::rooms) fn known(&self, pdu: &Pdu) -> Result<Option<EventNum>, Error> {
        match pdu.state_pair() {
            Some((kind, state_key)) => self.at(&kind, state_key),
            None => Ok(None),
        }
    }

    /// Whether an event, which `state` allows and which has the number `num` if it is an outlier, comes
    /// after the `known` event of its key, or prevails over it.
    pub(in crate::rooms) fn is_replaced_by(
        &self,
        pdu: &Arc<Pdu>,
        num: Option<EventNum>,
        known: EventNum,
        state: &StateOverlay,
    ) -> Result<bool, Error> {
        let Some((kind, state_key)) = pdu.state_pair() else {
            return Ok(true);
        };
        if !names_the_one_before(&kind) {
            return self.is_later(pdu, Some(known));
        }
        for id in pdu.auth_events() {
            if let Some((auth, auth_event)) = self.events.find(id)?
                && auth_event.state_pair() == Some((kind.clone(), state_key))
                && (auth == known || self.is_before(known, auth)? == Some(true))
            {
                return Ok(true);
            }
        }
        let is_old = match num {
            Some(num) => self.is_before(num, known)? != Some(false),
            None => false,
        };
        Ok(!is_old && self.wins_resolution(state, pdu, num, Some(known))?)
    }

    /// Whether resolution of `state` with the `known` event of a key, or without one, and with the event `pdu` in its
    /// place, gives the latter. It does not if `state` does not allow the known one any more.
    fn wins_resolution(
        &self,
        state: &StateOverlay,
        pdu: &Arc<Pdu>,
        num: Option<EventNum>,
        known: Option<EventNum>,
    ) -> Result<bool, Error> {
        let Some((kind, state_key)) = pdu.state_pair() else {
            return Ok(true);
        };
        if let Some(known) = known
            && !self.events.allows(&*self.events.get(known)?, state)?
        {
            return Ok(false);
        }
        let new = num.unwrap_or(StateOverlay::UNNUMBERED);
        let conflict = Conflict {
            key: (kind, state_key.to_owned()),
            entries: vec![known, Some(new)],
        };
        let unnumbered = match num {
            Some(_) => None,
            None => Some(Unnumbered {
                pdu: pdu.clone(),
                auth: graph::auth_event_nums(self.r, self.room, self.rules, pdu)?,
            }),
        };
        let failure = Cell::new(None);
        let status = |num| match event::header(self.r, num) {
            Ok(header) => (header.status == Status::RejectedByState).then_some(Status::Accepted),
            Err(error) => {
                failure.set(Some(error));
                None
            }
        };
        let unstored = Unstored {
            new: unnumbered,
            status: Some(&status),
        };
        let mut rules = self.rules.clone();
        if rules.state_res.v2_rules().is_some() {
            rules.state_res = StateResolutionVersion::V2(StateResolutionV2Rules::V2_0);
        }
        let resolved =
            resolution::resolve_one(self.r, self.room, &rules, state, conflict, unstored)?;
        match failure.take() {
            Some(error) => Err(error),
            None => Ok(resolved == Some(new)),
        }
    }

    /// Whether the event `num` is in the auth chain of `later`, along the events of their common key.
    /// `None` if that is not found out within the limit.
    fn is_before(&self, num: EventNum, later: EventNum) -> Result<Option<bool>, Error> {
        let key = |num| Ok::<_, Error>(event::header(self.r, num)?.state_key);
        let own = key(later)?;
        let mut at = later;
        for _ in 0..MAX_AUTH_STEPS {
            let mut before = None;
            for auth in graph::auth_events(self.r, self.room, at)? {
                if key(auth)? == own {
                    before = Some(auth);
                }
            }
            match before {
                Some(before) if before > num => at = before,
                before => return Ok(Some(before == Some(num))),
            }
        }
        Ok(None)
    }

    fn get(&mut self, num: EventNum) -> Result<Arc<Pdu>, Error> {
        if self.events.len() > MAX_PARSED_EVENTS {
            self.events = ParsedEvents::new(self.r, self.room, self.rules).regardless_of_states();
        }
        self.events.get(num)
    }

    fn at(&self, kind: &StateEventType, state_key: &str) -> Result<Option<EventNum>, Error> {
        self.state
            .get(self.r, self.room, &kind.to_string(), state_key)
    }

    /// Whether an event comes after the known one of its key, if it follows the known state.
    fn is_later(&self, pdu: &Pdu, known: Option<EventNum>) -> Result<bool, Error> {
        let Some(known) = known else {
            return Ok(true);
        };
        let names_the_one_before = pdu
            .state_pair()
            .is_some_and(|(kind, _)| names_the_one_before(&kind));
        if names_the_one_before {
            return Ok(true);
        }
        let known = self.events.get(known)?;
        Ok(match self.rules.state_res.v2_rules() {
            None => v1::order(pdu) < v1::order(&known),
            Some(_) => self.order(pdu)? > self.order(&known)?,
        })
    }

    /// The order of the events of other keys, as resolution of version 2 has it: by the power levels that they
    /// refer to, along those of the known state, then by time, then by id.
    fn order(&self, pdu: &Pdu) -> Result<(Reverse<usize>, u64, OwnedEventId), Error> {
        let steps = self.steps_from_mainline(pdu)?;
        let time = pdu.origin_server_ts().get().into();
        Ok((Reverse(steps), time, pdu.event_id().to_owned()))
    }

    /// How many power levels come after those that `pdu` refers to.
    fn steps_from_mainline(&self, pdu: &Pdu) -> Result<usize, Error> {
        let levels = StateEventType::RoomPowerLevels;
        let mut at = None;
        for id in pdu.auth_events() {
            if let Some((num, auth_event)) = self.events.find(id)?
                && auth_event.state_pair() == Some((levels.clone(), ""))
            {
                at = Some(num);
            }
        }
        let mainline = self.mainline()?;
        for _ in 0..MAX_AUTH_STEPS {
            let Some(num) = at else {
                break;
            };
            if let Some(steps) = mainline.get(&num) {
                return Ok(*steps);
            }
            at = self.levels_before(num)?;
        }
        Ok(usize::MAX)
    }

    /// The power levels of the known state, and those before them, by how many come later.
    fn mainline(&self) -> Result<&HashMap<EventNum, usize>, Error> {
        if let Some(mainline) = self.mainline.get() {
            return Ok(mainline);
        }
        let mut mainline = HashMap::new();
        let mut at = self.at(&StateEventType::RoomPowerLevels, "")?;
        while let Some(num) = at
            && mainline.len() < MAX_AUTH_STEPS
        {
            mainline.insert(num, mainline.len());
            at = self.levels_before(num)?;
        }
        Ok(self.mainline.get_or_init(|| mainline))
    }

    /// The power levels that authorized the power levels `num`.
    fn levels_before(&self, num: EventNum) -> Result<Option<EventNum>, Error> {
        let own = event::header(self.r, num)?.state_key;
        for auth in graph::auth_events(self.r, self.room, num)? {
            if event::header(self.r, auth)?.state_key == own {
                return Ok(Some(auth));
            }
        }
        Ok(None)
    }

    fn follows(&mut self, num: EventNum) -> Result<bool, Error> {
        let mut open = vec![num];
        for _ in 0..MAX_AUTH_STEPS {
            let Some(num) = open.last().copied() else {
                break;
            };
            self.get(num)?;
            let before = open.len();
            let verdict = self.follows_by(num, &mut open)?;
            if open.len() == before {
                self.follow.insert(num, verdict);
                open.pop();
            }
        }
        // What is not found out within the limit does not follow.
        self.follow.extend(open.into_iter().map(|num| (num, false)));
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
            let known = self.at(&kind, &state_key)?;
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

/// Whether each event of a key has the one before it among its auth events. So their order is known.
fn names_the_one_before(kind: &StateEventType) -> bool {
    matches!(
        kind,
        StateEventType::RoomMember | StateEventType::RoomPowerLevels
    )
}
