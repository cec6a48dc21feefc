//! Leaving rooms, and forgetting those that were left.

use ruma::events::room::member::MembershipState;

use super::{change::MembershipChange, server_notice_room};
use crate::{
    rooms::{Actor, Error, Local, state::current},
    store::{Effect, Reader, RoomNum, Tx, UserNum, records::Membership},
};

/// Leaves the room, rejects the invite or takes the knock back. Idempotent: a user who has left
/// sends no other event.
///
/// # Errors
/// [`Error::Forbidden`] if the user never was in the room, or is banned from it; those of
/// [`server_notice_room::check_rejection`].
pub fn leave(
    tx: &Tx,
    local: &Local,
    actor: &Actor,
    room: RoomNum,
    reason: Option<&str>,
) -> Result<(), Error> {
    server_notice_room::check_rejection(tx, actor, room)?;
    leave_any(tx, local, actor, room, reason)
}

/// Like [`leave`], also for the room of server notices: for a user whose account is deactivated.
///
/// # Errors
/// [`Error::Forbidden`] if the user never was in the room, or is banned from it.
pub fn leave_any(
    tx: &Tx,
    local: &Local,
    actor: &Actor,
    room: RoomNum,
    reason: Option<&str>,
) -> Result<(), Error> {
    match current::local_membership(tx, actor.num, room)?.map(|row| row.membership) {
        Some(Membership::Leave) => Ok(()),
        None => Err(Error::forbidden("you are not in this room")),
        Some(_) => MembershipChange::new(&actor.id, MembershipState::Leave, reason)
            .send(tx, local, room, actor),
    }
}

/// Hides the room from `user` until the user is invited or joins again.
///
/// # Errors
/// [`Error::StillInRoom`] unless the user has left or is banned.
pub fn forget(tx: &Tx, user: UserNum, room: RoomNum) -> Result<(), Error> {
    let Some(mut row) = current::local_membership(tx, user, room)? else {
        return Ok(());
    };
    match row.membership {
        Membership::Leave | Membership::Ban if row.forgotten => Ok(()),
        Membership::Leave | Membership::Ban => {
            row.forgotten = true;
            tx.memberships()?.put((user, room), &row)?;
            tx.effect(Effect::RoomChanged(room, tx.next_position()?));
            Ok(())
        }
        Membership::Join | Membership::Invite | Membership::Knock => Err(Error::StillInRoom),
    }
}
