//! History that was missing: events from before a gap in the timeline, fetched from other servers.
//!
//! First every event, and whatever they and the told states name, is stored as an outlier. Then
//! [`decide`], on the pool; then [`commit`], in a job, which puts them in their places. What the room
//! ended with before the gap is no end any more once events follow on it that lead to the gap.

use std::collections::{HashMap, HashSet};

use ruma::{EventId, room_version_rules::RoomVersionRules};

use super::{receive, redaction};
use crate::{
    protocol::Pdu,
    rooms::{
        Error, Local, event, room,
        state::{self, current, overlay::StateOverlay, resolution},
        timeline,
    },
    store::{
        Effect, EventNum, Place, Reader, Records, RoomNum, Rows, Tx,
        records::{Counts, EventHeader, Gap, RoomHeads, Status, TimelineRow},
    },
};

/// How many ids of missing events a gap holds: as many as an event may name predecessors.
const MISSING: usize = 20;

/// A stretch of history that is to come before a gap.
#[derive(Debug)]
pub struct Chunk {
    room: RoomNum,
    /// The place of the first event after the gap.
    gap: Place,
    /// The events, oldest first.
    events: Vec<Judged>,
    /// What is still missing before them.
    missing: Vec<String>,
    /// What the room ended with.
    extremities: Vec<EventNum>,
    /// What it ends with now, and its current state, if that is something else.
    current: Option<(Vec<EventNum>, StateOverlay)>,
}

#[derive(Debug)]
struct Judged {
    num: EventNum,
    pdu: Pdu,
    status: Status,
    state_before: StateOverlay,
}

impl Judged {
    fn state_after(&self) -> StateOverlay {
        let state = self.state_before.clone();
        match self.pdu.state_pair() {
            Some((kind, key)) if self.status == Status::Accepted => {
                state.with((kind.to_string(), key.to_owned()), Some(self.num))
            }
            _ => state,
        }
    }
}

/// Decides about `events`, outliers from before the gap at `gap`, each after those that it follows;
/// those that do not lead to the gap are left out. `told` is the state before those whose
/// predecessors are not here, as another server tells it.
///
/// # Errors
/// [`Error::Stale`] if there is no such gap any more; [`Error::Missing`] if a state would have to
/// be told and is not.
pub fn decide(
    r: &impl Reader,
    room: RoomNum,
    gap: Place,
    events: &[EventNum],
    told: &HashMap<EventNum, StateOverlay>,
) -> Result<Chunk, Error> {
    let rules = room::rules(r, room)?;
    let before_gap = timeline::gap(r, room, gap)?.ok_or(Error::Stale)?;
    let mut missing = before_gap.missing.clone();
    let mut judged: Vec<Judged> = Vec::new();
    for (num, pdu) in leading_to(r, rules, events, &missing)? {
        let mut states = Vec::new();
        let mut lacking = Vec::new();
        for id in pdu.prev_events() {
            match known_state_after(r, room, &judged, id)? {
                Some(state) => states.push(state),
                None => lacking.push(id.to_string()),
            }
        }
        if !lacking.is_empty() {
            states = vec![told.get(&num).cloned().ok_or(Error::Missing)?];
        }
        let state_before = resolution::resolve(r, room, rules, &states, None)?;
        let status = if !receive::is_authorized(r, room, rules, &pdu)? {
            Status::RejectedByAuthEvents
        } else if receive::is_allowed_by(r, room, rules, &pdu, &state_before)? {
            Status::Accepted
        } else {
            Status::RejectedByState
        };
        if status == Status::Accepted {
            missing.extend(lacking);
        }
        judged.push(Judged {
            num,
            pdu,
            status,
            state_before,
        });
    }
    let heads = room::heads(r, room)?;
    Ok(Chunk {
        room,
        gap,
        missing: still_missing(r, room, &judged, missing)?,
        current: current(r, (room, rules), (&heads, &before_gap), &judged)?,
        extremities: heads.extremities,
        events: judged,
    })
}

/// Those of `events` that are `missing`, or come before one that is.
fn leading_to(
    r: &impl Reader,
    rules: &RoomVersionRules,
    events: &[EventNum],
    missing: &[String],
) -> Result<Vec<(EventNum, Pdu)>, Error> {
    let mut wanted: HashSet<String> = missing.iter().cloned().collect();
    let mut leading = Vec::new();
    for num in events.iter().rev() {
        let stored = event::load(r, *num)?;
        if !stored.header.status.is_outlier() || !wanted.contains(&stored.header.id) {
            continue;
        }
        let pdu = Pdu::parse(stored.id()?, &stored.json, rules, false)
            .map_err(|_| Error::corrupt("events", *num, "not an event"))?;
        wanted.extend(pdu.prev_events().iter().map(ToString::to_string));
        leading.push((*num, pdu));
    }
    leading.reverse();
    Ok(leading)
}

/// What the room ends with and its current state with `judged` before the gap; `None` if it ends
/// with what it did.
fn current(
    r: &impl Reader,
    (room, rules): (RoomNum, &RoomVersionRules),
    (heads, gap): (&RoomHeads, &Gap),
    judged: &[Judged],
) -> Result<Option<(Vec<EventNum>, StateOverlay)>, Error> {
    let accepted = || {
        judged
            .iter()
            .filter(|judged| judged.status == Status::Accepted)
    };
    let of_stretch: HashMap<EventNum, &Judged> =
        judged.iter().map(|judged| (judged.num, judged)).collect();
    let mut open = Vec::new();
    for id in &gap.missing {
        if let Ok(id) = <&EventId>::try_from(id.as_str()) {
            open.extend(event::num_in(r, room, id)?);
        }
    }
    for judged in accepted() {
        for id in judged.pdu.prev_events() {
            open.extend(event::num_in(r, room, id)?);
        }
    }
    // Also what something follows on only behind what counts for nothing.
    let mut followed = HashSet::new();
    while let Some(num) = open.pop() {
        if !followed.insert(num) {
            continue;
        }
        match of_stretch.get(&num) {
            Some(judged) if judged.status == Status::Accepted => {}
            Some(judged) => {
                for id in judged.pdu.prev_events() {
                    open.extend(event::num_in(r, room, id)?);
                }
            }
            None => open.extend(receive::before_nothing(r, room, rules, num)?),
        }
    }
    let ends = heads
        .extremities
        .iter()
        .filter(|end| !followed.contains(end));
    let mut ends: Vec<EventNum> = ends.copied().collect();
    let mut states = Vec::new();
    for end in &ends {
        states.push(StateOverlay::after(r, *end, &event::header(r, *end)?)?);
    }
    // Those on which only follows what was rejected.
    for judged in accepted().filter(|judged| !followed.contains(&judged.num)) {
        ends.push(judged.num);
        states.push(judged.state_after());
    }
    if ends == heads.extremities || ends.is_empty() {
        return Ok(None);
    }
    let state = resolution::resolve(r, room, rules, &states, None)?;
    Ok(Some((ends, state)))
}

/// The state before the first event after the gap at `gap`: the state before every event of a
/// stretch that leads to it and changes nothing.
pub fn state_before_gap_end(
    r: &impl Reader,
    room: RoomNum,
    gap: Place,
) -> Result<StateOverlay, Error> {
    let header = event::header(r, row_at(r, room, gap)?.event)?;
    Ok(StateOverlay::of(header.state_before))
}

fn row_at(r: &impl Reader, room: RoomNum, place: Place) -> Result<TimelineRow, Error> {
    r.timeline()?
        .load((room, place))?
        .ok_or_else(|| Error::corrupt("timeline", (room, place), "missing, but a gap is before it"))
}

/// The state after an event that is here, or among those that were judged.
fn known_state_after(
    r: &impl Reader,
    room: RoomNum,
    judged: &[Judged],
    id: &EventId,
) -> Result<Option<StateOverlay>, Error> {
    let Some(num) = event::num_in(r, room, id)? else {
        return Ok(None);
    };
    let header = event::header(r, num)?;
    if !header.status.is_outlier() {
        return StateOverlay::after(r, num, &header).map(Some);
    }
    let event = judged.iter().find(|event| event.num == num);
    Ok(event.map(Judged::state_after))
}

/// Those of `missing` that are neither here nor among those that were judged.
fn still_missing(
    r: &impl Reader,
    room: RoomNum,
    judged: &[Judged],
    missing: Vec<String>,
) -> Result<Vec<String>, Error> {
    let nums: HashSet<EventNum> = judged.iter().map(|event| event.num).collect();
    let mut seen = HashSet::new();
    let mut still = Vec::new();
    for id in missing {
        let known = <&EventId>::try_from(id.as_str())
            .map_err(|_| Error::corrupt("gaps", &id, "not an event ID"))
            .and_then(|id| event::num_in(r, room, id))?;
        let here = match known {
            Some(num) => nums.contains(&num) || !event::header(r, num)?.status.is_outlier(),
            None => false,
        };
        if !here && seen.insert(id.clone()) {
            still.push(id);
        }
    }
    still.truncate(MISSING);
    Ok(still)
}

/// Puts `stretch` in its place and moves the gap before it, or closes it if nothing is missing any
/// more.
///
/// # Errors
/// [`Error::Stale`] if there is no such gap any more, or the room has moved: judge again.
pub fn commit(tx: &Tx, local: &Local, stretch: &Chunk) -> Result<(), Error> {
    let room = stretch.room;
    let mut heads = room::heads(tx, room)?;
    if heads.extremities != stretch.extremities || !tx.gaps()?.has((room, stretch.gap))? {
        return Err(Error::Stale);
    }
    let after_gap = row_at(tx, room, stretch.gap)?;
    tx.gaps()?.remove((room, stretch.gap))?;
    let before_gap = timeline::backwards(tx, room, Place(stretch.gap.0 - 1), 1)?.pop();
    // What is older than what was read already counts as read.
    let main = before_gap.map_or_else(Counts::default, |(_, row)| row.main);
    let mut place = stretch.gap;
    for judged in stretch.events.iter().rev() {
        let known = event::load(tx, judged.num)?;
        let free = Place(place.0 - 1);
        let takes_place = judged.status == Status::Accepted && !tx.timeline()?.has((room, free))?;
        if takes_place {
            place = free;
        }
        let header = EventHeader {
            status: judged.status,
            place: takes_place.then_some(place),
            position: after_gap.position,
            state_before: judged
                .state_before
                .store(tx, room, StateOverlay::UNNUMBERED)?,
            ..known.header
        };
        tx.events()?
            .insert(judged.num, event::row(&header, &known.json).as_slice())?;
        if takes_place {
            let row = TimelineRow {
                event: judged.num,
                position: after_gap.position,
                main,
                thread: None,
            };
            tx.timeline()?.put((room, place), &row)?;
        }
    }
    let rules = room::rules(tx, room)?;
    for judged in &stretch.events {
        if judged.status == Status::Accepted {
            redaction::apply(tx, room, &judged.pdu, judged.num, rules)?;
        }
    }
    if !stretch.missing.is_empty() {
        let missing = stretch.missing.clone();
        tx.gaps()?.put((room, place), &Gap { missing })?;
    }
    close_gaps(tx, room, stretch)?;
    if let Some((ends, current)) = &stretch.current {
        let root = current.store(tx, room, StateOverlay::UNNUMBERED)?;
        let keys = state::differing_keys(tx, room, &[heads.state, root])?;
        let position = tx.next_position()?;
        current::change(tx, local, room, &mut heads, (root, position), keys)?;
        heads.extremities.clone_from(ends);
        tx.room_heads()?.put(room, &heads)?;
        tx.effect(Effect::RoomChanged(room, position));
    }
    Ok(())
}

/// Takes what `stretch` brings from what is missing elsewhere.
fn close_gaps(tx: &Tx, room: RoomNum, stretch: &Chunk) -> Result<(), Error> {
    let here: HashSet<&str> = stretch
        .events
        .iter()
        .map(|judged| judged.pdu.event_id().as_str())
        .collect();
    let mut gaps = tx.gaps()?;
    let mut changed = Vec::new();
    for row in gaps.range((room, Place::MIN)..=(room, Place::MAX))? {
        let (key, gap) = row?;
        let mut gap: Gap = gap.record(&key)?;
        let before = gap.missing.len();
        gap.missing.retain(|id| !here.contains(id.as_str()));
        if gap.missing.len() < before {
            changed.push((key.value().1, gap));
        }
    }
    for (place, gap) in changed {
        if gap.missing.is_empty() {
            gaps.remove((room, place))?;
        } else {
            gaps.put((room, place), &gap)?;
        }
    }
    Ok(())
}
