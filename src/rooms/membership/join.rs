//! Joins of rooms that this server is in.

use super::change::MembershipChange;
use crate::{
    rooms::{Actor, Error, Local, state::current},
    store::{RoomNum, Tx, records::Membership},
};

/// Joins the room. Idempotent: a user who is joined sends no other event.
///
/// # Errors
/// [`Error::Forbidden`] if the room does not let the user join.
pub fn join(
    tx: &Tx,
    local: &Local,
    actor: &Actor,
    room: RoomNum,
    change: &MembershipChange,
) -> Result<(), Error> {
    if current::membership(tx, room, &actor.id)? == Membership::Join {
        return Ok(());
    }
    change.send(tx, local, room, actor)
}
