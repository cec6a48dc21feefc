//! Erased users: who was not in the room when they sent an event gets it redacted. No redaction is sent.
//!
//! Source: client-server API, `POST /account/deactivate`, `erase`. NOTSPEC: as in Synapse, users who joined
//! between the event and the erasure get it redacted too, and what describes a room now (its name, its picture,
//! the rooms of a space) is not redacted where clients get the state: new members would be in another room than
//! the others. Redacted there are member events, which say something about people, and what has been replaced.

use ruma::room_version_rules::RoomVersionRules;

use crate::{
    protocol::redact,
    rooms::{
        Error,
        event::{StoredEvent, redaction},
    },
    store::{Reader, RoomNum, Rows},
    users::accounts,
};

/// Whether the sender of `event` was erased, and the room does not need the event.
pub(super) fn is_erased(r: &impl Reader, event: &StoredEvent) -> Result<bool, Error> {
    Ok(accounts::is_erased(r, &event.sender()?)? && !redaction::is_protected(event)?)
}

/// [`is_erased`] for an event of the state of `room`, now or before.
pub(super) fn is_erased_state(
    r: &impl Reader,
    room: RoomNum,
    event: &StoredEvent,
) -> Result<bool, Error> {
    let Some(key) = event.header.state_key else {
        return Ok(false);
    };
    if !is_erased(r, event)? {
        return Ok(false);
    }
    let current = r.current_state()?.get((room, key))?.map(|row| row.value());
    Ok(current != Some(event.num) || event.member()?.is_some())
}

/// Redacts the JSON of `event`.
pub(super) fn redact(rules: &RoomVersionRules, event: &mut StoredEvent) -> Result<(), Error> {
    event.json = redact::redact(&event.json, rules)
        .map_err(|_| Error::corrupt("events", &event.header.id, "cannot be redacted"))?;
    Ok(())
}
