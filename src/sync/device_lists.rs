//! Whose devices a client has to look at again, and whose no longer (client-server API, "Tracking the
//! device list for a user").
//!
//! Two users share a room if both are joined to one, encrypted or not: as long as they do, each is told
//! when the other's devices change, and once they do not, no more. So that is what counts.
//!
//! - `changed` has those who share a room with the user at the end of the range and whose devices or
//!   keys changed in it; or who came into that room in the range, or the user did; or the room became
//!   encrypted. And it has those whose keys the user has signed on another device: only the user sees
//!   that.
//! - `left` has those who shared a room with the user at the beginning of the range, and share none at
//!   its end. Nobody is in both: who came back is changed.
//!
//! Both ends count as they were, whatever happened later: so a range tells what its parts, one after the
//! other, tell.
//!
//! NOTSPEC: the table of `device_lists` speaks of encrypted rooms only, the notes beside it of any room.
//! A client may follow whom it shares only a room without encryption with, to verify them, say; it has to
//! hear when their changes are told no more, and when they are told again. Synapse does the same.

use std::collections::BTreeSet;

use ruma::OwnedUserId;
use serde::Serialize;

use super::{
    notifier::Notifier,
    sharing::{self, Moves},
};
use crate::{
    rooms::{Error, room},
    store::{Position, Reader, Records, RoomNum, Rows, UserNum, records::Membership},
    users::{self, device_lists, keys::signatures},
};

/// Of whom a client is told.
#[derive(Debug, Default, Serialize)]
pub struct DeviceLists {
    /// Whose devices are to be looked at again.
    pub changed: BTreeSet<OwnedUserId>,
    /// Whose devices do not matter any more.
    pub left: BTreeSet<OwnedUserId>,
}

impl DeviceLists {
    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.left.is_empty()
    }
}

/// Who wants to know, and what of.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Who asks.
    pub user: UserNum,
    /// The same, by user id.
    pub user_id: OwnedUserId,
    /// What happened after this position.
    pub after: Position,
    /// And up to this one.
    pub upto: Position,
}

/// The user's rooms in which somebody may have come or gone, unless there is nothing to tell at all.
///
/// # Errors
/// If the store cannot be read.
pub fn concerned(
    r: &impl Reader,
    notifier: &Notifier,
    asked: &Asked,
) -> Result<Option<Vec<RoomNum>>, Error> {
    if asked.after >= asked.upto {
        return Ok(None);
    }
    let rooms = match notifier.rooms_after(asked.after) {
        Some(rooms) => rooms,
        None => own_rooms(r, asked.user)?,
    };
    let mut concerned = Vec::new();
    for room in rooms {
        let Some(row) = r.memberships()?.load((asked.user, room))? else {
            continue;
        };
        // Who is not in the room, and has not moved since, has not been in it since.
        let may_have_been_in = row.membership == Membership::Join || row.position > asked.after;
        if may_have_been_in && room::heads(r, room)?.state_position > asked.after {
            concerned.push(room);
        }
    }
    let is_quiet = concerned.is_empty()
        && !device_lists::has_changes(r, asked.after, asked.upto)?
        && !signatures::has_signed_between(r, asked.user, (asked.after, asked.upto))?;
    Ok((!is_quiet).then_some(concerned))
}

fn own_rooms(r: &impl Reader, user: UserNum) -> Result<Vec<RoomNum>, Error> {
    let mut rooms = Vec::new();
    for row in r
        .memberships()?
        .range((user, RoomNum::MIN)..=(user, RoomNum::MAX))?
    {
        rooms.push(row?.0.value().1);
    }
    Ok(rooms)
}

/// What there is to tell. Grows with the rooms that the user entered or left: for the pool.
///
/// # Errors
/// If the store cannot be read.
pub fn between(r: &impl Reader, asked: &Asked, rooms: &[RoomNum]) -> Result<DeviceLists, Error> {
    let mut met = Met::default();
    for room in rooms {
        met.in_room(r, asked, *room)?;
    }
    let Met { mut came, mut went } = met;
    let mut changed = BTreeSet::new();
    for user in device_lists::changed_users(r, asked.after, asked.upto)? {
        changed.insert(users::id_of(r, user)?);
    }
    let own = changed.take(&asked.user_id);
    came.remove(&asked.user_id);
    went.remove(&asked.user_id);
    // Who is known to be in a room with the user need not be looked for.
    let unsure = (&changed | &went).difference(&came).cloned().collect();
    let sharing = sharing::sharing(r, asked, unsure)?;
    let left = &(&went - &sharing) - &came;
    for user in signatures::signed_users_between(r, asked.user, (asked.after, asked.upto))? {
        came.insert(users::id_of(r, user)?);
    }
    came.extend(own);
    came.extend(&changed & &sharing);
    // Who has left is changed when they are met again: until then the client need not follow them.
    Ok(DeviceLists {
        changed: &came - &left,
        left,
    })
}

/// Whom the user may have met or lost.
#[derive(Default)]
struct Met {
    /// Those in a room with the user at the end, into which they or the user came, or which became
    /// encrypted.
    came: BTreeSet<OwnedUserId>,
    /// Those in a room with the user at the beginning, and not in the same one at the end.
    went: BTreeSet<OwnedUserId>,
}

impl Met {
    fn in_room(&mut self, r: &impl Reader, asked: &Asked, room: RoomNum) -> Result<(), Error> {
        let Some(row) = r.memberships()?.load((asked.user, room))? else {
            return Ok(());
        };
        let moves = Moves::between(r, room, (asked.after, asked.upto))?;
        let own = moves.stay_of(&asked.user_id, &row);
        if own.is_in {
            if own.came || moves.was_encrypted {
                self.came.extend(moves.members(r, room, |stay| stay.is_in)?);
            } else {
                let came = moves.moved(|stay| stay.came && stay.is_in);
                self.came.extend(came.cloned());
            }
        }
        if own.was_in {
            if own.is_in {
                let went = moves.moved(|stay| stay.was_in && !stay.is_in);
                self.went.extend(went.cloned());
            } else {
                let members = moves.members(r, room, |stay| stay.was_in)?;
                self.went.extend(members);
            }
        }
        Ok(())
    }
}
