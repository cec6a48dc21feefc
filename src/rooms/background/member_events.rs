//! Bringing a user's membership events into line with the user: with the profile, in the rooms that
//! the user is in; with the account's end, everywhere. An [errand](super::jobs).
//!
//! Source: [Events on MembershipChange of Profile Information](https://spec.matrix.org/v1.19/client-server-api/#events-on-change-of-profile-information).

use ruma::{
    MilliSecondsSinceUnixEpoch,
    events::{
        StateEventType,
        room::member::{MembershipState, RoomMemberEventContent},
    },
};

use super::batch::{LOOKED_AT, SENT, tried};
use crate::{
    rooms::{
        Actor, Error, Local,
        membership::{change::MembershipChange, leave},
        state::content,
    },
    store::{Effect, Reader, Records, RoomNum, Rows, Tx, UserNum, records::Membership},
    users,
};

/// To be called where `user`'s display name or avatar changes, or the account ends, in the same
/// transaction.
pub fn schedule_update(tx: &Tx, user: UserNum) -> Result<(), Error> {
    tx.pending_member_updates()?.insert(user, RoomNum::MIN)?;
    tx.effect(Effect::BackgroundJob);
    Ok(())
}

/// Sees to some more rooms of `user`; whether there are more yet.
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
    let gone = tx.accounts()?.load(user)?;
    let gone = gone.is_none_or(|account| account.deactivated);
    let see_to = if gone { leave_room } else { show_profile };
    let next = see_to_some(tx, local, &actor, start, see_to)?;
    match next {
        Some(next) => tx.pending_member_updates()?.insert(user, next)?,
        None => {
            tx.pending_member_updates()?.remove(user)?;
        }
    }
    Ok(next.is_some())
}

/// What is to be done in a room where the actor has that membership; whether it sent an event.
type SeeTo = fn(&Tx, &Local, &Actor, RoomNum, Membership) -> Result<bool, Error>;

/// Sees to the actor's rooms from `start` on; where to go on.
fn see_to_some(
    tx: &Tx,
    local: &Local,
    actor: &Actor,
    start: RoomNum,
    see_to: SeeTo,
) -> Result<Option<RoomNum>, Error> {
    let mut rooms = Vec::with_capacity(LOOKED_AT);
    for row in tx
        .memberships()?
        .range((actor.num, start)..=(actor.num, RoomNum::MAX))?
        .take(LOOKED_AT)
    {
        let (key, member) = row?;
        rooms.push((key.value().1, member.value().unpack()?.membership));
    }
    let mut sent = 0;
    for (room, membership) in &rooms {
        if sent == SENT {
            return Ok(Some(*room));
        }
        let result = see_to(tx, local, actor, *room, *membership);
        sent += usize::from(tried(result, actor, *room)?);
    }
    let more = rooms.len() == LOOKED_AT;
    Ok(rooms
        .last()
        .filter(|_| more)
        .map(|(last, _)| RoomNum(last.0 + 1)))
}

fn show_profile(
    tx: &Tx,
    local: &Local,
    actor: &Actor,
    room: RoomNum,
    membership: Membership,
) -> Result<bool, Error> {
    if membership != Membership::Join {
        return Ok(false);
    }
    let change =
        MembershipChange::new(&actor.id, MembershipState::Join, None).with_profile(tx, local)?;
    let kind = StateEventType::RoomMember;
    let before = content::current::<RoomMemberEventContent>(tx, room, &kind, actor.id.as_str())?;
    let shown = |content: &RoomMemberEventContent| {
        (content.displayname.clone(), content.avatar_url.clone())
    };
    if before.is_some_and(|before| shown(&before) == shown(&change.content)) {
        return Ok(false);
    }
    change.send(tx, local, room, actor)?;
    Ok(true)
}

fn leave_room(
    tx: &Tx,
    local: &Local,
    actor: &Actor,
    room: RoomNum,
    membership: Membership,
) -> Result<bool, Error> {
    if matches!(membership, Membership::Leave | Membership::Ban) {
        return Ok(false);
    }
    leave::leave(tx, local, actor, room, None)?;
    Ok(true)
}
