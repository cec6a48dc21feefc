//! Announcing the device list of a local user who joins a room: servers that shared no room with the
//! user before have no device list of theirs. They get the last change once more and see from its
//! `prev_id` that they lack the others (server-server API, "Device Management").

use ruma::UserId;

use crate::{
    rooms::Error,
    store::{Reader, RoomNum, Rows, Tx, UserNum, records::Membership},
    users::device_lists,
};

/// The most look-ups of whether a server is in another room of the user. A user with more rooms and
/// servers counts as new to a server.
const MAX_LOOKUPS: usize = 1000;

/// To be called in the transaction in which the local user `user` joins `room`.
pub(in crate::rooms) fn user_joined(tx: &Tx, room: RoomNum, user: &UserId) -> Result<(), Error> {
    let user = tx.user_num(user.as_str())?;
    if is_new_to_a_server(tx, room, user)? {
        device_lists::reannounce(tx, user)?;
    }
    Ok(())
}

/// Whether a server in `room` is in no other joined room of `user`.
fn is_new_to_a_server(r: &impl Reader, room: RoomNum, user: UserNum) -> Result<bool, Error> {
    let servers = r.room_servers()?;
    let mut left = MAX_LOOKUPS;
    let memberships = r.memberships()?;
    'servers: for row in servers.prefix(room)? {
        let (_, server) = row?.0.value();
        for row in memberships.prefix(user)? {
            let Some(fewer) = left.checked_sub(1) else {
                return Ok(true);
            };
            left = fewer;
            let (key, row) = row?;
            let other = key.value().1;
            if other != room
                && servers.has((other, server))?
                && row.record(&key)?.membership == Membership::Join
            {
                continue 'servers;
            }
        }
        return Ok(true);
    }
    Ok(false)
}
