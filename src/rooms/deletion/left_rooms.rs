//! Deleted rooms that local users had left before. A client that was not connected then still has such a room, so
//! its next sync has the leave.

use ruma::{OwnedRoomId, OwnedUserId};
use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};

use crate::{
    rooms::{
        Error, event, room,
        state::current::membership_of,
        timeline::client_event::{Formatter, RoomIdField},
    },
    store::{
        Position, Reader, Records, RoomNum, Rows, Tx, UserNum,
        records::{LeftDeletedRoom, MemberRow, Membership},
    },
    users,
};

/// A client that missed more of them has the oldest until it syncs anew.
const MAX_PER_USER: usize = 200;

/// A deleted room that a user had left.
#[derive(Debug)]
pub struct LeftRoom {
    pub id: OwnedRoomId,
    pub user: OwnedUserId,
    /// Of the leave.
    pub position: Position,
    /// The leave as clients get it in a sync.
    pub event: Box<RawValue>,
}

/// The deleted room `room` that `user` had left; `None` if there is none, or if the user has been in the room
/// again since, under another number.
pub fn load(r: &impl Reader, user: UserNum, room: RoomNum) -> Result<Option<LeftRoom>, Error> {
    let Some(row) = r.left_deleted_rooms()?.load((user, room))? else {
        return Ok(None);
    };
    let corrupt = |problem| Error::corrupt("left_deleted_rooms", (user, room), problem);
    let id = OwnedRoomId::try_from(row.id).map_err(|_| corrupt("not a room ID"))?;
    match room::num(r, &id) {
        Ok(again) if r.memberships()?.has((user, again))? => return Ok(None),
        Ok(_) | Err(Error::UnknownRoom) => {}
        Err(error) => return Err(error),
    }
    Ok(Some(LeftRoom {
        id,
        user: users::id_of(r, user)?,
        position: row.position,
        event: RawValue::from_string(row.event).map_err(|_| corrupt("not JSON"))?,
    }))
}

/// The deleted rooms that `user` had left.
pub fn of_user(r: &impl Reader, user: UserNum) -> Result<Vec<RoomNum>, Error> {
    let table = r.left_deleted_rooms()?;
    let rows = table.prefix(user)?;
    rows.map(|row| Ok(row?.0.value().1)).collect()
}

/// Stores the leave of `user` before the room is deleted.
pub(super) fn add(tx: &Tx, user: UserNum, room: RoomNum, member: &MemberRow) -> Result<(), Error> {
    let has_left = |it: Membership| matches!(it, Membership::Leave | Membership::Ban);
    // Where an invitation gave way, the event is still the invitation.
    if !has_left(member.membership) || !has_left(membership_of(tx, member.event)?) {
        return Ok(());
    }
    let user_id = users::id_of(tx, user)?;
    let mut formatter = Formatter::new(tx, room, &user_id, None, 0, RoomIdField::Omit)?;
    let event = formatter.format(tx, &event::load(tx, member.event)?)?;
    let row = LeftDeletedRoom {
        id: room::id(tx, room)?.into(),
        position: member.position,
        event: without_unsigned(&event)?.get().to_owned(),
    };
    let mut table = tx.left_deleted_rooms()?;
    let (mut known, mut of_same_id) = (Vec::new(), Vec::new());
    for known_row in table.prefix(user)? {
        let (key, known_row) = known_row?;
        let known_row = known_row.record(&key)?;
        match known_row.id == row.id {
            true => of_same_id.push(key.value()),
            false => known.push((known_row.position, key.value())),
        }
    }
    // The room was deleted before.
    for key in of_same_id {
        table.remove(key)?;
    }
    if known.len() >= MAX_PER_USER
        && let Some((_, oldest)) = known.into_iter().min()
    {
        table.remove(oldest)?;
    }
    Ok(table.put((user, room), &row)?)
}

/// The age of the event is that of a moment, and the state before it is deleted.
fn without_unsigned(event: &RawValue) -> Result<Box<RawValue>, Error> {
    let not_serializable = |_| Error::not_serializable("a leave");
    let mut event: Value = serde_json::from_str(event.get()).map_err(not_serializable)?;
    if let Some(fields) = event.as_object_mut() {
        fields.remove("unsigned");
    }
    to_raw_value(&event).map_err(not_serializable)
}
