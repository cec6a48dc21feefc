//! Who was joined to which room at a position: the current members, with the later entries of the log
//! of state changes undone.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{OwnedUserId, UserId};

use super::rooms::memberships;
use crate::{
    rooms::{
        Error, room,
        state::{self, current},
    },
    store::{
        EventNum, Position, Reader, RoomNum, Rows, UserNum,
        records::{MemberRow, Membership},
    },
};

const MEMBER: &str = "m.room.member";
const ENCRYPTION: &str = "m.room.encryption";

/// A user and a range of positions for which device lists are wanted.
#[derive(Clone, Debug)]
pub struct DeviceListQuery {
    pub user: UserNum,
    pub user_id: OwnedUserId,
    /// The start of the range, exclusive.
    pub after: Position,
    /// The end of the range, inclusive.
    pub upto: Position,
}

/// When a user was joined to a room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stay {
    pub at_start: bool,
    pub at_end: bool,
    /// The user joined in the range.
    pub joined: bool,
}

impl Stay {
    fn unchanged(is_joined: bool) -> Self {
        Self {
            at_start: is_joined,
            at_end: is_joined,
            joined: false,
        }
    }
}

/// The stays in a room during a range of positions.
#[derive(Debug)]
pub struct RoomStays {
    room: RoomNum,
    /// Of the users whose membership changed after the start of the range, also after its end.
    changed: BTreeMap<OwnedUserId, Stay>,
    pub became_encrypted: bool,
}

impl RoomStays {
    /// The stays after `after` up to and including `upto`. Reads all state changes since `after`, so it
    /// belongs on the pool.
    pub fn between(
        r: &impl Reader,
        room: RoomNum,
        after: Position,
        upto: Position,
    ) -> Result<Self, Error> {
        let mut stays = Self {
            room,
            changed: BTreeMap::new(),
            became_encrypted: false,
        };
        let later = Position(after.0.saturating_add(1))..;
        for row in r.state_changes()?.prefix_range(room, later)? {
            let (at, change) = row?;
            let ((_, position, key), (before, event)) = (at.value(), change.value());
            let (kind, state_key) = state::key_name(r, room, key)?;
            if kind == MEMBER {
                if let Ok(user) = UserId::parse(state_key) {
                    let event = (position <= upto).then_some(event);
                    stays.add_change(r, user, before, event)?;
                }
            } else if kind == ENCRYPTION && position <= upto {
                stays.became_encrypted |= before == EventNum(0);
            }
        }
        Ok(stays)
    }

    /// The stays at `position` alone.
    fn at(r: &impl Reader, room: RoomNum, position: Position) -> Result<Self, Error> {
        if room::heads(r, room)?.state_position <= position {
            return Ok(Self {
                room,
                changed: BTreeMap::new(),
                became_encrypted: false,
            });
        }
        Self::between(r, room, position, position)
    }

    /// `event` replaced `before` as the member event of `user`; `None` if after the range.
    fn add_change(
        &mut self,
        r: &impl Reader,
        user: OwnedUserId,
        before: EventNum,
        event: Option<EventNum>,
    ) -> Result<(), Error> {
        let mut stay = match self.changed.get(&user) {
            Some(stay) => *stay,
            None => Stay::unchanged(is_joined(r, before)?),
        };
        if let Some(event) = event {
            let is_joined = is_joined(r, event)?;
            stay.joined |= is_joined && !stay.at_end;
            stay.at_end = is_joined;
        }
        self.changed.insert(user, stay);
        Ok(())
    }

    /// The stay of the local user `user`, whose current membership is `member`.
    pub fn of_local(&self, user: &UserId, member: &MemberRow) -> Stay {
        let unchanged = Stay::unchanged(member.membership == Membership::Join);
        self.changed.get(user).copied().unwrap_or(unchanged)
    }

    /// The users whose membership changed and whose stay fulfils `condition`.
    pub fn changed(&self, condition: impl Fn(&Stay) -> bool) -> impl Iterator<Item = &OwnedUserId> {
        let changed = self.changed.iter().filter(move |(_, stay)| condition(stay));
        changed.map(|(user, _)| user)
    }

    /// The members at one `end` of the range. Reads all members of the room.
    pub fn members(
        &self,
        r: &impl Reader,
        end: fn(&Stay) -> bool,
    ) -> Result<BTreeSet<OwnedUserId>, Error> {
        let mut members: BTreeSet<_> = self.changed(end).cloned().collect();
        for (user, event) in current::of_type(r, self.room, MEMBER)? {
            if let Ok(user) = UserId::parse(user)
                && !self.changed.contains_key(&user)
                && is_joined(r, event)?
            {
                members.insert(user);
            }
        }
        Ok(members)
    }

    fn was_member(&self, r: &impl Reader, user: &UserId) -> Result<bool, Error> {
        match self.changed.get(user) {
            Some(stay) => Ok(stay.at_start),
            None => Ok(current::membership(r, self.room, user)? == Membership::Join),
        }
    }
}

fn is_joined(r: &impl Reader, event: EventNum) -> Result<bool, Error> {
    Ok(event != EventNum(0) && current::membership_of(r, event)? == Membership::Join)
}

/// Those of `users` who shared a room with the user at the end of the range. Per room this lists the
/// members or looks up the users not found yet, whichever are fewer.
pub fn sharing(
    r: &impl Reader,
    query: &DeviceListQuery,
    mut users: BTreeSet<OwnedUserId>,
) -> Result<BTreeSet<OwnedUserId>, Error> {
    let mut sharing = BTreeSet::new();
    if users.is_empty() {
        return Ok(sharing);
    }
    for (max_members, stays) in joined_rooms(r, query)? {
        if users.is_empty() {
            break;
        }
        let found: Vec<_> = if (max_members as usize) < users.len() {
            let members = stays.members(r, |stay| stay.at_start)?;
            members.intersection(&users).cloned().collect()
        } else {
            let mut found = Vec::new();
            for user in &users {
                if stays.was_member(r, user)? {
                    found.push(user.clone());
                }
            }
            found
        };
        for user in found {
            users.remove(&user);
            sharing.insert(user);
        }
    }
    Ok(sharing)
}

/// The rooms that the user was joined to at the end of the range, each with an upper bound of its number
/// of members, the smallest first.
fn joined_rooms(r: &impl Reader, query: &DeviceListQuery) -> Result<Vec<(u32, RoomStays)>, Error> {
    let mut rooms = Vec::new();
    for (room, member) in memberships(r, query.user)? {
        if member.membership != Membership::Join && member.position <= query.upto {
            continue;
        }
        let stays = RoomStays::at(r, room, query.upto)?;
        if stays.of_local(&query.user_id, &member).at_start {
            rooms.push((state::key_count(r, room)?, stays));
        }
    }
    rooms.sort_by_key(|(max_members, _)| *max_members);
    Ok(rooms)
}
