//! Which users share a room: whoever shares one may see the other's devices and presence.

use std::collections::BTreeSet;

use ruma::UserId;

use super::in_room;
use crate::{
    rooms::{
        Error,
        directory::summary,
        state::current::{
            self, MEMBER, has_joined, joined_rooms, local_members, local_membership, membership,
        },
    },
    store::{Reader, RoomNum, Rows, ServerNum, UserNum, records::Membership},
    users::{num_of, to_device::SharedRooms},
};

/// For each, up to a dozen events are read.
const MAX_SHARED_ROOMS: usize = 500;

/// The local users who are joined to `room`.
fn joined_local_members<R: Reader>(
    r: &R,
    room: RoomNum,
) -> Result<impl Iterator<Item = UserNum> + use<R>, Error> {
    let members = local_members(r, room)?.into_iter();
    let joined = members.filter(|(_, membership)| *membership == Membership::Join);
    Ok(joined.map(|(user, _)| user))
}

/// The rooms to which `user` of another server is joined.
fn rooms_of_remote_user(r: &impl Reader, user: &UserId) -> Result<Vec<RoomNum>, Error> {
    let mut joined = Vec::new();
    if let Some(server) = in_room::num(r, user.server_name())? {
        for room in in_room::rooms(r, server)? {
            if membership(r, room, user)? == Membership::Join {
                joined.push(room);
            }
        }
    }
    Ok(joined)
}

/// The local users who share a room with the local user `user`, `user` among them if in any.
pub fn local_users_sharing(r: &impl Reader, user: UserNum) -> Result<BTreeSet<UserNum>, Error> {
    let mut sharing = BTreeSet::new();
    for room in joined_rooms(r, user)? {
        sharing.extend(joined_local_members(r, room)?);
    }
    Ok(sharing)
}

/// The local users who share a room with `user` of another server.
pub fn local_users_sharing_with_remote(
    r: &impl Reader,
    user: &UserId,
) -> Result<BTreeSet<UserNum>, Error> {
    let mut sharing = BTreeSet::new();
    for room in rooms_of_remote_user(r, user)? {
        sharing.extend(joined_local_members(r, room)?);
    }
    Ok(sharing)
}

/// The local users who share a room with `user`, who may be of another server. `None` if more than
/// `max_rows` rows have to be read for that; those that were read are subtracted from it.
pub fn local_users_sharing_within(
    r: &impl Reader,
    user: UserNum,
    user_id: &UserId,
    max_rows: &mut usize,
) -> Result<Option<BTreeSet<UserNum>>, Error> {
    let mut is_too_much = || {
        let left = max_rows.checked_sub(1);
        *max_rows = left.unwrap_or(0);
        left.is_none()
    };
    let mut rooms = Vec::new();
    for row in r.memberships()?.prefix(user)? {
        if is_too_much() {
            return Ok(None);
        }
        let (key, row) = row?;
        if row.record(&key)?.membership == Membership::Join {
            rooms.push(key.value().1);
        }
    }
    if let Some(server) = in_room::num(r, user_id.server_name())? {
        for room in in_room::rooms(r, server)? {
            if is_too_much() {
                return Ok(None);
            }
            if membership(r, room, user_id)? == Membership::Join {
                rooms.push(room);
            }
        }
    }
    let mut sharing = BTreeSet::new();
    let members = r.local_members()?;
    for room in rooms {
        for row in members.prefix(room)? {
            if is_too_much() {
                return Ok(None);
            }
            let (key, membership) = row?;
            if membership.value() == Membership::Join as u8 {
                sharing.insert(key.value().1);
            }
        }
    }
    Ok(Some(sharing))
}

/// Whether any local user shares a room with `user` of another server.
pub fn any_local_user_shares(r: &impl Reader, user: &UserId) -> Result<bool, Error> {
    for room in rooms_of_remote_user(r, user)? {
        if has_joined(r, room)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The rooms to which both the local user `one` and `other` are joined, in order. Grows with the rooms of `one`:
/// to be called on the pool.
pub fn mutual_rooms(r: &impl Reader, one: UserNum, other: &UserId) -> Result<Vec<RoomNum>, Error> {
    let mut mutual = Vec::new();
    for room in joined_rooms(r, one)? {
        if membership(r, room, other)? == Membership::Join {
            mutual.push(room);
        }
    }
    Ok(mutual)
}

/// Which rooms the local user `one` shares with `other`. A room to which `one` is only invited counts as open, as
/// anybody can invite. Only the newest [`MAX_SHARED_ROOMS`] count: who shares more open rooms that are newer than
/// the first closed one counts as sharing only open rooms.
pub fn shared_with(r: &impl Reader, one: UserNum, other: &UserId) -> Result<SharedRooms, Error> {
    let (local, server) = (num_of(r, other)?, in_room::num(r, other.server_name())?);
    // Not whether they are joined: that costs reading an event.
    let may_be_joined = |room| {
        if let Some(user) = local
            && let Some(row) = local_membership(r, user, room)?
        {
            return Ok(row.membership == Membership::Join);
        }
        let has_server = match server {
            Some(server) => r.room_servers()?.has((room, server))?,
            None => false,
        };
        Ok::<_, Error>(has_server && current::get(r, room, MEMBER, other.as_str())?.is_some())
    };
    let (mut shared, mut count) = (SharedRooms::None, 0);
    for room in joined_rooms(r, one)?.into_iter().rev() {
        if count == MAX_SHARED_ROOMS {
            break;
        }
        if !may_be_joined(room)? {
            continue;
        }
        count += 1;
        if membership(r, room, other)? == Membership::Join {
            if !summary::is_open(r, room)? {
                return Ok(SharedRooms::Closed);
            }
            shared = SharedRooms::Open;
        }
    }
    if shared == SharedRooms::None && is_invited_to_room_of(r, one, other)? {
        shared = SharedRooms::Open;
    }
    Ok(shared)
}

/// Whether the local user `one` is invited to a room to which `other` is joined. The members of that room send its
/// keys to both.
fn is_invited_to_room_of(r: &impl Reader, one: UserNum, other: &UserId) -> Result<bool, Error> {
    let memberships = r.memberships()?;
    let mut count = 0;
    for row in memberships.prefix(one)? {
        let (key, row) = row?;
        if count == MAX_SHARED_ROOMS {
            break;
        }
        if row.record(&key)?.membership == Membership::Invite {
            count += 1;
            if membership(r, key.value().1, other)? == Membership::Join {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Whether the local user `one` shares a room with `other`.
pub fn share_a_room(r: &impl Reader, one: UserNum, other: &UserId) -> Result<bool, Error> {
    is_joined_to_any(r, &joined_rooms(r, one)?, other)
}

pub fn is_joined_to_any(r: &impl Reader, rooms: &[RoomNum], user: &UserId) -> Result<bool, Error> {
    for room in rooms {
        if membership(r, *room, user)? == Membership::Join {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether the local user `user` is in a room with a user of `server`.
pub fn shares_with_server(
    r: &impl Reader,
    server: ServerNum,
    user: UserNum,
) -> Result<bool, Error> {
    for room in in_room::rooms(r, server)? {
        let row = local_membership(r, user, room)?;
        if row.is_some_and(|row| row.membership == Membership::Join) {
            return Ok(true);
        }
    }
    Ok(false)
}
