//! Rooms that the owner of the server has blocked: no user of this server enters them any more, and `/invite`
//! requests of other servers for them are refused. Who is in such a room stays there, and sees the invites that
//! it has as events.

use ruma::{OwnedRoomId, RoomId};

use super::{Error, deletion::pending};
use crate::store::{Reader, Rows, Tx};

const MAX_BLOCKED: u64 = 10_000;

/// Whether users of this server may enter the room.
///
/// # Errors
/// [`Error::Forbidden`] if it is blocked, or being deleted.
pub fn check(r: &impl Reader, room: &RoomId) -> Result<(), Error> {
    pending::check(r, room)?;
    if is_blocked(r, room)? {
        return Err(Error::forbidden(
            "the owner of this server has blocked this room",
        ));
    }
    Ok(())
}

pub fn is_blocked(r: &impl Reader, room: &RoomId) -> Result<bool, Error> {
    Ok(r.blocked_rooms()?.has(room.as_str())?)
}

/// All blocked rooms, each with the time at which it was blocked, in milliseconds since the epoch.
pub fn all(r: &impl Reader) -> Result<Vec<(String, u64)>, Error> {
    let mut blocked = Vec::new();
    for row in r.blocked_rooms()?.all()? {
        let (room, ts) = row?;
        blocked.push((room.value().to_owned(), ts.value()));
    }
    Ok(blocked)
}

/// # Errors
/// [`Error::Invalid`] if there are too many.
pub fn block(tx: &Tx, room: &OwnedRoomId, now_ms: u64) -> Result<(), Error> {
    let mut blocked = tx.blocked_rooms()?;
    if blocked.len()? >= MAX_BLOCKED && !blocked.has(room.as_str())? {
        return Err(Error::invalid(
            "10,000 rooms are blocked already; unblock some first",
        ));
    }
    Ok(blocked.insert(room.as_str(), now_ms)?)
}

/// Whether the room was blocked.
pub fn unblock(tx: &Tx, room: &OwnedRoomId) -> Result<bool, Error> {
    Ok(tx.blocked_rooms()?.remove(room.as_str())?)
}
