//! Local users who join a room in which servers are that know nothing of their devices: these are told of
//! the last change once more, from which they see that they lack the others (server-server API, "Device
//! Management").
//!
//! Called by [`current`](crate::rooms::state::current) where somebody joins, in the same job.

use ruma::UserId;

use crate::{
    rooms::Error,
    store::{Reader, RoomNum, Rows, ServerNum, Tx, UserNum, records::Membership},
    users::device_lists,
};

/// How often it is looked up whether a server is in a room too. Who is in so many rooms with so many
/// servers is taken for new to one of them.
const LOOKED_UP: usize = 1000;

/// After the local user `user` has joined `room`.
pub(in crate::rooms) fn has_joined(tx: &Tx, room: RoomNum, user: &UserId) -> Result<(), Error> {
    let user = tx.user_num(user.as_str())?;
    if is_new_to_somebody(tx, room, user)? {
        device_lists::reannounce(tx, user)?;
    }
    Ok(())
}

/// Whether a server in `room` is in no other room that `user` is in.
fn is_new_to_somebody(r: &impl Reader, room: RoomNum, user: UserNum) -> Result<bool, Error> {
    let servers = r.room_servers()?;
    let mut left = LOOKED_UP;
    for row in servers.range((room, ServerNum::MIN)..=(room, ServerNum::MAX))? {
        let (_, server) = row?.0.value();
        let mut is_new = true;
        for row in r
            .memberships()?
            .range((user, RoomNum::MIN)..=(user, RoomNum::MAX))?
        {
            let (key, row) = row?;
            let other = key.value().1;
            let Some(fewer) = left.checked_sub(1) else {
                return Ok(true);
            };
            left = fewer;
            if other != room
                && servers.has((other, server))?
                && row.value().unpack()?.membership == Membership::Join
            {
                is_new = false;
                break;
            }
        }
        if is_new {
            return Ok(true);
        }
    }
    Ok(false)
}
