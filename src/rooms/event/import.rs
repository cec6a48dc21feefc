//! Taking over a room that this server was let into by another one.
//!
//! 1. The state that the other server gives, and what authorizes it, is kept as outliers.
//! 2. [`apply_batch`] by batch the room's current state becomes the one that was given. Nobody here is in
//!    the room yet, so nobody sees it grow.
//! 3. [`commit_join`] stores the event that lets a local user in: with it the room is there.

use std::collections::BTreeMap;

use ruma::{RoomId, RoomVersionId};

use super::{
    insert::{self, Insert, Notify},
    receive, redaction,
};
use crate::{
    protocol::receive::Received,
    rooms::{
        Error, Local, event, room,
        state::{self, current, overlay},
        upgrade::user_data,
    },
    store::{
        Effect, EventNum, Place, Reader, RoomNum, StateKeyNum, Tx, UserNum,
        records::{Gap, Status},
    },
};

/// How many state events one slice lays down.
const BATCH_EVENTS: usize = 64;

/// The state that a room is to get.
#[derive(Clone, Debug)]
pub struct StateDiff(Vec<(StateKeyNum, Option<EventNum>)>);

impl StateDiff {
    /// What has to change for the current state to become `given`, all of which is here. Grows with
    /// the room: for the pool.
    pub fn new(r: &impl Reader, room: RoomNum, given: &[EventNum]) -> Result<Self, Error> {
        let mut wanted = BTreeMap::new();
        for num in given {
            let header = event::header(r, *num)?;
            if let Some(key) = header.state_key.filter(|_| !header.status.is_rejected()) {
                wanted.insert(key, *num);
            }
        }
        let mut changes = Vec::new();
        for (key, num) in state::entries(r, room, room::heads(r, room)?.state)? {
            match wanted.remove(&key) {
                Some(given) if given == num => {}
                given => changes.push((key, given)),
            }
        }
        changes.extend(wanted.into_iter().map(|(key, num)| (key, Some(num))));
        Ok(Self(changes))
    }

    /// The slices in which to lay it down.
    pub fn batches(&self) -> impl Iterator<Item = Self> {
        self.0
            .chunks(BATCH_EVENTS)
            .map(|slice| Self(slice.to_vec()))
    }
}

/// Makes the room, or prepares the one that this server was in before: without forward extremities
/// this server is not in it until [`commit_join`]. `version` is that of the verified create event; an
/// invitation or a knock may have named another one.
pub fn begin(tx: &Tx, id: &RoomId, version: &RoomVersionId) -> Result<RoomNum, Error> {
    let room = match room::num(tx, id) {
        Err(Error::UnknownRoom) => return room::create(tx, id, version),
        room => room?,
    };
    room::set_version(tx, room, version)?;
    let mut heads = room::heads(tx, room)?;
    heads.extremities.clear();
    tx.room_heads()?.put(room, &heads)?;
    Ok(room)
}

/// Lays down one slice of a diff.
pub fn apply_batch(tx: &Tx, local: &Local, room: RoomNum, diff: &StateDiff) -> Result<(), Error> {
    let mut heads = room::heads(tx, room)?;
    let mut root = heads.state;
    for (key, event) in &diff.0 {
        root = state::set(tx, room, root, *key, *event)?;
    }
    let position = tx.next_position()?;
    let keys = diff.0.iter().map(|(key, _)| *key);
    current::change(tx, local, room, &mut heads, (root, position), keys)?;
    Ok(tx.room_heads()?.put(room, &heads)?)
}

/// Stores the event by which `user` enters the room, whose current state has become the one before
/// that event.
///
/// # Errors
/// [`Error::Forbidden`] if the state does not allow it: who gave it has lied.
pub fn commit_join(
    tx: &Tx,
    local: &Local,
    room: RoomNum,
    (event, user): (&Received, UserNum),
) -> Result<(), Error> {
    let mut heads = room::heads(tx, room)?;
    let rules = room::rules(tx, room)?;
    let pdu = &event.pdu;
    let auth = receive::auth_events(tx, room, rules, pdu)?;
    let before = overlay::StateOverlay::of(heads.state);
    let is_allowed = receive::is_authorized(tx, room, rules, pdu)?
        && receive::is_allowed_by(tx, room, rules, pdu, &before)?;
    if !is_allowed {
        return Err(Error::forbidden(
            "the other server gave a state that does not let you in",
        ));
    }
    let (kind, key) = pdu
        .state_pair()
        .ok_or_else(|| Error::corrupt("events", pdu.event_id(), "a join without a state key"))?;
    let key = state::key_num_or_new(tx, room, &kind.to_string(), key)?;
    let outlier = receive::here(tx, room, pdu.event_id())?.map(|(num, _)| num);
    let missing = receive::missing(tx, room, pdu)?;
    if !missing.is_empty() && heads.last_place >= Place::FIRST {
        receive::leave_gap(&mut heads);
    }
    let new = Insert {
        id: pdu.event_id(),
        outlier,
        json: &event.json,
        status: Status::Accepted,
        state_before: heads.state,
        state_key: Some(key),
        auth: &auth,
        read_by: None,
        sent_by: None,
        thread: None,
        notify: &Notify::default(),
    };
    let (num, position) = insert::insert(tx, room, &mut heads, &new)?;
    if !missing.is_empty() {
        tx.gaps()?.put((room, heads.last_place), &Gap { missing })?;
    }
    let root = state::set(tx, room, heads.state, key, Some(num))?;
    current::change(tx, local, room, &mut heads, (root, position), [key])?;
    redaction::apply_early(tx, room, (pdu.event_id().as_str(), num), rules)?;
    heads.extremities = vec![num];
    heads.depth = heads.depth.max(pdu.depth());
    tx.room_heads()?.put(room, &heads)?;
    tx.effect(Effect::RoomChanged(room, position));
    user_data::copy(tx, user, room)
}
