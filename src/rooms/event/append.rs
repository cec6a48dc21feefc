//! Making an event of a local user, inside the job that commits it.
//!
//! Its prev_events, depth and auth events follow from what the transaction sees, so of two events
//! made at once one follows on the other.

use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, RoomVersionId,
    room_version_rules::RoomVersionRules,
};

use super::{
    authorize::ParsedEvents,
    commit::{self, Commit, LiveEnd, Placement},
    insert::Notify,
    redaction,
};
use crate::{
    protocol::{
        authorize::auth_types,
        build::{BuiltEvent, EventDraft, EventPlace, build, room_id_from_create_event},
        reference::{EventReference, has_hash},
    },
    rooms::{
        Error, Local, event, policy_server, relations, room,
        servers::server_acl,
        state::{current, overlay::StateOverlay},
    },
    store::{
        DeviceNum, EventNum, Place, Position, Reader, RoomNum, Tx,
        records::{RoomHeads, Status},
    },
};

/// How many prev_events a new event has at most. NOTSPEC: the specification allows 20. Fewer keep
/// events small; the other extremities are left for the next event.
const MAX_PREV_EVENTS: usize = 10;

/// How an event is sent.
#[derive(Clone, Debug)]
pub struct Sending {
    /// The time that the event carries.
    pub now: MilliSecondsSinceUnixEpoch,
    /// The device that sends it, with its transaction id.
    pub sent_by: Option<(DeviceNum, String)>,
    /// Whom it notifies.
    pub notify: Notify,
}

/// An event that was made and stored.
#[derive(Clone, Debug)]
pub struct Appended {
    pub room: RoomNum,
    pub room_id: OwnedRoomId,
    pub num: EventNum,
    pub id: OwnedEventId,
    pub position: Position,
    pub place: Place,
}

/// Makes a room of `version` whose create event is `draft`.
///
/// # Errors
/// [`Error::UnsupportedVersion`]; [`Error::Forbidden`] if the rules do not allow the event;
/// [`Error::BadContent`] or [`Error::TooLarge`] if it is not fit to be one; [`Error::RoomExists`].
pub fn create(
    tx: &Tx,
    local: &Local,
    version: &RoomVersionId,
    draft: &EventDraft,
    sending: &Sending,
) -> Result<Appended, Error> {
    let rules = room::rules_of(version)?;
    if draft.room_id.is_none() != room_id_from_create_event(rules) {
        return Err(Error::invalid("the room id does not fit the room version"));
    }
    let place = EventPlace {
        prev_events: Vec::new(),
        auth_events: Vec::new(),
        depth: 1,
        origin_server_ts: sending.now,
    };
    let built = build(draft, &place, rules, local.key())?;
    let room = room::create(tx, built.pdu.room_id(), version)?;
    ParsedEvents::new(tx, room, rules).authorize(&built.pdu)?;
    let event = Allowed {
        built,
        auth: Vec::new(),
        prev: Vec::new(),
    };
    let mut heads = room::heads(tx, room)?;
    commit(tx, local, room, &mut heads, event, sending)
}

/// Makes `draft` the newest event of its room.
///
/// # Errors
/// [`Error::UnknownRoom`]; [`Error::Forbidden`] if the room's rules do not allow it;
/// [`Error::BadContent`] or [`Error::TooLarge`] if it is not fit to be an event; those of
/// [`redaction::check`], [`relations::check::check`], [`server_acl::check`] and [`policy_server::signed`].
pub fn append(
    tx: &Tx,
    local: &Local,
    draft: &EventDraft,
    sending: &Sending,
) -> Result<Appended, Error> {
    let room = room::num(tx, draft.room_id.as_deref().ok_or(Error::UnknownRoom)?)?;
    let rules = room::rules(tx, room)?;
    let mut heads = room::heads(tx, room)?;
    let event = build_allowed(tx, local, room, &heads, draft, sending.now)?;
    redaction::check(tx, room, draft, rules)?;
    relations::check::check(tx, room, draft)?;
    server_acl::check(local, draft)?;
    let event = Allowed {
        built: policy_server::signed(tx, local, room, rules, event.built)?,
        ..event
    };
    commit(tx, local, room, &mut heads, event, sending)
}

/// Makes `draft` an event that would be the newest of its room, and stores nothing.
///
/// # Errors
/// Those of [`append`].
pub fn build_only(
    r: &impl Reader,
    local: &Local,
    room: RoomNum,
    draft: &EventDraft,
    now: MilliSecondsSinceUnixEpoch,
) -> Result<BuiltEvent, Error> {
    Ok(build_allowed(r, local, room, &room::heads(r, room)?, draft, now)?.built)
}

/// An event that was built and is allowed.
struct Allowed {
    built: BuiltEvent,
    auth: Vec<EventNum>,
    prev: Vec<EventNum>,
}

/// Builds `draft` behind the room's extremities. Its auth events come from the room's current
/// state, so what they allow the current state allows too: there is one check.
fn build_allowed(
    r: &impl Reader,
    local: &Local,
    room: RoomNum,
    heads: &RoomHeads,
    draft: &EventDraft,
    now: MilliSecondsSinceUnixEpoch,
) -> Result<Allowed, Error> {
    let rules = room::rules(r, room)?;
    let events = ParsedEvents::new(r, room, rules);
    let mut auth = Vec::new();
    for (kind, state_key) in auth_types(draft, rules)? {
        auth.extend(current::get(r, room, &kind.to_string(), &state_key)?);
    }
    let newest = heads.extremities.iter().rev().take(MAX_PREV_EVENTS);
    let prev: Vec<EventNum> = newest.copied().collect();
    let place = EventPlace {
        prev_events: references(r, &prev, rules)?,
        auth_events: references(r, &auth, rules)?,
        depth: heads.depth.saturating_add(1),
        origin_server_ts: now,
    };
    let built = build(draft, &place, rules, local.key())?;
    events.authorize(&built.pdu)?;
    Ok(Allowed { built, auth, prev })
}

/// How an event names these.
fn references(
    r: &impl Reader,
    nums: &[EventNum],
    rules: &RoomVersionRules,
) -> Result<Vec<EventReference>, Error> {
    let references = nums.iter().map(|num| {
        if !has_hash(rules) {
            return Ok(event::id(r, *num)?.into());
        }
        let stored = event::load(r, *num)?;
        Ok(EventReference::new(stored.id()?, &stored.json, rules)?)
    });
    references.collect()
}

/// Commits an event that is allowed.
fn commit(
    tx: &Tx,
    local: &Local,
    room: RoomNum,
    heads: &mut RoomHeads,
    event: Allowed,
    sending: &Sending,
) -> Result<Appended, Error> {
    let pdu = &event.built.pdu;
    let before = StateOverlay::of(heads.state);
    let current = before.clone().with_event(pdu, StateOverlay::UNNUMBERED);
    let new = Commit {
        pdu,
        json: &event.built.json,
        rules: room::rules(tx, room)?,
        status: Status::Accepted,
        auth: &event.auth,
        state_before: &before,
        claimed: None,
        placement: Placement::LiveEnd(LiveEnd {
            local,
            heads,
            missing: &[],
            known_upto: None,
            current: &current,
            superseded: &event.prev,
            relay: true,
            sent_by: sending.sent_by.clone(),
            notify: &sending.notify,
        }),
    };
    let committed = commit::commit(tx, room, new)?;
    Ok(Appended {
        room,
        room_id: pdu.room_id().to_owned(),
        num: committed.num,
        id: pdu.event_id().to_owned(),
        position: committed.position,
        place: heads.last_place,
    })
}
