//! The state of a room in a response: the full state, or what changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    vec,
};

use ruma::{OwnedUserId, api::client::filter::LazyLoadOptions};
use serde_json::value::RawValue;

use super::{event_format::format_event, lazy_members::ClientMembers, request::Request};
use crate::{
    rooms::{
        Error,
        event::{self, StoredEvent},
        state::{self as room_state, overlay::StateOverlay},
        timeline::{
            client_event::Formatter,
            filter::{self, EventFilter, VisibleChildren},
        },
    },
    store::{EventNum, Position, Reader, RoomNum, Rows, StateKeyNum},
};

pub const MEMBER: &str = "m.room.member";

/// The state that a client wants of a room.
#[derive(Debug)]
pub struct Wanted<'a> {
    pub room: RoomNum,
    /// The timeline of the response, oldest event first.
    pub timeline: &'a [StoredEvent],
    /// The state at the end of the timeline.
    pub end: &'a StateOverlay,
    pub filter: &'a EventFilter,
    /// The relations that count for the filter.
    pub children: VisibleChildren<'a>,
    /// Whether the state after the timeline is wanted, not the one before.
    pub state_after: bool,
    /// The user, whose own membership is never left out.
    pub user_id: &'a OwnedUserId,
    /// The heroes of the summary, if the response has one.
    pub heroes: &'a [OwnedUserId],
    pub lazy_loaded: &'a ClientMembers,
    /// The end of the range.
    pub upto: Position,
}

/// State by its keys.
type Entries = BTreeMap<StateKeyNum, EventNum>;

/// The full state before or after the timeline.
///
/// State before the timeline includes changes that the timeline leaves out, so that the timeline applied
/// on top gives the current state. With lazy loading, a client that knew the room up to `known_upto` also
/// gets the members who changed since.
pub fn full(
    r: &impl Reader,
    wanted: &Wanted<'_>,
    known_upto: Option<Position>,
) -> Result<Vec<EventNum>, Error> {
    let mut entries: Entries = match wanted.timeline.first() {
        Some(first) if !wanted.state_after => before(r, wanted, first)?,
        _ => wanted.end.entries(r, wanted.room)?.into_iter().collect(),
    };
    if is_lazy(wanted.filter) {
        let needed = needed_members(wanted)?;
        let all = std::mem::take(&mut entries);
        for (key, num) in all {
            let (kind, member) = room_state::key_name(r, wanted.room, key)?;
            let is_needed = kind != MEMBER
                || member == wanted.user_id.as_str()
                || needed.contains(&member)
                || is_after(r, num, known_upto)?;
            if is_needed {
                entries.insert(key, num);
            }
        }
    }
    Ok(entries.into_values().collect())
}

/// The state before `first`, with the changes up to the end that are not in the timeline.
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

/// What changed after `since` and the filter wants; without the changes in the timeline if the state before it
/// is wanted.
pub fn changed(
    r: &impl Reader,
    wanted: &Wanted<'_>,
    since: Position,
) -> Result<Vec<EventNum>, Error> {
    let mut changes = Entries::new();
    let in_timeline = in_timeline(wanted);
    for (key, event) in state_changes(r, wanted.room, since, wanted.upto)? {
        if event != EventNum(0) && (wanted.state_after || !in_timeline.contains(&event)) {
            changes.insert(key, event);
        }
    }
    // Lazy loading does not leave out changed members: a client that has fetched the list of members
    // keeps it up to date by these.
    if is_lazy(wanted.filter) {
        for (key, num) in members(r, wanted, &needed_members(wanted)?)? {
            if wants_redundant(wanted) || !wanted.lazy_loaded.has(wanted.room, key, num) {
                changes.entry(key).or_insert(num);
            }
        }
    }
    let (mut accepted, mut relations_read) = (Vec::new(), 0);
    for num in changes.into_values() {
        let stored = event::load(r, num)?;
        if filter::accepts(
            r,
            wanted.filter,
            wanted.children,
            &stored,
            &mut relations_read,
        )? {
            accepted.push(num);
        }
    }
    Ok(accepted)
}

/// The keys of the room's state that changed after `since`, up to and including `upto`, and the event
/// that each then had; event 0 if none.
pub fn state_changes(
    r: &impl Reader,
    room: RoomNum,
    since: Position,
    upto: Position,
) -> Result<Vec<(StateKeyNum, EventNum)>, Error> {
    let range = Position(since.0.saturating_add(1))..=upto;
    let mut changes = Vec::new();
    for row in r.state_changes()?.prefix_range(room, range)? {
        let (key, change) = row?;
        changes.push((key.value().2, change.value().1));
    }
    Ok(changes)
}

fn in_timeline(wanted: &Wanted<'_>) -> BTreeSet<EventNum> {
    wanted.timeline.iter().map(|event| event.num).collect()
}

pub fn members_changed(
    r: &impl Reader,
    room: RoomNum,
    since: Position,
    upto: Position,
) -> Result<bool, Error> {
    for (key, _) in state_changes(r, room, since, upto)? {
        if room_state::key_name(r, room, key)?.0 == MEMBER {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_lazy(filter: &EventFilter) -> bool {
    !matches!(filter.lazy_load_options, LazyLoadOptions::Disabled)
}

fn wants_redundant(wanted: &Wanted<'_>) -> bool {
    matches!(
        wanted.filter.lazy_load_options,
        LazyLoadOptions::Enabled {
            include_redundant_members: true
        }
    )
}

/// The users whose membership a lazily loading client needs: the heroes, the senders in the timeline,
/// and, if the timeline is not to be applied to the state, the members that it changes.
fn needed_members(wanted: &Wanted<'_>) -> Result<BTreeSet<String>, Error> {
    let mut needed: BTreeSet<String> = wanted.heroes.iter().map(ToString::to_string).collect();
    for event in wanted.timeline {
        needed.insert(event.sender()?.into());
        if wanted.state_after {
            needed.extend(event.member()?);
        }
    }
    Ok(needed)
}

fn is_after(r: &impl Reader, num: EventNum, position: Option<Position>) -> Result<bool, Error> {
    match position {
        Some(position) => Ok(event::header(r, num)?.position > position),
        None => Ok(false),
    }
}

/// The member events of `needed` before or after the timeline, as wanted.
fn members(
    r: &impl Reader,
    wanted: &Wanted<'_>,
    needed: &BTreeSet<String>,
) -> Result<Vec<(StateKeyNum, EventNum)>, Error> {
    let start = wanted.timeline.first().filter(|_| !wanted.state_after);
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

/// The members in the timeline are sent, if a client is to apply it to the state.
pub fn note_timeline_members(wanted: &Wanted<'_>) -> Result<(), Error> {
    if !wanted.state_after && is_lazy(wanted.filter) {
        for event in wanted.timeline {
            note_sent_member(wanted.lazy_loaded, wanted.room, event, wanted.upto)?;
        }
    }
    Ok(())
}

fn note_sent_member(
    lazy_loaded: &ClientMembers,
    room: RoomNum,
    event: &StoredEvent,
    upto: Position,
) -> Result<(), Error> {
    if let Some(key) = event.header.state_key
        && event.member()?.is_some()
    {
        lazy_loaded.sent(room, [(key, event.num)], (0, upto));
    }
    Ok(())
}

/// State that is loaded while the response is sent.
#[derive(Debug)]
pub struct StateEvents {
    room: RoomNum,
    nums: vec::IntoIter<EventNum>,
    formatter: Formatter,
    /// The end of the range.
    upto: Position,
    /// For the filter.
    relations_read: usize,
}

impl StateEvents {
    pub fn new(room: RoomNum, nums: Vec<EventNum>, formatter: Formatter, upto: Position) -> Self {
        Self {
            room,
            nums: nums.into_iter(),
            formatter,
            upto,
            relations_read: 0,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.nums.len() == 0
    }

    /// The next event that the filter wants, formatted. `None` at the end.
    pub fn next(
        &mut self,
        r: &impl Reader,
        request: &Request,
    ) -> Result<Option<Box<RawValue>>, Error> {
        let wanted = &request.filter.room.state;
        let children = VisibleChildren::new(r, &request.ignored, &self.formatter.visibility)?;
        for num in self.nums.by_ref() {
            let stored = event::load(r, num)?;
            if !filter::accepts(r, wanted, children, &stored, &mut self.relations_read)? {
                continue;
            }
            if is_lazy(wanted) {
                note_sent_member(&request.lazy_loaded, self.room, &stored, self.upto)?;
            }
            return format_event(r, request, &mut self.formatter, &stored).map(Some);
        }
        Ok(None)
    }
}
