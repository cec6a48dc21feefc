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

/// Redacts the JSON of `event` if its sender was erased, unless the room needs it.
pub(super) fn redact_if_erased(
    r: &impl Reader,
    rules: &RoomVersionRules,
    event: &mut StoredEvent,
) -> Result<(), Error> {
    if accounts::is_erased(r, &event.sender()?)? && !redaction::is_protected(event)? {
        event.json = redact::redact(&event.json, rules)
            .map_err(|_| Error::corrupt("events", &event.header.id, "cannot be redacted"))?;
    }
    Ok(())
}
