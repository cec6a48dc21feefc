//! Import of a send_join response: taking over a room that another server let this one into.
//!
//! 1. The state in the response and its auth chain are kept as outliers.
//! 2. In [`StateDiff::batches`], each applied by [`apply_batch`], the room's current state becomes
//!    the one in the response, or gets the news in it if this server was in the room before. Nobody
//!    here is in the room yet, so nobody sees it change.
//! 3. [`commit_join`] commits the event by which a local user joins. From then on the room is here.

use std::collections::BTreeMap;

use ruma::{RoomId, RoomVersionId};

use super::{
    authorize::ParsedEvents,
    claim::undecided,
    commit::{self, Commit, LiveEnd, Placement},
    graph::auth_event_nums,
    insert::Notify,
    receive, state_change,
    states::States,
};
use crate::{
    protocol::{Pdu, receive::Received},
    rooms::{
        Error, Local, blocked_rooms, event, room,
        state::{self, overlay::StateOverlay},
        timeline::gaps,
    },
    store::{
        EventNum, Position, Reader, RoomNum, Rows, StateKeyNum, Tx,
        records::{Gap, Status},
    },
};

/// How many changes of state one job applies.
const BATCH_EVENTS: usize = 64;

/// The entries that a room's current state gets.
#[derive(Clone, Debug)]
pub struct StateDiff(Vec<(StateKeyNum, EventNum)>);

impl StateDiff {
    /// What changes in the current state with the state `given` in the response, whose events are
    /// all here. If this server was in the room before, the response is a claim ([`super::claim`]): it
    /// adds to what was known at the leave. Grows with the room: for the pool.
    ///
    /// # Errors
    /// [`Error::Forbidden`] if the new state does not allow `join`.
    pub fn new(
        r: &impl Reader,
        room: RoomNum,
        given: &[EventNum],
        join: &Pdu,
    ) -> Result<Self, Error> {
        let mut claimed = BTreeMap::new();
        for num in given {
            let header = event::header(r, *num)?;
            if let Some(key) = header.state_key.filter(|_| !header.status.is_rejected()) {
                claimed.insert(key, *num);
            }
        }
        let known = StateOverlay::of(room::heads(r, room)?.state);
        if known == StateOverlay::default() {
            return Ok(Self(claimed.into_iter().collect()));
        }
        let claimed = known.with_entries(r, room, claimed)?;
        let claimed = undecided(r, room, &known, claimed, Position::MAX)?;
        let states = States::new(r, room, room::rules(r, room)?);
        let state = states.known(known).partial().with_news(&claimed)?;
        check_join(r, room, join, &state)?;
        let mut news = Vec::new();
        for (kind, state_key) in state.changed() {
            let key = state::key_num(r, room, kind, state_key)?;
            let num = state.get(r, room, kind, state_key)?;
            news.extend(key.zip(num));
        }
        Ok(Self(news))
    }

    /// The changes in pieces for one job each.
    pub fn batches(&self) -> impl Iterator<Item = Self> {
        self.0
            .chunks(BATCH_EVENTS)
            .map(|slice| Self(slice.to_vec()))
    }
}

/// Makes the room, or prepares the one that this server was in before: without forward extremities
/// this server is not in it until [`commit_join`]. `version` is that of the verified create event; an
/// invitation or a knock may have named another one.
///
/// # Errors
/// [`Error::Forbidden`] if the room has been blocked meanwhile, or is being deleted.
pub fn begin(tx: &Tx, id: &RoomId, version: &RoomVersionId) -> Result<RoomNum, Error> {
    blocked_rooms::check(tx, id)?;
    let room = match room::num(tx, id) {
        Err(Error::UnknownRoom) => return room::create(tx, id, version),
        room => room?,
    };
    room::set_version(tx, room, version)?;
    let mut heads = room::heads(tx, room)?;
    heads.extremities.clear();
    tx.room_heads()?.put(room, &heads)?;
    forget_claims(tx, room)?;
    Ok(room)
}

/// The states after the join come from the response, so they are not derived again when gaps from
/// before the join are filled.
fn forget_claims(tx: &Tx, room: RoomNum) -> Result<(), Error> {
    let (mut claims, mut gaps) = (Vec::new(), Vec::new());
    for row in tx.claimed_states()?.prefix(room)? {
        claims.push(row?.0.value().1);
    }
    for num in claims {
        tx.claimed_states()?.remove((room, num))?;
    }
    for row in tx.gaps()?.prefix(room)? {
        let (key, gap) = row?;
        gaps.push((key.value().1, gap.record(&key)?));
    }
    for (place, gap) in gaps {
        let opened = None;
        gaps::put(tx, room, place, &Gap { opened, ..gap })?;
    }
    Ok(())
}

/// Applies one batch of changes to the current state.
pub fn apply_batch(tx: &Tx, local: &Local, room: RoomNum, diff: &StateDiff) -> Result<(), Error> {
    room::check_found(tx, room)?;
    let mut heads = room::heads(tx, room)?;
    let mut root = heads.state;
    for (key, event) in &diff.0 {
        root = state::set(tx, room, root, *key, Some(*event))?;
    }
    let position = tx.next_position()?;
    state_change::set_current_state(tx, local, room, &mut heads, root, position)?;
    Ok(tx.room_heads()?.put(room, &heads)?)
}

fn check_join(
    r: &impl Reader,
    room: RoomNum,
    join: &Pdu,
    before: &StateOverlay,
) -> Result<(), Error> {
    let events = ParsedEvents::new(r, room, room::rules(r, room)?);
    if events.allows(join, before)? {
        Ok(())
    } else {
        let error = "the state of the room, as far as it is known, does not let you in";
        Err(Error::forbidden(error))
    }
}

/// Commits the event by which a local user joins the room, whose current state has become the state
/// before that event.
///
/// # Errors
/// [`Error::Forbidden`] if that state does not allow the event: the other server has lied.
pub fn commit_join(tx: &Tx, local: &Local, room: RoomNum, event: &Received) -> Result<(), Error> {
    let mut heads = room::heads(tx, room)?;
    let rules = room::rules(tx, room)?;
    let pdu = &event.pdu;
    let auth = auth_event_nums(tx, room, rules, pdu)?;
    let before = StateOverlay::of(heads.state);
    check_join(tx, room, pdu, &before)?;
    let current = before.clone().with_event(pdu, StateOverlay::UNNUMBERED);
    let superseded = heads.extremities.clone();
    let new = Commit {
        pdu,
        json: &event.json,
        rules,
        status: Status::Accepted,
        auth: &auth,
        state_before: &before,
        claimed: None,
        placement: Placement::LiveEnd(LiveEnd {
            local,
            heads: &mut heads,
            missing: &receive::missing(tx, room, rules, pdu)?,
            known_upto: None,
            current: &current,
            superseded: &superseded,
            relay: false,
            sent_by: None,
            notify: &Notify::default(),
        }),
    };
    let join = commit::commit(tx, room, new)?;
    if let Some(place) = event::header(tx, join.num)?.place {
        tx.joins()?.insert(room, (place, join.position))?;
    }
    Ok(())
}
