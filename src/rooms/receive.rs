//! Events that another server made: deciding about one, and storing what was decided.
//!
//! 1. [`decide`], on a snapshot and off the thread: the state before the event (resolved where its
//!    predecessors disagree), whether it is allowed, what the room's current state becomes.
//! 2. [`store`], in a job: checks that the room has not moved since, and writes.
//!
//! One event of a room at a time; an event whose job answers [`Error::Stale`] is decided again.
//! Signatures, hashes and format are checked before ([`crate::protocol::receive`]).

use std::sync::Arc;

use ruma::{EventId, OwnedEventId, events::StateEventType, room_version_rules::RoomVersionRules};

use super::{
    Error, Local, current, event,
    insert::{self, Insert, Notify},
    redaction,
    resolution::{self, Unnumbered},
    state,
    view::View,
};
use crate::{
    protocol::{
        Pdu,
        authorize::{AuthError, check_by_auth_events, check_by_state},
    },
    store::{Effect, EventNum, Reader, RoomNum, Tx, records::Status},
};

/// What was decided about a foreign event.
#[derive(Debug)]
pub struct Decision {
    room: RoomNum,
    pdu: Arc<Pdu>,
    json: Vec<u8>,
    /// The room's extremities on the snapshot.
    extremities: Vec<EventNum>,
    prev: Vec<EventNum>,
    auth: Vec<EventNum>,
    status: Status,
    state_before: View,
    /// The room's current state with the event, if the event changes anything about it.
    current: Option<View>,
}

impl Decision {
    /// What becomes of the event.
    pub fn status(&self) -> Status {
        self.status
    }
}

/// Decides about `pdu`, whose `json` is of this room and has passed the checks of its own.
///
/// # Errors
/// [`Error::Missing`] if a predecessor or an auth event is not here.
pub fn decide(
    r: &impl Reader,
    room: RoomNum,
    pdu: Arc<Pdu>,
    json: Vec<u8>,
) -> Result<Decision, Error> {
    let rules = super::rules(&super::record(r, room)?)?;
    let hot = super::hot(r, room)?;
    let prev = known(r, room, pdu.prev_events())?;
    let auth = known(r, room, pdu.auth_events())?;
    let after_prev = prev
        .iter()
        .map(|num| state_after(r, *num))
        .collect::<Result<Vec<_>, _>>()?;
    let state_before = resolution::resolve(r, room, rules, &after_prev, None)?;
    let current = View::of(hot.state);
    let status = check(r, room, rules, &pdu, (&state_before, &current))?;
    let current = if status == Status::Accepted {
        let after = match pdu.state_pair() {
            Some((kind, key)) => {
                let key = (kind.to_string(), key.to_owned());
                state_before.clone().with(key, Some(View::UNNUMBERED))
            }
            None => state_before.clone(),
        };
        let mut states = vec![after];
        for num in hot.extremities.iter().filter(|num| !prev.contains(num)) {
            states.push(state_after(r, *num)?);
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
        extremities: hot.extremities,
        prev,
        auth,
        status,
        state_before,
        current,
    })
}

fn known(r: &impl Reader, room: RoomNum, ids: &[OwnedEventId]) -> Result<Vec<EventNum>, Error> {
    ids.iter()
        .map(|id| event::num_in(r, room, id)?.ok_or(Error::Missing))
        .collect()
}

/// The state after the event `num`.
fn state_after(r: &impl Reader, num: EventNum) -> Result<View, Error> {
    let header = event::header(r, num)?;
    if header.status == Status::Outlier {
        return Err(Error::Missing);
    }
    View::after(r, num, &header)
}

/// [Checks performed on receipt of a PDU], from the fourth on.
///
/// [Checks performed on receipt of a PDU]: https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu
fn check(
    r: &impl Reader,
    room: RoomNum,
    rules: &RoomVersionRules,
    pdu: &Pdu,
    (before, current): (&View, &View),
) -> Result<Status, Error> {
    let load = |num: EventNum| Ok(Arc::new(event::load(r, num)?.pdu(rules)?));
    let by_id = |id: &EventId| event::num_in(r, room, id)?.map(load).transpose();
    if !allowed(check_by_auth_events(pdu, rules, by_id))? {
        return Ok(Status::RejectedByAuthEvents);
    }
    let by_state = |view: &View| {
        check_by_state(pdu, rules, |kind: &StateEventType, state_key: &str| {
            view.get(r, room, &kind.to_string(), state_key)?
                .map(load)
                .transpose()
        })
    };
    if !allowed(by_state(before))? {
        return Ok(Status::RejectedByState);
    }
    if !allowed(by_state(current))? {
        return Ok(Status::SoftFailed);
    }
    Ok(Status::Accepted)
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
pub fn store(
    tx: &Tx,
    local: &Local,
    decision: &Decision,
    notify: &Notify,
) -> Result<EventNum, Error> {
    let Decision {
        room, pdu, prev, ..
    } = decision;
    let room = *room;
    let mut hot = super::hot(tx, room)?;
    if let Some(num) = event::num_of(tx, pdu.event_id())? {
        return Ok(num);
    }
    if hot.extremities != decision.extremities {
        return Err(Error::Stale);
    }
    let rules = super::rules(&super::record(tx, room)?)?;
    let state_key = match pdu.state_pair() {
        Some((kind, key)) => Some(state::key_num_or_new(tx, room, &kind.to_string(), key)?),
        None => None,
    };
    let new = Insert {
        id: pdu.event_id(),
        json: &decision.json,
        status: decision.status,
        state_before: decision.state_before.store(tx, room, View::UNNUMBERED)?,
        state_key,
        auth: &decision.auth,
        wrote: None,
        sent_by: None,
        thread: insert::thread_root(tx, room, pdu)?,
        notify,
    };
    let (num, position) = insert::insert(tx, room, &mut hot, &new)?;
    if let Some(current) = &decision.current {
        let root = current.store(tx, room, num)?;
        let keys = state::differing_keys(tx, room, &[hot.state, root])?;
        current::change(tx, local, room, &mut hot, (root, position), keys)?;
        redaction::apply(tx, room, pdu, num, rules)?;
        hot.extremities
            .retain(|extremity| !prev.contains(extremity));
        hot.extremities.push(num);
        hot.depth = hot.depth.max(pdu.depth());
        tx.effect(Effect::RoomChanged(room, position));
    }
    tx.room_hot()?.put(room, &hot)?;
    Ok(num)
}
