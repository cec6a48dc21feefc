//! Which room is a user's room for server notices. `rooms/server_notices.rs` makes it.

use crate::{
    rooms::{Actor, Error, state::current},
    store::{self, Reader, RoomNum, Rows, Tx, UserNum, records::Membership},
};

/// The room in which `user` last got a server notice.
pub fn of_user(r: &impl Reader, user: UserNum) -> Result<Option<RoomNum>, store::Error> {
    Ok(r.server_notice_rooms()?.get(user)?.map(|row| row.value()))
}

pub fn set(tx: &Tx, user: UserNum, room: RoomNum) -> Result<(), store::Error> {
    tx.server_notice_rooms()?.insert(user, room)
}

/// To be called before `actor` leaves `room`: an invite to it may not be rejected. A user who has joined the room
/// may leave it.
///
/// Source: client-server API, "Server Notices", "Client behaviour".
///
/// # Errors
/// [`Error::CannotRejectServerNotices`].
pub fn check_rejection(r: &impl Reader, actor: &Actor, room: RoomNum) -> Result<(), Error> {
    let is_invited = current::membership(r, room, &actor.id)? == Membership::Invite;
    if is_invited && of_user(r, actor.num)? == Some(room) {
        return Err(Error::CannotRejectServerNotices);
    }
    Ok(())
}
