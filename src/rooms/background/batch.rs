//! How far one slice of an [errand](super::jobs) goes.

use crate::{
    rooms::{Actor, Error},
    store::RoomNum,
};

/// How many events it sends at most.
pub(in crate::rooms) const SENT: usize = 8;
/// How many rows it looks at at most.
pub(in crate::rooms) const LOOKED_AT: usize = 128;

/// Whether something was sent. What a room forbids is not done there, and the errand goes on.
pub(in crate::rooms) fn tried(
    result: Result<bool, Error>,
    actor: &Actor,
    room: RoomNum,
) -> Result<bool, Error> {
    match result {
        Err(Error::Forbidden(reason)) => {
            log::warn!("room {}: refused to {}: {reason}", room.0, actor.id);
            Ok(false)
        }
        result => result,
    }
}
