//! What state a client has to be told of: the whole, or what changed since its last answer.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{
    OwnedUserId,
    api::client::filter::{LazyLoadOptions, RoomEventFilter},
};
use serde::Deserialize;

use super::request::StateAfter;
use crate::{
    rooms::{Error, current, event, event::StoredEvent, filter, state as room_state, view::View},
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
    /// The client's filter for state.
    pub filter: &'a RoomEventFilter,
    /// Whether the state after the timeline is wanted.
    pub after: bool,
    /// Who asks: the own membership is always told.
    pub user_id: &'a OwnedUserId,
}

impl StateAfter {
    /// Whether the state after the timeline is wanted.
    pub fn wanted(self) -> bool {
        self != Self::No
    }
}

/// The whole state, before the timeline or after it; `end` is the state where the timeline ends.
/// A client that loads members lazily and was told of the room up to `known` is told of those who
/// changed since, too.
pub fn whole(
    r: &impl Reader,
    wanted: &Wanted<'_>,
    end: View,
    known: Option<Position>,
) -> Result<Vec<StoredEvent>, Error> {
    let mut entries = end.entries(r, wanted.room)?;
    if let Some(first) = wanted.timeline.first()
        && !wanted.after
    {
        // The timeline itself tells of its own events, but not of those that its filter left out.
        let in_timeline: BTreeSet<EventNum> =
            wanted.timeline.iter().map(|event| event.num).collect();
        entries.retain(|(_, num)| !in_timeline.contains(num));
        let known: BTreeSet<StateKeyNum> = entries.iter().map(|(key, _)| *key).collect();
        let before = View::of(first.header.state_before).entries(r, wanted.room)?;
        entries.extend(before.into_iter().filter(|(key, _)| !known.contains(key)));
    }
    if lazy(wanted.filter) {
        let needed = needed_members(wanted)?;
        let all = std::mem::take(&mut entries);
        for (key, num) in all {
            let (kind, state_key) = room_state::key_name(r, wanted.room, key)?;
            let is_news = known.map(|known| Ok(event::header(r, num)?.position > known));
            if kind != MEMBER
                || needed.contains(state_key.as_str())
                || is_news.unwrap_or(Ok::<_, Error>(false))?
            {
                entries.push((key, num));
            }
        }
    }
    load(r, wanted, entries.into_iter().map(|(_, num)| num))
}

/// What changed after `since`: up to the timeline's first event, and whatever state resolution
/// changed beside it, or, where the state after the timeline is wanted, up to `upto`.
pub fn changed(
    r: &impl Reader,
    wanted: &Wanted<'_>,
    (since, upto): (Position, Position),
) -> Result<Vec<StoredEvent>, Error> {
    let mut changes: BTreeMap<StateKeyNum, EventNum> = BTreeMap::new();
    let first = wanted.timeline.first().map(|first| first.header.position);
    let in_timeline: BTreeSet<EventNum> = wanted.timeline.iter().map(|event| event.num).collect();
    let from = (
        wanted.room,
        Position(since.0.saturating_add(1)),
        StateKeyNum::MIN,
    );
    for row in r
        .state_changes()?
        .range(from..=(wanted.room, upto, StateKeyNum::MAX))?
    {
        let (key, change) = row?;
        let (_, position, key) = key.value();
        let (_, after) = change.value();
        // The timeline itself tells of its own events.
        let told = first.is_some_and(|first| position >= first) && in_timeline.contains(&after);
        if after != EventNum(0) && (wanted.after || !told) {
            changes.insert(key, after);
        }
    }
    // Members who changed are told of to clients that load members lazily, too: whoever asked for
    // the list of members once keeps it by this.
    let mut found: Vec<EventNum> = changes.into_values().collect();
    if lazy(wanted.filter) {
        found.extend(senders(r, wanted)?);
        found.sort_unstable();
        found.dedup();
    }
    load(r, wanted, found)
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

fn lazy(filter: &RoomEventFilter) -> bool {
    !matches!(filter.lazy_load_options, LazyLoadOptions::Disabled)
}

#[derive(Deserialize)]
struct Sender {
    sender: OwnedUserId,
    #[serde(rename = "type")]
    kind: String,
    state_key: Option<String>,
}

/// The users whose membership a client that loads members lazily needs: whoever wrote something
/// in the timeline, and its own user. A client that gets the state after the timeline takes no
/// state from the timeline itself, so it also needs those whose membership changes there.
fn needed_members(wanted: &Wanted<'_>) -> Result<BTreeSet<String>, Error> {
    let mut needed = BTreeSet::from([wanted.user_id.to_string()]);
    for event in wanted.timeline {
        let Sender {
            sender,
            kind,
            state_key,
        } = event.parse()?;
        needed.insert(sender.into());
        if wanted.after && kind == MEMBER {
            needed.extend(state_key);
        }
    }
    Ok(needed)
}

/// The member events of those who wrote something in the timeline, as they were before it (or are
/// now, where the state after it is wanted).
fn senders(r: &impl Reader, wanted: &Wanted<'_>) -> Result<Vec<EventNum>, Error> {
    let in_timeline: BTreeSet<EventNum> = wanted.timeline.iter().map(|event| event.num).collect();
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    for event in wanted.timeline {
        let sender = event.parse::<Sender>()?.sender;
        if !seen.insert(sender.clone()) {
            continue;
        }
        let member = if wanted.after {
            current::get(r, wanted.room, MEMBER, sender.as_str())?
        } else {
            let root = event.header.state_before;
            room_state::get_named(r, wanted.room, root, MEMBER, sender.as_str())?
        };
        found.extend(member.filter(|num| wanted.after || !in_timeline.contains(num)));
    }
    Ok(found)
}

fn load(
    r: &impl Reader,
    wanted: &Wanted<'_>,
    nums: impl IntoIterator<Item = EventNum>,
) -> Result<Vec<StoredEvent>, Error> {
    let mut events = Vec::new();
    for num in nums {
        let stored = event::load(r, num)?;
        if filter::wants(wanted.filter, &stored)? {
            events.push(stored);
        }
    }
    Ok(events)
}
