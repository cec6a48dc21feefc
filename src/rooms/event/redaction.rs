//! Redactions: whether they may, carrying them out, and keeping those that come before the event
//! that they redact.

use std::ops::Bound;

use ruma::{
    EventId, OwnedUserId, ServerName, events::TimelineEventType,
    room_version_rules::RoomVersionRules,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    media,
    protocol::{Pdu, build::EventDraft, redact},
    rooms::{
        Error, event,
        state::{overlay::StateOverlay, power_levels},
    },
    store::{
        EventNum, Packed, Reader, Records, RoomNum, Rows, Tx, TxTable,
        records::{EarlyRedaction, EarlyRedactions},
    },
};

/// How many redactions without power are kept for one event that is not here.
const MAX_EARLY_REDACTIONS_PER_EVENT: usize = 10;
/// For how many events that are not here redactions are kept.
const MAX_EARLY_REDACTIONS: u64 = 10_000;
/// How many rows are looked at to evict one.
const EVICTION_CANDIDATES: usize = 16;

#[derive(Deserialize)]
struct Sender {
    sender: OwnedUserId,
}

#[derive(Deserialize)]
struct WithContent {
    sender: OwnedUserId,
    content: Box<RawValue>,
}

fn sender_of(r: &impl Reader, num: EventNum) -> Result<OwnedUserId, Error> {
    Ok(event::load(r, num)?.parse::<Sender>()?.sender)
}

/// Checks that a local user may send this redaction: of their own events, or of others' with the
/// power for it ([client-server API, "Redactions"]).
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

/// Carries out a redaction, if it may: its sender has the power in all of `states`, or is of the
/// server whose user sent the redacted event ([room version 3, "Handling redactions"]). If that
/// event is not here, the redaction waits for it in `early_redactions`.
///
/// [room version 3, "Handling redactions"]: https://spec.matrix.org/v1.19/rooms/v3/#handling-redactions
pub(in crate::rooms) fn apply(
    tx: &Tx,
    room: RoomNum,
    rules: &RoomVersionRules,
    redaction: &Pdu,
    redaction_num: EventNum,
    states: &[&StateOverlay],
) -> Result<(), Error> {
    let Some(redacts) = redaction.redacts() else {
        return Ok(());
    };
    let sender = redaction.sender();
    let mut has_power = true;
    for state in states {
        let levels = power_levels::levels_in(tx, room, rules, state)?;
        has_power &= levels.user_can_redact_event_of_other(sender);
    }
    match event::num_in(tx, room, redacts)? {
        None => {
            let redaction = EarlyRedaction {
                event: redaction_num,
                has_power,
            };
            add_early(tx, room, redacts, redaction, sender.server_name())
        }
        Some(num) if has_power || sender_of(tx, num)?.server_name() == sender.server_name() => {
            redact(tx, num, redaction_num, rules)
        }
        Some(_) => Ok(()),
    }
}

/// Keeps a redaction for the event `redacts`, which is not here. One with power is enough. Of the
/// others one of each server is kept: which of them counts depends on who sent the event.
fn add_early(
    tx: &Tx,
    room: RoomNum,
    redacts: &EventId,
    redaction: EarlyRedaction,
    server: &ServerName,
) -> Result<(), Error> {
    let mut early = tx.early_redactions()?;
    let key = (room, redacts.as_str());
    let mut kept = early.load(key)?.unwrap_or_default();
    if kept.redactions.iter().any(|kept| kept.has_power) {
        return Ok(());
    }
    if redaction.has_power {
        kept.redactions.clear();
    }
    for other in &kept.redactions {
        if sender_of(tx, other.event)?.server_name() == server {
            return Ok(());
        }
    }
    if kept.redactions.len() >= MAX_EARLY_REDACTIONS_PER_EVENT {
        return Ok(());
    }
    kept.redactions.push(redaction);
    early.put(key, &kept)?;
    if early.len()? > MAX_EARLY_REDACTIONS {
        evict_early(&mut early, room, redacts)?;
    }
    Ok(())
}

/// Removes the row behind that of `redacts`, preferably one without power: as event ids are hashes,
/// that is a random one.
fn evict_early(
    early: &mut TxTable<'_, (RoomNum, &'static str), Packed<EarlyRedactions>>,
    room: RoomNum,
    redacts: &EventId,
) -> Result<(), Error> {
    let mut evicted = None;
    let behind = (Bound::Excluded((room, redacts.as_str())), Bound::Unbounded);
    let rows = early.range(behind)?.chain(early.all()?);
    for row in rows.take(EVICTION_CANDIDATES) {
        let (key, kept) = row?;
        let (room, id) = key.value();
        let has_power = kept.record(&key)?.redactions.iter().any(|r| r.has_power);
        if evicted.is_none() || !has_power {
            evicted = Some((room, id.to_owned()));
        }
        if !has_power {
            break;
        }
    }
    if let Some((room, id)) = evicted {
        early.remove((room, id.as_str()))?;
    }
    Ok(())
}

/// Redacts the event `num`, which was just stored, if a redaction of it came before it.
pub(in crate::rooms) fn apply_early(
    tx: &Tx,
    room: RoomNum,
    rules: &RoomVersionRules,
    id: &EventId,
    num: EventNum,
) -> Result<(), Error> {
    let mut early = tx.early_redactions()?;
    let key = (room, id.as_str());
    let Some(kept) = early.load(key)? else {
        return Ok(());
    };
    early.remove(key)?;
    drop(early);
    let sender = sender_of(tx, num)?;
    for redaction in kept.redactions {
        if redaction.has_power
            || sender_of(tx, redaction.event)?.server_name() == sender.server_name()
        {
            return redact(tx, num, redaction.event, rules);
        }
    }
    Ok(())
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
        let event = stored.parse::<WithContent>()?;
        media::remove_redacted(tx, &event.sender, event.content.get())?;
    }
    let json = redact::redact(&stored.json, rules)
        .map_err(|_| Error::corrupt("events", num, "cannot be redacted"))?;
    stored.header.redacted_by = Some(redaction);
    tx.events()?
        .insert(num, event::row(&stored.header, &json).as_slice())?;
    Ok(())
}
