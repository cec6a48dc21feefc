//! How many invitations and out-of-band memberships a user may have, and which give way to newer ones.
//!
//! An invitation by a local user beyond their share is refused, as is one by somebody who shares no room with
//! the invited that is not open to everybody, if the invited has many.
//!
//! For those through other servers:
//! An invitation beyond the share of its sender or of its server is refused. If a user has as many as
//! possible, an invitation through a server that shares a room with this one displaces another one: the
//! oldest of the server with the most, of those that share no room if there are any.

use std::collections::HashMap;

use ruma::{OwnedUserId, ServerName, UserId};

use crate::{
    protocol::receive::Received,
    rooms::{
        Error, event,
        servers::{self, shared_rooms},
    },
    store::{
        Effect, EventNum, Position, Reader, Records, RoomNum, Rows, Tx, UserNum,
        records::Membership,
    },
    users::{num_of, to_device::SharedRooms},
};

/// Of one user.
pub(super) const MAX_PER_USER: usize = 200;
/// Of those, invitations through one server, by whether it shares a room with this one.
pub(super) const MAX_PER_SERVER: usize = 100;
pub(super) const MAX_PER_UNRELATED_SERVER: usize = 20;
/// By one user: a space can have many rooms.
pub(super) const MAX_PER_INVITER: usize = 20;
/// By a local user who shares a room with the invited that is not open to everybody.
const MAX_PER_RELATED_INVITER: usize = 100;

/// A pending invitation or knock.
struct Pending {
    room: RoomNum,
    server: String,
    is_invitation: bool,
    event: EventNum,
    position: Position,
}

/// Makes space for `event`, an invitation of `user` or a knock by them, on `room` and through `server`.
///
/// # Errors
/// [`Error::Forbidden`] if there is none.
pub(super) fn make_space(
    tx: &Tx,
    user: (UserNum, &UserId),
    room: RoomNum,
    server: &str,
    event: &Received,
) -> Result<(), Error> {
    let mut pending = pending(tx, user.0, room)?;
    let is_invitation =
        event.pdu.membership().as_ref().map(Membership::from) == Some(Membership::Invite);
    let is_related = is_invitation && shares_room(tx, server)?;
    if is_invitation {
        check_shares(tx, &pending, server, is_related, event)?;
    }
    while pending.len() >= MAX_PER_USER {
        let displaced = match is_related {
            true => displaced(tx, &pending, server)?,
            false => None,
        };
        let Some(displaced) = displaced else {
            let user = user.1;
            return Err(Error::forbidden(format!(
                "{user} has {MAX_PER_USER} pending invites and knocks, which is the limit"
            )));
        };
        let Pending { room, event, .. } = pending.swap_remove(displaced);
        let position = tx.next_position()?;
        event::set_local_membership(tx, room, user.1, Membership::Leave, Some(event), position)?;
        tx.effect(Effect::RoomChanged(room, position));
    }
    Ok(())
}

/// Checks that the local user `inviter` may invite the local user `invited` to `room`.
///
/// # Errors
/// [`Error::Forbidden`] if too many invitations are pending.
pub(super) fn check_local(
    r: &impl Reader,
    inviter: &UserId,
    invited: &UserId,
    room: RoomNum,
) -> Result<(), Error> {
    let Some(user) = num_of(r, invited)? else {
        return Ok(());
    };
    let (mut all, mut by_inviter) = (0, 0);
    for row in r.memberships()?.prefix(user)? {
        let (key, member) = row?;
        let (_, of) = key.value();
        let member = member.record(&key)?;
        let is_pending = member.membership == Membership::Invite && of != room;
        if is_pending && !r.out_of_band_memberships()?.has((user, of))? {
            all += 1;
            by_inviter += usize::from(event::load(r, member.event)?.sender()? == *inviter);
        }
    }
    if by_inviter < MAX_PER_INVITER && all < MAX_PER_USER {
        return Ok(());
    }
    let is_related = shared_rooms::shared_with(r, user, inviter)? == SharedRooms::Closed;
    let max_by_inviter = match is_related {
        true => MAX_PER_RELATED_INVITER,
        false => MAX_PER_INVITER,
    };
    if by_inviter >= max_by_inviter {
        return Err(Error::forbidden(format!(
            "{max_by_inviter} invites of {invited} by {inviter} are pending, which is the limit"
        )));
    }
    if !is_related && all >= MAX_PER_USER {
        return Err(Error::forbidden(format!(
            "{invited} has {MAX_PER_USER} pending invites, which is the limit"
        )));
    }
    Ok(())
}

/// Those of `user`, except in `room`.
fn pending(r: &impl Reader, user: UserNum, room: RoomNum) -> Result<Vec<Pending>, Error> {
    let mut pending = Vec::new();
    for row in r.out_of_band_memberships()?.prefix(user)? {
        let (key, row) = row?;
        let (_, of) = key.value();
        if let Some(member) = r.memberships()?.load((user, of))?.filter(|_| of != room) {
            pending.push(Pending {
                room: of,
                server: row.record(&key)?.server,
                is_invitation: member.membership == Membership::Invite,
                event: member.event,
                position: member.position,
            });
        }
    }
    Ok(pending)
}

fn shares_room(r: &impl Reader, server: &str) -> Result<bool, Error> {
    match <&ServerName>::try_from(server) {
        Ok(server) => servers::is_in_any(r, server),
        Err(_) => Ok(false),
    }
}

/// Fails if the server or the user who invites has as many pending invitations as they may have.
fn check_shares(
    r: &impl Reader,
    pending: &[Pending],
    server: &str,
    is_related: bool,
    event: &Received,
) -> Result<(), Error> {
    let of_server = |pending: &&Pending| pending.is_invitation && pending.server == server;
    let max = match is_related {
        true => MAX_PER_SERVER,
        false => MAX_PER_UNRELATED_SERVER,
    };
    if pending.iter().filter(of_server).count() >= max {
        return Err(Error::forbidden(format!(
            "{max} invites through {server} are pending, which is the limit"
        )));
    }
    let inviter = event.pdu.sender();
    let mut by_inviter = 0;
    for pending in pending.iter().filter(of_server) {
        let sender: OwnedUserId = event::load(r, pending.event)?.sender()?;
        by_inviter += usize::from(sender == *inviter);
    }
    if by_inviter >= MAX_PER_INVITER {
        return Err(Error::forbidden(format!(
            "{MAX_PER_INVITER} invites by {inviter} are pending, which is the limit"
        )));
    }
    Ok(())
}

/// The index of the invitation that gives way to one through `server`, which shares a room.
fn displaced(r: &impl Reader, pending: &[Pending], server: &str) -> Result<Option<usize>, Error> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for pending in pending.iter().filter(|pending| pending.is_invitation) {
        *counts.entry(&pending.server).or_default() += 1;
    }
    let own = counts.get(server).copied().unwrap_or_default();
    let mut ranked = Vec::new();
    for (server, count) in counts {
        let is_related = shares_room(r, server)?;
        if !is_related || count > own + 1 {
            ranked.push((!is_related, count, server));
        }
    }
    let of = ranked.into_iter().max().map(|(_, _, server)| server);
    let invitations = pending.iter().enumerate();
    let invitations = invitations
        .filter(|(_, pending)| pending.is_invitation && Some(pending.server.as_str()) == of);
    let oldest = invitations.min_by_key(|(_, pending)| pending.position);
    Ok(oldest.map(|(index, _)| index))
}
