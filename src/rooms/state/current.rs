//! A room's current state, and how users stand to the room.

use std::collections::BTreeSet;

use ruma::{OwnedRoomId, RoomId, RoomVersionId, UserId, events::room::member::MembershipState};
use serde::Deserialize;

use crate::{
    rooms::{
        Error, room,
        state::{self, overlay::StateOverlay},
        stored_event,
    },
    store::{
        EventNum, Position, Reader, Records, RoomNum, Rows, StateKeyNum, UserNum,
        records::{MemberRow, Membership},
    },
};

pub const MEMBER: &str = "m.room.member";

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
    // A member event without a membership is malformed, or was redacted to have none.
    let member = stored_event::load(r, event)?.parse::<Member>();
    Ok(member.map_or(Membership::Leave, |member| {
        (&member.content.membership).into()
    }))
}

/// The membership of `user` in the room's current state.
pub fn membership(r: &impl Reader, room: RoomNum, user: &UserId) -> Result<Membership, Error> {
    match get(r, room, MEMBER, user.as_str())? {
        Some(event) => membership_of(r, event),
        None => Ok(Membership::Leave),
    }
}

/// The row of `memberships` of a local user.
pub fn local_membership(
    r: &impl Reader,
    user: UserNum,
    room: RoomNum,
) -> Result<Option<MemberRow>, Error> {
    Ok(r.memberships()?.load((user, room))?)
}

/// The rooms to which the local user `user` is joined. Grows with the user's rooms.
pub fn joined_rooms(r: &impl Reader, user: UserNum) -> Result<Vec<RoomNum>, Error> {
    let mut joined = Vec::new();
    for row in r.memberships()?.prefix(user)? {
        let (key, member) = row?;
        if member.record(&key)?.membership == Membership::Join {
            joined.push(key.value().1);
        }
    }
    Ok(joined)
}

/// The ids of [`joined_rooms`].
pub fn joined_room_ids(r: &impl Reader, user: UserNum) -> Result<Vec<OwnedRoomId>, Error> {
    let rooms = joined_rooms(r, user)?.into_iter();
    rooms.map(|num| room::id(r, num)).collect()
}

/// The local users in the room with their memberships: joined, invited or knocking.
pub fn local_members(r: &impl Reader, room: RoomNum) -> Result<Vec<(UserNum, Membership)>, Error> {
    let mut members = Vec::new();
    for row in r.local_members()?.prefix(room)? {
        let (key, membership) = row?;
        let membership = Membership::from_byte(membership.value())
            .ok_or_else(|| Error::corrupt("local_members", key.value(), "not a membership"))?;
        members.push((key.value().1, membership));
    }
    Ok(members)
}

/// Whether a local user is joined to the room.
pub fn has_joined(r: &impl Reader, room: RoomNum) -> Result<bool, Error> {
    for row in r.local_members()?.prefix(room)? {
        if row?.1.value() == Membership::Join as u8 {
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
    some_of_type(r, room, kind, usize::MAX)
}

/// The first `max` of [`of_type`].
pub fn some_of_type(
    r: &impl Reader,
    room: RoomNum,
    kind: &str,
    max: usize,
) -> Result<Vec<(String, EventNum)>, Error> {
    let mut found = Vec::new();
    let current = r.current_state()?;
    for row in r.state_keys()?.prefix((room, kind))?.take(max) {
        let (key, num) = row?;
        let (_, _, state_key) = key.value();
        if let Some(event) = current.get((room, num.value()))? {
            found.push((state_key.to_owned(), event.value()));
        }
    }
    Ok(found)
}

/// Every event of the current state. Grows with the room: not for the thread.
pub fn all(r: &impl Reader, room: RoomNum) -> Result<Vec<(StateKeyNum, EventNum)>, Error> {
    let mut found = Vec::new();
    for row in r.current_state()?.prefix(room)? {
        let (key, event) = row?;
        found.push((key.value().1, event.value()));
    }
    Ok(found)
}

/// The room's current state as it was right before `position`. Grows with the changes since: for
/// the pool.
pub fn before(r: &impl Reader, room: RoomNum, position: Position) -> Result<StateOverlay, Error> {
    let mut state = StateOverlay::of(room::heads(r, room)?.state);
    let mut seen = BTreeSet::new();
    for row in r.state_changes()?.prefix_range(room, position..)? {
        let (key, change) = row?;
        let (_, _, key) = key.value();
        if seen.insert(key) {
            let (before, _) = change.value();
            let before = (before != EventNum(0)).then_some(before);
            state = state.with(state::key_name(r, room, key)?, before);
        }
    }
    Ok(state)
}
