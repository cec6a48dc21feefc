//! New membership events for a user whose profile changed, in all joined rooms; and leaving all
//! rooms when the account is deactivated. A [background job](super::jobs).
//!
//! Source: [Events on Change of Profile Information](https://spec.matrix.org/v1.19/client-server-api/#events-on-change-of-profile-information).

use ruma::{
    CanonicalJsonObject, MilliSecondsSinceUnixEpoch,
    events::{StateEventType, room::member::MembershipState},
};

use super::batch;
use crate::{
    rooms::{
        Actor, Error, Local,
        membership::{change::MembershipChange, leave, out_of_band, pending_leaves},
        room,
        state::{content, current},
    },
    store::{Effect, Reader, Records, RoomNum, Rows, Tx, UserNum, records::Membership},
    users,
};

/// To be called in the transaction that changes `user`'s display name or avatar, or deactivates the
/// account.
pub fn schedule_update(tx: &Tx, user: UserNum) -> Result<(), Error> {
    tx.pending_member_updates()?.insert(user, RoomNum::MIN)?;
    tx.effect(Effect::BackgroundJob);
    Ok(())
}

/// Updates some more rooms of `user`; whether any are left.
pub(in crate::rooms) fn run_batch(
    tx: &Tx,
    local: &Local,
    now: MilliSecondsSinceUnixEpoch,
    user: UserNum,
) -> Result<bool, Error> {
    let start = tx
        .pending_member_updates()?
        .get(user)?
        .map(|row| row.value());
    let Some(start) = start else {
        return Ok(false);
    };
    let actor = Actor {
        num: user,
        id: users::id_of(tx, user)?,
        now,
    };
    let account = tx.accounts()?.load(user)?;
    let is_deactivated = account.is_none_or(|account| account.deactivated);
    let rows = tx.memberships()?;
    let rooms = rows
        .prefix_range(user, start..)?
        .take(batch::MAX_ROWS + 1)
        .map(|row| {
            let (key, member) = row?;
            Ok((key.value().1, member.record(&key)?.membership))
        })
        .collect::<Result<Vec<_>, Error>>()?;
    drop(rows);
    let next = batch::run(rooms, |(room, membership)| {
        let result = match membership {
            Membership::Leave | Membership::Ban => Ok(false),
            _ if is_deactivated => leave_room(tx, local, &actor, *room).map(|()| true),
            Membership::Join => send_profile(tx, local, &actor, *room),
            Membership::Invite | Membership::Knock => Ok(false),
        };
        batch::skip_impossible(result, || {
            let event = format!("the new membership event of {}", actor.id);
            Ok((event, room::id(tx, *room)?.into()))
        })
    })?;
    let mut pending = tx.pending_member_updates()?;
    match next {
        Some((room, _)) => pending.insert(user, room)?,
        None => drop(pending.remove(user)?),
    }
    Ok(next.is_some())
}

/// Leaves a room, or takes back an invite or a knock, whatever a policy server says: neither an account that is
/// gone stays in a room, nor one that the owner takes out.
pub fn leave_room(tx: &Tx, local: &Local, actor: &Actor, room: RoomNum) -> Result<(), Error> {
    let local = &local.without_policy_servers();
    match out_of_band::load(tx, actor.num, room)? {
        Some(_) => {
            let change = MembershipChange::new(&actor.id, MembershipState::Leave, None);
            pending_leaves::leave(tx, local, actor, room, &change)
        }
        None => leave::leave_any(tx, local, actor, room, None),
    }
}

/// Some of the local users leave `room`, as by [`leave_room`]; how many, 0 if none are left.
pub fn leave_batch(
    tx: &Tx,
    local: &Local,
    now: MilliSecondsSinceUnixEpoch,
    room: RoomNum,
) -> Result<u32, Error> {
    let mut left = 0;
    let members = current::local_members(tx, room)?.into_iter();
    for (user, _) in members.take(batch::MAX_EVENTS_SENT) {
        let id = users::id_of(tx, user)?;
        let actor = Actor { num: user, id, now };
        leave_room(tx, local, &actor, room)?;
        left += 1;
    }
    Ok(left)
}

/// Sends the actor's profile to a joined room, unless the room has it; whether it did.
fn send_profile(tx: &Tx, local: &Local, actor: &Actor, room: RoomNum) -> Result<bool, Error> {
    let change =
        MembershipChange::new(&actor.id, MembershipState::Join, None).with_profile(tx, local)?;
    let kind = StateEventType::RoomMember;
    let before = content::current::<CanonicalJsonObject>(tx, room, &kind, actor.id.as_str())?;
    if before.is_some_and(|before| {
        ["displayname", "avatar_url"]
            .iter()
            .all(|field| before.get(*field) == change.content().get(*field))
    }) {
        return Ok(false);
    }
    change.send(tx, local, room, actor)?;
    Ok(true)
}
