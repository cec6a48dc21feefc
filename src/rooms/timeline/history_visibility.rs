//! Who may see which event: [client-server API, "Room History Visibility"].
//!
//! [client-server API, "Room History Visibility"]: https://spec.matrix.org/v1.19/client-server-api/#room-history-visibility

use ruma::{RoomId, UserId, events::room::history_visibility::HistoryVisibility};
use serde::Deserialize;

use crate::{
    rooms::{
        Error,
        event::{self, StoredEvent},
        room,
        state::{self, current, overlay::StateOverlay},
        timeline,
    },
    store::{
        EventNum, NodeNum, Place, Reader, RoomNum, Rows, StateKeyNum, UserNum,
        records::{EventHeader, Membership, Status},
    },
};

/// How many of a user's memberships are looked back at to find when the user was last joined.
/// NOTSPEC: who was invited and turned away more often than this since then sees less.
const MEMBERSHIPS: usize = 64;

/// What one user may see of one room. It remembers the state of the last event that it was asked
/// about: ask about neighbours one after the other.
#[derive(Clone, Debug)]
pub struct UserVisibility {
    room: RoomNum,
    member_key: Option<StateKeyNum>,
    visibility_key: Option<StateKeyNum>,
    joined: Joined,
    last: Option<(NodeNum, Standing)>,
}

/// Until when the user was in the room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Joined {
    Never,
    /// The place of the event that ended it.
    Until(Place),
    Now,
}

/// What a state says about a user's sight.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Standing {
    visibility: HistoryVisibility,
    membership: Membership,
}

impl UserVisibility {
    /// What `user` may see of `room`.
    pub fn new(r: &impl Reader, room: RoomNum, user: &UserId) -> Result<Self, Error> {
        let member_key = state::key_num(r, room, "m.room.member", user.as_str())?;
        Ok(Self {
            room,
            member_key,
            visibility_key: state::key_num(r, room, "m.room.history_visibility", "")?,
            joined: joined(r, room, user, member_key)?,
            last: None,
        })
    }

    /// The user's membership just before the event, as `unsigned.membership` tells it: after the
    /// event if it is the user's own member event.
    pub fn membership_at(
        &mut self,
        r: &impl Reader,
        event: &StoredEvent,
    ) -> Result<Membership, Error> {
        if self.is_member_event(&event.header) {
            return current::membership_of(r, event.num);
        }
        Ok(self.before(r, &event.header)?.membership)
    }

    /// Whether the user may see the event.
    pub fn can_see(&mut self, r: &impl Reader, event: &StoredEvent) -> Result<bool, Error> {
        if event.header.status != Status::Accepted {
            return Ok(false);
        }
        let before = self.before(r, &event.header)?;
        if self.allows(&before, event.header.place) {
            return Ok(true);
        }
        let after = if self.is_member_event(&event.header) {
            Standing {
                membership: current::membership_of(r, event.num)?,
                ..before
            }
        } else if event.header.state_key.is_some() && event.header.state_key == self.visibility_key
        {
            Standing {
                visibility: visibility_of(r, event.num)?,
                ..before
            }
        } else {
            return Ok(false);
        };
        Ok(self.allows(&after, event.header.place))
    }

    /// The state of the room as the user may read it: now, or when the user left; `None` for who
    /// was never in a room that is not open to the world's eyes.
    pub fn readable_state(&self, r: &impl Reader) -> Result<Option<StateOverlay>, Error> {
        let now = StateOverlay::of(room::heads(r, self.room)?.state);
        if self.can_see_now(r)? {
            return Ok(Some(now));
        }
        let Joined::Until(end) = self.joined else {
            return Ok(None);
        };
        match timeline::backwards(r, self.room, end, 1)?.pop() {
            Some((_, row)) => {
                let header = event::header(r, row.event)?;
                StateOverlay::after(r, row.event, &header).map(Some)
            }
            None => Ok(None),
        }
    }

    /// Whether the user may see the room's present: its current state, what happens next.
    pub fn can_see_now(&self, r: &impl Reader) -> Result<bool, Error> {
        if self.joined == Joined::Now {
            return Ok(true);
        }
        let visibility = current::get(r, self.room, "m.room.history_visibility", "")?;
        let visibility = visibility
            .map(|event| visibility_of(r, event))
            .transpose()?;
        Ok(visibility == Some(HistoryVisibility::WorldReadable))
    }

    fn allows(&self, standing: &Standing, place: Option<Place>) -> bool {
        let joined_later = || match (self.joined, place) {
            (Joined::Now, _) => true,
            (Joined::Until(end), Some(place)) => place <= end,
            _ => false,
        };
        match (&standing.visibility, standing.membership) {
            (HistoryVisibility::WorldReadable, _) | (_, Membership::Join) => true,
            (HistoryVisibility::Invited, membership) => membership == Membership::Invite,
            (HistoryVisibility::Joined, _) => false,
            // Shared, and whatever the specification does not know.
            _ => joined_later(),
        }
    }

    fn is_member_event(&self, header: &EventHeader) -> bool {
        header.state_key.is_some() && header.state_key == self.member_key
    }

    fn before(&mut self, r: &impl Reader, header: &EventHeader) -> Result<Standing, Error> {
        match &self.last {
            Some((root, standing)) if *root == header.state_before => Ok(standing.clone()),
            _ => {
                let standing = self.standing(r, header.state_before)?;
                self.last = Some((header.state_before, standing.clone()));
                Ok(standing)
            }
        }
    }

    fn standing(&self, r: &impl Reader, root: NodeNum) -> Result<Standing, Error> {
        let at = |key: Option<StateKeyNum>| match key {
            Some(key) => state::get(r, self.room, root, key),
            None => Ok(None),
        };
        Ok(Standing {
            visibility: match at(self.visibility_key)? {
                Some(event) => visibility_of(r, event)?,
                None => HistoryVisibility::Shared,
            },
            membership: match at(self.member_key)? {
                Some(event) => current::membership_of(r, event)?,
                None => Membership::Leave,
            },
        })
    }
}

/// Whether anybody may see what happens in `room` now.
pub fn is_world_readable(r: &impl Reader, room: RoomNum) -> Result<bool, Error> {
    let visibility = current::get(r, room, "m.room.history_visibility", "")?;
    let visibility = visibility
        .map(|event| visibility_of(r, event))
        .transpose()?;
    Ok(visibility == Some(HistoryVisibility::WorldReadable))
}

pub(in crate::rooms) fn visibility_of(
    r: &impl Reader,
    event: EventNum,
) -> Result<HistoryVisibility, Error> {
    #[derive(Deserialize)]
    struct Event {
        content: Content,
    }
    #[derive(Deserialize)]
    struct Content {
        history_visibility: HistoryVisibility,
    }
    let parsed = event::load(r, event)?.parse::<Event>();
    Ok(parsed.map_or(HistoryVisibility::Shared, |event| {
        event.content.history_visibility
    }))
}

fn joined(
    r: &impl Reader,
    room: RoomNum,
    user: &UserId,
    member_key: Option<StateKeyNum>,
) -> Result<Joined, Error> {
    let Some(key) = member_key else {
        return Ok(Joined::Never);
    };
    let Some(mut member) = current::get(r, room, "m.room.member", user.as_str())? else {
        return Ok(Joined::Never);
    };
    if current::membership_of(r, member)? == Membership::Join {
        return Ok(Joined::Now);
    }
    for _ in 0..MEMBERSHIPS {
        let header = event::header(r, member)?;
        let Some(before) = state::get(r, room, header.state_before, key)? else {
            break;
        };
        if current::membership_of(r, before)? == Membership::Join {
            return Ok(header.place.map_or(Joined::Never, Joined::Until));
        }
        member = before;
    }
    Ok(Joined::Never)
}

/// The number of the room `id`, for a local user who wants to read of it: not one whom it does not
/// concern, or who forgot it.
///
/// # Errors
/// [`Error::Forbidden`] also where there is no such room: who is not in it need not know.
pub fn readable(r: &impl Reader, id: &RoomId, user: UserNum) -> Result<RoomNum, Error> {
    let forbidden = || Error::forbidden("you are not in this room");
    let room = r.room_nums()?.get(id.as_str())?.map(|row| row.value());
    let room = room.ok_or_else(forbidden)?;
    match current::local_membership(r, user, room)? {
        Some(row) if row.forgotten => Err(forbidden()),
        Some(_) => Ok(room),
        None if is_world_readable(r, room)? => Ok(room),
        None => Err(forbidden()),
    }
}
