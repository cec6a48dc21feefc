//! Events that other servers are to get: noted with the event, sent by `federation/`.

use ruma::{
    UserId,
    events::{StateEventType, room::member::MembershipState},
};

use crate::{
    protocol::Pdu,
    rooms::{Error, Local, servers},
    store::{Effect, EventNum, Position, Reader, RoomNum, Tx, records::Outgoing},
};

/// Notes an event that this server has made, or taken for another that joins, leaves or knocks
/// through it, if there is anybody to get it.
pub(in crate::rooms) fn enqueue(
    tx: &Tx,
    local: &Local,
    room: RoomNum,
    pdu: &Pdu,
    (event, position): (EventNum, Position),
) -> Result<(), Error> {
    let mut also = Vec::new();
    if let Some(gone) = gone(pdu)
        && !local.has(gone)
        && !servers::is_in(tx, room, gone.server_name())?
    {
        also.push(tx.server_num(gone.server_name().as_str())?);
    }
    if also.is_empty() && !servers::is_shared(tx, room)? {
        return Ok(());
    }
    let from = match pdu.sender() {
        sender if local.has(sender) => None,
        sender => Some(tx.server_num(sender.server_name().as_str())?),
    };
    let row = Outgoing {
        event,
        room,
        also,
        from,
    };
    tx.outgoing()?.put(position, &row)?;
    tx.effect(Effect::Outgoing);
    Ok(())
}

/// Who is not in the room any more by this event.
fn gone(pdu: &Pdu) -> Option<&UserId> {
    let (StateEventType::RoomMember, user) = pdu.state_pair()? else {
        return None;
    };
    match pdu.membership()? {
        MembershipState::Leave | MembershipState::Ban => user.try_into().ok(),
        _ => None,
    }
}
