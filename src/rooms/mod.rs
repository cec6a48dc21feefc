//! Rooms: their events, states, timelines and members.
//!
//! - Owns the tables from `rooms` to `successions` in the catalog. Nobody else writes them.
//! - A local event is made inside the job that stores it ([`append`]), from what the transaction
//!   sees, so that concurrent senders never fork their own room. A foreign event is decided
//!   outside, on a snapshot, and its job checks that the room has not moved since ([`receive`]).
//! - What users do to rooms beside sending is a function of an [`Actor`] in a job: [`create`],
//!   [`join`], [`leave`], [`moderation`], [`aliases`], [`directory`], [`upgrade`]. What that means
//!   for more rooms than fit into a job is seen to afterwards, by [`errands`].
//! - Reads take any [`Reader`](crate::store::Reader); those that grow with a room's history or
//!   size say so and belong on the pool.

pub mod acl;
pub mod adopt;
pub mod aliases;
pub mod append;
pub mod backfill;
pub mod checks;
pub mod client_event;
pub mod content;
pub mod create;
pub mod current;
pub mod directory;
pub mod errands;
pub mod event;
pub mod filter;
pub mod graph;
pub mod inherit;
pub mod insert;
pub mod invitation;
pub mod join;
pub mod leave;
pub mod member;
pub mod memberships;
pub mod messages;
pub mod moderation;
pub mod moment;
mod newcomers;
pub mod notify;
pub mod outgoing;
pub mod outlier;
pub mod power;
pub mod presets;
pub mod receipts;
pub mod receive;
mod redaction;
pub mod resident;
mod resolution;
pub mod sending;
pub mod server_sight;
pub mod servers;
pub mod shown;
mod slice;
pub mod spaces;
pub mod state;
mod strangers;
mod succession;
pub mod summary;
pub mod timeline;
pub mod token;
pub mod typing;
pub mod unread;
pub mod upgrade;
pub mod view;
pub mod visibility;

mod actor;
mod error;
mod local;

use ruma::{OwnedRoomId, RoomId, RoomVersionId, room_version_rules::RoomVersionRules};

pub use self::{actor::Actor, error::Error, local::Local};
use crate::{
    protocol::versions,
    store::{
        NodeNum, Place, Position, Reader, Records, RoomNum, Rows, Tx, UserNum,
        records::{Counts, Room, RoomHot},
    },
};

/// Makes the room `id`, which has no events yet.
///
/// # Errors
/// [`Error::RoomExists`].
pub fn make(tx: &Tx, id: &RoomId, version: &RoomVersionId) -> Result<RoomNum, Error> {
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
    tx.room_hot()?.put(room, &RoomHot::empty())?;
    Ok(room)
}

impl RoomHot {
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
            wrote: Vec::new(),
        }
    }
}

/// The number of the room `id`.
///
/// # Errors
/// [`Error::UnknownRoom`] if the server does not know the room.
pub fn num(r: &impl Reader, id: &RoomId) -> Result<RoomNum, Error> {
    let num = r.room_nums()?.get(id.as_str())?.map(|row| row.value());
    num.ok_or(Error::UnknownRoom)
}

/// The number of the room `id`, for a local user who wants to read of it: not one whom it does not
/// concern, or who forgot it.
///
/// # Errors
/// [`Error::Forbidden`] also where there is no such room: who is not in it need not know.
pub fn readable(r: &impl Reader, id: &RoomId, user: UserNum) -> Result<RoomNum, Error> {
    let forbidden = || Error::forbidden("you are not in this room");
    let room = r.room_nums()?.get(id.as_str())?.map(|row| row.value());
    let room = room.ok_or_else(forbidden)?;
    match current::local_membership(r, user, room)? {
        Some(row) if row.forgotten => Err(forbidden()),
        Some(_) => Ok(room),
        None if visibility::is_world_readable(r, room)? => Ok(room),
        None => Err(forbidden()),
    }
}

/// The part of the room that rarely changes.
pub fn record(r: &impl Reader, room: RoomNum) -> Result<Room, Error> {
    r.rooms()?
        .load(room)?
        .ok_or(Error::corrupt("a room without its record"))
}

/// The part of the room that every event changes.
pub fn hot(r: &impl Reader, room: RoomNum) -> Result<RoomHot, Error> {
    r.room_hot()?
        .load(room)?
        .ok_or(Error::corrupt("a room without its hot record"))
}

/// The room's version.
pub fn version(r: &impl Reader, room: RoomNum) -> Result<RoomVersionId, Error> {
    RoomVersionId::try_from(record(r, room)?.version)
        .map_err(|_| Error::corrupt("a room version that is none"))
}

/// The rules of the room's version.
pub fn rules(r: &impl Reader, room: RoomNum) -> Result<&'static RoomVersionRules, Error> {
    versions::rules(&version(r, room)?).ok_or(Error::corrupt(
        "a room of a version that this program does not know",
    ))
}

/// The rules of `version`.
///
/// # Errors
/// [`Error::UnsupportedVersion`].
pub fn rules_of(version: &RoomVersionId) -> Result<&'static RoomVersionRules, Error> {
    versions::rules(version).ok_or_else(|| Error::UnsupportedVersion(version.to_string().into()))
}

/// The room's id.
pub fn id(r: &impl Reader, room: RoomNum) -> Result<OwnedRoomId, Error> {
    OwnedRoomId::try_from(record(r, room)?.id)
        .map_err(|_| Error::corrupt("a room with an id that is none"))
}

#[cfg(test)]
mod tests;
