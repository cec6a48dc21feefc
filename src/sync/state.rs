//! What state a client has to be told of: the whole, or what changed since its last answer.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{
    OwnedUserId,
    api::client::filter::{LazyLoadOptions, RoomEventFilter},
};

use super::{lazy_members::OfDevice, request::StateAfter};
use crate::{
    rooms::{
        Error,
        event::{self, StoredEvent},
        state::{self as room_state, overlay::StateOverlay},
        timeline::filter,
    },
    store::{EventNum, Position, Reader, RoomNum, Rows, StateKeyNum},
};

const MEMBER: &str = "m.room.member";

/// What is to be told of one room's state.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// The room.
    pub room: RoomNum,
    /// Its timeline in this answer, oldest first.
    pub timeline: &'a [StoredEvent],
    /// The state where the timeline ends.
    pub end: &'a StateOverlay,
    /// The client's filter for state.
    pub filter: &'a RoomEventFilter,
    /// Whether the state after the timeline is wanted.
    pub after: bool,
    /// Who asks: the own membership is always told.
    pub user_id: &'a OwnedUserId,
    /// Members of whom the room's name is made, if that is told.
    pub heroes: &'a [OwnedUserId],
    /// Which members the client knows.
    pub known: &'a OfDevice,
    /// Where the answer ends.
    pub upto: Position,
}

impl StateAfter {
    /// Whether the state after the timeline is wanted.
    pub fn wanted(self) -> bool {
        self != Self::No
    }
}

/// State by its keys.
type Entries = BTreeMap<StateKeyNum, EventNum>;

/// The whole state, before the timeline or after it.
///
/// The state before the timeline has also what the timeline leaves out up to its end: a client
/// that lays the timeline over it has the room's state. A client that loads members lazily and was
/// told of the room up to `known` is told of those who changed since, too.
pub fn whole(
    r: &impl Reader,
    wanted: &Wanted<'_>,
    known: Option<Position>,
) -> Result<Vec<StoredEvent>, Error> {
    let mut entries: Entries = match wanted.timeline.first() {
        Some(first) if !wanted.after => before(r, wanted, first)?,
        _ => wanted.end.entries(r, wanted.room)?.into_iter().collect(),
    };
    if lazy(wanted) {
        let needed = needed_members(wanted)?;
        let all = std::mem::take(&mut entries);
        for (key, num) in all {
            let (kind, member) = room_state::key_name(r, wanted.room, key)?;
            let is_needed = kind != MEMBER
                || member == wanted.user_id.as_str()
                || needed.contains(&member)
                || is_after(r, num, known)?;
            if is_needed {
                entries.insert(key, num);
            }
        }
    }
    load(r, wanted, entries)
}

/// The state before `first`, with the changes up to the end of which the timeline does not tell.
fn before(r: &impl Reader, wanted: &Wanted<'_>, first: &StoredEvent) -> Result<Entries, Error> {
    let start = first.header.state_before;
    let state = room_state::entries(r, wanted.room, start)?;
    let mut entries: Entries = state.into_iter().collect();
    let in_timeline = in_timeline(wanted);
    let roots = [start, wanted.end.base()];
    let mut differing = room_state::differing_keys(r, wanted.room, &roots)?;
    for (kind, state_key) in wanted.end.changed() {
        differing.extend(room_state::key_num(r, wanted.room, kind, state_key)?);
    }
    for key in differing {
        let (kind, state_key) = room_state::key_name(r, wanted.room, key)?;
        let end = wanted.end.get(r, wanted.room, &kind, &state_key)?;
        if let Some(event) = end.filter(|event| !in_timeline.contains(event)) {
            entries.insert(key, event);
        }
    }
    Ok(entries)
}

/// What changed after `since`: as far as the timeline does not tell of it, or, where the state
/// after the timeline is wanted, all of it.
pub fn changed(
    r: &impl Reader,
    wanted: &Wanted<'_>,
    since: Position,
) -> Result<Vec<StoredEvent>, Error> {
    let mut changes = Entries::new();
    let in_timeline = in_timeline(wanted);
    let from = (
        wanted.room,
        Position(since.0.saturating_add(1)),
        StateKeyNum::MIN,
    );
    for row in r
        .state_changes()?
        .range(from..=(wanted.room, wanted.upto, StateKeyNum::MAX))?
    {
        let (key, change) = row?;
        let (_, _, key) = key.value();
        let (_, after) = change.value();
        if after != EventNum(0) && (wanted.after || !in_timeline.contains(&after)) {
            changes.insert(key, after);
        }
    }
    // Members who changed are told of to clients that load members lazily, too: whoever asked for
    // the list of members once keeps it by this.
    if lazy(wanted) {
        for (key, num) in members(r, wanted, &needed_members(wanted)?)? {
            if redundant(wanted) || !wanted.known.has(wanted.room, key, num) {
                changes.entry(key).or_insert(num);
            }
        }
    }
    load(r, wanted, changes)
}

fn in_timeline(wanted: &Wanted<'_>) -> BTreeSet<EventNum> {
    wanted.timeline.iter().map(|event| event.num).collect()
}

/// Whether somebody's membership changed in between.
pub fn members_changed(
    r: &impl Reader,
    room: RoomNum,
    (since, upto): (Position, Position),
) -> Result<bool, Error> {
    let from = (room, Position(since.0.saturating_add(1)), StateKeyNum::MIN);
    for row in r
        .state_changes()?
        .range(from..=(room, upto, StateKeyNum::MAX))?
    {
        let (_, _, key) = row?.0.value();
        if room_state::key_name(r, room, key)?.0 == MEMBER {
            return Ok(true);
        }
    }
    Ok(false)
}

fn lazy(wanted: &Wanted<'_>) -> bool {
    !matches!(wanted.filter.lazy_load_options, LazyLoadOptions::Disabled)
}

/// Whether the client wants to be told of members again whom it knows.
fn redundant(wanted: &Wanted<'_>) -> bool {
    matches!(
        wanted.filter.lazy_load_options,
        LazyLoadOptions::Enabled {
            include_redundant_members: true
        }
    )
}

/// The users whose membership a client that loads members lazily needs: whoever wrote something
/// in the timeline, and of whom the room's name is made; where the timeline is not to be taken for
/// state, also those whose membership it changes.
fn needed_members(wanted: &Wanted<'_>) -> Result<BTreeSet<String>, Error> {
    let mut needed: BTreeSet<String> = wanted.heroes.iter().map(ToString::to_string).collect();
    for event in wanted.timeline {
        needed.insert(event.sender()?.into());
        if wanted.after {
            needed.extend(event.member()?);
        }
    }
    Ok(needed)
}

fn is_after(r: &impl Reader, num: EventNum, known: Option<Position>) -> Result<bool, Error> {
    match known {
        Some(known) => Ok(event::header(r, num)?.position > known),
        None => Ok(false),
    }
}

/// The member events of `needed` before the timeline, or after it, where that is wanted; those
/// who came in with the timeline are told of by it.
fn members(
    r: &impl Reader,
    wanted: &Wanted<'_>,
    needed: &BTreeSet<String>,
) -> Result<Vec<(StateKeyNum, EventNum)>, Error> {
    let start = wanted.timeline.first().filter(|_| !wanted.after);
    let start = start.map(|first| StateOverlay::of(first.header.state_before));
    let state = start.as_ref().unwrap_or(wanted.end);
    let mut found = Vec::new();
    for user in needed {
        if let Some(key) = room_state::key_num(r, wanted.room, MEMBER, user)?
            && let Some(event) = state.get(r, wanted.room, MEMBER, user)?
        {
            found.push((key, event));
        }
    }
    Ok(found)
}

/// The events that the filter wants. The client knows those of members from then on.
fn load(r: &impl Reader, wanted: &Wanted<'_>, entries: Entries) -> Result<Vec<StoredEvent>, Error> {
    let mut events = Vec::new();
    for num in entries.into_values() {
        let stored = event::load(r, num)?;
        if filter::accepts(wanted.filter, &stored)? {
            events.push(stored);
        }
    }
    if lazy(wanted) {
        remember(wanted, &events)?;
    }
    Ok(events)
}

/// Notes the members whom the client is told of by the state, and then by the timeline.
fn remember(wanted: &Wanted<'_>, state: &[StoredEvent]) -> Result<(), Error> {
    let mut told = Vec::new();
    let timeline = wanted.timeline.iter().filter(|_| !wanted.after);
    for event in state.iter().chain(timeline) {
        if let Some(key) = event.header.state_key
            && event.member()?.is_some()
        {
            told.push((key, event.num));
        }
    }
    wanted.known.told(wanted.room, told, wanted.upto);
    Ok(())
}
