//! History that was missing: events from before a gap in the timeline, fetched from other servers.
//!
//! First every event, and whatever they and the told states name, is stored as an outlier. Then
//! [`judge`], on the pool; then [`store`], in a job, which puts them in their places.

use std::collections::{HashMap, HashSet};

use ruma::EventId;

use super::{Error, event, receive, redaction, resolution, timeline, view::View};
use crate::{
    protocol::Pdu,
    store::{
        Effect, EventNum, Place, Reader, Records, RoomNum, Rows, Tx,
        records::{Counts, EventHeader, Gap, Status, TimelineRow},
    },
};

/// How many ids of missing events a gap holds: as many as an event may name predecessors.
const MISSING: usize = 20;

/// A stretch of history that is to come before a gap.
#[derive(Debug)]
pub struct Stretch {
    room: RoomNum,
    /// The place of the first event after the gap.
    gap: Place,
    /// The events, oldest first.
    events: Vec<Judged>,
    /// What is still missing before them.
    missing: Vec<String>,
}

#[derive(Debug)]
struct Judged {
    num: EventNum,
    pdu: Pdu,
    status: Status,
    state_before: View,
}

/// Decides about `events`, outliers from before the gap at `gap`, each after those that it follows.
/// `told` is the state before those whose predecessors are not here, as another server tells it; for
/// what it does not name, nothing changed up to the gap.
///
/// # Errors
/// [`Error::Stale`] if there is no such gap any more.
pub fn judge(
    r: &impl Reader,
    room: RoomNum,
    gap: Place,
    events: &[EventNum],
    told: &HashMap<EventNum, View>,
) -> Result<Stretch, Error> {
    let rules = super::rules(&super::record(r, room)?)?;
    let before_gap = timeline::gap(r, room, gap)?.ok_or(Error::Stale)?;
    let after_gap = event::header(r, row_at(r, room, gap)?.event)?;
    let mut missing: Vec<String> = before_gap.missing;
    let mut judged: Vec<Judged> = Vec::new();
    for num in events {
        let stored = event::load(r, *num)?;
        if !stored.header.status.is_outlier() {
            continue;
        }
        let pdu = Pdu::parse(stored.id()?, &stored.json, rules, false)
            .map_err(|_| Error::corrupt("an event that does not parse"))?;
        let mut states = Vec::new();
        let mut complete = true;
        for id in pdu.prev_events() {
            match state_after(r, room, &judged, id)? {
                Some(state) => states.push(state),
                None => {
                    complete = false;
                    missing.push(id.to_string());
                }
            }
        }
        if !complete {
            let told = told.get(num).cloned();
            states.push(told.unwrap_or_else(|| View::of(after_gap.state_before)));
        }
        let state_before = resolution::resolve(r, room, rules, &states, None)?;
        let status = if !receive::is_authorized(r, room, rules, &pdu)? {
            Status::RejectedByAuthEvents
        } else if receive::is_allowed_by(r, room, rules, &pdu, &state_before)? {
            Status::Accepted
        } else {
            Status::RejectedByState
        };
        judged.push(Judged {
            num: *num,
            pdu,
            status,
            state_before,
        });
    }
    Ok(Stretch {
        room,
        gap,
        missing: still_missing(r, room, &judged, missing)?,
        events: judged,
    })
}

fn row_at(r: &impl Reader, room: RoomNum, place: Place) -> Result<TimelineRow, Error> {
    r.timeline()?
        .load((room, place))?
        .ok_or(Error::corrupt("a gap before no event"))
}

/// The state after an event that is here, or among those that were judged.
fn state_after(
    r: &impl Reader,
    room: RoomNum,
    judged: &[Judged],
    id: &EventId,
) -> Result<Option<View>, Error> {
    let Some(num) = event::num_in(r, room, id)? else {
        return Ok(None);
    };
    let header = event::header(r, num)?;
    if !header.status.is_outlier() {
        return View::after(r, num, &header).map(Some);
    }
    let Some(event) = judged.iter().find(|event| event.num == num) else {
        return Ok(None);
    };
    let state = event.state_before.clone();
    Ok(Some(match event.pdu.state_pair() {
        Some((kind, key)) if event.status == Status::Accepted => {
            state.with((kind.to_string(), key.to_owned()), Some(num))
        }
        _ => state,
    }))
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
            .map_err(|_| Error::corrupt("an event id that is none"))
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
/// [`Error::Stale`] if there is no such gap any more.
pub fn store(tx: &Tx, stretch: &Stretch) -> Result<(), Error> {
    let room = stretch.room;
    let after_gap = row_at(tx, room, stretch.gap)?;
    if !tx.gaps()?.remove((room, stretch.gap))? {
        return Err(Error::Stale);
    }
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
            state_before: judged.state_before.store(tx, room, View::UNNUMBERED)?,
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
    let rules = super::rules(&super::record(tx, room)?)?;
    for judged in &stretch.events {
        if judged.status == Status::Accepted {
            redaction::apply(tx, room, &judged.pdu, judged.num, rules)?;
        }
    }
    if !stretch.missing.is_empty() {
        let missing = stretch.missing.clone();
        tx.gaps()?.put((room, place), &Gap { missing })?;
    }
    tx.effect(Effect::RoomChanged(room, after_gap.position));
    Ok(())
}
