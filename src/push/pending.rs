//! What a pusher has to send, derived from what is stored.

use std::collections::{BTreeMap, VecDeque};

use crate::{
    rooms::{
        Error, room,
        state::current,
        unread::notifications::{Found, Notifications},
    },
    store::{
        EventNum, Place, Position, Reader, RoomNum, Rows, UserNum,
        records::{MemberRow, Membership},
    },
};

/// A longer queue loses the oldest notifications: they say little when so much has come since.
pub const MAX_QUEUED: usize = 100;
/// How many rows of a room's timeline are read for its unread notifications, from its end on.
const MAX_ROWS: usize = 1000;

/// A notification that is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    pub room: RoomNum,
    pub event: EventNum,
    pub position: Position,
    pub highlight: bool,
    /// `None` for an invite.
    pub place: Option<Place>,
}

impl Pending {
    /// The invite `member`.
    pub fn invite(room: RoomNum, member: &MemberRow) -> Self {
        Self {
            room,
            event: member.event,
            position: member.position,
            highlight: false,
            place: None,
        }
    }
}

/// Where there may be something to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Marks {
    /// In these rooms, from these positions on.
    Rooms(BTreeMap<RoomNum, Position>),
    /// In all rooms of the user, after this position.
    AllAfter(Position),
}

impl Default for Marks {
    fn default() -> Self {
        Self::Rooms(BTreeMap::new())
    }
}

impl Marks {
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Rooms(rooms) if rooms.is_empty())
    }

    /// The position up to which nothing is marked.
    pub fn clean_upto(&self) -> Option<Position> {
        match self {
            Self::Rooms(rooms) => rooms.values().min().map(|first| before(*first)),
            Self::AllAfter(position) => Some(*position),
        }
    }

    /// Marks `room` from `position` on.
    pub fn add(&mut self, room: RoomNum, position: Position) {
        match self {
            Self::Rooms(rooms) if rooms.len() >= MAX_MARKS && !rooms.contains_key(&room) => {
                let clean = self.clean_upto().unwrap_or(position);
                *self = Self::AllAfter(clean.min(before(position)));
            }
            Self::Rooms(rooms) => {
                let first = rooms.entry(room).or_insert(position);
                *first = position.min(*first);
            }
            Self::AllAfter(after) => *after = before(position).min(*after),
        }
    }

    pub fn add_all(&mut self, after: Position) {
        let clean = self.clean_upto().unwrap_or(after);
        *self = Self::AllAfter(clean.min(after));
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: Self) {
        match other {
            Self::Rooms(rooms) => rooms
                .into_iter()
                .for_each(|(room, first)| self.add(room, first)),
            Self::AllAfter(after) => self.add_all(after),
        }
    }

    /// Whether [`pending`] reads only a few rows.
    pub fn are_few(&self, now: Position) -> bool {
        match self {
            Self::Rooms(rooms) => {
                let first = rooms.values().min();
                rooms.len() <= MAX_ROOMS_ON_THREAD
                    && first
                        .is_none_or(|first| now.0.saturating_sub(first.0) <= MAX_RANGE_ON_THREAD)
            }
            Self::AllAfter(_) => false,
        }
    }
}

/// A pusher with more marked rooms looks at all rooms of its user.
const MAX_MARKS: usize = 256;
/// Up to so many rooms, and a range of so many positions, are read on the thread; more on the pool.
const MAX_ROOMS_ON_THREAD: usize = 4;
const MAX_RANGE_ON_THREAD: u64 = 256;

pub fn before(position: Position) -> Position {
    Position(position.0.saturating_sub(1))
}

/// The unread notifications of `user` at `marks`, oldest first, at most [`MAX_QUEUED`].
pub fn pending(r: &impl Reader, user: UserNum, marks: &Marks) -> Result<Vec<Pending>, Error> {
    let mut found = Vec::new();
    match marks {
        Marks::Rooms(rooms) => {
            for (room, first) in rooms {
                if let Some(member) = current::local_membership(r, user, *room)? {
                    add_of_room(r, user, *room, &member, before(*first), &mut found)?;
                }
            }
        }
        Marks::AllAfter(after) => {
            for row in r.memberships()?.prefix(user)? {
                let (key, member) = row?;
                let (_, room) = key.value();
                add_of_room(r, user, room, &member.record(&key)?, *after, &mut found)?;
                if found.len() > 2 * MAX_QUEUED {
                    keep_newest(&mut found);
                }
            }
        }
    }
    keep_newest(&mut found);
    Ok(found)
}

fn keep_newest(found: &mut Vec<Pending>) {
    found.sort_unstable_by_key(|pending| pending.position);
    found.drain(..found.len().saturating_sub(MAX_QUEUED));
}

/// Adds the unread notifications of one room after `after`. A row that cannot be read leaves out its room: it
/// must not stop the others.
fn add_of_room(
    r: &impl Reader,
    user: UserNum,
    room: RoomNum,
    member: &MemberRow,
    after: Position,
    found: &mut Vec<Pending>,
) -> Result<(), Error> {
    let added = match member.membership {
        Membership::Join => in_timeline(r, user, room, member, after),
        Membership::Invite if member.position > after => Ok(vec![Pending::invite(room, member)]),
        _ => return Ok(()),
    };
    match added {
        Ok(added) => found.extend(added),
        Err(Error::Store(error)) if error.is_caused_by_data() => {
            let id = room::id_for_log_in(r, room);
            log::error!("no notifications of {id} are pushed for now: {error}");
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

fn in_timeline(
    r: &impl Reader,
    user: UserNum,
    room: RoomNum,
    member: &MemberRow,
    after: Position,
) -> Result<Vec<Pending>, Error> {
    let mut found = Vec::new();
    if room::heads(r, room)?.last_position <= after {
        return Ok(found);
    }
    let notifications = Notifications::new(r, room, user, member)?;
    let (mut from, mut rows) = (notifications.last_place(), MAX_ROWS);
    while found.len() < MAX_QUEUED {
        let Found::Notification(next) = notifications.newest(r, from, after, &mut rows)? else {
            break;
        };
        if !next.is_read {
            found.push(Pending {
                room,
                event: next.event,
                position: next.position,
                highlight: next.highlight,
                place: Some(next.place),
            });
        }
        from = Place(next.place.0.saturating_sub(1));
    }
    Ok(found)
}

/// Adds `more` to `queue`, which then has the newest notifications, each once.
pub fn merge(queue: &mut VecDeque<Pending>, more: Vec<Pending>) {
    queue.extend(more);
    let all = queue.make_contiguous();
    all.sort_unstable_by_key(|pending| (pending.position, pending.event));
    let mut all: Vec<Pending> = queue.drain(..).collect();
    all.dedup_by_key(|pending| pending.event);
    let surplus = all.len().saturating_sub(MAX_QUEUED);
    if surplus > 0 {
        log::debug!("{surplus} notifications give way to newer ones");
    }
    queue.extend(all.into_iter().skip(surplus));
}
