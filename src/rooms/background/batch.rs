//! One batch of a [background job](super::jobs): its limits, and what it skips.

use crate::{
    rooms::{Actor, Error, room},
    store::{Reader, RoomNum},
};

const MAX_EVENTS_SENT: usize = 8;
/// The most rows that a batch looks at; read one more to find where the next batch begins.
pub(in crate::rooms) const MAX_ROWS: usize = 128;

/// Calls `step`, which returns whether it sent an event, with one row after the other up to the
/// limits of a batch. Returns the first row that is left.
pub(in crate::rooms) fn run<T>(
    rows: Vec<T>,
    mut step: impl FnMut(&T) -> Result<bool, Error>,
) -> Result<Option<T>, Error> {
    let mut sent = 0;
    for (done, row) in rows.into_iter().enumerate() {
        if sent == MAX_EVENTS_SENT || done == MAX_ROWS {
            return Ok(Some(row));
        }
        sent += usize::from(step(&row)?);
    }
    Ok(None)
}

/// Counts an event that the rules of `room` forbid, or that a corrupt row prevents, as not sent, so that the
/// job goes on.
pub(in crate::rooms) fn skip_impossible(
    result: Result<bool, Error>,
    r: &impl Reader,
    actor: &Actor,
    room: RoomNum,
) -> Result<bool, Error> {
    match result {
        Err(Error::Forbidden(reason)) => {
            let (room, user) = (room::id(r, room)?, &actor.id);
            log::info!("background job: skipped an event of {user} in {room}: {reason}");
            Ok(false)
        }
        Err(Error::Store(error)) if error.is_caused_by_data() => {
            let (room, user) = (room::id(r, room)?, &actor.id);
            log::error!("background job: skipped an event of {user} in {room}: {error}");
            Ok(false)
        }
        result => result,
    }
}
