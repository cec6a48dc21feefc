//! Redactions: whether they may, carrying them out, and keeping those that come before the event
//! that they redact.

use std::ops::Bound;

use ruma::{
    EventId, OwnedUserId, UserId,
    events::{StateEventType, TimelineEventType, room::power_levels::RoomPowerLevels},
    room_version_rules::RoomVersionRules,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    media,
    protocol::{Pdu, build::EventDraft, redact},
    rooms::{
        Error,
        event::{self, StoredEvent},
        relations, room,
        state::{overlay::StateOverlay, power_levels},
    },
    store::{
        EventNum, NodeNum, Packed, Reader, Records, RoomNum, Rows, Tx, TxTable,
        records::{EarlyRedaction, EarlyRedactions},
    },
};

/// How many redactions are kept for one event that is not here.
const MAX_EARLY_REDACTIONS_PER_EVENT: usize = 10;
/// For how many events that are not here redactions are kept.
const MAX_EARLY_REDACTIONS: u64 = 10_000;
/// How many rows are looked at to evict one.
const EVICTION_CANDIDATES: usize = 16;

/// State that keeps a room usable: a local user may not redact it, whatever their power. NOTSPEC:
/// Synapse refuses the first two.
const PROTECTED_TYPES: [StateEventType; 4] = [
    StateEventType::RoomCreate,
    StateEventType::RoomServerAcl,
    StateEventType::RoomEncryption,
    StateEventType::RoomPowerLevels,
];

/// State of others that the power to redact suffices for, even without the power to set it:
/// names and avatars are redacted by moderators.
const LOCAL_EXEMPT_TYPES: [StateEventType; 1] = [StateEventType::RoomMember];

/// The same for redactions of other servers: the types that the authorization rules read. The rules read
/// redacted events, so all servers must redact the same ones of these: a server that kept the `invite` of
/// power levels, which room versions before 11 redact, would refuse invitations that all others accept, and
/// would from then on have another room than they. The other types, as the server ACL and encryption, only
/// say what clients and this server do, so what a moderator may not set stays. The create event is read too,
/// but Synapse does not redact it either.
const REMOTE_EXEMPT_TYPES: [StateEventType; 4] = [
    StateEventType::RoomMember,
    StateEventType::RoomPowerLevels,
    StateEventType::RoomJoinRules,
    StateEventType::RoomThirdPartyInvite,
];

/// An event that is to be redacted.
struct Target {
    stored: StoredEvent,
    sender: OwnedUserId,
    /// `None` if it is no state event.
    state_type: Option<StateEventType>,
}

impl Target {
    fn load(r: &impl Reader, num: EventNum) -> Result<Self, Error> {
        let stored = event::load(r, num)?;
        Ok(Self {
            sender: stored.sender()?,
            state_type: state_type(&stored)?,
            stored,
        })
    }

    /// Whether `user`, who did not send it, has the power to redact it: the power to redact, and
    /// for state of a type that is not `exempt` also the power to set that type. NOTSPEC: the
    /// specification asks only for the first, with which a moderator could empty what only
    /// administrators may set.
    fn may_be_redacted(
        &self,
        levels: &RoomPowerLevels,
        user: &UserId,
        exempt: &[StateEventType],
    ) -> bool {
        let may_set = match &self.state_type {
            Some(kind) if !exempt.contains(kind) => levels.user_can_send_state(user, kind.clone()),
            _ => true,
        };
        may_set && levels.user_can_redact_event_of_other(user)
    }
}

/// The type of a state event.
fn state_type(stored: &StoredEvent) -> Result<Option<StateEventType>, Error> {
    #[derive(Deserialize)]
    struct Typed {
        #[serde(rename = "type")]
        kind: StateEventType,
    }
    match stored.header.state_key {
        Some(_) => Ok(Some(stored.parse::<Typed>()?.kind)),
        None => Ok(None),
    }
}

/// Whether it is state that keeps a room usable.
pub(in crate::rooms) fn is_protected(stored: &StoredEvent) -> Result<bool, Error> {
    Ok(state_type(stored)?.is_some_and(|kind| PROTECTED_TYPES.contains(&kind)))
}

/// Checks that a local user may send this redaction: of their own events, or of others' with the
/// power for it ([client-server API, "Redactions"]).
///
/// [client-server API, "Redactions"]: https://spec.matrix.org/v1.19/client-server-api/#redactions
///
/// # Errors
/// [`Error::Invalid`] if the event is in another room, [`Error::Forbidden`] if the sender may not. An
/// event that is not here may come, and is redacted then if the sender may (NOTSPEC: as in Synapse).
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
    let Some(num) = event::num_in(r, room, redacts)? else {
        return match event::num_of(r, redacts)? {
            Some(_) => Err(Error::invalid("the event to redact is in another room")),
            None => Ok(()),
        };
    };
    let target = Target::load(r, num)?;
    if is_protected(&target.stored)? {
        return Err(Error::forbidden(
            "the create event, server ACL, encryption and power levels of a room may not be redacted",
        ));
    }
    let sender = &draft.sender;
    if target.sender == *sender
        || target.may_be_redacted(
            &power_levels::levels(r, room, rules)?,
            sender,
            &LOCAL_EXEMPT_TYPES,
        )
    {
        return Ok(());
    }
    Err(Error::forbidden(
        "you do not have the power to redact this event of somebody else",
    ))
}

/// Carries out a redaction, if it may: its sender has the power in all of `states`, or is of the
/// server whose user sent the redacted event ([room version 3, "Handling redactions"]). If that
/// event is not here, the redaction waits for it in `early_redactions`. In room versions 1 and 2 the
/// server may also be that of both event ids ([authorization rules], 11).
///
/// Returns what it redacted.
///
/// [authorization rules]: https://spec.matrix.org/v1.19/rooms/v1/#authorisation-rules
/// [room version 3, "Handling redactions"]: https://spec.matrix.org/v1.19/rooms/v3/#handling-redactions
pub(in crate::rooms) fn apply(
    tx: &Tx,
    room: RoomNum,
    rules: &RoomVersionRules,
    redaction: &Pdu,
    redaction_num: EventNum,
    states: &[NodeNum],
) -> Result<Option<StoredEvent>, Error> {
    let Some(redacts) = redaction.redacts() else {
        return Ok(None);
    };
    let redaction = Redaction {
        num: redaction_num,
        sender: redaction.sender(),
        states,
    };
    match event::num_in(tx, room, redacts)? {
        None => {
            redaction.add_early(tx, room, rules, redacts)?;
            Ok(None)
        }
        Some(num) => {
            let target = Target::load(tx, num)?;
            match redaction.may_redact(tx, room, rules, &target)? {
                true => redact(tx, target, redaction_num, rules),
                false => Ok(None),
            }
        }
    }
}

/// Whether clients do not get `stored` because it is a redaction that redacted nothing: its target is not here,
/// or its sender may not redact it ([room version 3, "Handling redactions"]). Clients apply each one that
/// they get.
///
/// [room version 3, "Handling redactions"]: https://spec.matrix.org/v1.19/rooms/v3/#handling-redactions
pub(in crate::rooms) fn is_withheld(r: &impl Reader, stored: &StoredEvent) -> Result<bool, Error> {
    #[derive(Deserialize)]
    struct Typed {
        #[serde(rename = "type")]
        kind: TimelineEventType,
    }
    let header = &stored.header;
    if header.state_key.is_some()
        || header.redacted_by.is_some()
        || stored.parse::<Typed>()?.kind != TimelineEventType::RoomRedaction
    {
        return Ok(false);
    }
    let redaction = stored.pdu(room::rules(r, header.room)?)?;
    let Some(target) = redaction.redacts() else {
        return Ok(false);
    };
    Ok(match event::num_in(r, header.room, target)? {
        Some(target) => event::header(r, target)?.redacted_by.is_none(),
        None => true,
    })
}

/// A redaction that is an accepted event.
struct Redaction<'a> {
    num: EventNum,
    sender: &'a UserId,
    /// The states in which its sender needs the power.
    states: &'a [NodeNum],
}

impl Redaction<'_> {
    fn may_redact(
        &self,
        r: &impl Reader,
        room: RoomNum,
        rules: &RoomVersionRules,
        target: &Target,
    ) -> Result<bool, Error> {
        // NOTSPEC: as in Synapse. A room needs its create event.
        if target.state_type == Some(StateEventType::RoomCreate) {
            return Ok(false);
        }
        if self.sender.server_name() == target.sender.server_name() {
            return Ok(true);
        }
        if rules.authorization.special_case_room_redaction
            && event::id(r, self.num)?.server_name() == target.stored.id()?.server_name()
        {
            return Ok(true);
        }
        self.has_power(r, room, rules, |levels| {
            target.may_be_redacted(levels, self.sender, &REMOTE_EXEMPT_TYPES)
        })
    }

    fn has_power(
        &self,
        r: &impl Reader,
        room: RoomNum,
        rules: &RoomVersionRules,
        suffices: impl Fn(&RoomPowerLevels) -> bool,
    ) -> Result<bool, Error> {
        for state in self.states {
            let levels = power_levels::levels_in(r, room, rules, &StateOverlay::of(*state))?;
            if !suffices(&levels) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Keeps it for the event `redacts`, which is not here. Which redaction counts depends on who
    /// sent that event and what it is: of those with power one of each sender is kept, of the others
    /// one of each server.
    fn add_early(
        &self,
        tx: &Tx,
        room: RoomNum,
        rules: &RoomVersionRules,
        redacts: &EventId,
    ) -> Result<(), Error> {
        let can_redact =
            |levels: &RoomPowerLevels| levels.user_can_redact_event_of_other(self.sender);
        let has_power = self.has_power(tx, room, rules, can_redact)?;
        let mut early = tx.early_redactions()?;
        let key = (room, redacts.as_str());
        let mut kept = early.load(key)?.unwrap_or_default();
        for other in &kept.redactions {
            let sender = event::load(tx, other.event)?.sender()?;
            let is_known = if has_power {
                other.has_power && sender == self.sender
            } else {
                sender.server_name() == self.sender.server_name()
            };
            if is_known {
                return Ok(());
            }
        }
        if kept.redactions.len() >= MAX_EARLY_REDACTIONS_PER_EVENT {
            let without = kept.redactions.iter().position(|other| !other.has_power);
            match without.filter(|_| has_power) {
                Some(index) => kept.redactions.remove(index),
                None => return Ok(()),
            };
        }
        kept.redactions.push(EarlyRedaction {
            event: self.num,
            has_power,
            states: self.states.to_vec(),
        });
        early.put(key, &kept)?;
        if early.len()? > MAX_EARLY_REDACTIONS {
            evict_early(&mut early, room, redacts)?;
        }
        Ok(())
    }
}

/// Removes the row behind that of `redacts`, preferably one without power: where event ids are hashes,
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

/// Redacts the event `num`, which was just stored, if a redaction of it came before it. Returns whether
/// it did.
pub(in crate::rooms) fn apply_early(
    tx: &Tx,
    room: RoomNum,
    rules: &RoomVersionRules,
    id: &EventId,
    num: EventNum,
) -> Result<bool, Error> {
    let mut early = tx.early_redactions()?;
    let key = (room, id.as_str());
    let Some(kept) = early.load(key)? else {
        return Ok(false);
    };
    early.remove(key)?;
    drop(early);
    let target = Target::load(tx, num)?;
    for early in kept.redactions {
        let sender = event::load(tx, early.event)?.sender()?;
        let redaction = Redaction {
            num: early.event,
            sender: &sender,
            states: &early.states,
        };
        if redaction.may_redact(tx, room, rules, &target)? {
            redact(tx, target, early.event, rules)?;
            return Ok(true);
        }
    }
    Ok(false)
}

#[derive(Deserialize)]
struct WithContent {
    content: Box<RawValue>,
}

/// The redacted event; `None` if it was redacted before.
fn redact(
    tx: &Tx,
    target: Target,
    redaction: EventNum,
    rules: &RoomVersionRules,
) -> Result<Option<StoredEvent>, Error> {
    let Target {
        mut stored, sender, ..
    } = target;
    if stored.header.redacted_by.is_some() {
        return Ok(None);
    }
    relations::index::remove(tx, &stored)?;
    let content = stored.parse::<WithContent>()?.content;
    media::references::remove(tx, content.get())?;
    if stored.header.state_key.is_none() {
        media::remove_redacted(tx, &sender, content.get())?;
    }
    let json = redact::redact(&stored.json, rules)
        .map_err(|_| Error::corrupt("events", stored.num, "cannot be redacted"))?;
    stored.header.redacted_by = Some(redaction);
    tx.events()?
        .insert(stored.num, event::row(&stored.header, &json).as_slice())?;
    Ok(Some(stored))
}
