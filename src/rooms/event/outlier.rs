//! Events that are known only because others name them: in their auth events, or in a claimed
//! state. They stand in no timeline and change nothing by themselves.

use ruma::{EventId, room_version_rules::RoomVersionRules};

use super::{
    authorize::{ParsedEvents, allowed},
    commit::{self, Commit, Placement},
    graph::{auth_event_nums, find},
    receive,
};
use crate::{
    protocol::receive::Received,
    rooms::{Error, event, room, state::overlay::StateOverlay},
    store::{EventNum, Reader, RoomNum, Tx, records::Status},
};

/// Whether other events of `room` may refer to the event: it is stored there, not only out of band.
pub fn is_stored(r: &impl Reader, room: RoomNum, id: &EventId) -> Result<bool, Error> {
    let Some(num) = event::num_of(r, id)? else {
        return Ok(false);
    };
    let header = event::header(r, num)?;
    Ok(header.room == room && header.status != Status::OutOfBand)
}

/// Stores an event whose signatures and hash were checked, unless it is here; its number.
///
/// # Errors
/// [`Error::Missing`] if one of its auth events is not here: store those first.
pub fn store(
    tx: &Tx,
    room: RoomNum,
    rules: &'static RoomVersionRules,
    received: &Received,
) -> Result<EventNum, Error> {
    let pdu = &received.pdu;
    if let Some((num, _)) = find(tx, room, pdu.event_id())? {
        return Ok(num);
    }
    let auth = auth_event_nums(tx, room, rules, pdu)?;
    receive::check_create_event(tx, room, pdu)?;
    let events = ParsedEvents::new(tx, room, rules);
    let status = match allowed(pdu, events.authorize(pdu))? {
        Some(_) => Status::Outlier,
        None => Status::RejectedOutlier,
    };
    commit_outlier(tx, room, received, status, &auth)
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
    if let Some((num, _)) = find(tx, room, pdu.event_id())? {
        return Ok(num);
    }
    let auth = auth_event_nums(tx, room, rules, pdu)?;
    let status = if pdu.rejected() {
        Status::RejectedOutlier
    } else {
        Status::Outlier
    };
    commit_outlier(tx, room, received, status, &auth)
}

/// Stores an event that came without its room, as an invitation does.
pub fn store_out_of_band(tx: &Tx, room: RoomNum, received: &Received) -> Result<EventNum, Error> {
    match event::num_in(tx, room, received.pdu.event_id())? {
        Some(num) => Ok(num),
        None => commit_outlier(tx, room, received, Status::OutOfBand, &[]),
    }
}

fn commit_outlier(
    tx: &Tx,
    room: RoomNum,
    received: &Received,
    status: Status,
    auth: &[EventNum],
) -> Result<EventNum, Error> {
    let new = Commit {
        rules: room::rules(tx, room)?,
        pdu: &received.pdu,
        json: &received.json,
        status,
        auth,
        state_before: &StateOverlay::default(),
        claimed: None,
        placement: Placement::Outlier,
    };
    Ok(commit::commit(tx, room, new)?.num)
}
