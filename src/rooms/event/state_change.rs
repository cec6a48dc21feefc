//! Changing a room's current state, and what follows from it: the log of changes, the counts of
//! members, the memberships of local users, the servers in the room, device lists.

use ruma::UserId;
use serde::Deserialize;

use crate::{
    rooms::{
        Error, Local,
        servers::{self, device_list_announcement, device_list_invalidation},
        state::{
            self,
            current::{MEMBER, has_joined, membership_of},
        },
        stored_event::{self, StoredEvent},
    },
    store::{
        Effect, EventNum, NodeNum, Place, Position, Reader, Records, RoomNum, Rows, Tx, UserNum,
        records::{MemberRow, Membership, RoomHeads},
    },
};

const CREATE: &str = "m.room.create";

/// Makes `root` the room's current state at `position`. The caller stores `heads`.
pub(in crate::rooms) fn set_current_state(
    tx: &Tx,
    local: &Local,
    room: RoomNum,
    heads: &mut RoomHeads,
    root: NodeNum,
    position: Position,
) -> Result<(), Error> {
    for key in state::differing_keys(tx, room, &[heads.state, root])? {
        let before = state::get(tx, room, heads.state, key)?;
        let after = state::get(tx, room, root, key)?;
        match after {
            Some(event) => tx.current_state()?.insert((room, key), event)?,
            None => drop(tx.current_state()?.remove((room, key))?),
        }
        let none = EventNum(0);
        let change = (before.unwrap_or(none), after.unwrap_or(none));
        tx.state_changes()?.insert((room, position, key), change)?;
        heads.state_position = position;
        if let Some(before) = before {
            mark_replaced(tx, before, position)?;
        }
        let (kind, state_key) = state::key_name(tx, room, key)?;
        if kind == CREATE && state_key.is_empty() {
            set_room_type(tx, room, after)?;
        }
        if kind == MEMBER
            && let Ok(user) = <&UserId>::try_from(state_key.as_str())
        {
            let change = MemberChange {
                user,
                before,
                after,
                position,
            };
            change.apply(tx, local, room, heads)?;
        }
    }
    heads.state = root;
    heads.last_position = heads.last_position.max(heads.state_position);
    Ok(())
}

/// Logs that `redacted` was redacted at `position`, if it stands in the current state, as a change from itself
/// to itself: clients have its content. The caller stores `heads`.
pub(in crate::rooms) fn log_redaction(
    tx: &Tx,
    room: RoomNum,
    heads: &mut RoomHeads,
    redacted: &StoredEvent,
    position: Position,
) -> Result<(), Error> {
    let Some(key) = redacted.header.state_key else {
        return Ok(());
    };
    let current = tx.current_state()?.get((room, key))?.map(|row| row.value());
    let mut changes = tx.state_changes()?;
    // It may stand there only since this position.
    if current != Some(redacted.num) || changes.has((room, position, key))? {
        return Ok(());
    }
    heads.state_position = position;
    Ok(changes.insert((room, position, key), (redacted.num, redacted.num))?)
}

/// Stores the type in the create event `create`, if it has one.
fn set_room_type(tx: &Tx, room: RoomNum, create: Option<EventNum>) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Create {
        content: Content,
    }
    #[derive(Deserialize)]
    struct Content {
        #[serde(rename = "type")]
        room_type: Option<String>,
    }
    let create = match create {
        Some(create) => stored_event::load(tx, create)?.parse::<Create>().ok(),
        None => None,
    };
    match create.and_then(|create| create.content.room_type) {
        Some(room_type) => Ok(tx.room_types()?.insert(room, room_type.as_str())?),
        None => {
            tx.room_types()?.remove(room)?;
            Ok(())
        }
    }
}

/// Stores of an outlier that stood in the current state when it was replaced there: a claim cannot bring
/// it back.
fn mark_replaced(tx: &Tx, num: EventNum, position: Position) -> Result<(), Error> {
    if !stored_event::header(tx, num)?.status.is_outlier() {
        return Ok(());
    }
    let mut outlier = stored_event::load(tx, num)?;
    outlier.header.position = position;
    let row = stored_event::row(&outlier.header, &outlier.json);
    Ok(tx.events()?.insert(num, row.as_slice())?)
}

/// A change of the member event of `user`.
struct MemberChange<'a> {
    user: &'a UserId,
    before: Option<EventNum>,
    after: Option<EventNum>,
    position: Position,
}

impl MemberChange<'_> {
    fn apply(
        &self,
        tx: &Tx,
        local: &Local,
        room: RoomNum,
        heads: &mut RoomHeads,
    ) -> Result<(), Error> {
        let membership = |event: Option<EventNum>| {
            event.map_or(Ok(Membership::Leave), |event| membership_of(tx, event))
        };
        let (was, is) = (membership(self.before)?, membership(self.after)?);
        for (membership, count) in [
            (Membership::Join, &mut heads.joined),
            (Membership::Invite, &mut heads.invited),
        ] {
            *count += u32::from(is == membership);
            *count = count.saturating_sub(u32::from(was == membership));
        }
        let (has_joined_now, has_left) = (
            was != Membership::Join && is == Membership::Join,
            was == Membership::Join && is != Membership::Join,
        );
        let user = self.user;
        if local.has(user) {
            set_local_membership(tx, room, user, is, self.after, self.position)?;
            if has_joined_now {
                device_list_announcement::user_joined(tx, room, user)?;
            }
            if was == Membership::Join && !has_joined(tx, room)? {
                device_list_invalidation::last_local_user_left(tx, room)?;
            }
        } else if has_joined_now {
            servers::add_joined(tx, room, user.server_name(), 1)?;
        } else if has_left {
            servers::add_joined(tx, room, user.server_name(), -1)?;
            device_list_invalidation::remote_user_left(tx, user)?;
        }
        Ok(())
    }
}

/// Stores the membership of a local user. An invitation from outside the room ends with it.
pub(in crate::rooms) fn set_local_membership(
    tx: &Tx,
    room: RoomNum,
    user: &UserId,
    membership: Membership,
    event: Option<EventNum>,
    position: Position,
) -> Result<(), Error> {
    let user: UserNum = tx.user_num(user.as_str())?;
    let mut local_members = tx.local_members()?;
    match membership {
        Membership::Join | Membership::Invite | Membership::Knock => {
            local_members.insert((room, user), membership as u8)?;
        }
        Membership::Leave | Membership::Ban => drop(local_members.remove((room, user))?),
    }
    drop(local_members);
    tx.out_of_band_memberships()?.remove((user, room))?;
    let mut memberships = tx.memberships()?;
    match event {
        Some(event) => {
            let has_left = matches!(membership, Membership::Leave | Membership::Ban);
            let before = memberships.load((user, room))?;
            let since = match &before {
                Some(before) if before.membership == membership => before.since,
                _ => stored_event::header(tx, event)?.place.unwrap_or(Place::MIN),
            };
            let row = MemberRow {
                membership,
                event,
                position,
                since,
                // A ban or an unban does not bring a forgotten room back.
                forgotten: has_left && before.is_some_and(|before| before.forgotten),
            };
            memberships.put((user, room), &row)?;
        }
        None => drop(memberships.remove((user, room))?),
    }
    tx.effect(Effect::UserChanged(user, position));
    tx.effect(Effect::MembershipChanged(user, room));
    Ok(())
}
