//! Carrying out redactions.

use ruma::{OwnedUserId, UserId, events::TimelineEventType, room_version_rules::RoomVersionRules};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    media,
    protocol::{Pdu, build::EventDraft, redact},
    rooms::{Error, event, state::power_levels},
    store::{EventNum, Reader, RoomNum, Rows, Tx},
};

#[derive(Deserialize)]
struct Sender {
    sender: OwnedUserId,
}

#[derive(Deserialize)]
struct Shown {
    sender: OwnedUserId,
    content: Box<RawValue>,
}

fn sender_of(r: &impl Reader, num: EventNum) -> Result<OwnedUserId, Error> {
    Ok(event::load(r, num)?.parse::<Sender>()?.sender)
}

/// Whether a local user may send this redaction: of own events whoever may redact at all, of
/// others' events those with the power for it ([client-server API, "Redactions"]).
///
/// [client-server API, "Redactions"]: https://spec.matrix.org/v1.19/client-server-api/#redactions
///
/// # Errors
/// [`Error::NotFound`] if the event is not in the room, [`Error::Forbidden`] if the sender may not.
pub(in crate::rooms) fn check(
    r: &impl Reader,
    room: RoomNum,
    draft: &EventDraft,
    rules: &RoomVersionRules,
) -> Result<(), Error> {
    if draft.event_type != TimelineEventType::RoomRedaction {
        return Ok(());
    }
    let redacts = draft
        .redacts
        .as_ref()
        .ok_or_else(|| Error::invalid("nothing to redact"))?;
    let num = event::num_in(r, room, redacts)?.ok_or(Error::NotFound("there is no such event"))?;
    let own = sender_of(r, num)? == draft.sender;
    if own || power_levels::levels(r, room, rules)?.user_can_redact_event_of_other(&draft.sender) {
        return Ok(());
    }
    Err(Error::forbidden(
        "you may not redact other people's events in this room",
    ))
}

/// Strips what `redaction` redacts, if it may: its sender has the power, or is of the server whose
/// user sent the event ([room version 3, "Handling redactions"]).
///
/// [room version 3, "Handling redactions"]: https://spec.matrix.org/v1.19/rooms/v3/#handling-redactions
pub(in crate::rooms) fn apply(
    tx: &Tx,
    room: RoomNum,
    redaction: &Pdu,
    redaction_num: EventNum,
    rules: &RoomVersionRules,
) -> Result<(), Error> {
    let Some(redacts) = redaction.redacts() else {
        return Ok(());
    };
    let Some(num) = event::num_in(tx, room, redacts)? else {
        tx.early_redactions()?
            .insert((room, redacts.as_str()), redaction_num)?;
        return Ok(());
    };
    if !may_redact(tx, room, redaction.sender(), num, rules)? {
        return Ok(());
    }
    redact(tx, num, redaction_num, rules)
}

/// Strips the event `num`, which has just been stored, if its redaction came before it.
pub(in crate::rooms) fn apply_early(
    tx: &Tx,
    room: RoomNum,
    (id, num): (&str, EventNum),
    rules: &RoomVersionRules,
) -> Result<(), Error> {
    let mut early = tx.early_redactions()?;
    let Some(redaction) = early.get((room, id))?.map(|row| row.value()) else {
        return Ok(());
    };
    early.remove((room, id))?;
    drop(early);
    let sender = sender_of(tx, redaction)?;
    if !may_redact(tx, room, &sender, num, rules)? {
        return Ok(());
    }
    redact(tx, num, redaction, rules)
}

fn may_redact(
    r: &impl Reader,
    room: RoomNum,
    sender: &UserId,
    num: EventNum,
    rules: &RoomVersionRules,
) -> Result<bool, Error> {
    Ok(sender_of(r, num)?.server_name() == sender.server_name()
        || power_levels::levels(r, room, rules)?.user_can_redact_event_of_other(sender))
}

fn redact(
    tx: &Tx,
    num: EventNum,
    redaction: EventNum,
    rules: &RoomVersionRules,
) -> Result<(), Error> {
    let mut stored = event::load(tx, num)?;
    if stored.header.redacted_by.is_some() {
        return Ok(());
    }
    if stored.header.state_key.is_none() {
        let shown = stored.parse::<Shown>()?;
        media::remove_redacted(tx, &shown.sender, shown.content.get())?;
    }
    let json = redact::redact(&stored.json, rules)
        .map_err(|_| Error::corrupt("events", num, "cannot be redacted"))?;
    stored.header.redacted_by = Some(redaction);
    tx.events()?
        .insert(num, event::row(&stored.header, &json).as_slice())?;
    Ok(())
}
