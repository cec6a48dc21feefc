//! Committing an event: the one way in which an event gets into the store.
//!
//! All events come through [`commit`]: those that are made here, received, imported with a
//! send_join response, kept as outliers, or back-filled. In this order:
//!
//! 1. The event's row, under its old number if it was an outlier, its auth events, and its references
//!    to media.
//! 2. The claimed state before it, if some of its prev_events are not here.
//! 3. The timeline: a gap where prev_events are missing, its place, its relation, threads and unread
//!    counts, unless it was redacted before.
//! 4. Redactions of this event that came before it, unless it is out of band: its row is made again
//!    when the room is joined.
//! 5. If it is accepted: the redaction that it is; at the live end also the room's current state,
//!    the outgoing queue, the extremities and the effects.

use ruma::room_version_rules::RoomVersionRules;

use super::{
    insert::{self, Notify},
    outgoing, redaction, state_change,
};
use crate::{
    media::references,
    protocol::Pdu,
    rooms::{
        Error, Local,
        event::{self, StoredEvent},
        relations::index,
        room, search,
        state::{self, overlay::StateOverlay},
        timeline::gaps,
        unread::redacted,
    },
    store::{
        DeviceNum, Effect, EventNum, NodeNum, Place, Position, Reader, RoomNum, Rows, Tx,
        records::{
            ClaimedState, Counts, EventHeader, Gap, GapOpened, RoomHeads, Status, TimelineRow,
        },
    },
};

/// How many claimed states of a room are kept.
pub(in crate::rooms) const MAX_CLAIMED_STATES: usize = 200;

/// How many places of the timeline stay free where history is missing.
const GAP_PLACES: u64 = 1 << 32;

/// An event that has been decided.
pub(in crate::rooms) struct Commit<'a> {
    pub(in crate::rooms) pdu: &'a Pdu,
    /// Its bytes; if it was an outlier, those that are stored stay.
    pub(in crate::rooms) json: &'a [u8],
    pub(in crate::rooms) rules: &'static RoomVersionRules,
    pub(in crate::rooms) status: Status,
    pub(in crate::rooms) auth: &'a [EventNum],
    pub(in crate::rooms) state_before: &'a StateOverlay,
    /// What another server says is the state before it, if prev_events of an accepted event are
    /// missing.
    pub(in crate::rooms) claimed: Option<Claim<'a>>,
    pub(in crate::rooms) placement: Placement<'a>,
}

/// What [`ClaimedState`] holds.
pub(in crate::rooms) struct Claim<'a> {
    pub(in crate::rooms) state: &'a StateOverlay,
    pub(in crate::rooms) known_upto: Place,
}

/// Where an event is put.
pub(in crate::rooms) enum Placement<'a> {
    /// Into no timeline.
    Outlier,
    /// Before a gap.
    BeforeGap(BeforeGap<'a>),
    /// At the room's live end if it is accepted, else into no timeline.
    LiveEnd(LiveEnd<'a>),
}

/// Where a back-filled event is put.
pub(in crate::rooms) struct BeforeGap<'a> {
    /// Its place, if it is accepted.
    pub(in crate::rooms) place: Option<Place>,
    /// The first event after the gap. The back-filled event is visible from its position on.
    pub(in crate::rooms) after_gap: &'a TimelineRow,
    /// The counts before the gap: back-filled events notify nobody.
    pub(in crate::rooms) counts: Counts,
}

/// What an event changes at the live end of its room.
pub(in crate::rooms) struct LiveEnd<'a> {
    pub(in crate::rooms) local: &'a Local,
    pub(in crate::rooms) heads: &'a mut RoomHeads,
    /// Those of its prev_events that are not here.
    pub(in crate::rooms) missing: &'a [String],
    /// The last place of the timeline before the event, if this server was in the room then: what
    /// fills a gap before the event is checked as if it had been received then.
    pub(in crate::rooms) known_upto: Option<Place>,
    /// The current state with the event, in which it is [`StateOverlay::UNNUMBERED`].
    pub(in crate::rooms) current: &'a StateOverlay,
    /// The extremities that the event supersedes.
    pub(in crate::rooms) superseded: &'a [EventNum],
    /// Whether other servers get it from this one.
    pub(in crate::rooms) relay: bool,
    /// The device that sent it, with its transaction id.
    pub(in crate::rooms) sent_by: Option<(DeviceNum, String)>,
    pub(in crate::rooms) notify: &'a Notify,
}

/// An event that was committed.
pub(in crate::rooms) struct Committed {
    pub(in crate::rooms) num: EventNum,
    pub(in crate::rooms) position: Position,
}

/// Commits an event. At the live end it stores the room's heads too.
///
/// # Errors
/// [`Error::UnknownRoom`] if the room was deleted after the event was decided.
pub(in crate::rooms) fn commit(
    tx: &Tx,
    room: RoomNum,
    new: Commit<'_>,
) -> Result<Committed, Error> {
    let Commit {
        pdu,
        json,
        rules,
        status,
        auth,
        state_before,
        claimed,
        mut placement,
    } = new;
    room::check_found(tx, room)?;
    let (place, position) = placement.reserve(tx, status)?;
    let state_before = state_before.store(tx, room, StateOverlay::UNNUMBERED)?;
    let header = EventHeader {
        id: pdu.event_id().as_str().to_owned(),
        room,
        status,
        place,
        position,
        state_before,
        state_key: match pdu.state_pair() {
            Some((kind, key)) => Some(state::key_num_or_new(tx, room, &kind.to_string(), key)?),
            None => None,
        },
        redacted_by: None,
        sent_by: match &mut placement {
            Placement::LiveEnd(end) => end.sent_by.take(),
            _ => None,
        },
    };
    let (num, was_redacted) = put_row(tx, room, pdu, header, json, auth)?;
    if let Some(claim) = claimed {
        let claim = ClaimedState {
            state: claim.state.store(tx, room, StateOverlay::UNNUMBERED)?,
            known_upto: claim.known_upto,
        };
        put_claim(tx, room, num, &claim)?;
    }
    let stored = Stored {
        room,
        rules,
        pdu,
        state_before,
        event: num,
        position,
        status,
        place,
    };
    if let Some(place) = place {
        index::add(tx, room, num, place, pdu)?;
    }
    let mut is_redacted = was_redacted;
    if status != Status::OutOfBand {
        is_redacted |= redaction::apply_early(tx, room, rules, pdu.event_id(), num)?;
    }
    match placement {
        Placement::Outlier => {}
        Placement::BeforeGap(before) => {
            before.place(tx, &stored)?;
            if let Some(place) = place {
                search::index::add_backfilled(tx, room, place, num)?;
            }
        }
        Placement::LiveEnd(end) if is_redacted => {
            let notify = &Notify::default();
            LiveEnd { notify, ..end }.place(tx, &stored)?;
        }
        Placement::LiveEnd(end) => end.place(tx, &stored)?,
    }
    Ok(Committed { num, position })
}

/// An event whose row is stored.
struct Stored<'a> {
    room: RoomNum,
    rules: &'static RoomVersionRules,
    pdu: &'a Pdu,
    state_before: NodeNum,
    event: EventNum,
    position: Position,
    status: Status,
    /// Its place, if it is accepted.
    place: Option<Place>,
}

impl Stored<'_> {
    /// Carries out the redaction that it is. What it redacted does not count as unread any more.
    fn redact(&self, tx: &Tx, states: &[NodeNum]) -> Result<Option<StoredEvent>, Error> {
        let Self { room, rules, .. } = *self;
        let redacted = redaction::apply(tx, room, rules, self.pdu, self.event, states)?;
        if let Some(place) = redacted.as_ref().and_then(|event| event.header.place) {
            redacted::add(tx, room, place)?;
        }
        Ok(redacted)
    }
}

impl Placement<'_> {
    /// The place and the position of an event. Leaves places free where history is missing.
    fn reserve(&mut self, tx: &Tx, status: Status) -> Result<(Option<Place>, Position), Error> {
        match self {
            Self::Outlier => Ok((None, Position(0))),
            Self::BeforeGap(before) => Ok((before.place, before.after_gap.position)),
            Self::LiveEnd(end) => {
                let position = tx.next_position()?;
                if status != Status::Accepted {
                    return Ok((None, position));
                }
                let last = &mut end.heads.last_place;
                if !end.missing.is_empty() && *last >= Place::FIRST {
                    *last = Place(last.0.saturating_add(GAP_PLACES));
                }
                Ok((Some(last.next()), position))
            }
        }
    }
}

impl BeforeGap<'_> {
    fn place(self, tx: &Tx, stored: &Stored<'_>) -> Result<(), Error> {
        let Stored { room, event, .. } = *stored;
        if let Some(place) = stored.place {
            let row = TimelineRow {
                event,
                position: stored.position,
                main: self.counts,
                thread: None,
            };
            tx.timeline()?.put((room, place), &row)?;
        }
        if stored.status != Status::Accepted {
            return Ok(());
        }
        stored.redact(tx, &[stored.state_before])?;
        Ok(())
    }
}

impl LiveEnd<'_> {
    fn place(self, tx: &Tx, stored: &Stored<'_>) -> Result<(), Error> {
        let Stored {
            room,
            pdu,
            event,
            position,
            ..
        } = *stored;
        let Some(place) = stored.place else {
            return Ok(());
        };
        let (local, heads) = (self.local, self.heads);
        let entry = insert::Entry {
            event,
            position,
            place,
            notify: self.notify,
        };
        entry.insert(tx, local, room, heads, pdu)?;
        if !self.missing.is_empty() {
            let opened = |known_upto| GapOpened {
                position,
                known_upto,
            };
            let gap = Gap {
                missing: self.missing.to_vec(),
                opened: self.known_upto.map(opened),
            };
            gaps::put(tx, room, place, &gap)?;
        }
        let root = self.current.store(tx, room, event)?;
        state_change::set_current_state(tx, local, room, heads, root, position)?;
        let states = [stored.state_before, root];
        if let Some(redacted) = stored.redact(tx, &states)? {
            state_change::log_redaction(tx, room, heads, &redacted, position)?;
        }
        if self.relay {
            outgoing::enqueue(tx, local, room, pdu, event, position)?;
        }
        let is_end = |extremity: &EventNum| !self.superseded.contains(extremity);
        heads.extremities.retain(is_end);
        heads.extremities.push(event);
        heads.depth = heads.depth.max(pdu.depth());
        tx.room_heads()?.put(room, heads)?;
        tx.effect(Effect::RoomChanged(room, position));
        Ok(())
    }
}

/// Stores the claimed state of an event. If the room has too many, the oldest goes: the states after its
/// event are not derived again when the gap before it is filled.
fn put_claim(tx: &Tx, room: RoomNum, num: EventNum, claim: &ClaimedState) -> Result<(), Error> {
    let mut claims = tx.claimed_states()?;
    let rows = claims.prefix(room)?.map(|row| Ok(row?.0.value()));
    let keys = rows.collect::<Result<Vec<_>, Error>>()?;
    if keys.len() >= MAX_CLAIMED_STATES {
        claims.remove(keys[0])?;
    }
    Ok(claims.put((room, num), claim)?)
}

/// Stores an event's row. An outlier keeps its number and, as it may have been redacted, its JSON. Returns
/// whether it was redacted, too.
fn put_row(
    tx: &Tx,
    room: RoomNum,
    pdu: &Pdu,
    mut header: EventHeader,
    json: &[u8],
    auth: &[EventNum],
) -> Result<(EventNum, bool), Error> {
    let id = pdu.event_id();
    let known = event::num_of(tx, id)?;
    let known = known.map(|num| event::load(tx, num)).transpose()?;
    if known.is_none() {
        references::add(tx, pdu.content().get())?;
    }
    // An event out of band has a smaller number than its auth events have.
    let outlier = known.filter(|known| known.header.status != Status::OutOfBand);
    if outlier
        .as_ref()
        .is_some_and(|known| known.header.room != room)
    {
        return Err(Error::invalid(format!("{id} is an event of another room")));
    }
    let num = match &outlier {
        Some(known) => known.num,
        None => tx.next_event()?,
    };
    header.redacted_by = outlier.as_ref().and_then(|known| known.header.redacted_by);
    if let Some(known) = outlier.as_ref().filter(|_| header.status.is_outlier()) {
        // That it has been replaced in the current state.
        header.position = known.header.position;
    }
    let json = outlier.as_ref().map_or(json, |known| &known.json);
    tx.events()?
        .insert(num, event::row(&header, json).as_slice())?;
    tx.event_nums()?.insert(id.as_str(), num)?;
    if header.state_key.is_some() {
        let auth: Vec<u8> = auth.iter().flat_map(|num| num.0.to_le_bytes()).collect();
        tx.auth()?.insert((room, num), auth.as_slice())?;
    }
    Ok((num, header.redacted_by.is_some()))
}

/// Makes `state` the current state and `extremities` the extremities of a room in which no event was
/// added at the live end.
pub(in crate::rooms) fn commit_heads(
    tx: &Tx,
    local: &Local,
    room: RoomNum,
    extremities: Vec<EventNum>,
    state: NodeNum,
) -> Result<(), Error> {
    room::check_found(tx, room)?;
    let mut heads = room::heads(tx, room)?;
    let position = tx.next_position()?;
    state_change::set_current_state(tx, local, room, &mut heads, state, position)?;
    let rules = room::rules(tx, room)?;
    for num in &extremities {
        heads.depth = heads.depth.max(event::load(tx, *num)?.pdu(rules)?.depth());
    }
    heads.extremities = extremities;
    tx.room_heads()?.put(room, &heads)?;
    tx.effect(Effect::RoomChanged(room, position));
    Ok(())
}
