//! Whose devices a client has to look at again, and whose no longer (client-server API, "Tracking the
//! device list for a user").
//!
//! - `changed` has those of any of the user's rooms whose devices or keys changed or who have come in;
//!   and everybody in an encrypted room that is new to the user, or has become encrypted. In a room
//!   without encryption nobody's devices matter to who comes in, however many are there.
//!   And it has those whose keys the user has signed on another device: only the user sees that.
//! - `left` has those who were in a room with the user and now are in none.

use std::collections::BTreeSet;

use ruma::{OwnedUserId, UserId};
use serde::Serialize;

use super::hub::Hub;
use crate::{
    rooms::{self, Error, current, state},
    store::{
        EventNum, Position, Reader, Records, RoomNum, Rows, StateKeyNum, UserNum,
        records::{MemberRow, Membership},
    },
    users::{self, device_lists, keys::signatures},
};

const MEMBER: &str = "m.room.member";
const ENCRYPTION: &str = "m.room.encryption";

/// Of whom a client is told.
#[derive(Debug, Default, Serialize)]
pub struct DeviceLists {
    /// Whose devices are to be looked at again.
    pub changed: BTreeSet<OwnedUserId>,
    /// Whose devices do not matter any more.
    pub left: BTreeSet<OwnedUserId>,
}

impl DeviceLists {
    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.left.is_empty()
    }
}

/// Who wants to know, and what of.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Who asks.
    pub user: UserNum,
    /// The same, by user id.
    pub user_id: OwnedUserId,
    /// What happened after this position.
    pub after: Position,
    /// And up to this one.
    pub upto: Position,
}

/// The user's rooms in which somebody may have come or gone, unless there is nothing to tell at all.
///
/// # Errors
/// If the store cannot be read.
pub fn concerned(r: &impl Reader, hub: &Hub, asked: &Asked) -> Result<Option<Vec<RoomNum>>, Error> {
    if asked.after >= asked.upto {
        return Ok(None);
    }
    let rooms = match hub.rooms_after(asked.after) {
        Some(rooms) => rooms,
        None => own_rooms(r, asked.user)?,
    };
    let mut concerned = Vec::new();
    for room in rooms {
        if rooms::hot(r, room)?.state_position > asked.after
            && r.memberships()?.has((asked.user, room))?
        {
            concerned.push(room);
        }
    }
    let is_quiet = concerned.is_empty()
        && device_lists::users_between(r, asked.after, asked.upto)?.is_empty()
        && signatures::signed_between(r, asked.user, (asked.after, asked.upto))?.is_empty();
    Ok((!is_quiet).then_some(concerned))
}

fn own_rooms(r: &impl Reader, user: UserNum) -> Result<Vec<RoomNum>, Error> {
    let mut rooms = Vec::new();
    for row in r
        .memberships()?
        .range((user, RoomNum::MIN)..=(user, RoomNum::MAX))?
    {
        rooms.push(row?.0.value().1);
    }
    Ok(rooms)
}

/// What there is to tell. Grows with encrypted rooms that are new: for the pool.
///
/// # Errors
/// If the store cannot be read.
pub fn between(r: &impl Reader, asked: &Asked, rooms: &[RoomNum]) -> Result<DeviceLists, Error> {
    let mut met = Met::default();
    for room in rooms {
        if let Some(row) = r.memberships()?.load((asked.user, *room))? {
            met.in_room(r, asked, *room, &row)?;
        }
    }
    let mut lists = DeviceLists::default();
    met.came.remove(&asked.user_id);
    met.went.remove(&asked.user_id);
    for user in device_lists::users_between(r, asked.after, asked.upto)? {
        if user == asked.user {
            lists.changed.insert(asked.user_id.clone());
        } else {
            met.came.insert(users::id_of(r, user)?);
        }
    }
    for user in signatures::signed_between(r, asked.user, (asked.after, asked.upto))? {
        lists.changed.insert(users::id_of(r, user)?);
    }
    for user in met.came {
        if current::share_a_room(r, asked.user, &user)? {
            lists.changed.insert(user);
        }
    }
    for user in met.went {
        if !current::share_a_room(r, asked.user, &user)? {
            lists.left.insert(user);
        }
    }
    Ok(lists)
}

/// Who came into rooms of the user's, and who went.
#[derive(Default)]
struct Met {
    came: BTreeSet<OwnedUserId>,
    went: BTreeSet<OwnedUserId>,
}

impl Met {
    fn in_room(
        &mut self,
        r: &impl Reader,
        asked: &Asked,
        room: RoomNum,
        row: &MemberRow,
    ) -> Result<(), Error> {
        let is_in = row.membership == Membership::Join;
        let own = state::key_num(r, room, MEMBER, asked.user_id.as_str())?;
        let (came_in, went) = match own {
            Some(own) => moved(r, room, asked, own)?,
            None => (None, false),
        };
        // What happened in a room that the user was not in does not concern the user.
        if !is_in && !went {
            return Ok(());
        }
        let encrypted = state::key_num(r, room, ENCRYPTION, "")?;
        let is_encrypted = match encrypted {
            Some(key) => r.current_state()?.has((room, key))?,
            None => false,
        };
        let after = came_in.filter(|_| !is_encrypted);
        self.changes(r, asked, room, after.unwrap_or(asked.after))?;
        let is_new = match encrypted {
            Some(key) => came_in.is_some() || is_set(r, room, asked, key)?,
            None => false,
        };
        if is_encrypted && (is_new || went) {
            let members = members(r, room)?;
            let met = if is_in {
                &mut self.came
            } else {
                &mut self.went
            };
            met.extend(members);
        }
        Ok(())
    }

    /// Who came and who went after `since`.
    fn changes(
        &mut self,
        r: &impl Reader,
        asked: &Asked,
        room: RoomNum,
        since: Position,
    ) -> Result<(), Error> {
        for (position, key, before, after) in changes(r, room, asked)? {
            if position <= since {
                continue;
            }
            let (kind, state_key) = state::key_name(r, room, key)?;
            if kind != MEMBER {
                continue;
            }
            let Ok(user) = UserId::parse(&state_key) else {
                continue;
            };
            match (is_joined(r, before)?, is_joined(r, after)?) {
                (false, true) => drop(self.came.insert(user)),
                (true, false) => drop(self.went.insert(user)),
                _ => {}
            }
        }
        Ok(())
    }
}

type Change = (Position, StateKeyNum, EventNum, EventNum);

fn changes(r: &impl Reader, room: RoomNum, asked: &Asked) -> Result<Vec<Change>, Error> {
    let mut changes = Vec::new();
    let first = Position(asked.after.0 + 1);
    let log = r.state_changes()?;
    for row in log.range((room, first, StateKeyNum::MIN)..=(room, asked.upto, StateKeyNum::MAX))? {
        let (key, change) = row?;
        let (before, after) = change.value();
        let (_, position, key) = key.value();
        changes.push((position, key, before, after));
    }
    Ok(changes)
}

/// Where the member came in last, and whether they went.
fn moved(
    r: &impl Reader,
    room: RoomNum,
    asked: &Asked,
    member: StateKeyNum,
) -> Result<(Option<Position>, bool), Error> {
    let (mut came, mut went) = (None, false);
    for (position, key, before, after) in changes(r, room, asked)? {
        if key == member {
            let (was, is) = (is_joined(r, before)?, is_joined(r, after)?);
            if !was && is {
                came = Some(position);
            }
            went |= was && !is;
        }
    }
    Ok((came, went))
}

/// Whether there was nothing at `at`, and then something.
fn is_set(r: &impl Reader, room: RoomNum, asked: &Asked, at: StateKeyNum) -> Result<bool, Error> {
    let mut changes = changes(r, room, asked)?.into_iter();
    Ok(changes.any(|(_, key, before, _)| key == at && before == EventNum(0)))
}

fn is_joined(r: &impl Reader, event: EventNum) -> Result<bool, Error> {
    Ok(event != EventNum(0) && current::membership_of(r, event)? == Membership::Join)
}

fn members(r: &impl Reader, room: RoomNum) -> Result<Vec<OwnedUserId>, Error> {
    let mut members = Vec::new();
    for (user, event) in current::of_type(r, room, MEMBER)? {
        if is_joined(r, event)?
            && let Ok(user) = UserId::parse(&user)
        {
            members.push(user);
        }
    }
    Ok(members)
}
