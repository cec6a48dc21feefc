//! The conditions of restricted rooms, and who authorizes the join of a user who meets them. Since
//! room version 8.
//!
//! Source: client-server API, "Restricted rooms".

use ruma::{
    OwnedUserId, UserId,
    events::StateEventType,
    room::{AllowRule, JoinRule},
    room_version_rules::RoomVersionRules,
};

use crate::{
    rooms::{
        Error, room,
        state::{content, current, power_levels},
    },
    store::{Reader, RoomNum, Rows, records::Membership},
};

/// The local user for `join_authorised_via_users_server` of a join of `user` without an invite;
/// `None` if the room's join rule is not a restricted one.
///
/// # Errors
/// [`Error::Forbidden`] if the user meets none of the room's conditions;
/// [`Error::UnableToAuthorizeJoin`] and [`Error::UnableToGrantJoin`] if another server in the room
/// may still authorize the join.
pub fn authorized_via(
    r: &impl Reader,
    room: RoomNum,
    user: &UserId,
) -> Result<Option<OwnedUserId>, Error> {
    let rules = room::rules(r, room)?;
    let join_rule = content::current(r, room, &StateEventType::RoomJoinRules, "")?;
    let restricted = match join_rule {
        Some(JoinRule::Restricted(restricted)) if rules.authorization.restricted_join_rule => {
            restricted
        }
        Some(JoinRule::KnockRestricted(restricted))
            if rules.authorization.knock_restricted_join_rule =>
        {
            restricted
        }
        _ => return Ok(None),
    };
    match meets_any(r, &restricted.allow, user)? {
        Some(true) => user_who_may_invite(r, room, rules)?
            .map(Some)
            .ok_or(Error::UnableToGrantJoin),
        Some(false) => Err(Error::forbidden(
            "you are in none of the rooms whose members may join without an invite",
        )),
        None => Err(Error::UnableToAuthorizeJoin),
    }
}

/// Whether `user` meets one of `conditions`; `None` if that depends on rooms that this server is not
/// in.
fn meets_any(
    r: &impl Reader,
    conditions: &[AllowRule],
    user: &UserId,
) -> Result<Option<bool>, Error> {
    let mut knows_all = true;
    for condition in conditions {
        let AllowRule::RoomMembership(condition) = condition else {
            continue;
        };
        match room::num(r, &condition.room_id) {
            Ok(room) if current::has_joined(r, room)? => {
                if current::membership(r, room, user)? == Membership::Join {
                    return Ok(Some(true));
                }
            }
            Ok(_) | Err(Error::UnknownRoom) => knows_all = false,
            Err(error) => return Err(error),
        }
    }
    Ok(knows_all.then_some(false))
}

/// A joined local user who may invite others to the room.
fn user_who_may_invite(
    r: &impl Reader,
    room: RoomNum,
    rules: &RoomVersionRules,
) -> Result<Option<OwnedUserId>, Error> {
    let levels = power_levels::levels(r, room, rules)?;
    let users = r.users()?;
    for row in r.local_members()?.prefix(room)? {
        let (key, membership) = row?;
        if membership.value() != Membership::Join as u8 {
            continue;
        }
        let id = users
            .get(key.value().1)?
            .ok_or_else(|| Error::corrupt("users", key.value().1, "missing"))?;
        let id = <&UserId>::try_from(id.value())
            .map_err(|_| Error::corrupt("users", key.value().1, "not a user ID"))?;
        if levels.user_can_invite(id) {
            return Ok(Some(id.to_owned()));
        }
    }
    Ok(None)
}
