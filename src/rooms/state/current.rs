//! A room's current state, and what follows from it: the log of its changes, the members' counts,
//! how local users stand to the room.

use std::collections::BTreeSet;

use ruma::{OwnedRoomId, RoomId, RoomVersionId, UserId, events::room::member::MembershipState};
use serde::Deserialize;

use crate::{
    rooms::{
        Error, Local, event, room,
        servers::{self, device_list_announcement, device_list_invalidation},
        state,
    },
    store::{
        Effect, EventNum, NodeNum, Place, Position, Reader, Records, RoomNum, Rows, StateKeyNum,
        Tx, UserNum,
        records::{MemberRow, Membership, RoomHeads},
    },
};

const MEMBER: &str = "m.room.member";

impl Membership {
    /// The membership that a byte of a table stands for.
    pub fn from_byte(byte: u8) -> Option<Self> {
        [
            Self::Leave,
            Self::Join,
            Self::Invite,
            Self::Knock,
            Self::Ban,
        ]
        .into_iter()
        .find(|membership| *membership as u8 == byte)
    }
}

impl From<&MembershipState> for Membership {
    /// A membership that the specification does not know counts as not being there.
    fn from(state: &MembershipState) -> Self {
        match state {
            MembershipState::Join => Self::Join,
            MembershipState::Invite => Self::Invite,
            MembershipState::Knock => Self::Knock,
            MembershipState::Ban => Self::Ban,
            _ => Self::Leave,
        }
    }
}

/// The room version of the create event; `None` if this server has never been in the room.
pub fn room_version(r: &impl Reader, id: &RoomId) -> Result<Option<RoomVersionId>, Error> {
    let room = match room::num(r, id) {
        Err(Error::UnknownRoom) => return Ok(None),
        room => room?,
    };
    match get(r, room, "m.room.create", "")? {
        Some(_) => room::version(r, room).map(Some),
        None => Ok(None),
    }
}

/// The event at (`kind`, `state_key`) in the room's current state.
pub fn get(
    r: &impl Reader,
    room: RoomNum,
    kind: &str,
    state_key: &str,
) -> Result<Option<EventNum>, Error> {
    match state::key_num(r, room, kind, state_key)? {
        Some(key) => Ok(r.current_state()?.get((room, key))?.map(|row| row.value())),
        None => Ok(None),
    }
}

/// The membership that a member event gives.
pub fn membership_of(r: &impl Reader, event: EventNum) -> Result<Membership, Error> {
    #[derive(Deserialize)]
    struct Member {
        content: Content,
    }
    #[derive(Deserialize)]
    struct Content {
        membership: MembershipState,
    }
    // What has no membership was redacted into having none, or is malformed: nobody is in by it.
    let member = event::load(r, event)?.parse::<Member>();
    Ok(member.map_or(Membership::Leave, |member| {
        (&member.content.membership).into()
    }))
}

/// How `user` stands to the room now.
pub fn membership(r: &impl Reader, room: RoomNum, user: &UserId) -> Result<Membership, Error> {
    match get(r, room, MEMBER, user.as_str())? {
        Some(event) => membership_of(r, event),
        None => Ok(Membership::Leave),
    }
}

/// Makes `root` the room's current state at `position`, which differs from the one before at
/// `keys` at most.
pub fn change(
    tx: &Tx,
    local: &Local,
    room: RoomNum,
    heads: &mut RoomHeads,
    (root, position): (NodeNum, Position),
    keys: impl IntoIterator<Item = StateKeyNum>,
) -> Result<(), Error> {
    for key in keys {
        let before = state::get(tx, room, heads.state, key)?;
        let after = state::get(tx, room, root, key)?;
        if before == after {
            continue;
        }
        match after {
            Some(event) => tx.current_state()?.insert((room, key), event)?,
            None => drop(tx.current_state()?.remove((room, key))?),
        }
        let none = EventNum(0);
        let change = (before.unwrap_or(none), after.unwrap_or(none));
        tx.state_changes()?.insert((room, position, key), change)?;
        heads.state_position = position;
        let (kind, state_key) = state::key_name(tx, room, key)?;
        if kind == MEMBER
            && let Ok(user) = <&UserId>::try_from(state_key.as_str())
        {
            member_changed(tx, local, room, heads, user, before, (after, position))?;
        }
    }
    heads.state = root;
    heads.last_position = heads.last_position.max(heads.state_position);
    Ok(())
}

fn member_changed(
    tx: &Tx,
    local: &Local,
    room: RoomNum,
    heads: &mut RoomHeads,
    user: &UserId,
    before: Option<EventNum>,
    (after, position): (Option<EventNum>, Position),
) -> Result<(), Error> {
    let membership = |event: Option<EventNum>| {
        event.map_or(Ok(Membership::Leave), |event| membership_of(tx, event))
    };
    let (was, is) = (membership(before)?, membership(after)?);
    for (membership, count) in [
        (Membership::Join, &mut heads.joined),
        (Membership::Invite, &mut heads.invited),
    ] {
        *count += u32::from(is == membership);
        *count = count.saturating_sub(u32::from(was == membership));
    }
    if local.has(user) {
        set_local_membership(tx, room, user, is, (after, position))?;
        if was != Membership::Join && is == Membership::Join {
            device_list_announcement::has_joined(tx, room, user)?;
        }
        if was == Membership::Join && !has_joined(tx, room)? {
            device_list_invalidation::all_have_left(tx, room)?;
        }
        return Ok(());
    }
    match (was == Membership::Join, is == Membership::Join) {
        (false, true) => servers::change(tx, room, user.server_name(), 1),
        (true, false) => {
            servers::change(tx, room, user.server_name(), -1)?;
            device_list_invalidation::has_left(tx, user)
        }
        _ => Ok(()),
    }
}

/// Notes how a local user stands to the room now; an invitation from outside is settled by that.
pub(in crate::rooms) fn set_local_membership(
    tx: &Tx,
    room: RoomNum,
    user: &UserId,
    membership: Membership,
    (event, position): (Option<EventNum>, Position),
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
            // Being banned from a forgotten room, or unbanned, does not bring it back to mind.
            let gone = matches!(membership, Membership::Leave | Membership::Ban);
            let before = memberships.load((user, room))?;
            let since = match &before {
                Some(before) if before.membership == membership => before.since,
                _ => event::header(tx, event)?.place.unwrap_or(Place::MIN),
            };
            let row = MemberRow {
                membership,
                event,
                position,
                since,
                forgotten: gone && before.is_some_and(|before| before.forgotten),
            };
            memberships.put((user, room), &row)?;
        }
        None => drop(memberships.remove((user, room))?),
    }
    tx.effect(Effect::UserChanged(user, position));
    Ok(())
}

/// How a local user stands to the room, as the user's own rooms have it.
pub fn local_membership(
    r: &impl Reader,
    user: UserNum,
    room: RoomNum,
) -> Result<Option<MemberRow>, Error> {
    Ok(r.memberships()?.load((user, room))?)
}

/// The rooms that the local user `user` is in. Grows with the user's rooms.
pub fn joined(r: &impl Reader, user: UserNum) -> Result<Vec<OwnedRoomId>, Error> {
    let mut joined = Vec::new();
    for row in r
        .memberships()?
        .range((user, RoomNum::MIN)..=(user, RoomNum::MAX))?
    {
        let (key, member) = row?;
        if member.record(&key)?.membership == Membership::Join {
            joined.push(room::id(r, key.value().1)?);
        }
    }
    Ok(joined)
}

/// The local users in the room with their memberships: joined, invited or knocking.
pub fn local_members(r: &impl Reader, room: RoomNum) -> Result<Vec<(UserNum, Membership)>, Error> {
    let mut members = Vec::new();
    for row in r
        .local_members()?
        .range((room, UserNum::MIN)..=(room, UserNum::MAX))?
    {
        let (key, membership) = row?;
        let membership = Membership::from_byte(membership.value())
            .ok_or_else(|| Error::corrupt("local_members", key.value(), "not a membership"))?;
        members.push((key.value().1, membership));
    }
    Ok(members)
}

/// Whether a local user is joined to the room.
pub fn has_joined(r: &impl Reader, room: RoomNum) -> Result<bool, Error> {
    let table = r.local_members()?;
    for row in table.range((room, UserNum::MIN)..=(room, UserNum::MAX))? {
        if row?.1.value() == Membership::Join as u8 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The local users who are in a room with `user`, `user` among them if in any.
pub fn sharing_rooms(r: &impl Reader, user: UserNum) -> Result<BTreeSet<UserNum>, Error> {
    let mut sharing = BTreeSet::new();
    for row in r
        .memberships()?
        .range((user, RoomNum::MIN)..=(user, RoomNum::MAX))?
    {
        let (key, row) = row?;
        if row.record(&key)?.membership == Membership::Join {
            let members = local_members(r, key.value().1)?.into_iter();
            sharing.extend(
                members
                    .filter(|(_, is)| *is == Membership::Join)
                    .map(|(user, _)| user),
            );
        }
    }
    Ok(sharing)
}

/// The local users who are in a room with `user` of another server.
pub fn sharing_rooms_with(r: &impl Reader, user: &UserId) -> Result<BTreeSet<UserNum>, Error> {
    let mut sharing = BTreeSet::new();
    let Some(server) = servers::num(r, user.server_name())? else {
        return Ok(sharing);
    };
    for room in servers::rooms(r, server)? {
        if membership(r, room, user)? == Membership::Join {
            let members = local_members(r, room)?.into_iter();
            let joined = members.filter(|(_, is)| *is == Membership::Join);
            sharing.extend(joined.map(|(user, _)| user));
        }
    }
    Ok(sharing)
}

/// The local users who are in a room with `user`, who may be of another server. `None` if more than
/// `rows` rows have to be read for that; those that were read are taken off.
pub fn sharing_rooms_within(
    r: &impl Reader,
    (user, user_id): (UserNum, &UserId),
    rows: &mut usize,
) -> Result<Option<BTreeSet<UserNum>>, Error> {
    let mut is_too_much = || {
        let left = rows.checked_sub(1);
        *rows = left.unwrap_or(0);
        left.is_none()
    };
    let mut rooms = Vec::new();
    for row in r
        .memberships()?
        .range((user, RoomNum::MIN)..=(user, RoomNum::MAX))?
    {
        if is_too_much() {
            return Ok(None);
        }
        let (key, row) = row?;
        if row.record(&key)?.membership == Membership::Join {
            rooms.push(key.value().1);
        }
    }
    if let Some(server) = servers::num(r, user_id.server_name())? {
        for room in servers::rooms(r, server)? {
            if is_too_much() {
                return Ok(None);
            }
            if membership(r, room, user_id)? == Membership::Join {
                rooms.push(room);
            }
        }
    }
    let mut sharing = BTreeSet::new();
    let members = r.local_members()?;
    for room in rooms {
        for row in members.range((room, UserNum::MIN)..=(room, UserNum::MAX))? {
            if is_too_much() {
                return Ok(None);
            }
            let (key, membership) = row?;
            if membership.value() == Membership::Join as u8 {
                sharing.insert(key.value().1);
            }
        }
    }
    Ok(Some(sharing))
}

/// Whether any local user is in a room with `user` of another server.
pub fn shares_any_room(r: &impl Reader, user: &UserId) -> Result<bool, Error> {
    let Some(server) = servers::num(r, user.server_name())? else {
        return Ok(false);
    };
    for room in servers::rooms(r, server)? {
        if membership(r, room, user)? == Membership::Join && has_joined(r, room)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a local user is in a room with `other`.
pub fn share_a_room(r: &impl Reader, one: UserNum, other: &UserId) -> Result<bool, Error> {
    for row in r
        .memberships()?
        .range((one, RoomNum::MIN)..=(one, RoomNum::MAX))?
    {
        let (key, row) = row?;
        if row.record(&key)?.membership != Membership::Join {
            continue;
        }
        if membership(r, key.value().1, other)? == Membership::Join {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Every (key, event) of the current state whose type is `kind`. Grows with the room if `kind` is
/// `m.room.member`: then not for the thread.
pub fn of_type(
    r: &impl Reader,
    room: RoomNum,
    kind: &str,
) -> Result<Vec<(String, EventNum)>, Error> {
    let mut found = Vec::new();
    let current = r.current_state()?;
    for row in r.state_keys()?.range((room, kind, "")..)? {
        let (key, num) = row?;
        let (of_room, of_kind, state_key) = key.value();
        if of_room != room || of_kind != kind {
            break;
        }
        if let Some(event) = current.get((room, num.value()))? {
            found.push((state_key.to_owned(), event.value()));
        }
    }
    Ok(found)
}

/// Every event of the current state. Grows with the room: not for the thread.
pub fn all(r: &impl Reader, room: RoomNum) -> Result<Vec<(StateKeyNum, EventNum)>, Error> {
    let mut found = Vec::new();
    let current = r.current_state()?;
    for row in current.range((room, StateKeyNum::MIN)..=(room, StateKeyNum::MAX))? {
        let (key, event) = row?;
        found.push((key.value().1, event.value()));
    }
    Ok(found)
}
