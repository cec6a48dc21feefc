//! Back-filling: events from before a gap in the timeline, fetched from other servers.
//!
//! First each event, and whatever it and the claimed states name, is stored as an outlier. Then
//! [`decide`], on the pool, and [`commit`], in a job, which puts the events before the gap and moves
//! or closes it. What rests on claims after the gap is derived again ([`super::rederive`]). An
//! extremity from before the gap is none any more once events that follow on it lead to the gap:
//! the states after the gap are derived from its state then.
//!
//! The claimed state before an event adds to what is known ([`super::claim`]). An event that is not
//! accepted and rests on a claim stays an outlier, and stays missing.
//!
//! If the server was in the room before the gap, the events in it are checked as if they had been
//! received there: soft-failed if neither the current state before the event after the gap allows
//! them nor the one with it.

use std::collections::{BTreeSet, HashMap, HashSet};

use ruma::{EventId, OwnedEventId};

use super::{
    commit::{self, BeforeGap, Claim, Commit, Placement},
    graph::{auth_event_nums, find},
    receive::DecidedOn,
    rederive::{Derivation, GapEvent, Rederived},
    states::{Derived, States},
};
use crate::{
    protocol::Pdu,
    rooms::{
        Error, Local, event, room,
        state::{current, overlay::StateOverlay},
        timeline::{self, gaps},
    },
    store::{
        EventNum, Place, Position, Reader, Records, RoomNum, Rows, Tx,
        records::{Counts, Gap, GapOpened, Status, TimelineRow},
    },
};

/// How many ids of missing events a gap holds: as many as an event may have prev_events.
const MAX_MISSING: usize = 20;

/// Among how many events is looked for those that follow on one.
const MAX_LOOKED_BACK: usize = 1000;

/// How many events are decided at once.
const MAX_CHUNK_EVENTS: usize = 300;

/// Decided events that come before a gap.
#[derive(Debug)]
pub struct Chunk {
    room: RoomNum,
    decided_on: DecidedOn,
    /// The place of the first event after the gap.
    gap: Place,
    opened: Option<GapOpened>,
    /// The events, oldest first.
    events: Vec<Decided>,
    /// The events that are still missing before them.
    missing: Vec<String>,
    rederived: Rederived,
    /// The room's extremities and current state, if either is another now.
    heads: Option<(Vec<EventNum>, StateOverlay)>,
}

#[derive(Debug)]
struct Decided {
    num: EventNum,
    event: Derived,
    /// The claimed state before it, if prev_events are missing.
    claimed: Option<StateOverlay>,
}

/// Decides about the outliers that lead to the gap at `gap`. `claimed` has the states before those
/// whose prev_events are not here, as another server has them; an event that needs one and has none
/// stays missing.
///
/// # Errors
/// [`Error::Stale`] if there is no such gap any more.
pub fn decide(
    r: &impl Reader,
    room: RoomNum,
    gap: Place,
    claimed: &HashMap<EventNum, StateOverlay>,
) -> Result<Chunk, Error> {
    let rules = room::rules(r, room)?;
    let heads = room::heads(r, room)?;
    let Gap {
        mut missing,
        opened,
    } = timeline::gap(r, room, gap)?.ok_or(Error::Stale)?;
    let received_in = match opened {
        Some(opened) => vec![
            current::before(r, room, opened.position)?,
            current::before(r, room, Position(opened.position.0 + 1))?,
        ],
        None => Vec::new(),
    };
    let mut derivation = Derivation::new(States::new(r, room, rules), opened, received_in)?;
    let mut leading = leading_to(&derivation.states, &missing)?;
    loop {
        let mut waiting = Vec::new();
        let count = leading.len();
        for (num, pdu) in leading {
            let (_, lacking) = derivation.states.prev_events(&pdu)?;
            let claimed = claimed.get(&num).filter(|_| !lacking.is_empty());
            let is_known = claimed.is_some() || lacking.is_empty();
            if !is_known || !derivation.add(num, pdu.clone(), claimed.cloned())? {
                waiting.push((num, pdu));
            }
            missing.extend(lacking);
        }
        // The events that were added may have settled what the others wait for.
        if waiting.is_empty() || waiting.len() == count {
            break;
        }
        leading = waiting;
    }
    if opened.is_some() {
        // It stays missing, and nobody has anything from before it.
        let create = current::get(r, room, "m.room.create", "")?;
        let create = create.map(|num| event::id(r, num)).transpose()?;
        missing.retain(|id| create.as_ref().is_none_or(|create| create != id));
    }
    let rederived = derivation.result()?;
    let Derivation {
        states, gap_events, ..
    } = derivation;
    let mut events = Vec::new();
    for GapEvent { num, claimed } in gap_events {
        let event = states.derived[&num].clone();
        events.push(Decided {
            num,
            event,
            claimed,
        });
    }
    let new = events.iter().filter(|_| opened.is_some());
    let heads_now = new_heads(&states, &heads.extremities, &rederived, new)?;
    Ok(Chunk {
        room,
        gap,
        opened,
        missing: still_missing(&states, missing)?,
        heads: heads_now,
        decided_on: DecidedOn::of(&heads),
        events,
        rederived,
    })
}

/// The outliers that are `missing`, or come before one that is, each after its prev_events.
fn leading_to<R: Reader>(
    states: &States<'_, R>,
    missing: &[String],
) -> Result<Vec<(EventNum, Pdu)>, Error> {
    enum Step {
        Visit(OwnedEventId),
        Add(EventNum, Pdu),
    }
    let ids = missing.iter().filter_map(|id| EventId::parse(id).ok());
    let mut steps: Vec<Step> = ids.map(Step::Visit).collect();
    let (mut seen, mut leading) = (HashSet::new(), Vec::new());
    while let Some(step) = steps.pop() {
        match step {
            Step::Add(num, pdu) => leading.push((num, pdu)),
            Step::Visit(id) => {
                let found = find(states.r, states.room, &id)?;
                if let Some((num, header)) = found
                    && header.status.is_outlier()
                    && seen.len() < MAX_CHUNK_EVENTS
                    && seen.insert(num)
                {
                    let pdu = states.pdu(num)?;
                    let prev: Vec<_> = pdu.prev_events().to_vec();
                    steps.push(Step::Add(num, pdu));
                    steps.extend(prev.into_iter().map(Step::Visit));
                }
            }
        }
    }
    Ok(leading)
}

/// Those of `missing` whose place is not known.
fn still_missing<R: Reader>(
    states: &States<'_, R>,
    missing: Vec<String>,
) -> Result<Vec<String>, Error> {
    let mut seen = HashSet::new();
    let mut still = Vec::new();
    for id in missing {
        let event_id = <&EventId>::try_from(id.as_str())
            .map_err(|_| Error::corrupt("gaps", &id, "not an event ID"))?;
        if states.placed(event_id)?.is_none() && seen.insert(id.clone()) {
            still.push(id);
        }
    }
    still.truncate(MAX_MISSING);
    Ok(still)
}

/// The room's extremities and current state with `new` events in a gap; `None` if they are what they
/// were. What comes before the join of this server is not in `new`: it has led to the state that the
/// server was given then.
fn new_heads<'a, R: Reader>(
    states: &States<'_, R>,
    extremities: &[EventNum],
    rederived: &Rederived,
    new: impl Iterator<Item = &'a Decided>,
) -> Result<Option<(Vec<EventNum>, StateOverlay)>, Error> {
    let accepted: Vec<&Decided> = new
        .filter(|decided| decided.event.status == Status::Accepted)
        .collect();
    let mut prev = rederived.followed.clone();
    for decided in &accepted {
        prev.extend(states.prev_events(&decided.event.pdu)?.0);
    }
    let followed = followed(states, &prev)?;
    let (mut ends, mut replacing) = (Vec::new(), Vec::new());
    for end in extremities.iter().filter(|end| !followed.contains(end)) {
        if states.status(*end)? == Status::Accepted {
            ends.push(*end);
            continue;
        }
        // In the place of an extremity that is rejected now comes what is before it.
        for num in states.superseded(vec![*end])? {
            if states.status(num)? == Status::Accepted && !states.is_before_join(num)? {
                replacing.push(num);
            }
        }
    }
    // Those that are rejected no more.
    for (num, status, _) in &rederived.changed {
        let was_accepted = event::header(states.r, *num)?.status == Status::Accepted;
        if *status == Status::Accepted && !was_accepted && !followed.contains(num) {
            replacing.push(*num);
        }
    }
    // Events on which only those follow that are not here, or rejected.
    let new = accepted.iter().map(|decided| decided.num);
    ends.extend(new.filter(|num| !followed.contains(num)));
    replacing.retain(|num| !ends.contains(num));
    if !replacing.is_empty() {
        let superseded = followed_by_any(states, &ends, &replacing)?;
        replacing.retain(|num| !superseded.contains(num));
        replacing.sort_unstable();
        replacing.dedup();
        ends.append(&mut replacing);
    }
    let is_unchanged = rederived.changed.is_empty() && rederived.settled.is_empty();
    if ends.is_empty() || ends == extremities && is_unchanged {
        return Ok(None);
    }
    let after = states.after_each(&ends)?;
    let state = states.resolve_after(&ends, &after)?;
    Ok(Some((ends, state)))
}

/// Those of `nums` on which others of them or `ends` follow. Looked for is among the events between
/// alone: if they are too many, the oldest of `nums` have long been followed.
fn followed_by_any<R: Reader>(
    states: &States<'_, R>,
    ends: &[EventNum],
    nums: &[EventNum],
) -> Result<HashSet<EventNum>, Error> {
    let place = |num: EventNum| Ok::<_, Error>(event::header(states.r, num)?.place);
    let mut oldest = Place::MAX;
    for num in nums {
        oldest = oldest.min(place(*num)?.unwrap_or(Place::MIN));
    }
    // By place, newest first. Events without a place are new or without effect.
    let mut open = BTreeSet::new();
    for num in ends.iter().chain(nums) {
        open.insert((place(*num)?.unwrap_or(Place::MAX), *num));
    }
    let (mut seen, mut followed) = (HashSet::new(), HashSet::new());
    while let Some((_, num)) = open.pop_last() {
        if seen.len() == MAX_LOOKED_BACK {
            followed.extend(nums.iter().filter(|num| !seen.contains(*num)));
            break;
        }
        if !seen.insert(num) {
            continue;
        }
        for prev in states.prev_events(&states.pdu(num)?)?.0 {
            let at = place(prev)?.unwrap_or(Place::MAX);
            if nums.contains(&prev) {
                followed.insert(prev);
            }
            if at >= oldest && !seen.contains(&prev) {
                open.insert((at, prev));
            }
        }
    }
    Ok(followed)
}

/// `prev`, and what comes before those of them that are new in the timeline or without effect.
fn followed<R: Reader>(
    states: &States<'_, R>,
    prev: &[EventNum],
) -> Result<HashSet<EventNum>, Error> {
    let mut open = prev.to_vec();
    let mut followed = HashSet::new();
    while let Some(num) = open.pop() {
        if !followed.insert(num) {
            continue;
        }
        let is_new = event::header(states.r, num)?.status.is_outlier();
        if is_new || states.status(num)? != Status::Accepted {
            open.extend(states.prev_events(&states.pdu(num)?)?.0);
        }
    }
    Ok(followed)
}

/// The state before the first event after the gap at `gap`: the state before each of the events
/// that lead to it, if they are in a line and no state events.
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

/// Puts the events of `chunk` in their places, and moves the gap before them, or closes it if
/// nothing is missing any more. Whether the gap is another one now.
///
/// # Errors
/// [`Error::Stale`] if there is no such gap any more, or the room has changed: decide again.
pub fn commit(tx: &Tx, local: &Local, chunk: &Chunk) -> Result<bool, Error> {
    let room = chunk.room;
    chunk.decided_on.check(&room::heads(tx, room)?)?;
    let before = timeline::gap(tx, room, chunk.gap)?.ok_or(Error::Stale)?;
    gaps::remove(tx, room, chunk.gap)?;
    let rules = room::rules(tx, room)?;
    let after_gap = row_at(tx, room, chunk.gap)?;
    let before_gap = timeline::backwards(tx, room, Place(chunk.gap.0 - 1), 1)?.pop();
    // What is older than what was read counts as read.
    let counts = before_gap.map_or_else(Counts::default, |(_, row)| row.main);
    let (places, first) = places(tx, chunk)?;
    for (decided, place) in chunk.events.iter().zip(places) {
        let Decided {
            num,
            event:
                Derived {
                    pdu,
                    status,
                    state_before,
                },
            claimed,
        } = decided;
        let claim = |state| {
            let known_upto = chunk.opened?.known_upto;
            Some(Claim { state, known_upto })
        };
        let new = Commit {
            pdu,
            json: &event::load(tx, *num)?.json,
            rules,
            status: *status,
            auth: &auth_event_nums(tx, room, rules, pdu)?,
            state_before,
            claimed: match status {
                Status::Accepted => claimed.as_ref().and_then(claim),
                _ => None,
            },
            placement: Placement::BeforeGap(BeforeGap {
                place,
                after_gap: &after_gap,
                counts,
            }),
        };
        commit::commit(tx, room, new)?;
    }
    let gap = Gap {
        missing: chunk.missing.clone(),
        opened: chunk.opened,
    };
    gaps::put(tx, room, first, &gap)?;
    close_gaps(tx, chunk)?;
    chunk.rederived.commit(tx, room)?;
    if let Some((extremities, state)) = &chunk.heads {
        let state = state.store(tx, room, StateOverlay::UNNUMBERED)?;
        commit::commit_heads(tx, local, room, extremities.clone(), state)?;
    }
    Ok(!chunk.events.is_empty() || chunk.missing != before.missing)
}

/// The place of each event of `chunk` that is accepted, counted down from the gap, and the first of
/// the places. If the free places are used up, events stand in the graph only.
fn places(tx: &Tx, chunk: &Chunk) -> Result<(Vec<Option<Place>>, Place), Error> {
    let timeline = tx.timeline()?;
    let mut first = chunk.gap;
    let mut places = Vec::new();
    for decided in chunk.events.iter().rev() {
        let free = Place(first.0 - 1);
        let has_place =
            decided.event.status == Status::Accepted && !timeline.has((chunk.room, free))?;
        if has_place {
            first = free;
        }
        places.push(has_place.then_some(free));
    }
    places.reverse();
    Ok((places, first))
}

/// Removes the events of `chunk` from what is missing at other gaps.
fn close_gaps(tx: &Tx, chunk: &Chunk) -> Result<(), Error> {
    for decided in &chunk.events {
        let id = decided.event.pdu.event_id();
        for place in gaps::gaps_of(tx, chunk.room, id)? {
            if let Some(mut gap) = timeline::gap(tx, chunk.room, place)? {
                gap.missing.retain(|missing| missing != id.as_str());
                gaps::put(tx, chunk.room, place, &gap)?;
            }
        }
    }
    Ok(())
}
