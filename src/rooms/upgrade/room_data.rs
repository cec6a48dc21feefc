//! What a room gets from the one that it replaces, beside what it is made with: the bans, and the
//! rooms of a space. There may be thousands, so it is an [errand](crate::rooms::background::jobs).

use ruma::{
    CanonicalJsonObject, MilliSecondsSinceUnixEpoch, UserId,
    events::{
        StateEventType,
        room::member::{MembershipState, RoomMemberEventContent},
    },
};

use crate::{
    rooms::{
        Actor, Error, Local,
        background::batch::{LOOKED_AT, SENT, tried},
        membership::moderation,
        state::{
            self,
            content::{self, StateEvent},
        },
    },
    store::{Effect, Reader, Records, RoomNum, Rows, StateKeyNum, Tx, records::PendingUpgrade},
    users,
};

/// Lets `new` get from `old` what there is, in the name of `actor`, who replaced it.
pub(in crate::rooms) fn schedule(
    tx: &Tx,
    actor: &Actor,
    old: RoomNum,
    new: RoomNum,
) -> Result<(), Error> {
    let pending = PendingUpgrade {
        from: old,
        by: actor.num,
        next: StateKeyNum::MIN,
    };
    tx.pending_upgrades()?.put(new, &pending)?;
    tx.effect(Effect::BackgroundJob);
    Ok(())
}

/// Carries some more over into `new`; whether there is more yet.
pub(in crate::rooms) fn run_batch(
    tx: &Tx,
    local: &Local,
    now: MilliSecondsSinceUnixEpoch,
    new: RoomNum,
) -> Result<bool, Error> {
    let Some(mut pending) = tx.pending_upgrades()?.load(new)? else {
        return Ok(false);
    };
    let actor = Actor {
        num: pending.by,
        id: users::id_of(tx, pending.by)?,
        now,
    };
    let next = carry_some(tx, local, &actor, &pending, new)?;
    match next {
        Some(next) => {
            pending.next = next;
            tx.pending_upgrades()?.put(new, &pending)?;
        }
        None => {
            tx.pending_upgrades()?.remove(new)?;
        }
    }
    Ok(next.is_some())
}

/// Carries over what stands at the keys from the next one on; where to go on.
fn carry_some(
    tx: &Tx,
    local: &Local,
    actor: &Actor,
    pending: &PendingUpgrade,
    new: RoomNum,
) -> Result<Option<StateKeyNum>, Error> {
    let old = pending.from;
    let mut keys = Vec::with_capacity(LOOKED_AT);
    for row in tx
        .current_state()?
        .range((old, pending.next)..=(old, StateKeyNum::MAX))?
        .take(LOOKED_AT)
    {
        keys.push(row?.0.value().1);
    }
    let mut sent = 0;
    for key in &keys {
        if sent == SENT {
            return Ok(Some(*key));
        }
        let result = carry(tx, local, actor, (old, *key), new);
        sent += usize::from(tried(result, actor, new)?);
    }
    let more = keys.len() == LOOKED_AT;
    Ok(keys
        .last()
        .filter(|_| more)
        .map(|last| StateKeyNum(last.0 + 1)))
}

/// Carries over what stands at `key` in `old`, if that is to be; whether it sent an event.
fn carry(
    tx: &Tx,
    local: &Local,
    actor: &Actor,
    (old, key): (RoomNum, StateKeyNum),
    new: RoomNum,
) -> Result<bool, Error> {
    let (kind, state_key) = state::key_name(tx, old, key)?;
    match StateEventType::from(kind) {
        kind @ StateEventType::RoomMember => {
            let member = content::current::<RoomMemberEventContent>(tx, old, &kind, &state_key)?;
            let banned = member.filter(|member| member.membership == MembershipState::Ban);
            let (Some(banned), Ok(user)) = (banned, <&UserId>::try_from(state_key.as_str())) else {
                return Ok(false);
            };
            moderation::ban(tx, local, actor, new, user, banned.reason.as_deref())?;
            Ok(true)
        }
        kind @ StateEventType::SpaceChild => {
            let content = content::current::<CanonicalJsonObject>(tx, old, &kind, &state_key)?;
            // Without servers to join it through, it is a room that was taken out of the space.
            let Some(content) = content.filter(|content| content.contains_key("via")) else {
                return Ok(false);
            };
            let child = StateEvent {
                kind,
                state_key,
                content,
            };
            child.send_once(tx, local, new, actor)?;
            Ok(true)
        }
        _ => Ok(false),
    }
}
