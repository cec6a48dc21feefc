//! Invites, kicks, bans and unbans: what the client-server API requires beyond the authorization
//! rules.

use ruma::{UserId, events::room::member::MembershipState};

use super::{change::MembershipChange, invitation_limits, server_notice_room};
use crate::{
    rooms::{Actor, Error, Local, state::current},
    store::{Reader, Records, RoomNum, Tx, records::Membership},
    users::{
        self,
        account_data::invite_permissions::{self, InviteRule},
    },
};

/// Sends a membership event that a client wrote, of itself or of another user of any server.
///
/// # Errors
/// [`Error::Forbidden`] if the room's rules do not allow it, or if too many invites of the invited are pending;
/// those of [`check_invitee`] and of [`server_notice_room::check_rejection`].
pub fn send(
    tx: &Tx,
    local: &Local,
    actor: &Actor,
    room: RoomNum,
    change: &MembershipChange,
) -> Result<(), Error> {
    if change.membership == MembershipState::Invite {
        check_invitee(tx, local, &actor.id, &change.target)?;
        invitation_limits::check_local(tx, &actor.id, &change.target, room)?;
    }
    if change.membership == MembershipState::Leave && change.target == actor.id {
        server_notice_room::check_rejection(tx, actor, room)?;
    }
    change.send(tx, local, room, actor)
}

/// Invites `target`, a user of this server. Idempotent. `is_direct` marks the room as a direct chat.
///
/// # Errors
/// [`Error::Forbidden`] if the room's rules do not allow it; those of [`check_invitee`].
pub fn invite(
    tx: &Tx,
    local: &Local,
    actor: &Actor,
    room: RoomNum,
    target: &UserId,
    reason: Option<&str>,
    is_direct: bool,
) -> Result<(), Error> {
    let mut change = MembershipChange::new(target, MembershipState::Invite, reason);
    if is_direct {
        change = change.direct();
    }
    send(tx, local, actor, room, &change)
}

/// Whether `inviter` can invite `target` to any room.
///
/// # Errors
/// [`Error::Forbidden`] if `target` is of another server, [`Error::NotFound`] if there is no such
/// account, [`Error::InviteBlocked`] if `target` blocks invites by `inviter`.
pub fn check_invitee(
    r: &impl Reader,
    local: &Local,
    inviter: &UserId,
    target: &UserId,
) -> Result<(), Error> {
    if !local.has(target) {
        let reason = "users of other servers are invited through their server";
        return Err(Error::forbidden(reason));
    }
    let num = users::num_of(r, target)?;
    let account = match num {
        Some(num) => r.accounts()?.load(num)?,
        None => None,
    };
    match (num, account) {
        (Some(num), Some(account)) if !account.deactivated => {
            match invite_permissions::load(r, num)?.rule(inviter) {
                InviteRule::Block => Err(Error::InviteBlocked),
                InviteRule::Allow | InviteRule::Ignore => Ok(()),
            }
        }
        _ => Err(Error::NotFound(
            "the invited user does not exist on this server",
        )),
    }
}

/// Checks that `actor` is in the room: others must not learn from an error who else is.
fn check_is_joined(r: &impl Reader, actor: &Actor, room: RoomNum) -> Result<(), Error> {
    match current::membership(r, room, &actor.id)? {
        Membership::Join => Ok(()),
        _ => Err(Error::forbidden("you are not in this room")),
    }
}

/// Removes `target` from the room, or withdraws their invite or knock.
///
/// # Errors
/// [`Error::Forbidden`] if the room's rules do not allow it, or `target` is not in the room.
pub fn kick(
    tx: &Tx,
    local: &Local,
    actor: &Actor,
    room: RoomNum,
    target: &UserId,
    reason: Option<&str>,
) -> Result<(), Error> {
    check_is_joined(tx, actor, room)?;
    match current::membership(tx, room, target)? {
        Membership::Join | Membership::Invite | Membership::Knock => {
            MembershipChange::new(target, MembershipState::Leave, reason)
                .send(tx, local, room, actor)
        }
        Membership::Leave | Membership::Ban => {
            Err(Error::forbidden(format!("{target} is not in the room")))
        }
    }
}

/// Bans `target`, who need not be in the room.
///
/// # Errors
/// [`Error::Forbidden`] if the room's rules do not allow it.
pub fn ban(
    tx: &Tx,
    local: &Local,
    actor: &Actor,
    room: RoomNum,
    target: &UserId,
    reason: Option<&str>,
) -> Result<(), Error> {
    MembershipChange::new(target, MembershipState::Ban, reason).send(tx, local, room, actor)
}

/// Lifts a ban.
///
/// # Errors
/// [`Error::Forbidden`] if the room's rules do not allow it, [`Error::BadState`] if `target` is
/// not banned.
pub fn unban(
    tx: &Tx,
    local: &Local,
    actor: &Actor,
    room: RoomNum,
    target: &UserId,
    reason: Option<&str>,
) -> Result<(), Error> {
    check_is_joined(tx, actor, room)?;
    if current::membership(tx, room, target)? != Membership::Ban {
        return Err(Error::BadState(
            format!("{target} is not banned from the room").into(),
        ));
    }
    MembershipChange::new(target, MembershipState::Leave, reason).send(tx, local, room, actor)
}
