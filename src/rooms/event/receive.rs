//! Events that another server made: deciding about one, and storing what was decided.
//!
//! 1. [`decide`], on a snapshot and off the thread: the state before the event (resolved where its
//!    predecessors disagree), whether it is allowed, what the room's current state becomes.
//! 2. [`commit`], in a job: checks that the room has not moved since, and writes.
//!
//! An event whose predecessors nobody has is decided by the state that another server tells; before
//! it is a gap in the timeline. What the event and that state name must be here, if only as outliers
//! ([`super::outlier`]).
//!
//! One event of a room at a time; an event whose job answers [`Error::Stale`] is decided again.
//! Signatures, hashes and format are checked before ([`crate::protocol::receive`]).

use std::{collections::BTreeMap, sync::Arc};

use ruma::{EventId, OwnedEventId, events::StateEventType, room_version_rules::RoomVersionRules};

use super::{
    insert::{self, Insert, Notify},
    outgoing, redaction,
};
use crate::{
    protocol::{
        Pdu,
        authorize::{AuthError, check_by_auth_events, check_by_state, create_event},
    },
    rooms::{
        Error, Local, event, room,
        state::{
            self, current,
            overlay::StateOverlay,
            resolution::{self, Unnumbered},
        },
    },
    store::{
        Effect, EventNum, Place, Reader, RoomNum, Tx,
        records::{EventHeader, Gap, RoomHeads, Status},
    },
};

/// How many places stay free where history is missing.
const GAP: u64 = 1 << 32;
/// How many events before one that is stored are looked at for ends that it takes.
const ENDED: usize = 100;

/// What was decided about a foreign event.
#[derive(Debug)]
pub struct Decision {
    room: RoomNum,
    pdu: Arc<Pdu>,
    json: Vec<u8>,
    /// The room's extremities on the snapshot.
    extremities: Vec<EventNum>,
    /// What is no end of the room any more.
    ended: Vec<EventNum>,
    /// Predecessors that are not here.
    missing: Vec<String>,
    auth: Vec<EventNum>,
    status: Status,
    state_before: StateOverlay,
    /// The room's current state with the event, if the event changes anything about it.
    current: Option<StateOverlay>,
    hand_on: bool,
}

impl Decision {
    /// What becomes of the event.
    pub fn status(&self) -> Status {
        self.status
    }

    /// The same, of an event that this server takes for another one and hands on to those in the
    /// room.
    pub fn with_relay(self) -> Self {
        Self {
            hand_on: true,
            ..self
        }
    }
}

/// Decides about `pdu`, whose `json` is of this room and has passed the checks of its own. `told` is
/// the state before it by another server's account, which counts where predecessors are not here.
///
/// # Errors
/// [`Error::Missing`] if an auth event is not here, or a predecessor, and nothing is told;
/// [`Error::Invalid`] if it names an event of another room.
pub fn decide(
    r: &impl Reader,
    room: RoomNum,
    pdu: Arc<Pdu>,
    json: Vec<u8>,
    told: Option<StateOverlay>,
) -> Result<Decision, Error> {
    let rules = room::rules(r, room)?;
    let heads = room::heads(r, room)?;
    let auth = auth_events(r, room, rules, &pdu)?;
    let Prev {
        nums: prev,
        mut states,
        missing,
    } = Prev::find(r, room, &pdu)?;
    if !missing.is_empty() {
        // Whoever tells it has resolved it from all of them. Resolving it once more with those that
        // are here would keep no liar out, who can name none of them, and differ from what others have.
        states = vec![told.ok_or(Error::Missing)?];
    }
    let state_before = resolution::resolve(r, room, rules, &states, None)?;
    let ended = ended(r, room, rules, prev)?;
    let current = StateOverlay::of(heads.state);
    let status = check(r, room, rules, &pdu, (&state_before, &current))?;
    let current = if status == Status::Accepted {
        let after = match pdu.state_pair() {
            Some((kind, key)) => {
                let key = (kind.to_string(), key.to_owned());
                state_before
                    .clone()
                    .with(key, Some(StateOverlay::UNNUMBERED))
            }
            None => state_before.clone(),
        };
        let mut states = vec![after];
        for num in heads.extremities.iter().filter(|num| !ended.contains(num)) {
            states.push(StateOverlay::after(r, *num, &event::header(r, *num)?)?);
        }
        let new = Unnumbered {
            pdu: pdu.clone(),
            auth: auth.clone(),
        };
        Some(resolution::resolve(r, room, rules, &states, Some(new))?)
    } else {
        None
    };
    Ok(Decision {
        room,
        pdu,
        json,
        extremities: heads.extremities,
        ended,
        missing,
        auth,
        status,
        state_before,
        current,
        hand_on: false,
    })
}

/// What is no end of the room any more once an event follows on `prev`: those, and what comes before
/// those of them that count for nothing here, which else would stay ends for ever.
fn ended(
    r: &impl Reader,
    room: RoomNum,
    rules: &RoomVersionRules,
    prev: Vec<EventNum>,
) -> Result<Vec<EventNum>, Error> {
    let mut ended = prev;
    let mut looked_at = 0;
    while looked_at < ended.len() && ended.len() < ENDED {
        for before in before_nothing(r, room, rules, ended[looked_at])? {
            if !ended.contains(&before) {
                ended.push(before);
            }
        }
        looked_at += 1;
    }
    Ok(ended)
}

/// What comes right before the event `num`, if that has its place and counts for nothing here.
pub(in crate::rooms) fn before_nothing(
    r: &impl Reader,
    room: RoomNum,
    rules: &RoomVersionRules,
    num: EventNum,
) -> Result<Vec<EventNum>, Error> {
    let status = event::header(r, num)?.status;
    let counts = !status.is_rejected() && status != Status::SoftFailed;
    if counts || status.is_outlier() {
        return Ok(Vec::new());
    }
    let pdu = event::load(r, num)?.pdu(rules)?;
    let before = pdu.prev_events().iter();
    let before = before.map(|id| event::num_in(r, room, id));
    before.filter_map(Result::transpose).collect()
}

/// The events that come right before one.
struct Prev {
    nums: Vec<EventNum>,
    /// The states after them.
    states: Vec<StateOverlay>,
    /// The ids of those that are not here, or only as outliers.
    missing: Vec<String>,
}

impl Prev {
    fn find(r: &impl Reader, room: RoomNum, pdu: &Pdu) -> Result<Self, Error> {
        let mut prev = Self {
            nums: Vec::new(),
            states: Vec::new(),
            missing: Vec::new(),
        };
        for id in pdu.prev_events() {
            match here(r, room, id)? {
                Some((num, header)) if !header.status.is_outlier() => {
                    prev.nums.push(num);
                    prev.states.push(StateOverlay::after(r, num, &header)?);
                }
                _ => prev.missing.push(id.to_string()),
            }
        }
        Ok(prev)
    }
}

/// The state that another server tells, all of whose events are here. What was rejected is not in it.
/// Grows with the room: for the pool.
///
/// # Errors
/// [`Error::Missing`] if an event is not here; [`Error::Invalid`] if what is told is no state of
/// the room.
pub fn claimed_state(
    r: &impl Reader,
    room: RoomNum,
    ids: &[OwnedEventId],
) -> Result<StateOverlay, Error> {
    let mut entries = BTreeMap::new();
    for id in ids {
        let (num, header) = here(r, room, id)?.ok_or(Error::Missing)?;
        let key = header.state_key;
        let key = key.ok_or_else(|| Error::invalid("a state with an event that has no key"))?;
        if !header.status.is_rejected() && entries.insert(key, num).is_some() {
            return Err(Error::invalid("a state with two events of one key"));
        }
    }
    // As a difference from the current state, which it shares most with.
    let current = room::heads(r, room)?.state;
    let mut view = StateOverlay::of(current);
    for (key, num) in state::entries(r, room, current)? {
        match entries.remove(&key) {
            Some(told) if told == num => {}
            told => view = view.with(state::key_name(r, room, key)?, told),
        }
    }
    for (key, num) in entries {
        view = view.with(state::key_name(r, room, key)?, Some(num));
    }
    Ok(view)
}

/// The ids of the events before `pdu` that are not here, or only as outliers.
pub(in crate::rooms) fn missing(
    r: &impl Reader,
    room: RoomNum,
    pdu: &Pdu,
) -> Result<Vec<String>, Error> {
    Ok(Prev::find(r, room, pdu)?.missing)
}

/// Leaves room in the timeline for what is missing.
pub(in crate::rooms) fn leave_gap(heads: &mut RoomHeads) {
    heads.last_place = Place(heads.last_place.0.saturating_add(GAP));
}

/// The numbers of the events that `pdu` names as its authority.
///
/// # Errors
/// [`Error::Missing`] if one is not here, or the room's create event is not; [`Error::Invalid`] if
/// one is of another room.
pub(in crate::rooms) fn auth_events(
    r: &impl Reader,
    room: RoomNum,
    rules: &RoomVersionRules,
    pdu: &Pdu,
) -> Result<Vec<EventNum>, Error> {
    if let Some(create) = create_event(pdu, rules).filter(|id| id != pdu.event_id()) {
        here(r, room, &create)?.ok_or(Error::Missing)?;
    }
    let nums = pdu.auth_events().iter().map(|id| {
        let (num, _) = here(r, room, id)?.ok_or(Error::Missing)?;
        Ok(num)
    });
    nums.collect()
}

/// The event `id` of the room, unless it came alone.
pub(in crate::rooms) fn here(
    r: &impl Reader,
    room: RoomNum,
    id: &EventId,
) -> Result<Option<(EventNum, EventHeader)>, Error> {
    let Some(num) = event::num_of(r, id)? else {
        return Ok(None);
    };
    let header = event::header(r, num)?;
    if header.room != room {
        return Err(Error::invalid("the event names an event of another room"));
    }
    Ok((header.status != Status::OutOfBand).then_some((num, header)))
}

/// [Checks performed on receipt of a PDU], from the fourth on.
///
/// [Checks performed on receipt of a PDU]: https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu
fn check(
    r: &impl Reader,
    room: RoomNum,
    rules: &RoomVersionRules,
    pdu: &Pdu,
    (before, current): (&StateOverlay, &StateOverlay),
) -> Result<Status, Error> {
    if !is_authorized(r, room, rules, pdu)? {
        return Ok(Status::RejectedByAuthEvents);
    }
    if !is_allowed_by(r, room, rules, pdu, before)? {
        return Ok(Status::RejectedByState);
    }
    if !is_allowed_by(r, room, rules, pdu, current)? {
        return Ok(Status::SoftFailed);
    }
    Ok(Status::Accepted)
}

/// Whether the events that `pdu` names as its authority allow it.
pub(in crate::rooms) fn is_authorized(
    r: &impl Reader,
    room: RoomNum,
    rules: &RoomVersionRules,
    pdu: &Pdu,
) -> Result<bool, Error> {
    let by_id = |id: &EventId| {
        event::num_in(r, room, id)?
            .map(|num| load(r, rules, num))
            .transpose()
    };
    allowed(check_by_auth_events(pdu, rules, by_id))
}

/// Whether the state `view` allows `pdu`.
pub(in crate::rooms) fn is_allowed_by(
    r: &impl Reader,
    room: RoomNum,
    rules: &RoomVersionRules,
    pdu: &Pdu,
    view: &StateOverlay,
) -> Result<bool, Error> {
    let in_state = |kind: &StateEventType, state_key: &str| {
        view.get(r, room, &kind.to_string(), state_key)?
            .map(|num| load(r, rules, num))
            .transpose()
    };
    allowed(check_by_state(pdu, rules, in_state))
}

fn load(r: &impl Reader, rules: &RoomVersionRules, num: EventNum) -> Result<Arc<Pdu>, Error> {
    Ok(Arc::new(event::load(r, num)?.pdu(rules)?))
}

fn allowed(verdict: Result<(), AuthError<Error>>) -> Result<bool, Error> {
    match verdict {
        Ok(()) => Ok(true),
        Err(AuthError::Rejected(reason)) => {
            log::debug!("an event is not allowed: {reason}");
            Ok(false)
        }
        Err(AuthError::Read(error)) => Err(error),
    }
}

/// Stores what was decided, unless the room has moved since.
///
/// # Errors
/// [`Error::Stale`] if it has: decide again.
pub fn commit(
    tx: &Tx,
    local: &Local,
    decision: &Decision,
    notify: &Notify,
) -> Result<EventNum, Error> {
    let Decision { room, pdu, .. } = decision;
    let room = *room;
    let mut heads = room::heads(tx, room)?;
    let mut outlier = None;
    if let Some((num, header)) = here(tx, room, pdu.event_id())? {
        if !header.status.is_outlier() {
            return Ok(num);
        }
        outlier = Some(num);
    }
    if heads.extremities != decision.extremities {
        return Err(Error::Stale);
    }
    let rules = room::rules(tx, room)?;
    let state_key = match pdu.state_pair() {
        Some((kind, key)) => Some(state::key_num_or_new(tx, room, &kind.to_string(), key)?),
        None => None,
    };
    let new = Insert {
        id: pdu.event_id(),
        outlier,
        json: &decision.json,
        status: decision.status,
        state_before: decision
            .state_before
            .store(tx, room, StateOverlay::UNNUMBERED)?,
        state_key,
        auth: &decision.auth,
        read_by: None,
        sent_by: None,
        thread: insert::thread_root(tx, room, pdu)?,
        notify,
    };
    let is_after_gap = !decision.missing.is_empty() && new.status == Status::Accepted;
    if is_after_gap {
        leave_gap(&mut heads);
    }
    let (num, position) = insert::insert(tx, room, &mut heads, &new)?;
    redaction::apply_early(tx, room, (pdu.event_id().as_str(), num), rules)?;
    if is_after_gap {
        let missing = decision.missing.clone();
        tx.gaps()?.put((room, heads.last_place), &Gap { missing })?;
    }
    if let Some(current) = &decision.current {
        let root = current.store(tx, room, num)?;
        let keys = state::differing_keys(tx, room, &[heads.state, root])?;
        current::change(tx, local, room, &mut heads, (root, position), keys)?;
        redaction::apply(tx, room, pdu, num, rules)?;
        if decision.hand_on {
            outgoing::enqueue(tx, local, room, pdu, (num, position))?;
        }
        heads
            .extremities
            .retain(|extremity| !decision.ended.contains(extremity));
        heads.extremities.push(num);
        heads.depth = heads.depth.max(pdu.depth());
        tx.effect(Effect::RoomChanged(room, position));
    }
    tx.room_heads()?.put(room, &heads)?;
    Ok(num)
}
