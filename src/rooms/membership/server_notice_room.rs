//! Which room is a user's room for server notices. `rooms/server_notices.rs` makes it.

use crate::{
    rooms::Error,
    store::{self, Reader, RoomNum, Rows, Tx, UserNum},
};

/// The room in which `user` last got a server notice.
pub fn of_user(r: &impl Reader, user: UserNum) -> Result<Option<RoomNum>, store::Error> {
    Ok(r.server_notice_rooms()?.get(user)?.map(|row| row.value()))
}

pub fn set(tx: &Tx, user: UserNum, room: RoomNum) -> Result<(), store::Error> {
    tx.server_notice_rooms()?.insert(user, room)
}

/// To be called before `user` rejects an invite to `room`. A user who has joined the room may leave it.
///
/// Source: client-server API, "Server Notices", "Client behaviour".
///
/// # Errors
/// [`Error::CannotRejectServerNotices`].
pub fn check_rejection(r: &impl Reader, user: UserNum, room: RoomNum) -> Result<(), Error> {
    if of_user(r, user)? == Some(room) {
        return Err(Error::CannotRejectServerNotices);
    }
    Ok(())
}
