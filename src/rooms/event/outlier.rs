//! Events that are known only because others name them: as their authority, or in a state that
//! another server tells. They stand in no timeline and change nothing by themselves.

use ruma::room_version_rules::RoomVersionRules;

use super::{
    insert::{self, Insert, Notify},
    receive,
};
use crate::{
    protocol::receive::Received,
    rooms::{Error, event, state},
    store::{EventNum, NodeNum, Position, RoomNum, Tx, records::Status},
};

/// Stores an event whose signatures and hash were checked, unless it is here; its number.
///
/// # Errors
/// [`Error::Missing`] if an event that authorizes it is not here: store those first.
pub fn store(
    tx: &Tx,
    room: RoomNum,
    rules: &RoomVersionRules,
    received: &Received,
) -> Result<EventNum, Error> {
    let pdu = &received.pdu;
    if let Some((num, _)) = receive::here(tx, room, pdu.event_id())? {
        return Ok(num);
    }
    let auth = receive::auth_events(tx, room, rules, pdu)?;
    let status = if receive::is_authorized(tx, room, rules, pdu)? {
        Status::Outlier
    } else {
        Status::RejectedOutlier
    };
    insert(tx, room, received, (status, &auth))
}

/// As [`store`], for an event that was authorized already: [`Pdu::rejected`] has the result.
///
/// [`Pdu::rejected`]: crate::protocol::Pdu::rejected
pub fn store_authorized(
    tx: &Tx,
    room: RoomNum,
    rules: &RoomVersionRules,
    received: &Received,
) -> Result<EventNum, Error> {
    let pdu = &received.pdu;
    if let Some((num, _)) = receive::here(tx, room, pdu.event_id())? {
        return Ok(num);
    }
    let auth = receive::auth_events(tx, room, rules, pdu)?;
    let status = if pdu.rejected() {
        Status::RejectedOutlier
    } else {
        Status::Outlier
    };
    insert(tx, room, received, (status, &auth))
}

/// Stores an event that came alone: of what it names nothing is here.
pub fn store_out_of_band(tx: &Tx, room: RoomNum, received: &Received) -> Result<EventNum, Error> {
    match event::num_in(tx, room, received.pdu.event_id())? {
        Some(num) => Ok(num),
        None => insert(tx, room, received, (Status::OutOfBand, &[])),
    }
}

fn insert(
    tx: &Tx,
    room: RoomNum,
    received: &Received,
    (status, auth): (Status, &[EventNum]),
) -> Result<EventNum, Error> {
    let pdu = &received.pdu;
    let state_key = match pdu.state_pair() {
        Some((kind, key)) => Some(state::key_num_or_new(tx, room, &kind.to_string(), key)?),
        None => None,
    };
    let new = Insert {
        id: pdu.event_id(),
        outlier: None,
        json: &received.json,
        status,
        state_before: NodeNum::EMPTY,
        state_key,
        auth,
        read_by: None,
        sent_by: None,
        thread: None,
        notify: &Notify::default(),
    };
    insert::store(tx, room, &new, (Position(0), None))
}
