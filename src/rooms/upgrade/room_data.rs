//! Copying bans, and the rooms of a space, from a room to the one that replaces it. There may be
//! thousands, so it is a [background job](crate::rooms::background::jobs).

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
        background::batch,
        event::state_event::StateEvent,
        membership::moderation,
        room,
        state::{self, content},
    },
    store::{Effect, Reader, Records, RoomNum, Rows, StateKeyNum, Tx, records::PendingUpgrade},
    users,
};

/// Even if each byte is escaped as JSON, it leaves room for the other fields of an event.
const MAX_REASON_BYTES: usize = 8 * 1024;

/// To be called in the transaction in which `actor` replaces `old_room` by `new_room`.
pub(in crate::rooms) fn schedule(
    tx: &Tx,
    actor: &Actor,
    old_room: RoomNum,
    new_room: RoomNum,
) -> Result<(), Error> {
    let pending = PendingUpgrade {
        old_room,
        upgraded_by: actor.num,
        next_key: StateKeyNum::MIN,
    };
    tx.pending_upgrades()?.put(new_room, &pending)?;
    tx.effect(Effect::BackgroundJob);
    Ok(())
}

/// Copies some more state into `new_room`; whether any is left.
pub(in crate::rooms) fn run_batch(
    tx: &Tx,
    local: &Local,
    now: MilliSecondsSinceUnixEpoch,
    new_room: RoomNum,
) -> Result<bool, Error> {
    let Some(mut pending) = tx.pending_upgrades()?.load(new_room)? else {
        return Ok(false);
    };
    let old_room = pending.old_room;
    let actor = Actor {
        num: pending.upgraded_by,
        id: users::id_of(tx, pending.upgraded_by)?,
        now,
    };
    let rows = tx.current_state()?;
    let keys = rows
        .prefix_range(old_room, pending.next_key..)?
        .take(batch::MAX_ROWS + 1)
        .map(|row| Ok(row?.0.value().1))
        .collect::<Result<Vec<_>, Error>>()?;
    drop(rows);
    let next = batch::run(keys, |key| {
        let result = copy(tx, local, &actor, old_room, *key, new_room);
        batch::skip_impossible(result, || {
            let event = match state::key_name(tx, old_room, *key) {
                Ok((kind, state_key)) => format!("the copied {kind} of {state_key}"),
                Err(_) => "a copied state event".to_owned(),
            };
            Ok((event, room::id(tx, new_room)?.into()))
        })
    })?;
    let mut table = tx.pending_upgrades()?;
    match next {
        Some(key) => {
            pending.next_key = key;
            table.put(new_room, &pending)?;
        }
        None => drop(table.remove(new_room)?),
    }
    Ok(next.is_some())
}

/// The reason of a ban, cut if it could make the event too large in the new room, where its other
/// fields may be longer.
fn cut_reason(reason: &str) -> &str {
    &reason[..reason.floor_char_boundary(MAX_REASON_BYTES)]
}

/// Copies the state event at `key` if it is a ban or a child of a space; whether it sent an event.
fn copy(
    tx: &Tx,
    local: &Local,
    actor: &Actor,
    old_room: RoomNum,
    key: StateKeyNum,
    new_room: RoomNum,
) -> Result<bool, Error> {
    let (kind, state_key) = state::key_name(tx, old_room, key)?;
    match StateEventType::from(kind) {
        kind @ StateEventType::RoomMember => {
            let member =
                content::current::<RoomMemberEventContent>(tx, old_room, &kind, &state_key)?;
            let banned = member.filter(|member| member.membership == MembershipState::Ban);
            let (Some(banned), Ok(user)) = (banned, <&UserId>::try_from(state_key.as_str())) else {
                return Ok(false);
            };
            let reason = banned.reason.as_deref().map(cut_reason);
            moderation::ban(tx, local, actor, new_room, user, reason)?;
            Ok(true)
        }
        kind @ StateEventType::SpaceChild => {
            let content = content::current::<CanonicalJsonObject>(tx, old_room, &kind, &state_key)?;
            // A child without `via` was removed from the space.
            let Some(content) = content.filter(|content| content.contains_key("via")) else {
                return Ok(false);
            };
            let child = StateEvent {
                kind,
                state_key,
                content,
            };
            child.send_once(tx, local, new_room, actor)?;
            Ok(true)
        }
        _ => Ok(false),
    }
}
