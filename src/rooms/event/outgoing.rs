//! The queue of events that other servers get. `federation/outbound` sends them.

use ruma::{
    UserId,
    events::{StateEventType, room::member::MembershipState},
};

use crate::{
    protocol::Pdu,
    rooms::{Error, Local, servers},
    store::{Effect, EventNum, Position, Reader, RoomNum, Tx, records::Outgoing},
};

/// Queues an event that was made here, or with which a user of another server joins, leaves or
/// knocks through this one, if another server gets it.
pub(in crate::rooms) fn enqueue(
    tx: &Tx,
    local: &Local,
    room: RoomNum,
    pdu: &Pdu,
    event: EventNum,
    position: Position,
) -> Result<(), Error> {
    let mut also = Vec::new();
    if let Some(user) = removed_user(pdu)
        && !local.has(user)
        && !servers::is_in(tx, room, user.server_name())?
    {
        also.push(tx.server_num(user.server_name().as_str())?);
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

/// The user who leaves the room, is kicked or banned by this event.
fn removed_user(pdu: &Pdu) -> Option<&UserId> {
    let (StateEventType::RoomMember, user) = pdu.state_pair()? else {
        return None;
    };
    match pdu.membership()? {
        MembershipState::Leave | MembershipState::Ban => user.try_into().ok(),
        _ => None,
    }
}
