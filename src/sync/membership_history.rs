//! A user's earlier memberships of a room, read back from the current one.

use crate::{
    rooms::{
        Error, event,
        state::{self, current},
    },
    store::{
        EventNum, Position, Reader, RoomNum,
        records::{MemberRow, Membership},
    },
};

/// How many memberships are read back.
const MAX_MEMBERSHIPS: usize = 64;

/// Whether a user was joined to a room from a position until they left, or until now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Continuity {
    Unbroken,
    /// They were joined at the position, left, and joined again.
    Rejoined,
    /// They joined after the position.
    New,
}

/// How the user with the membership `member` was joined from `since` on.
pub fn continuity(
    r: &impl Reader,
    room: RoomNum,
    member: &MemberRow,
    since: Position,
) -> Result<Continuity, Error> {
    let mut event = member.event;
    let mut was_joined_later = member.membership == Membership::Join;
    let mut continuity = Continuity::Unbroken;
    for _ in 0..MAX_MEMBERSHIPS {
        let header = event::header(r, event)?;
        if header.position <= since {
            let was_joined = current::membership_of(r, event)? == Membership::Join;
            return Ok(if was_joined {
                continuity
            } else {
                Continuity::New
            });
        }
        let Some(key) = header.state_key else { break };
        let Some(before) = state::get(r, room, header.state_before, key)? else {
            return Ok(Continuity::New);
        };
        // The last leave ends the stay; only an earlier one is an absence.
        let was_joined = current::membership_of(r, before)? == Membership::Join;
        if !was_joined && was_joined_later {
            continuity = Continuity::Rejoined;
        }
        was_joined_later = true;
        event = before;
    }
    Ok(Continuity::Rejoined)
}

/// The membership that `member` replaced; `None` if there was none, or it is not known.
pub fn before(
    r: &impl Reader,
    room: RoomNum,
    member: &MemberRow,
) -> Result<Option<Membership>, Error> {
    let header = event::header(r, member.event)?;
    let Some(key) = header.state_key else {
        return Ok(None);
    };
    let before = state::get(r, room, header.state_before, key)?;
    before
        .map(|before| current::membership_of(r, before))
        .transpose()
}

/// The event after `since` that ended the last stay of the user with the membership `member`, who is not
/// joined.
pub fn last_leave(
    r: &impl Reader,
    room: RoomNum,
    member: &MemberRow,
    since: Position,
) -> Result<Option<EventNum>, Error> {
    let mut event = member.event;
    for _ in 0..MAX_MEMBERSHIPS {
        let header = event::header(r, event)?;
        let Some(key) = header.state_key.filter(|_| header.position > since) else {
            break;
        };
        let Some(before) = state::get(r, room, header.state_before, key)? else {
            break;
        };
        if current::membership_of(r, before)? == Membership::Join {
            return Ok(Some(event));
        }
        event = before;
    }
    Ok(None)
}
