//! What one user does to another's membership.
//!
//! Who may do what is for the room's authorization rules to say; here stands what they leave open
//! and the client-server API does not.

use ruma::{UserId, events::room::member::MembershipState};
use serde::Deserialize;

use super::change::MembershipChange;
use crate::{
    rooms::{Actor, Error, Local, state::current},
    store::{Reader, Records, RoomNum, Tx, UserNum, records::Membership},
    users::{self, account_data},
};

/// Invites `target`. The same invite twice is one; `is_direct` says that the room is meant as a
/// direct chat.
///
/// # Errors
/// [`Error::Forbidden`] if the room's rules do not allow it, or `target` lives on another server;
/// [`Error::NotFound`] if `target` would live here but does not; [`Error::InviteBlocked`] if
/// `target` wants no invites.
pub fn invite(
    tx: &Tx,
    local: &Local,
    actor: &Actor,
    room: RoomNum,
    target: &UserId,
    reason: Option<&str>,
    is_direct: bool,
) -> Result<(), Error> {
    check_invitee(tx, local, target)?;
    let mut change =
        MembershipChange::new(target, MembershipState::Invite, reason).with_profile(tx, local)?;
    change.content.is_direct = is_direct.then_some(true);
    change.send(tx, local, room, actor)
}

/// Whether `target` can be invited at all.
///
/// # Errors
/// Those of [`invite`] that the room has no part in.
pub fn check_invitee(r: &impl Reader, local: &Local, target: &UserId) -> Result<(), Error> {
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
            if blocks_invites(r, num)? {
                Err(Error::InviteBlocked)
            } else {
                Ok(())
            }
        }
        _ => Err(Error::NotFound("there is no such user on this server")),
    }
}

/// Whether the user's account data say so ([Invite permission]).
///
/// [Invite permission]: https://spec.matrix.org/v1.19/client-server-api/#invite-permission
fn blocks_invites(r: &impl Reader, user: UserNum) -> Result<bool, Error> {
    #[derive(Deserialize)]
    struct Config {
        default_action: Option<String>,
    }
    let config = account_data::load(r, user, account_data::GLOBAL, "m.invite_permission_config")?;
    let config = config.and_then(|row| serde_json::from_str::<Config>(&row.content).ok());
    Ok(config.and_then(|config| config.default_action).as_deref() == Some("block"))
}

/// Takes `target` out of the room, the invite or the knock from them.
///
/// # Errors
/// [`Error::Forbidden`] if the room's rules do not allow it, or `target` has nothing that could be
/// taken.
pub fn kick(
    tx: &Tx,
    local: &Local,
    actor: &Actor,
    room: RoomNum,
    target: &UserId,
    reason: Option<&str>,
) -> Result<(), Error> {
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

/// Lifts the ban of `target`.
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
    if current::membership(tx, room, target)? != Membership::Ban {
        return Err(Error::BadState(
            format!("{target} is not banned from the room").into(),
        ));
    }
    MembershipChange::new(target, MembershipState::Leave, reason).send(tx, local, room, actor)
}
