//! Leave events of local users that are still to reach a server: invitations that were rejected, and knocks
//! that were retracted, while that server did not answer. `federation/outbound` sends them.
//!
//! The leave event that is stored here is of this server alone: only a server in the room knows which auth
//! events it needs. What that server gets is the event that it asks for by `/make_leave`.
//!
//! A row is void once the user has another membership in the room, such as by a new invitation.

use ruma::{OwnedRoomId, RoomVersionId, room_version_rules::RoomVersionRules};

use super::{change::MembershipChange, out_of_band};
use crate::{
    protocol::{
        build::{EventDraft, EventPlace, build, canonical_content},
        receive::Received,
        reference::EventReference,
    },
    rooms::{Actor, Error, Local, event, room},
    store::{
        self, Effect, Reader, Records, RoomNum, Rows, ServerNum, Tx, UserNum,
        records::{OutOfBandMembership, PendingLeave},
    },
};

/// How many a server can have. Whoever rejects more leaves without that server.
const MAX_PER_SERVER: usize = 1000;
/// The specification's limit of auth events.
const MAX_AUTH_EVENTS: usize = 10;

/// Of a row: the server, the user and the room.
pub type Key = (ServerNum, UserNum, RoomNum);

/// A leave event that a server is to accept.
pub struct Leave {
    pub room: OwnedRoomId,
    pub rules: &'static RoomVersionRules,
    /// What the user said, without the fields that the template of the server gives.
    pub draft: EventDraft,
}

/// Ends the out-of-band membership of `actor` by `change`, a leave, and has the other server notified.
///
/// # Errors
/// [`Error::Stale`] if there is none.
pub fn leave(
    tx: &Tx,
    local: &Local,
    actor: &Actor,
    room: RoomNum,
    change: &MembershipChange,
) -> Result<(), Error> {
    let row = out_of_band::load(tx, actor.num, room)?.ok_or(Error::Stale)?;
    let (event, rules) = out_of_band::load_event(tx, actor.num, room, &row)?;
    let draft = change.event().draft(room::id(tx, room)?, &actor.id);
    let auth_events = event.auth_events().iter().take(MAX_AUTH_EVENTS - 1);
    let auth_events = auth_events.map(|id| id.clone().into());
    let left = EventReference::from(event.event_id().to_owned());
    let place = EventPlace {
        auth_events: auth_events.chain([left.clone()]).collect(),
        prev_events: vec![left],
        depth: event.depth().saturating_add(1),
        origin_server_ts: actor.now,
    };
    let built = build(&draft, &place, rules, local.key())?;
    out_of_band::end(tx, room, &Received::from(built))?;
    add(tx, actor.num, room, row)
}

/// Adds the leave event with which the membership `left` has just ended.
fn add(tx: &Tx, user: UserNum, room: RoomNum, left: OutOfBandMembership) -> Result<(), Error> {
    let server = tx.server_num(&left.server)?;
    let mut rows = tx.pending_leaves()?;
    if rows.prefix(server)?.take(MAX_PER_SERVER).count() == MAX_PER_SERVER {
        let server = left.server;
        log::warn!("{server} is not notified of a rejection: too many wait for it");
        return Ok(());
    }
    let membership = tx.memberships()?.load((user, room))?.ok_or(Error::Stale)?;
    let row = PendingLeave {
        event: membership.event,
        version: left.version,
    };
    rows.put((server, user, room), &row)?;
    tx.effect(Effect::ServerAddressed(server));
    Ok(())
}

/// The servers that have pending leaves.
pub fn servers(r: &impl Reader) -> Result<Vec<ServerNum>, Error> {
    Ok(r.pending_leaves()?.first_parts()?)
}

/// The key of the first row of `server`, and the leave event unless the row is void.
pub fn next(r: &impl Reader, server: ServerNum) -> Result<Option<(Key, Option<Leave>)>, Error> {
    let rows = r.pending_leaves()?;
    let Some(row) = rows.prefix(server)?.next() else {
        return Ok(None);
    };
    let (key, row) = row?;
    let leave = row.record(&key).map_err(Error::from);
    match leave.and_then(|row| load(r, key.value(), &row)) {
        Err(Error::Store(error @ store::Error::Corrupt(_))) => {
            log::error!("a leave event is not sent to another server: {error}");
            Ok(Some((key.value(), None)))
        }
        leave => Ok(Some((key.value(), leave?))),
    }
}

fn load(r: &impl Reader, (_, user, room): Key, row: &PendingLeave) -> Result<Option<Leave>, Error> {
    let membership = r.memberships()?.load((user, room))?;
    if membership.map(|membership| membership.event) != Some(row.event) {
        return Ok(None);
    }
    let rules = room::rules_of(&version(row)?)?;
    let event = event::load(r, row.event)?.pdu(rules)?;
    let room = room::id(r, room)?;
    let draft = EventDraft {
        room_id: Some(room.clone()),
        sender: event.sender().to_owned(),
        event_type: event.event_type().clone(),
        state_key: event.state_key().map(ToOwned::to_owned),
        content: canonical_content(event.content())?,
        text: None,
        redacts: None,
    };
    Ok(Some(Leave { room, rules, draft }))
}

fn version(row: &PendingLeave) -> Result<RoomVersionId, Error> {
    RoomVersionId::try_from(&*row.version)
        .map_err(|_| Error::corrupt("pending_leaves", &row.version, "not a room version"))
}

/// Whether the row is void: the user has another membership now.
pub fn is_void(r: &impl Reader, key: Key) -> Result<bool, Error> {
    let row = r.pending_leaves()?.load(key)?;
    let event = row.map(|row| row.event);
    let membership = r.memberships()?.load((key.1, key.2))?;
    Ok(event.is_none() || membership.map(|membership| membership.event) != event)
}

/// Removes the row: the server has accepted the leave `event`, or refused one for good. An invitation that
/// came meanwhile ends if the event follows it.
pub fn finish(tx: &Tx, key: Key, event: Option<&Received>) -> Result<(), Error> {
    tx.pending_leaves()?.remove(key)?;
    let (_, user, room) = key;
    let Some(event) = event else { return Ok(()) };
    let membership = tx.memberships()?.load((user, room))?;
    if let Some(membership) = membership
        && event
            .pdu
            .auth_events()
            .contains(&event::id(tx, membership.event)?)
    {
        out_of_band::end(tx, room, event)?;
    }
    Ok(())
}
