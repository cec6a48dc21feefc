//! Erased users: who was not in the room when they sent an event gets it redacted. No redaction is sent.
//!
//! Source: client-server API, `POST /account/deactivate`, `erase`. NOTSPEC: as in Synapse, users who joined
//! between the event and the erasure get it redacted too, and the current state of a room is not redacted.

use ruma::room_version_rules::RoomVersionRules;

use crate::{
    protocol::redact,
    rooms::{
        Error,
        event::{StoredEvent, redaction},
    },
    store::Reader,
    users::accounts,
};

/// Whether the sender of `event` was erased, and the room does not need the event.
pub(super) fn is_erased(r: &impl Reader, event: &StoredEvent) -> Result<bool, Error> {
    Ok(accounts::is_erased(r, &event.sender()?)? && !redaction::is_protected(event)?)
}

/// Redacts the JSON of `event`.
pub(super) fn redact(rules: &RoomVersionRules, event: &mut StoredEvent) -> Result<(), Error> {
    event.json = redact::redact(&event.json, rules)
        .map_err(|_| Error::corrupt("events", &event.header.id, "cannot be redacted"))?;
    Ok(())
}
