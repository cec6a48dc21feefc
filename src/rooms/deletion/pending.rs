//! Which rooms are being deleted.

use ruma::{OwnedRoomId, RoomId};

use crate::{
    rooms::Error,
    store::{
        Effect, Reader, Records, RoomNum, Rows, Tx,
        records::{DeletionPhase, RoomDeletion},
    },
};

const MAX_PENDING: u64 = 1000;

/// # Errors
/// [`Error::Forbidden`] if the room is being deleted.
pub fn check(r: &impl Reader, room: &RoomId) -> Result<(), Error> {
    match r.room_deletions()?.has(room.as_str())? {
        true => Err(Error::forbidden(
            "the owner of this server is deleting this room; try again when that is done",
        )),
        false => Ok(()),
    }
}

/// The deletion of the room, if it is being deleted.
pub fn load(r: &impl Reader, room: &RoomId) -> Result<Option<RoomDeletion>, Error> {
    Ok(r.room_deletions()?.load(room.as_str())?)
}

/// All deletions that are not done. A row that cannot be read is left out.
pub(super) fn all(r: &impl Reader) -> Result<Vec<(OwnedRoomId, RoomDeletion)>, Error> {
    let mut all = Vec::new();
    for row in r.room_deletions()?.all()? {
        let (key, row) = row?;
        match (OwnedRoomId::try_from(key.value()), row.record(&key)) {
            (Ok(id), Ok(deletion)) => all.push((id, deletion)),
            (_, Err(error)) => log::error!("a room is not deleted: {error}"),
            (Err(error), _) => log::error!("{} is not deleted: {error}", key.value()),
        }
    }
    Ok(all)
}

/// Has the room `id` deleted, whose number is `room`; nothing happens if it is being deleted already.
///
/// # Errors
/// [`Error::Invalid`] if too many are.
pub fn start(tx: &Tx, id: &RoomId, room: RoomNum) -> Result<(), Error> {
    let mut deletions = tx.room_deletions()?;
    if deletions.has(id.as_str())? {
        return Ok(());
    }
    if deletions.len()? >= MAX_PENDING {
        return Err(Error::invalid(
            "1,000 rooms are being deleted already; try again when some are done",
        ));
    }
    let deletion = RoomDeletion {
        room,
        phase: DeletionPhase::Leave,
        left: 0,
        events: 0,
    };
    deletions.put(id.as_str(), &deletion)?;
    tx.effect(Effect::BackgroundJob);
    Ok(())
}

pub(super) fn put(tx: &Tx, id: &RoomId, deletion: &RoomDeletion) -> Result<(), Error> {
    Ok(tx.room_deletions()?.put(id.as_str(), deletion)?)
}

/// The deletion goes on with `phase`.
pub(super) fn put_phase(
    tx: &Tx,
    id: &RoomId,
    before: &RoomDeletion,
    phase: DeletionPhase,
) -> Result<DeletionPhase, Error> {
    let before = before.clone();
    put(tx, id, &RoomDeletion { phase, ..before })?;
    Ok(phase)
}

pub(super) fn finish(tx: &Tx, id: &RoomId) -> Result<(), Error> {
    tx.room_deletions()?.remove(id.as_str())?;
    Ok(())
}
