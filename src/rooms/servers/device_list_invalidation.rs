//! Invalidating the cached device lists of remote users who no longer share a room with a local user:
//! their servers do not announce changes any more.

use ruma::UserId;

use crate::{
    rooms::{Error, servers::shared_rooms, state::current},
    store::{RoomNum, Tx, UserNum, records::Membership},
    users::{self, remote_devices},
};

/// To be called in the transaction in which `user` of another server leaves a room.
pub(in crate::rooms) fn remote_user_left(tx: &Tx, user: &UserId) -> Result<(), Error> {
    let Some(num) = users::num_of(tx, user)? else {
        return Ok(());
    };
    if remote_devices::is_tracked(tx, user)? {
        invalidate_unless_shared(tx, num, user)?;
    }
    Ok(())
}

/// To be called in the transaction in which the last local user leaves `room`. Reads every cached
/// device list.
pub(in crate::rooms) fn last_local_user_left(tx: &Tx, room: RoomNum) -> Result<(), Error> {
    for num in remote_devices::tracked_users(tx)? {
        let user = users::id_of(tx, num)?;
        if current::membership(tx, room, &user)? == Membership::Join {
            invalidate_unless_shared(tx, num, &user)?;
        }
    }
    Ok(())
}

fn invalidate_unless_shared(tx: &Tx, num: UserNum, user: &UserId) -> Result<(), Error> {
    if !shared_rooms::any_local_user_shares(tx, user)? {
        remote_devices::mark_stale(tx, num)?;
    }
    Ok(())
}
