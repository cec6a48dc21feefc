//! Users of other servers who are in no room with anybody here any more: their servers do not tell what
//! becomes of their devices, so what is kept of these is out of date, should they meet again.
//!
//! Called by [`current`](crate::rooms::state::current) where somebody leaves, in the same job.

use ruma::UserId;

use crate::{
    rooms::{Error, servers::shared_rooms, state::current},
    store::{RoomNum, Tx, UserNum, records::Membership},
    users::{self, remote_devices},
};

/// After `user` of another server has left a room.
pub(in crate::rooms) fn has_left(tx: &Tx, user: &UserId) -> Result<(), Error> {
    let Some(num) = users::num_of(tx, user)? else {
        return Ok(());
    };
    if remote_devices::is_tracked(tx, user)? {
        outdate_stranger(tx, num, user)?;
    }
    Ok(())
}

/// After the last local user has left `room`. Grows with how many lists are kept.
pub(in crate::rooms) fn all_have_left(tx: &Tx, room: RoomNum) -> Result<(), Error> {
    for num in remote_devices::tracked_users(tx)? {
        let user = users::id_of(tx, num)?;
        if current::membership(tx, room, &user)? == Membership::Join {
            outdate_stranger(tx, num, &user)?;
        }
    }
    Ok(())
}

fn outdate_stranger(tx: &Tx, num: UserNum, user: &UserId) -> Result<(), Error> {
    if !shared_rooms::any_local_user_shares(tx, user)? {
        remote_devices::mark_stale(tx, num)?;
    }
    Ok(())
}
