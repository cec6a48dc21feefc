//! Which events a user may see: [client-server API, "Room History Visibility"].
//!
//! [client-server API, "Room History Visibility"]: https://spec.matrix.org/v1.19/client-server-api/#room-history-visibility

use std::borrow::Cow;

use ruma::{RoomId, UserId, events::room::history_visibility::HistoryVisibility};
use serde::Deserialize;

use super::erasure;
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

/// The most membership events that are read back to find when the user was last joined.
/// NOTSPEC: a user with more invites and rejections since then sees less.
const MAX_MEMBER_EVENTS: usize = 64;

/// What one user may see of one room. It caches the state before the last event, so events are best
/// checked in order.
#[derive(Clone, Debug)]
pub struct UserVisibility {
    room: RoomNum,
    member_key: Option<StateKeyNum>,
    visibility_key: Option<StateKeyNum>,
    joined: Joined,
    last: Option<(NodeNum, VisibilityState)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Joined {
    Never,
    /// The place of the event by which the user left.
    Until(Place),
    Now,
}

/// What a room state says about what a user may see.
#[derive(Clone, Debug, PartialEq, Eq)]
struct VisibilityState {
    visibility: HistoryVisibility,
    membership: Membership,
}

impl UserVisibility {
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

    /// The value for `unsigned.membership`: the user's membership before the event, or after it if it is
    /// the user's own member event.
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

    /// Whether the user may see the event `num`, which has this header.
    pub fn can_see(
        &mut self,
        r: &impl Reader,
        num: EventNum,
        header: &EventHeader,
    ) -> Result<bool, Error> {
        if header.status != Status::Accepted {
            return Ok(false);
        }
        let before = self.before(r, header)?;
        if self.allows(&before, header.place) {
            return Ok(true);
        }
        let after = if self.is_member_event(header) {
            VisibilityState {
                membership: current::membership_of(r, num)?,
                ..before
            }
        } else if header.state_key.is_some() && header.state_key == self.visibility_key {
            VisibilityState {
                visibility: visibility_of(r, num)?,
                ..before
            }
        } else {
            return Ok(false);
        };
        Ok(self.allows(&after, header.place))
    }

    /// The event as the user may see it in a timeline: redacted if its sender was erased and the user
    /// was not joined then. `None` if the user may not see it.
    pub fn visible(
        &mut self,
        r: &impl Reader,
        mut event: StoredEvent,
    ) -> Result<Option<StoredEvent>, Error> {
        if !self.can_see(r, event.num, &event.header)? {
            return Ok(None);
        }
        self.redact_if_erased(r, &mut event)?;
        Ok(Some(event))
    }

    /// Redacts the event if its sender was erased and the user was not joined then.
    pub fn redact_if_erased(
        &mut self,
        r: &impl Reader,
        event: &mut StoredEvent,
    ) -> Result<(), Error> {
        if erasure::is_erased(r, event)? && self.membership_at(r, event)? != Membership::Join {
            erasure::redact(room::rules(r, self.room)?, event)?;
        }
        Ok(())
    }

    /// The event as the user may see it in the room's state: redacted if its sender was erased and the user was
    /// not joined then, unless it describes the room now.
    pub fn visible_state<'e>(
        &mut self,
        r: &impl Reader,
        event: &'e StoredEvent,
    ) -> Result<Cow<'e, StoredEvent>, Error> {
        if !erasure::is_erased_state(r, self.room, event)?
            || self.membership_at(r, event)? == Membership::Join
        {
            return Ok(Cow::Borrowed(event));
        }
        let mut redacted = event.clone();
        erasure::redact(room::rules(r, self.room)?, &mut redacted)?;
        Ok(Cow::Owned(redacted))
    }

    /// The state at `place` as far as the user may read it: if the user left before, the state at that
    /// time. `None` if the user may not see the event at that place, or was never joined and the room is
    /// not world-readable.
    pub fn readable_state(
        &mut self,
        r: &impl Reader,
        place: Place,
    ) -> Result<Option<StateOverlay>, Error> {
        let place = match self.joined {
            _ if self.can_see_now(r)? => {
                let heads = room::heads(r, self.room)?;
                if place >= heads.last_place {
                    return Ok(Some(StateOverlay::of(heads.state)));
                }
                place
            }
            Joined::Until(end) => place.min(end),
            Joined::Now | Joined::Never => return Ok(None),
        };
        match timeline::backwards(r, self.room, place, 1)?.pop() {
            Some((_, row)) => {
                let event = event::load(r, row.event)?;
                if !self.can_see(r, event.num, &event.header)? {
                    return Ok(None);
                }
                StateOverlay::after(r, row.event, &event.header).map(Some)
            }
            None => Ok(Some(StateOverlay::default())),
        }
    }

    /// The last place of which the user may see anything: without end for who is in the room, or if
    /// everybody may see it. `None` if there is none.
    pub fn last_place(&self, r: &impl Reader) -> Result<Option<Place>, Error> {
        Ok(match self.joined {
            _ if self.can_see_now(r)? => Some(Place::MAX),
            Joined::Until(end) => Some(end),
            Joined::Now | Joined::Never => None,
        })
    }

    /// Whether the user may see the current state and the next events.
    pub fn can_see_now(&self, r: &impl Reader) -> Result<bool, Error> {
        if self.joined == Joined::Now {
            return Ok(true);
        }
        is_world_readable(r, self.room)
    }

    fn allows(&self, state_before: &VisibilityState, place: Option<Place>) -> bool {
        let joined_later = || match (self.joined, place) {
            (Joined::Now, _) => true,
            (Joined::Until(end), Some(place)) => place <= end,
            _ => false,
        };
        match (&state_before.visibility, state_before.membership) {
            (HistoryVisibility::WorldReadable, _) | (_, Membership::Join) => true,
            (HistoryVisibility::Invited, membership) => membership == Membership::Invite,
            (HistoryVisibility::Joined, _) => false,
            // `shared`; an unknown value counts as `shared`.
            _ => joined_later(),
        }
    }

    fn is_member_event(&self, header: &EventHeader) -> bool {
        header.state_key.is_some() && header.state_key == self.member_key
    }

    fn before(&mut self, r: &impl Reader, header: &EventHeader) -> Result<VisibilityState, Error> {
        match &self.last {
            Some((root, state_before)) if *root == header.state_before => Ok(state_before.clone()),
            _ => {
                let state_before = self.state_before(r, header.state_before)?;
                self.last = Some((header.state_before, state_before.clone()));
                Ok(state_before)
            }
        }
    }

    fn state_before(&self, r: &impl Reader, root: NodeNum) -> Result<VisibilityState, Error> {
        let at = |key: Option<StateKeyNum>| match key {
            Some(key) => state::get(r, self.room, root, key),
            None => Ok(None),
        };
        Ok(VisibilityState {
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

/// Whether everybody may see the current state and the next events of `room`.
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
    for _ in 0..MAX_MEMBER_EVENTS {
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

/// The number of the room `id` for a local user who is or was in it and did not forget it, or if it is
/// world-readable.
///
/// # Errors
/// [`Error::Forbidden`], also if the room does not exist, so as not to disclose which rooms do.
pub fn readable_room(r: &impl Reader, id: &RoomId, user: UserNum) -> Result<RoomNum, Error> {
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
