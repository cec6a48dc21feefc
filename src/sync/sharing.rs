//! Who is in which room at a position: those who are in it now, with what changed after the position
//! taken back by the log of state changes. The snapshot that is read may be later than the answer.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{OwnedUserId, UserId};

use super::device_lists::Asked;
use crate::{
    rooms::{
        Error, room,
        state::{self, current},
    },
    store::{
        EventNum, Position, Reader, RoomNum, Rows, StateKeyNum,
        records::{MemberRow, Membership},
    },
};

const MEMBER: &str = "m.room.member";
const ENCRYPTION: &str = "m.room.encryption";

/// How somebody was in a room at the ends of a range, and in between.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stay {
    /// Whether they were in it where the range begins.
    pub was_in: bool,
    /// Whether they were in it where the range ends.
    pub is_in: bool,
    /// Whether they came in between, from wherever they had been before.
    pub came: bool,
}

/// What happened in a room in a range.
#[derive(Debug, Default)]
pub struct Moves {
    /// How those were in it whose membership changed after the range began, also after its end.
    stays: BTreeMap<OwnedUserId, Stay>,
    /// Whether it became encrypted.
    pub was_encrypted: bool,
}

impl Moves {
    /// What happened in `room` after `after`, up to and including `upto`. Grows with what changed
    /// since: for the pool.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn between(
        r: &impl Reader,
        room: RoomNum,
        (after, upto): (Position, Position),
    ) -> Result<Self, Error> {
        let mut moves = Self::default();
        let first = Position(after.0.saturating_add(1));
        let log = r.state_changes()?;
        let since = (room, first, StateKeyNum::MIN)..=(room, Position::MAX, StateKeyNum::MAX);
        for row in log.range(since)? {
            let (at, change) = row?;
            let ((_, position, key), change) = (at.value(), change.value());
            let (kind, state_key) = state::key_name(r, room, key)?;
            if kind == MEMBER {
                if let Ok(user) = UserId::parse(state_key) {
                    moves.member(r, user, change, position <= upto)?;
                }
            } else if kind == ENCRYPTION && position <= upto {
                moves.was_encrypted |= change.0 == EventNum(0);
            }
        }
        Ok(moves)
    }

    /// What happened after `position`: everybody's stay is as it was then.
    fn since(r: &impl Reader, room: RoomNum, position: Position) -> Result<Self, Error> {
        if room::heads(r, room)?.state_position <= position {
            return Ok(Self::default());
        }
        Self::between(r, room, (position, position))
    }

    fn member(
        &mut self,
        r: &impl Reader,
        user: OwnedUserId,
        (before, after): (EventNum, EventNum),
        within: bool,
    ) -> Result<(), Error> {
        let mut stay = match self.stays.get(&user) {
            Some(stay) => *stay,
            None => {
                let was_in = is_joined(r, before)?;
                Stay {
                    was_in,
                    is_in: was_in,
                    came: false,
                }
            }
        };
        if within {
            let is_in = is_joined(r, after)?;
            stay.came |= is_in && !stay.is_in;
            stay.is_in = is_in;
        }
        self.stays.insert(user, stay);
        Ok(())
    }

    /// How the local user `user`, who stands to the room as `row` says now, was in it.
    pub fn stay_of(&self, user: &UserId, row: &MemberRow) -> Stay {
        self.stays.get(user).copied().unwrap_or_else(|| {
            let is_in = row.membership == Membership::Join;
            Stay {
                was_in: is_in,
                is_in,
                came: false,
            }
        })
    }

    /// Those who moved, and how.
    pub fn moved(&self, how: impl Fn(&Stay) -> bool) -> impl Iterator<Item = &OwnedUserId> {
        let moved = self.stays.iter().filter(move |(_, stay)| how(stay));
        moved.map(|(user, _)| user)
    }

    /// Who was in the room at one `end` of the range. Grows with the room.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn members(
        &self,
        r: &impl Reader,
        room: RoomNum,
        end: fn(&Stay) -> bool,
    ) -> Result<BTreeSet<OwnedUserId>, Error> {
        let mut members: BTreeSet<_> = self.moved(end).cloned().collect();
        for (user, event) in current::of_type(r, room, MEMBER)? {
            if let Ok(user) = UserId::parse(user)
                && !self.stays.contains_key(&user)
                && is_joined(r, event)?
            {
                members.insert(user);
            }
        }
        Ok(members)
    }

    fn was_in(&self, r: &impl Reader, room: RoomNum, user: &UserId) -> Result<bool, Error> {
        match self.stays.get(user) {
            Some(stay) => Ok(stay.was_in),
            None => Ok(current::membership(r, room, user)? == Membership::Join),
        }
    }
}

fn is_joined(r: &impl Reader, event: EventNum) -> Result<bool, Error> {
    Ok(event != EventNum(0) && current::membership_of(r, event)? == Membership::Join)
}

/// A room that a user was in at a position.
struct SharedRoom {
    room: RoomNum,
    /// An upper bound of how many members it has.
    size: u32,
    /// What happened after the position.
    later: Moves,
}

/// Those of `users` who were in a room with who asks, at `asked.upto`. A room costs what is less: to
/// list its members, or to look for everybody who has not been found in a smaller one.
///
/// # Errors
/// If the store cannot be read.
pub fn sharing(
    r: &impl Reader,
    asked: &Asked,
    mut users: BTreeSet<OwnedUserId>,
) -> Result<BTreeSet<OwnedUserId>, Error> {
    let mut found = BTreeSet::new();
    if users.is_empty() {
        return Ok(found);
    }
    for SharedRoom { room, size, later } in rooms_of(r, asked)? {
        if users.is_empty() {
            break;
        }
        let here = if (size as usize) < users.len() {
            let members = later.members(r, room, |stay| stay.was_in)?;
            members.intersection(&users).cloned().collect()
        } else {
            let mut here = Vec::new();
            for user in &users {
                if later.was_in(r, room, user)? {
                    here.push(user.clone());
                }
            }
            here
        };
        for user in here {
            users.remove(&user);
            found.insert(user);
        }
    }
    Ok(found)
}

/// The rooms that who asks was in at `asked.upto`, the smallest first.
fn rooms_of(r: &impl Reader, asked: &Asked) -> Result<Vec<SharedRoom>, Error> {
    let mut rooms = Vec::new();
    for row in r
        .memberships()?
        .range((asked.user, RoomNum::MIN)..=(asked.user, RoomNum::MAX))?
    {
        let (key, row) = row?;
        let (room, row) = (key.value().1, row.value().unpack()?);
        if row.membership != Membership::Join && row.position <= asked.upto {
            continue;
        }
        let later = Moves::since(r, room, asked.upto)?;
        if later.stay_of(&asked.user_id, &row).was_in {
            let size = state::key_count(r, room)?;
            rooms.push(SharedRoom { room, size, later });
        }
    }
    rooms.sort_by_key(|room| room.size);
    Ok(rooms)
}
