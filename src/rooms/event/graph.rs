//! The event graph of a room, read backwards for other servers: auth chains, backfill, missing
//! events.

use std::collections::{BTreeSet, HashSet};

use ruma::{EventId, OwnedEventId, room_version_rules::RoomVersionRules};
use serde::{Deserialize, de::IgnoredAny};

use crate::{
    protocol::{Pdu, authorize::create_event, build::room_id_from_create_event},
    rooms::{
        Error, event, room,
        state::{self, current},
        timeline,
    },
    store::{
        EventNum, Place, Reader, Records, RoomNum, Rows,
        records::{EventHeader, Status},
    },
};

/// The event `id` of the room, unless it is here only out of band.
///
/// # Errors
/// [`Error::Invalid`] if it is of another room.
pub(in crate::rooms) fn find(
    r: &impl Reader,
    room: RoomNum,
    id: &EventId,
) -> Result<Option<(EventNum, EventHeader)>, Error> {
    let Some(num) = event::num_of(r, id)? else {
        return Ok(None);
    };
    let header = event::header(r, num)?;
    if header.room != room {
        return Err(Error::invalid(format!("{id} is an event of another room")));
    }
    Ok((header.status != Status::OutOfBand).then_some((num, header)))
}

/// The numbers of the auth events of `pdu`.
///
/// # Errors
/// [`Error::Missing`] if one is not here, or the room's create event is not; [`Error::Invalid`] if
/// one is of another room.
pub(in crate::rooms) fn auth_event_nums(
    r: &impl Reader,
    room: RoomNum,
    rules: &RoomVersionRules,
    pdu: &Pdu,
) -> Result<Vec<EventNum>, Error> {
    if let Some(create) = create_event(pdu, rules).filter(|id| id != pdu.event_id()) {
        find(r, room, &create)?.ok_or(Error::Missing)?;
    }
    let nums = pdu.auth_events().iter().map(|id| {
        let (num, _) = find(r, room, id)?.ok_or(Error::Missing)?;
        Ok(num)
    });
    nums.collect()
}

/// The references of an event of any room version.
#[derive(Deserialize)]
struct Links {
    depth: u64,
    prev_events: Vec<Reference>,
    auth_events: Vec<Reference>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Reference {
    Id(OwnedEventId),
    /// In room versions 1 and 2.
    WithHash(OwnedEventId, IgnoredAny),
}

fn ids_of(references: Vec<Reference>) -> Vec<OwnedEventId> {
    let ids = references.into_iter().map(|reference| match reference {
        Reference::Id(id) | Reference::WithHash(id, _) => id,
    });
    ids.collect()
}

/// The numbers of the auth events of the event `num`.
pub fn auth_events(r: &impl Reader, room: RoomNum, num: EventNum) -> Result<Vec<EventNum>, Error> {
    if let Some(row) = r.auth()?.get((room, num))? {
        let (nums, _) = row.value().as_chunks::<8>();
        let nums = nums.iter().map(|num| EventNum(u64::from_le_bytes(*num)));
        return Ok(nums.collect());
    }
    let links: Links = event::load(r, num)?.parse()?;
    known(r, room, &ids_of(links.auth_events))
}

/// The auth chain of `events`; of these only those that are in the chain of another. It has the create event
/// also where the events do not name it, since room version 12. Grows with the room: for the pool.
pub fn auth_chain(
    r: &impl Reader,
    room: RoomNum,
    events: impl IntoIterator<Item = EventNum>,
) -> Result<BTreeSet<EventNum>, Error> {
    let implied = match room_id_from_create_event(room::rules(r, room)?) {
        true => current::get(r, room, "m.room.create", "")?,
        false => None,
    };
    let mut chain = BTreeSet::new();
    let mut open: Vec<EventNum> = events.into_iter().collect();
    while let Some(num) = open.pop() {
        let implied = implied.filter(|create| *create != num);
        for num in auth_events(r, room, num)?.into_iter().chain(implied) {
            if chain.insert(num) {
                open.push(num);
            }
        }
    }
    Ok(chain)
}

/// A state with its auth chain.
#[derive(Clone, Debug)]
pub struct StateWithAuthChain {
    pub state: Vec<EventNum>,
    /// In the order in which the events were stored.
    pub auth_chain: Vec<EventNum>,
}

impl StateWithAuthChain {
    /// The state before an event; `None` if it is not known. For an event that is missing at a gap, the
    /// state before the event after the gap stands in: a server that lacks the missing event asks for it
    /// when it receives the event after the gap, and rejects that and whatever follows if it gets no
    /// answer. Grows with the room: for the pool.
    pub fn before(r: &impl Reader, room: RoomNum, id: &EventId) -> Result<Option<Self>, Error> {
        let Some(mut num) = event::num_in(r, room, id)? else {
            return Ok(None);
        };
        if event::header(r, num)?.status.is_outlier() {
            let Some(gap) = timeline::gap_of(r, room, id)? else {
                return Ok(None);
            };
            match timeline::forwards(r, room, gap, 1)?.pop() {
                Some((_, after_gap)) => num = after_gap.event,
                None => return Ok(None),
            }
        }
        let entries = state::entries(r, room, event::header(r, num)?.state_before)?;
        let state = entries.into_iter().map(|(_, event)| event).collect();
        Self::of(r, room, state, None).map(Some)
    }

    /// The state before a join, for the `send_join` response. With `omit_members` it is without the
    /// member events that are not in an auth chain.
    ///
    /// Source: server-server API, `PUT /_matrix/federation/v2/send_join/{roomId}/{eventId}`.
    pub fn before_join(
        r: &impl Reader,
        room: RoomNum,
        join: EventNum,
        omit_members: bool,
    ) -> Result<Self, Error> {
        let root = event::header(r, join)?.state_before;
        let mut state = Vec::new();
        for (key, event) in state::entries(r, room, root)? {
            if !omit_members || state::key_name(r, room, key)?.0 != "m.room.member" {
                state.push(event);
            }
        }
        let mut given = Self::of(r, room, state, Some(join))?;
        if omit_members {
            let state: HashSet<_> = given.state.iter().collect();
            given.auth_chain.retain(|event| !state.contains(event));
        }
        Ok(given)
    }

    fn of(
        r: &impl Reader,
        room: RoomNum,
        state: Vec<EventNum>,
        join: Option<EventNum>,
    ) -> Result<Self, Error> {
        let auth_chain = auth_chain(r, room, state.iter().copied().chain(join))?;
        Ok(Self {
            state,
            auth_chain: auth_chain.into_iter().collect(),
        })
    }
}

/// At most `limit` events for `/backfill`: those of `ids` that are here and their ancestors, the
/// deepest first.
pub fn backwards(
    r: &impl Reader,
    room: RoomNum,
    ids: &[OwnedEventId],
    limit: usize,
) -> Result<Vec<EventNum>, Error> {
    let mut walk = Walk::default();
    walk.add(r, room, ids)?;
    let mut found = Vec::new();
    while found.len() < limit
        && let Some((num, prev)) = walk.next()
    {
        found.push(num);
        walk.add(r, room, &prev)?;
    }
    Ok(found)
}

/// At most `limit` events for `/get_missing_events`: ancestors of `latest` that are not in
/// `earliest` or among its ancestors, and at least `min_depth` deep; the deepest last.
pub fn between(
    r: &impl Reader,
    room: RoomNum,
    earliest: &[OwnedEventId],
    latest: &[OwnedEventId],
    min_depth: u64,
    limit: usize,
) -> Result<Vec<EventNum>, Error> {
    let mut walk = Walk::default();
    for num in known(r, room, earliest)? {
        walk.seen.insert(num);
    }
    let mut found = Vec::new();
    for num in known(r, room, latest)? {
        let links: Links = event::load(r, num)?.parse()?;
        walk.add(r, room, &ids_of(links.prev_events))?;
    }
    while found.len() < limit
        && let Some((num, prev)) = walk.next_from(min_depth)
    {
        found.push(num);
        walk.add(r, room, &prev)?;
    }
    found.reverse();
    Ok(found)
}

/// The event by which this server last joined the room through another one, with its place.
pub(in crate::rooms) fn join(
    r: &impl Reader,
    room: RoomNum,
) -> Result<Option<(EventNum, Place)>, Error> {
    let join = r.joins()?.get(room)?.map(|row| row.value());
    let Some((place, _)) = join else {
        return Ok(None);
    };
    let row = r.timeline()?.load((room, place))?;
    Ok(row.map(|row| (row.event, place)))
}

/// The depth of the event by which this server last joined the room through another one; 0 if it was
/// here from the start.
pub fn join_depth(r: &impl Reader, room: RoomNum) -> Result<u64, Error> {
    let Some((num, _)) = join(r, room)? else {
        return Ok(0);
    };
    let links: Links = event::load(r, num)?.parse()?;
    Ok(links.depth)
}

/// A walk over prev_events, the deepest event first.
#[derive(Default)]
struct Walk {
    seen: HashSet<EventNum>,
    open: BTreeSet<(u64, EventNum, Vec<OwnedEventId>)>,
}

impl Walk {
    fn add(&mut self, r: &impl Reader, room: RoomNum, ids: &[OwnedEventId]) -> Result<(), Error> {
        for num in known(r, room, ids)? {
            if self.seen.insert(num) {
                let stored = event::load(r, num)?;
                if is_placed(stored.header.status) {
                    let links: Links = stored.parse()?;
                    self.open
                        .insert((links.depth, num, ids_of(links.prev_events)));
                }
            }
        }
        Ok(())
    }

    fn next(&mut self) -> Option<(EventNum, Vec<OwnedEventId>)> {
        self.next_from(0)
    }

    fn next_from(&mut self, min_depth: u64) -> Option<(EventNum, Vec<OwnedEventId>)> {
        let (depth, num, prev) = self.open.pop_last()?;
        (depth >= min_depth).then_some((num, prev))
    }
}

/// Whether other servers may get an event with this status as part of the graph.
fn is_placed(status: Status) -> bool {
    !status.is_outlier() && !status.is_rejected()
}

/// The numbers of those of `ids` that are events of the room.
fn known(r: &impl Reader, room: RoomNum, ids: &[OwnedEventId]) -> Result<Vec<EventNum>, Error> {
    let mut nums = Vec::new();
    for id in ids {
        nums.extend(event::num_in(r, room, id)?);
    }
    Ok(nums)
}
