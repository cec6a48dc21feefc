//! One batch of a [background job](super::jobs): its limits, and what it skips.

use crate::rooms::Error;

pub(super) const MAX_EVENTS_SENT: usize = 8;
/// The most rows that a batch looks at; read one more to find where the next batch begins.
pub(in crate::rooms) const MAX_ROWS: usize = 128;

/// Calls `step`, which returns whether it sent an event or tried to, with one row after the other up to the
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

/// Leaves out an event that cannot be sent (the rules or a policy server forbid it, it is too large, a row is
/// corrupt), so that the job goes on. It counts as sent, since it took as much work. An error that is not of
/// this event is returned: the job is tried again. `describe` says which event, and to whom or which room.
pub(in crate::rooms) fn skip_impossible(
    result: Result<bool, Error>,
    describe: impl FnOnce() -> Result<(String, String), Error>,
) -> Result<bool, Error> {
    let error = match result {
        Ok(sent) => return Ok(sent),
        Err(error) => error,
    };
    let level = match &error {
        Error::Store(error) if error.is_caused_by_data() => log::Level::Error,
        Error::Store(_) | Error::Pool(_) | Error::Unsigned(_) => return Err(error),
        Error::Forbidden(_) => log::Level::Info,
        _ => log::Level::Warn,
    };
    let (event, target) = describe()?;
    log::log!(
        level,
        "background job: {event} is not sent to {target}: {error}"
    );
    Ok(true)
}
