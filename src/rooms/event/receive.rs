//! An event of another server: deciding it, and committing what was decided.
//!
//! 1. [`decide`], on a snapshot and off the thread: the state before the event, whether it is
//!    allowed, what the room's current state becomes.
//! 2. [`commit`], in a job: checks that the room has not changed since, and writes.
//!
//! If prev_events are missing, another server's account of the state before the event (its claimed
//! state) adds to what is known ([`super::claim`]). All that the event and the claimed state name
//! must be here, if only as outliers ([`super::outlier`]). An event that rests on a claim and is not
//! accepted stays an outlier, so no other event follows on it, and the claimed state before it reaches
//! none.
//!
//! An event that follows on nothing but events from before the join of this server is history, not
//! live: the room's state at the join includes it already, and resolving its old state with the
//! current one as if it were a branch would undo what came since. It stays an outlier until the events
//! between are back-filled, or until a later event refers to it. The create event is never live in a
//! room that is here.
//!
//! Events of a room are decided one at a time. If the job answers [`Error::Stale`], the event is
//! decided again. Signatures, hashes and format are checked before ([`crate::protocol::receive`]).
//!
//! Source: [Checks performed on receipt of a PDU], from step 4 on.
//!
//! [Checks performed on receipt of a PDU]: https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu

use std::{collections::BTreeMap, sync::Arc};

use ruma::{OwnedEventId, events::TimelineEventType, room_version_rules::RoomVersionRules};

pub(in crate::rooms) use super::graph::find;
use super::{
    authorize::{ParsedEvents, allowed},
    claim::{is_decided, undecided},
    commit::{self, Claim, Commit, LiveEnd, Placement},
    graph::auth_event_nums,
    insert::Notify,
    states::States,
};
use crate::{
    protocol::{Pdu, reference::has_hash},
    rooms::{
        Error, Local, event, policy_server, room,
        state::{self, current, overlay::StateOverlay, resolution::Unnumbered},
    },
    store::{
        EventNum, NodeNum, Position, Reader, RoomNum, Tx,
        records::{RoomHeads, Status},
    },
};

/// What was decided about an event of another server.
#[derive(Debug)]
pub struct Decision {
    room: RoomNum,
    pdu: Arc<Pdu>,
    json: Vec<u8>,
    decided_on: DecidedOn,
    /// The extremities that the event supersedes.
    superseded: Vec<EventNum>,
    /// The prev_events that are not here, and the claimed state if there are any.
    missing: Vec<String>,
    claimed: Option<StateOverlay>,
    auth: Vec<EventNum>,
    status: Status,
    state_before: StateOverlay,
    /// The room's current state with the event.
    current: StateOverlay,
    relay: bool,
}

/// What of a room a decision rests on.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::rooms) struct DecidedOn {
    extremities: Vec<EventNum>,
    state: NodeNum,
}

impl DecidedOn {
    pub(in crate::rooms) fn of(heads: &RoomHeads) -> Self {
        Self {
            extremities: heads.extremities.clone(),
            state: heads.state,
        }
    }

    /// # Errors
    /// [`Error::Stale`] if the room has changed since.
    pub(in crate::rooms) fn check(&self, heads: &RoomHeads) -> Result<(), Error> {
        if *self == Self::of(heads) {
            Ok(())
        } else {
            Err(Error::Stale)
        }
    }
}

impl Decision {
    /// The status that the event gets.
    pub fn status(&self) -> Status {
        self.status
    }

    /// The same, of an event that this server sends on to the other servers in the room.
    pub fn with_relay(self) -> Self {
        Self {
            relay: true,
            ..self
        }
    }
}

/// Decides about `pdu`, whose `json` is of this room and has passed the checks of its own.
/// `claimed` is the state before it as another server has it.
///
/// # Errors
/// [`Error::Missing`] if an auth event is not here, or a prev_event and there is no claimed state;
/// [`Error::Invalid`] if it names an event of another room.
pub fn decide(
    r: &impl Reader,
    room: RoomNum,
    pdu: Arc<Pdu>,
    json: Vec<u8>,
    claimed: Option<StateOverlay>,
) -> Result<Decision, Error> {
    let rules = room::rules(r, room)?;
    let heads = room::heads(r, room)?;
    let (pdu, json) = first_body(r, room, rules, pdu, json)?;
    let auth = auth_event_nums(r, room, rules, &pdu)?;
    check_create_event(r, room, &pdu)?;
    let graph = States::new(r, room, rules);
    let (prev, missing) = graph.prev_events(&pdu)?;
    let current = StateOverlay::of(heads.state);
    let claimed = claimed.filter(|_| !missing.is_empty());
    let claimed = claimed
        .map(|claimed| undecided(r, room, &current, claimed, Position::MAX))
        .transpose()?;
    let (is_live, is_news, state_before);
    if pdu.prev_events().is_empty() {
        // The create event, which is here if anything is.
        is_live = heads.extremities.is_empty();
        is_news = true;
        state_before = StateOverlay::default();
    } else {
        is_live = prev.is_empty() || !graph.since_join(&prev)?.is_empty();
        let known = graph.known_before(&prev, missing.is_empty(), || Ok(current.clone()))?;
        state_before = match &claimed {
            None if !missing.is_empty() => return Err(Error::Missing),
            None => known.clone(),
            Some(claimed) => graph.known(known.clone()).with_news(claimed)?,
        };
        let num = find(r, room, pdu.event_id())?.map(|(num, _)| num);
        is_news = match num {
            Some(num) if is_decided(r, num, Position::MAX)? => false,
            num => graph.is_news(&pdu, num, &prev, &graph.known(known), &state_before)?,
        };
    }
    // With a claim, the state before the event is the current one with what is news: the sender may have
    // joined in the gap.
    let checked_in = claimed.as_ref().map_or(&current, |_| &state_before);
    let mut status = check(r, room, rules, &pdu, &state_before, checked_in)?;
    if status == Status::Accepted
        && is_live
        && policy_server::missing_signature(r, room, rules, &pdu, &json)?.is_some()
    {
        status = Status::SoftFailed;
    }
    let is_accepted = status == Status::Accepted && is_live;
    let rests_on_claim =
        !missing.is_empty() || !(is_accepted && is_news) && graph.depend_on_claim(&prev)?;
    if status == Status::Accepted && (!is_live || rests_on_claim && !is_news) {
        status = Status::SoftFailed;
    }
    // No other event follows on it then, and it is decided again when one is to.
    let stays_outlier = !is_live || rests_on_claim;
    let mut decision = Decision {
        room,
        decided_on: DecidedOn::of(&heads),
        superseded: Vec::new(),
        missing,
        claimed,
        auth,
        status,
        state_before,
        current,
        relay: false,
        pdu,
        json,
    };
    match status {
        Status::Accepted => {
            decision.superseded = graph.superseded(prev.clone())?;
            decision.current = current_state_with(&graph, &heads, &prev, &decision)?;
        }
        Status::RejectedByAuthEvents if !is_live || !decision.missing.is_empty() => {
            decision.status = Status::RejectedOutlier;
        }
        Status::RejectedByAuthEvents => {}
        _ if stays_outlier => decision.status = Status::Outlier,
        _ => {}
    }
    Ok(decision)
}

/// The event as it came first, if it is here as an outlier. In room versions whose event ids are no hashes its
/// server may have given another event the same id: the first one stays.
fn first_body(
    r: &impl Reader,
    room: RoomNum,
    rules: &'static RoomVersionRules,
    pdu: Arc<Pdu>,
    json: Vec<u8>,
) -> Result<(Arc<Pdu>, Vec<u8>), Error> {
    if !has_hash(rules) {
        return Ok((pdu, json));
    }
    let Some((num, _)) = find(r, room, pdu.event_id())? else {
        return Ok((pdu, json));
    };
    let stored = event::load(r, num)?;
    let first = Pdu::parse(stored.id()?, &stored.json, rules, false)?;
    Ok((Arc::new(first), stored.json))
}

/// The room's current state with the accepted event: resolved from the states after all that the
/// room ends with then.
fn current_state_with<R: Reader>(
    graph: &States<'_, R>,
    heads: &RoomHeads,
    prev: &[EventNum],
    decision: &Decision,
) -> Result<StateOverlay, Error> {
    // An outlier has its number, under which it may stand in a claimed state.
    let outlier = find(graph.r, graph.room, decision.pdu.event_id())?;
    let num = outlier.map_or(StateOverlay::UNNUMBERED, |(num, _)| num);
    let after = decision.state_before.clone();
    let after = after.with_event(&decision.pdu, num);
    let mut ends = heads.extremities.clone();
    ends.retain(|num| !decision.superseded.contains(num));
    let mut states = Vec::new();
    for num in &ends {
        states.push(graph.after(*num)?);
    }
    states.push(after);
    let new = (num == StateOverlay::UNNUMBERED).then(|| Unnumbered {
        pdu: decision.pdu.clone(),
        auth: decision.auth.clone(),
    });
    let resolved = graph.resolve_with(&states, new)?;
    graph.keep_known(resolved, &states, |index| match ends.get(index) {
        Some(end) => graph.depend_on_claim(&[*end]),
        None => Ok(!decision.missing.is_empty() || graph.depend_on_claim(prev)?),
    })
}

/// Steps 4 to 6: the event is checked by its auth events, by the state before it and by the room's
/// current state, or what that is with the event's claim.
fn check(
    r: &impl Reader,
    room: RoomNum,
    rules: &'static RoomVersionRules,
    pdu: &Pdu,
    before: &StateOverlay,
    current: &StateOverlay,
) -> Result<Status, Error> {
    let events = ParsedEvents::new(r, room, rules);
    let Some(authorized) = allowed(pdu, events.authorize(pdu))? else {
        return Ok(Status::RejectedByAuthEvents);
    };
    if !authorized.is_allowed_by(before)? {
        return Ok(Status::RejectedByState);
    }
    if !authorized.is_allowed_by(current)? {
        return Ok(Status::SoftFailed);
    }
    Ok(Status::Accepted)
}

/// The state of the room that another server claims, all of whose events are here. Rejected events
/// are left out. The create event is always the room's. Grows with the room: for the pool.
///
/// # Errors
/// [`Error::Missing`] if an event is not here; [`Error::Invalid`] if the ids are no state of the
/// room.
pub fn claimed_state(
    r: &impl Reader,
    room: RoomNum,
    ids: &[OwnedEventId],
) -> Result<StateOverlay, Error> {
    let mut entries = BTreeMap::new();
    for id in ids {
        let (num, header) = find(r, room, id)?.ok_or(Error::Missing)?;
        let key = header.state_key;
        let key = key.ok_or_else(|| Error::invalid(format!("{id} is no state event")))?;
        if !header.status.is_rejected() && entries.insert(key, num).is_some() {
            return Err(Error::invalid(format!(
                "{id} is the second of its state key"
            )));
        }
    }
    if let (Some(key), Some(create)) = (
        state::key_num(r, room, "m.room.create", "")?,
        current::get(r, room, "m.room.create", "")?,
    ) {
        entries.insert(key, create);
    }
    let current = StateOverlay::of(room::heads(r, room)?.state);
    current.with_entries(r, room, entries)
}

/// The ids of the prev_events of `pdu` that are not here, or only as outliers.
pub fn missing(
    r: &impl Reader,
    room: RoomNum,
    rules: &'static RoomVersionRules,
    pdu: &Pdu,
) -> Result<Vec<String>, Error> {
    Ok(States::new(r, room, rules).prev_events(pdu)?.1)
}

/// # Errors
/// [`Error::Invalid`] if `pdu` is a create event and the room has another.
pub(in crate::rooms) fn check_create_event(
    r: &impl Reader,
    room: RoomNum,
    pdu: &Pdu,
) -> Result<(), Error> {
    if *pdu.event_type() == TimelineEventType::RoomCreate
        && let Some(create) = current::get(r, room, "m.room.create", "")?
        && event::id(r, create)? != pdu.event_id()
    {
        return Err(Error::invalid("the room has another create event"));
    }
    Ok(())
}

/// Commits what was decided, unless the room has changed since. Nothing happens if the event is
/// here already.
///
/// # Errors
/// [`Error::Stale`] if the room has changed: decide again.
pub fn commit(
    tx: &Tx,
    local: &Local,
    decision: &Decision,
    notify: &Notify,
) -> Result<EventNum, Error> {
    let Decision { room, pdu, .. } = decision;
    let room = *room;
    let mut heads = room::heads(tx, room)?;
    if let Some((num, header)) = find(tx, room, pdu.event_id())?
        && !header.status.is_outlier()
    {
        return Ok(num);
    }
    decision.decided_on.check(&heads)?;
    let known_upto = heads.last_place;
    let claim = |state| Claim { state, known_upto };
    let claimed = decision.claimed.as_ref().map(claim);
    let empty = StateOverlay::default();
    let (state_before, placement) = if decision.status.is_outlier() {
        (&empty, Placement::Outlier)
    } else {
        let end = LiveEnd {
            local,
            heads: &mut heads,
            missing: &decision.missing,
            known_upto: Some(known_upto),
            current: &decision.current,
            superseded: &decision.superseded,
            relay: decision.relay,
            sent_by: None,
            notify,
        };
        (&decision.state_before, Placement::LiveEnd(end))
    };
    let new = Commit {
        pdu,
        json: &decision.json,
        rules: room::rules(tx, room)?,
        status: decision.status,
        auth: &decision.auth,
        state_before,
        claimed: claimed.filter(|_| decision.status == Status::Accepted),
        placement,
    };
    Ok(commit::commit(tx, room, new)?.num)
}
