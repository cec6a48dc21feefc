//! Making an event of a local user, inside the job that stores it.
//!
//! What comes before it, how deep it stands and what authorizes it follow from what the
//! transaction sees, so that two events made at once stand one behind the other.

use std::sync::Arc;

use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, RoomVersionId,
    events::{StateEventType, TimelineEventType},
    room_version_rules::RoomVersionRules,
};

use super::{
    insert::{self, Insert, Notify},
    outgoing, redaction,
};
use crate::{
    protocol::{
        Pdu,
        authorize::{AuthError, auth_types, check_by_auth_events, check_by_state},
        build::{BuiltEvent, EventDraft, EventPlace, build, room_id_from_create_event},
    },
    rooms::{
        Error, Local, event, room,
        state::{self, current},
    },
    store::{
        DeviceNum, EventNum, Place, Position, Reader, RoomNum, Tx, UserNum,
        records::{RoomHeads, Status},
    },
};

/// The most events that a new one names as its predecessors. NOTSPEC: the specification allows 20;
/// fewer keep events small, and what is left over stays an extremity for the next one.
const PREV_EVENTS: usize = 10;
/// The greatest depth that canonical JSON can hold; what follows stays there.
const MAX_DEPTH: u64 = (1 << 53) - 1;

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
    /// Its room.
    pub room: RoomNum,
    /// Its room id.
    pub room_id: OwnedRoomId,
    /// Its number.
    pub num: EventNum,
    /// Its event id.
    pub id: OwnedEventId,
    /// Its position in the server's stream.
    pub position: Position,
    /// Its place in the room's timeline.
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
    let room_id = built.pdu.room_id();
    let room = room::create(tx, room_id, version)?;
    let made = Made {
        rules,
        room,
        built,
        auth: Vec::new(),
        prev: Vec::new(),
    };
    finish(tx, local, &mut room::heads(tx, room)?, made, sending)
}

/// Makes `draft` the newest event of its room.
///
/// # Errors
/// [`Error::UnknownRoom`]; [`Error::Forbidden`] if the room's rules do not allow it;
/// [`Error::BadContent`] or [`Error::TooLarge`] if it is not fit to be an event.
pub fn append(
    tx: &Tx,
    local: &Local,
    draft: &EventDraft,
    sending: &Sending,
) -> Result<Appended, Error> {
    let room = room::num(tx, draft.room_id.as_deref().ok_or(Error::UnknownRoom)?)?;
    let rules = room::rules(tx, room)?;
    let mut heads = room::heads(tx, room)?;
    redaction::check(tx, room, draft, rules)?;
    let made = make(tx, local, (room, &heads), draft, sending.now)?;
    finish(tx, local, &mut heads, made, sending)
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
    let made = make(r, local, (room, &room::heads(r, room)?), draft, now)?;
    authorize(r, room, &made.built.pdu, made.rules)?;
    Ok(made.built)
}

/// An event that was made and is not allowed yet.
struct Made {
    rules: &'static RoomVersionRules,
    room: RoomNum,
    built: BuiltEvent,
    auth: Vec<EventNum>,
    prev: Vec<EventNum>,
}

fn make(
    r: &impl Reader,
    local: &Local,
    (room, heads): (RoomNum, &RoomHeads),
    draft: &EventDraft,
    now: MilliSecondsSinceUnixEpoch,
) -> Result<Made, Error> {
    let rules = room::rules(r, room)?;
    let (auth, auth_events) = auth_events(r, room, draft, rules)?;
    let newest = heads.extremities.iter().rev().take(PREV_EVENTS);
    let prev: Vec<EventNum> = newest.copied().collect();
    let place = EventPlace {
        prev_events: prev
            .iter()
            .map(|num| event::id(r, *num))
            .collect::<Result<_, _>>()?,
        auth_events,
        depth: (heads.depth + 1).min(MAX_DEPTH),
        origin_server_ts: now,
    };
    Ok(Made {
        rules,
        room,
        built: build(draft, &place, rules, local.key())?,
        auth,
        prev,
    })
}

/// The events in the room's current state that authorize `draft`.
fn auth_events(
    r: &impl Reader,
    room: RoomNum,
    draft: &EventDraft,
    rules: &RoomVersionRules,
) -> Result<(Vec<EventNum>, Vec<OwnedEventId>), Error> {
    let (mut nums, mut ids) = (Vec::new(), Vec::new());
    for (kind, state_key) in auth_types(draft, rules)? {
        if let Some(num) = current::get(r, room, &kind.to_string(), &state_key)? {
            nums.push(num);
            ids.push(event::id(r, num)?);
        }
    }
    Ok((nums, ids))
}

/// Who has read the room up to `pdu`, having written it. A new name or picture goes to every room
/// without a look at any.
fn writer(tx: &Tx, pdu: &Pdu) -> Result<Option<UserNum>, Error> {
    if *pdu.event_type() == TimelineEventType::RoomMember {
        return Ok(None);
    }
    Ok(Some(tx.user_num(pdu.sender().as_str())?))
}

/// Authorizes `made` by the room's current state, stores it, and carries out what it means.
fn finish(
    tx: &Tx,
    local: &Local,
    heads: &mut RoomHeads,
    made: Made,
    sending: &Sending,
) -> Result<Appended, Error> {
    let Made {
        rules,
        room,
        built,
        auth,
        prev,
    } = made;
    let pdu = &built.pdu;
    authorize(tx, room, pdu, rules)?;
    let state_key = match pdu.state_pair() {
        Some((kind, key)) => Some(state::key_num_or_new(tx, room, &kind.to_string(), key)?),
        None => None,
    };
    let new = Insert {
        id: pdu.event_id(),
        outlier: None,
        json: &built.json,
        status: Status::Accepted,
        state_before: heads.state,
        state_key,
        auth: &auth,
        read_by: writer(tx, pdu)?,
        sent_by: sending.sent_by.clone(),
        thread: insert::thread_root(tx, room, pdu)?,
        notify: &sending.notify,
    };
    let (num, position) = insert::insert(tx, room, heads, &new)?;
    if let Some(key) = state_key {
        let root = state::set(tx, room, heads.state, key, Some(num))?;
        current::change(tx, local, room, heads, (root, position), [key])?;
    }
    redaction::apply(tx, room, pdu, num, rules)?;
    outgoing::enqueue(tx, local, room, pdu, (num, position))?;
    heads
        .extremities
        .retain(|extremity| !prev.contains(extremity));
    heads.extremities.push(num);
    heads.depth = heads.depth.max(pdu.depth());
    tx.room_heads()?.put(room, heads)?;
    let (room_id, id) = (pdu.room_id().to_owned(), pdu.event_id().to_owned());
    Ok(Appended {
        room,
        room_id,
        num,
        id,
        position,
        place: heads.last_place,
    })
}

fn authorize(
    r: &impl Reader,
    room: RoomNum,
    pdu: &Pdu,
    rules: &RoomVersionRules,
) -> Result<(), Error> {
    let by_id = |id: &EventId| {
        event::num_in(r, room, id)?
            .map(|num| load(r, num, rules))
            .transpose()
    };
    check_by_auth_events(pdu, rules, by_id).map_err(forbidden)?;
    let in_state = |kind: &StateEventType, state_key: &str| match current::get(
        r,
        room,
        &kind.to_string(),
        state_key,
    )? {
        Some(num) => load(r, num, rules).map(Some),
        None => Ok(None),
    };
    check_by_state(pdu, rules, in_state).map_err(forbidden)
}

fn load(r: &impl Reader, num: EventNum, rules: &RoomVersionRules) -> Result<Arc<Pdu>, Error> {
    Ok(Arc::new(event::load(r, num)?.pdu(rules)?))
}

fn forbidden(error: AuthError<Error>) -> Error {
    match error {
        AuthError::Rejected(reason) => Error::Forbidden(reason.into()),
        AuthError::Read(error) => error,
    }
}
