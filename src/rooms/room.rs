//! The records of a room itself: number, id, version, and heads.

use ruma::{OwnedRoomId, RoomId, RoomVersionId, room_version_rules::RoomVersionRules};

use super::{Error, deletion::pending};
use crate::{
    protocol::versions,
    store::{
        NodeNum, Place, Position, Reader, Records, RoomNum, Rows, Store, Tx,
        records::{Counts, Room, RoomHeads},
    },
};

/// Creates the room `id` without events.
///
/// # Errors
/// [`Error::RoomExists`], or [`Error::Forbidden`] while a room with this id is being deleted.
pub fn create(tx: &Tx, id: &RoomId, version: &RoomVersionId) -> Result<RoomNum, Error> {
    pending::check(tx, id)?;
    if tx.room_nums()?.has(id.as_str())? {
        return Err(Error::RoomExists);
    }
    let room = tx.next_room()?;
    tx.room_nums()?.insert(id.as_str(), room)?;
    let record = Room {
        id: id.as_str().to_owned(),
        version: version.as_str().to_owned(),
    };
    tx.rooms()?.put(room, &record)?;
    tx.room_heads()?.put(room, &RoomHeads::empty())?;
    Ok(room)
}

impl RoomHeads {
    /// A room without events.
    fn empty() -> Self {
        Self {
            extremities: Vec::new(),
            depth: 0,
            last_place: Place(Place::FIRST.0 - 1),
            last_position: Position::MIN,
            state_position: Position::MIN,
            state: NodeNum::EMPTY,
            joined: 0,
            invited: 0,
            main: Counts::default(),
            last_own_events: Vec::new(),
        }
    }
}

/// Sets the version of a room whose create event this server did not have yet.
pub(in crate::rooms) fn set_version(
    tx: &Tx,
    room: RoomNum,
    version: &RoomVersionId,
) -> Result<(), Error> {
    let record = Room {
        version: version.as_str().to_owned(),
        ..record(tx, room)?
    };
    Ok(tx.rooms()?.put(room, &record)?)
}

/// # Errors
/// [`Error::UnknownRoom`] if this server does not know the room.
pub fn num(r: &impl Reader, id: &RoomId) -> Result<RoomNum, Error> {
    let num = r.room_nums()?.get(id.as_str())?.map(|row| row.value());
    num.ok_or(Error::UnknownRoom)
}

/// The part of the room that rarely changes.
///
/// # Errors
/// [`Error::UnknownRoom`] if the room has been deleted.
pub fn record(r: &impl Reader, room: RoomNum) -> Result<Room, Error> {
    r.rooms()?.load(room)?.ok_or(Error::UnknownRoom)
}

/// # Errors
/// [`Error::UnknownRoom`] if the room is being deleted so far that nobody finds it, although rows of it are left.
pub(in crate::rooms) fn check_found(r: &impl Reader, room: RoomNum) -> Result<(), Error> {
    let nums = r.room_nums()?;
    let found = nums.get(record(r, room)?.id.as_str())?;
    match found.map(|row| row.value()) {
        Some(found) if found == room => Ok(()),
        _ => Err(Error::UnknownRoom),
    }
}

/// The part of the room that every event changes.
pub fn heads(r: &impl Reader, room: RoomNum) -> Result<RoomHeads, Error> {
    r.room_heads()?.load(room)?.ok_or(Error::UnknownRoom)
}

pub fn version(r: &impl Reader, room: RoomNum) -> Result<RoomVersionId, Error> {
    RoomVersionId::try_from(record(r, room)?.version)
        .map_err(|_| Error::corrupt("rooms", room, "not a room version"))
}

pub fn rules(r: &impl Reader, room: RoomNum) -> Result<&'static RoomVersionRules, Error> {
    versions::rules(&version(r, room)?).ok_or_else(|| {
        Error::corrupt(
            "rooms",
            room,
            "a room version that this hearth does not know",
        )
    })
}

/// # Errors
/// [`Error::UnsupportedVersion`].
pub fn rules_of(version: &RoomVersionId) -> Result<&'static RoomVersionRules, Error> {
    versions::rules(version).ok_or_else(|| Error::UnsupportedVersion(version.to_string().into()))
}

/// The rules of a version in which a room is to be made.
///
/// # Errors
/// [`Error::UnsupportedVersion`], or [`Error::NotCreatedVersion`] if there are no new rooms of it.
pub fn rules_of_new(version: &RoomVersionId) -> Result<&'static RoomVersionRules, Error> {
    match rules_of(version) {
        Ok(rules) if !versions::may_be_created(rules) => {
            Err(Error::NotCreatedVersion(version.to_string().into()))
        }
        rules => rules,
    }
}

pub fn id(r: &impl Reader, room: RoomNum) -> Result<OwnedRoomId, Error> {
    OwnedRoomId::try_from(record(r, room)?.id)
        .map_err(|_| Error::corrupt("rooms", room, "not a room ID"))
}

pub fn id_for_log(store: &Store, room: RoomNum) -> String {
    store.read(|s| id_for_log_in(s, room))
}

pub fn id_for_log_in(r: &impl Reader, room: RoomNum) -> String {
    id(r, room).map_or_else(|_| "a room with an unreadable id".to_owned(), Into::into)
}
