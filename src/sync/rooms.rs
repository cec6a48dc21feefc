//! The rooms of a response: which ones may have changed, and what each of them shows.

use std::collections::BTreeMap;

use ruma::OwnedRoomId;
use serde_json::{json, value::to_raw_value};

use super::{
    changes::Changes,
    request::{Request, SyncRange},
    room_update::{self, Content},
    stripped_state,
};
use crate::{
    rooms::{
        Error,
        deletion::left_rooms::{self, LeftRoom},
        event, room,
        timeline::filter::RoomFilter,
        typing::Typing,
    },
    store::{
        EventNum, Place, Position, Reader, Records, RoomNum, Rows, UserNum,
        records::{MemberRow, Membership},
    },
    users::account_data,
};

/// Up to so many rooms, and a range of so many positions, are read on the thread; more on the pool.
const MAX_ROOMS_ON_THREAD: usize = 4;
const MAX_POSITIONS_ON_THREAD: u64 = 256;

/// The part of `rooms` in a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    Join,
    Invite,
    Knock,
    Leave,
}

impl Section {
    pub fn name(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::Invite => "invite",
            Self::Knock => "knock",
            Self::Leave => "leave",
        }
    }
}

/// A room that may have changed.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub section: Section,
    pub room: RoomNum,
    /// The user's membership.
    pub member: MemberRow,
}

/// A room in a response.
#[derive(Debug)]
pub struct RoomUpdate {
    pub section: Section,
    pub room_id: OwnedRoomId,
    pub content: Content,
}

/// The rooms that may have changed, ordered by section.
pub fn candidates(
    r: &impl Reader,
    changes: &Changes,
    request: &Request,
    range: SyncRange,
) -> Result<Vec<Candidate>, Error> {
    let mut candidates = Vec::new();
    let mut add = |room, member: MemberRow, deleted: Option<LeftRoom>| -> Result<(), Error> {
        let Some(section) = section_of(request, range, &member) else {
            return Ok(());
        };
        let id = match deleted {
            Some(left) => left.id,
            None => room::id(r, room)?,
        };
        if wants_room(&request.filter.room, &id) {
            candidates.push(Candidate {
                section,
                room,
                member,
            });
        }
        Ok(())
    };
    match (&changes.rooms, range.since) {
        (Some(rooms), Some(since)) => {
            let mut rooms = rooms.clone();
            if changes.own {
                let (user, end) = (request.user, range.end.stored);
                let changed = account_data::changes_between(r, user, since.position, end)?;
                rooms.extend(changed.iter().map(|(room, _)| *room));
            }
            rooms.remove(&account_data::GLOBAL);
            for room in rooms {
                if let Some(member) = membership(r, request.user, room)? {
                    add(room, member, None)?;
                } else if let Some(left) = left_rooms::load(r, request.user, room)? {
                    add(room, membership_in(&left), Some(left))?;
                }
            }
        }
        _ => {
            for (room, member) in memberships(r, request.user)? {
                add(room, member, None)?;
            }
            // A client that syncs for the first time has none of them.
            let left = match range.since {
                Some(_) => left_rooms::of_user(r, request.user)?,
                None => Vec::new(),
            };
            for room in left {
                if let Some(left) = left_rooms::load(r, request.user, room)? {
                    add(room, membership_in(&left), Some(left))?;
                }
            }
        }
    }
    candidates.sort_by_key(|candidate| candidate.section);
    Ok(candidates)
}

/// The membership in a deleted room, of which nothing is shown but that the user has left it.
fn membership_in(left: &LeftRoom) -> MemberRow {
    MemberRow {
        membership: Membership::Leave,
        event: EventNum::MIN,
        position: left.position,
        since: Place::MIN,
        forgotten: true,
    }
}

/// The user's membership of a room that is here.
pub fn membership(
    r: &impl Reader,
    user: UserNum,
    room: RoomNum,
) -> Result<Option<MemberRow>, Error> {
    match r.memberships()?.load((user, room))? {
        Some(member) if r.rooms()?.has(room)? => Ok(Some(member)),
        _ => Ok(None),
    }
}

/// The user's memberships of rooms that are here.
pub fn memberships(r: &impl Reader, user: UserNum) -> Result<Vec<(RoomNum, MemberRow)>, Error> {
    let (rooms, mut memberships) = (r.rooms()?, Vec::new());
    for row in r.memberships()?.prefix(user)? {
        let (key, member) = row?;
        let room = key.value().1;
        if rooms.has(room)? {
            memberships.push((room, member.record(&key)?));
        }
    }
    Ok(memberships)
}

fn section_of(request: &Request, range: SyncRange, member: &MemberRow) -> Option<Section> {
    let since = range.since.map_or(Position::MIN, |since| since.position);
    let is_new = member.position > since && member.position <= range.end.stored;
    match member.membership {
        Membership::Join => Some(Section::Join),
        Membership::Invite => is_new.then_some(Section::Invite),
        Membership::Knock => is_new.then_some(Section::Knock),
        Membership::Leave | Membership::Ban => {
            let is_full = range.since.is_none() || request.full_state;
            let is_archived = is_full && request.filter.room.include_leave && !member.forgotten;
            // Also if the user has forgotten the room on another device.
            let is_newly_left = range.since.is_some() && is_new;
            (is_newly_left || is_archived).then_some(Section::Leave)
        }
    }
}

fn wants_room(filter: &RoomFilter, room: &OwnedRoomId) -> bool {
    !filter.not_rooms.contains(room)
        && filter
            .rooms
            .as_ref()
            .is_none_or(|rooms| rooms.contains(room))
}

/// The update of `candidate`, if there is any.
pub fn update(
    r: &impl Reader,
    typing: &Typing,
    request: &Request,
    range: SyncRange,
    candidate: &Candidate,
) -> Result<Option<RoomUpdate>, Error> {
    let Candidate {
        section,
        room,
        member,
    } = candidate;
    if !r.room_heads()?.has(*room)? {
        // It has been deleted, perhaps after it became a candidate.
        let left = left_rooms::load(r, request.user, *room)?;
        let left =
            left.filter(|left| *section == Section::Leave && left.position <= range.end.stored);
        return left.map(deleted).transpose();
    }
    let content = match section {
        Section::Join => room_update::joined(r, request, range, *room, member.clone(), typing)?,
        Section::Leave => room_update::left(r, request, range, *room, member.clone())?,
        Section::Invite if is_by_ignored_user(r, request, member)? => None,
        Section::Invite => Some(stripped(r, request, "invite_state", candidate)?),
        Section::Knock => Some(stripped(r, request, "knock_state", candidate)?),
    };
    let Some(content) = content else {
        return Ok(None);
    };
    Ok(Some(RoomUpdate {
        section: *section,
        room_id: room::id(r, *room)?,
        content,
    }))
}

/// The leave of a room that has been deleted.
fn deleted(left: LeftRoom) -> Result<RoomUpdate, Error> {
    let content = json!({ "timeline": { "events": [left.event], "limited": true } });
    let content = to_raw_value(&content);
    let content = content.map_err(|_| Error::not_serializable("a deleted room"))?;
    Ok(RoomUpdate {
        section: Section::Leave,
        room_id: left.id,
        content: Content::Whole(content),
    })
}

/// Whether the sender of the invite is a user whom the user ignores, or whose invites they ignore.
fn is_by_ignored_user(
    r: &impl Reader,
    request: &Request,
    member: &MemberRow,
) -> Result<bool, Error> {
    let sender = event::load(r, member.event)?.sender()?;
    Ok(request.ignored.contains(&sender) || request.invites.ignores(&sender))
}

fn stripped(
    r: &impl Reader,
    request: &Request,
    field: &str,
    candidate: &Candidate,
) -> Result<Content, Error> {
    let Candidate { room, member, .. } = candidate;
    let events = stripped_state::load(r, *room, request.user, &request.user_id, member.event)?;
    let stripped = BTreeMap::from([(field, BTreeMap::from([("events", events)]))]);
    let json = to_raw_value(&stripped);
    let json = json.map_err(|_| Error::not_serializable("stripped state"))?;
    Ok(Content::Whole(json))
}

/// Whether the updates of `candidates` are read fast enough to be read on the thread: few rooms, in
/// which the user has been all the time, a short range, and no filter by relations.
pub fn is_fast(candidates: &[Candidate], filter: &RoomFilter, range: SyncRange) -> bool {
    let since = range.since.map_or(Position::MIN, |since| since.position);
    let filters = [&filter.timeline, &filter.state];
    candidates.len() <= MAX_ROOMS_ON_THREAD
        && filters.iter().all(|filter| filter.related_by.is_empty())
        && range.end.stored.0.saturating_sub(since.0) <= MAX_POSITIONS_ON_THREAD
        && candidates
            .iter()
            .all(|candidate| candidate.member.position <= since)
}
