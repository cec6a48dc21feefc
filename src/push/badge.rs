//! Badges: how many rooms a user has not read, counting invites.
//!
//! Source: as in Synapse, whose default it is to count rooms. The counts of a user are kept while they are in
//! use: a message changes those of one room.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::notification;
use crate::{
    rooms::{
        Error, room,
        state::current,
        unread::{self, notify},
    },
    store::{
        Reader, RoomNum, Rows, UserNum,
        records::{MemberRow, Membership},
    },
};

/// How many users' badges are kept; beyond it the one used longest ago goes.
const MAX_USERS: usize = 1024;
/// Up to so many rooms are counted on the thread.
const MAX_ROOMS_ON_THREAD: usize = 16;

/// The badges of all users.
#[derive(Debug, Default)]
pub struct Badges {
    /// Numbers the changes of rooms and the uses of badges.
    clock: u64,
    of: HashMap<UserNum, Badge>,
}

/// What counts for the badge of a user.
#[derive(Clone, Debug, Default)]
pub struct Badge {
    /// When it was last taken to be counted.
    used: u64,
    /// Whether all rooms were counted once.
    is_complete: bool,
    unread: BTreeSet<RoomNum>,
    /// Rooms that the user is invited to, of which push rules decide whether they are unread.
    invited: BTreeSet<RoomNum>,
    /// Rooms that changed since they were counted, each with when it last did.
    changed: BTreeMap<RoomNum, u64>,
}

impl Badges {
    /// A room of `user` changed.
    pub fn room_changed(&mut self, user: UserNum, room: RoomNum) {
        self.clock += 1;
        if let Some(badge) = self.of.get_mut(&user) {
            badge.changed.insert(room, self.clock);
        }
    }

    /// The push rules of `user` may have changed, or whom the user ignores.
    pub fn rules_changed(&mut self, user: UserNum) {
        self.clock += 1;
        if let Some(badge) = self.of.get_mut(&user) {
            let invited = badge.invited.iter();
            badge
                .changed
                .extend(invited.map(|room| (*room, self.clock)));
        }
    }

    /// Rooms of anybody may have changed.
    pub fn clear(&mut self) {
        self.of.clear();
    }

    /// A copy to be counted, and to be given back to [`set`](Self::set).
    pub fn get(&mut self, user: UserNum) -> Badge {
        self.clock += 1;
        let badge = self.of.entry(user).or_default();
        let mut copy = badge.clone();
        copy.used = self.clock;
        copy
    }

    /// Keeps `counted`, which was made of `taken`, unless a later one was kept meanwhile.
    pub fn set(&mut self, user: UserNum, taken: &Badge, counted: Badge) {
        let Some(badge) = self.of.get_mut(&user) else {
            return;
        };
        if badge.used > taken.used {
            return;
        }
        let mut changed = std::mem::take(&mut badge.changed);
        changed.retain(|room, when| taken.changed.get(room) != Some(when));
        *badge = Badge { changed, ..counted };
        if self.of.len() > MAX_USERS {
            let oldest = self.of.iter().min_by_key(|(_, badge)| badge.used);
            if let Some(oldest) = oldest.map(|(user, _)| *user) {
                self.of.remove(&oldest);
            }
        }
    }
}

impl Badge {
    /// Whether [`count`](Self::count) reads only a few rows.
    pub fn is_fast(&self, r: &impl Reader, user: UserNum) -> Result<bool, Error> {
        let rooms = if self.is_complete {
            // Of an unread room that did not change, only the membership is read.
            self.changed.len() + self.unread.len() / 16
        } else {
            let memberships = r.memberships()?;
            memberships
                .prefix(user)?
                .take(MAX_ROOMS_ON_THREAD + 1)
                .count()
        };
        Ok(rooms <= MAX_ROOMS_ON_THREAD && notify::is_fast_for(r, user)?)
    }

    /// Counts what changed.
    pub fn count(&mut self, r: &impl Reader, user: UserNum) -> Result<u32, Error> {
        if self.is_complete {
            for (room, _) in std::mem::take(&mut self.changed) {
                let member = current::local_membership(r, user, room)?;
                self.set(r, user, room, member);
            }
            // Those that the user has left do not change any more for the user.
            let mut left = Vec::new();
            for room in &self.unread {
                let member = current::local_membership(r, user, *room)?;
                let is_in = |member: MemberRow| {
                    matches!(member.membership, Membership::Join | Membership::Invite)
                };
                if !member.is_some_and(is_in) {
                    left.push(*room);
                }
            }
            for room in left {
                self.unread.remove(&room);
            }
        } else {
            self.changed.clear();
            self.unread.clear();
            self.invited.clear();
            for row in r.memberships()?.prefix(user)? {
                let (key, member) = row?;
                let (_, room) = key.value();
                let member = member.record(&key)?;
                self.set(r, user, room, Some(member));
            }
            self.is_complete = true;
        }
        Ok(u32::try_from(self.unread.len()).unwrap_or(u32::MAX))
    }

    fn set(&mut self, r: &impl Reader, user: UserNum, room: RoomNum, member: Option<MemberRow>) {
        let put = |rooms: &mut BTreeSet<RoomNum>, is_in: bool| match is_in {
            true => rooms.insert(room),
            false => rooms.remove(&room),
        };
        let is_invite = |member: &MemberRow| member.membership == Membership::Invite;
        put(&mut self.invited, member.as_ref().is_some_and(is_invite));
        let is_unread = member.is_some_and(|member| counts(r, user, room, &member));
        put(&mut self.unread, is_unread);
    }
}

/// Whether a room counts. One that cannot be read does not.
fn counts(r: &impl Reader, user: UserNum, room: RoomNum, member: &MemberRow) -> bool {
    is_unread(r, user, room, member).unwrap_or_else(|error| {
        let id = room::id_for_log_in(r, room);
        log::error!("{id} is not counted in a badge: {error}");
        false
    })
}

fn is_unread(
    r: &impl Reader,
    user: UserNum,
    room: RoomNum,
    member: &MemberRow,
) -> Result<bool, Error> {
    match member.membership {
        Membership::Join => {
            let heads = room::heads(r, room)?;
            let unread = unread::count(r, room, &heads, user, member.since)?;
            Ok(unread.all().notify > 0)
        }
        Membership::Invite => Ok(notification::of_invite(r, user, room, member)?.is_some()),
        _ => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        pool::Pool,
        store::{Options, Store},
    };

    #[test]
    fn many_unread_rooms_are_not_counted_on_the_thread() {
        let directory = tempfile::tempdir().expect("a directory");
        let options = Options {
            directory: directory.path().to_owned(),
            cache: 4 << 20,
        };
        let store = Store::open(&options, Pool::default()).expect("the store opens");
        for (unread, expected) in [(100, true), (1000, false)] {
            let badge = Badge {
                is_complete: true,
                unread: (0..unread).map(RoomNum).collect(),
                ..Badge::default()
            };
            let is_fast = store.read(|s| badge.is_fast(s, UserNum(1)));
            assert_eq!(is_fast.expect("it is known"), expected, "{unread} rooms");
        }
    }
}
