//! Which other servers are in which rooms: a server is in a room if one of its users is joined.

use std::collections::BTreeSet;

use ruma::{OwnedServerName, ServerName};

use crate::{
    rooms::{Error, room, state::current},
    store::{Reader, RoomNum, Rows, ServerNum, Tx, UserNum},
};

const MAX_PRESENCE_ROOM_MEMBERS: u32 = 50;

/// Adds `by`, which may be negative, to the number of joined users of the server `name`.
pub(in crate::rooms) fn add_joined(
    tx: &Tx,
    room: RoomNum,
    name: &ServerName,
    by: i32,
) -> Result<(), Error> {
    let server = tx.server_num(name.as_str())?;
    let mut table = tx.room_servers()?;
    let before = table.get((room, server))?.map_or(0, |row| row.value());
    let after = before.saturating_add_signed(by);
    match (before, after) {
        (0, 0) => return Ok(()),
        (_, 0) => drop(table.remove((room, server))?),
        _ => drop(table.insert((room, server), after)?),
    }
    drop(table);
    match (before, after) {
        (0, _) => drop(tx.server_rooms()?.insert((server, room), ())?),
        (_, 0) => drop(tx.server_rooms()?.remove((server, room))?),
        _ => {}
    }
    Ok(())
}

/// The other servers in the room.
pub fn of_room(r: &impl Reader, room: RoomNum) -> Result<Vec<ServerNum>, Error> {
    let table = r.room_servers()?;
    table
        .prefix(room)?
        .map(|row| Ok(row?.0.value().1))
        .collect()
}

/// The other servers in the joined rooms of the local user `user`.
pub fn sharing_rooms(r: &impl Reader, user: UserNum) -> Result<BTreeSet<ServerNum>, Error> {
    let mut servers = BTreeSet::new();
    for room in current::joined_rooms(r, user)? {
        servers.extend(of_room(r, room)?);
    }
    Ok(servers)
}

/// The other servers in the small rooms of the local user `user`. In large rooms, presence is not worth its
/// traffic.
pub fn presence_recipients(r: &impl Reader, user: UserNum) -> Result<Vec<ServerNum>, Error> {
    let mut recipients = BTreeSet::new();
    for room in current::joined_rooms(r, user)? {
        if room::heads(r, room)?.joined <= MAX_PRESENCE_ROOM_MEMBERS {
            recipients.extend(of_room(r, room)?);
        }
    }
    Ok(recipients.into_iter().collect())
}

/// The names of the other servers in the room, those with the most users first.
pub fn names(r: &impl Reader, room: RoomNum) -> Result<Vec<OwnedServerName>, Error> {
    let mut servers = Vec::new();
    let table = r.room_servers()?;
    for row in table.prefix(room)? {
        let (key, users) = row?;
        servers.push((users.value(), key.value().1));
    }
    servers.sort_unstable_by(|a, b| b.cmp(a));
    servers
        .into_iter()
        .map(|(_, server)| name(r, server))
        .collect()
}

/// Whether any other server is in the room.
pub fn is_shared(r: &impl Reader, room: RoomNum) -> Result<bool, Error> {
    let table = r.room_servers()?;
    let mut rows = table.prefix(room)?;
    Ok(rows.next().transpose()?.is_some())
}

/// Whether the other server `name` is in the room.
pub fn is_in(r: &impl Reader, room: RoomNum, name: &ServerName) -> Result<bool, Error> {
    match num(r, name)? {
        Some(server) => Ok(r.room_servers()?.has((room, server))?),
        None => Ok(false),
    }
}

/// Whether the other server `name` is in any room.
pub fn is_in_any(r: &impl Reader, name: &ServerName) -> Result<bool, Error> {
    match num(r, name)? {
        Some(server) => shares_room(r, server),
        None => Ok(false),
    }
}

/// Whether a server shares a room with this one.
pub fn shares_room(r: &impl Reader, server: ServerNum) -> Result<bool, Error> {
    let table = r.server_rooms()?;
    let mut rows = table.prefix(server)?;
    Ok(rows.next().transpose()?.is_some())
}

/// The number of a server, if it has one.
pub fn num(r: &impl Reader, name: &ServerName) -> Result<Option<ServerNum>, Error> {
    let nums = r.server_nums()?;
    let server = nums.get(name.as_str())?;
    Ok(server.map(|server| server.value()))
}

/// The rooms that another server is in.
pub fn rooms(r: &impl Reader, server: ServerNum) -> Result<Vec<RoomNum>, Error> {
    let table = r.server_rooms()?;
    table
        .prefix(server)?
        .map(|row| Ok(row?.0.value().1))
        .collect()
}

/// All servers that share a room with this one, with their names.
pub fn all(r: &impl Reader) -> Result<Vec<(ServerNum, OwnedServerName)>, Error> {
    let nums = r.server_rooms()?.first_parts()?;
    nums.into_iter()
        .map(|num| Ok((num, name(r, num)?)))
        .collect()
}

/// How many they are.
pub fn count(r: &impl Reader) -> Result<usize, Error> {
    Ok(r.server_rooms()?.first_parts::<ServerNum>()?.len())
}

pub fn name(r: &impl Reader, server: ServerNum) -> Result<OwnedServerName, Error> {
    let servers = r.servers()?;
    let name = servers.get(server)?;
    let name = name.and_then(|name| OwnedServerName::try_from(name.value()).ok());
    name.ok_or_else(|| Error::corrupt("servers", server, "missing, or not a server name"))
}
