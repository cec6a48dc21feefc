//! `device_lists` of `/sync`, and `/keys/changes` (client-server API, "Tracking the device list for a
//! user").
//!
//! Two users share a room if both are joined to it. For a range of positions,
//!
//! - `changed` has the users who share a room with the user at the end of the range, if their devices or
//!   keys changed in the range, or one of the two joined the room in it, or the room became encrypted in
//!   it. It also has the users whose keys the user signed on another device, since nobody else sees those
//!   signatures.
//! - `left` has the users who shared a room with the user at the start of the range and share none at its
//!   end.
//!
//! Nobody is in both. Changes after the end of the range do not count, so a range gives the same as its
//! parts one after the other.
//!
//! NOTSPEC: the table of `device_lists` says that users share an encrypted room, the notes beside it any
//! room. A client may track a user with whom it shares only an unencrypted room, for a verification
//! perhaps, so any room counts here, as in Synapse.

use std::collections::BTreeSet;

use ruma::OwnedUserId;
use serde::Serialize;

use super::{
    notifier::Notifier,
    rooms::memberships,
    shared_rooms::{self, DeviceListQuery, RoomStays},
};
use crate::{
    rooms::{Error, room},
    store::{Reader, Records, RoomNum, Store, records::Membership},
    users::{self, device_lists, keys::signatures},
};

#[derive(Debug, Default, Serialize)]
pub struct DeviceLists {
    pub changed: BTreeSet<OwnedUserId>,
    pub left: BTreeSet<OwnedUserId>,
}

impl DeviceLists {
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.left.is_empty()
    }
}

/// The device lists for `query`.
pub async fn changes(
    store: &Store,
    notifier: &Notifier,
    query: DeviceListQuery,
) -> Result<DeviceLists, Error> {
    match store.read(|s| affected_rooms(s, notifier, &query))? {
        None => Ok(DeviceLists::default()),
        Some(rooms) => {
            let scan = move |s: &_| changes_in(s, &query, &rooms);
            store.scan("device lists", scan).await
        }
    }
}

/// The rooms whose memberships or encryption changed; `None` if nothing at all changed.
fn affected_rooms(
    r: &impl Reader,
    notifier: &Notifier,
    query: &DeviceListQuery,
) -> Result<Option<Vec<RoomNum>>, Error> {
    if query.after >= query.upto {
        return Ok(None);
    }
    let rooms = match notifier.rooms_after(query.after) {
        Some(rooms) => rooms,
        None => {
            let memberships = memberships(r, query.user)?.into_iter();
            memberships.map(|(room, _)| room).collect()
        }
    };
    let mut affected = Vec::new();
    for room in rooms {
        let Some(member) = r.memberships()?.load((query.user, room))? else {
            continue;
        };
        let was_joined = member.membership == Membership::Join || member.position > query.after;
        if was_joined && room::heads(r, room)?.state_position > query.after {
            affected.push(room);
        }
    }
    let is_empty = affected.is_empty()
        && !device_lists::has_changes(r, query.after, query.upto)?
        && !signatures::has_signed_between(r, query.user, query.after, query.upto)?;
    Ok((!is_empty).then_some(affected))
}

fn changes_in(
    r: &impl Reader,
    query: &DeviceListQuery,
    rooms: &[RoomNum],
) -> Result<DeviceLists, Error> {
    let mut candidates = Candidates::default();
    for room in rooms {
        candidates.add_room(r, query, *room)?;
    }
    let Candidates {
        mut gained,
        mut lost,
    } = candidates;
    let mut changed = BTreeSet::new();
    for user in device_lists::changed_users(r, query.after, query.upto)? {
        changed.insert(users::id_of(r, user)?);
    }
    let own = changed.take(&query.user_id);
    gained.remove(&query.user_id);
    lost.remove(&query.user_id);
    let unknown = (&changed | &lost).difference(&gained).cloned().collect();
    let sharing = shared_rooms::sharing(r, query, unknown)?;
    let left = &(&lost - &sharing) - &gained;
    for user in signatures::signed_users_between(r, query.user, query.after, query.upto)? {
        gained.insert(users::id_of(r, user)?);
    }
    gained.extend(own);
    gained.extend(&changed & &sharing);
    Ok(DeviceLists {
        changed: &gained - &left,
        left,
    })
}

/// Users who may share a room with the user only at one end of the range.
#[derive(Default)]
struct Candidates {
    /// They share a room at the end, which one of the two joined or which became encrypted in the range.
    gained: BTreeSet<OwnedUserId>,
    /// They shared a room at the start, and do not share that room at the end.
    lost: BTreeSet<OwnedUserId>,
}

impl Candidates {
    fn add_room(
        &mut self,
        r: &impl Reader,
        query: &DeviceListQuery,
        room: RoomNum,
    ) -> Result<(), Error> {
        let Some(member) = r.memberships()?.load((query.user, room))? else {
            return Ok(());
        };
        let stays = RoomStays::between(r, room, query.after, query.upto)?;
        let own = stays.of_local(&query.user_id, &member);
        if own.at_end {
            if own.joined || stays.became_encrypted {
                self.gained.extend(stays.members(r, |stay| stay.at_end)?);
            } else {
                let joined = stays.changed(|stay| stay.joined && stay.at_end);
                self.gained.extend(joined.cloned());
            }
        }
        if own.at_start {
            if own.at_end {
                let gone = stays.changed(|stay| stay.at_start && !stay.at_end);
                self.lost.extend(gone.cloned());
            } else {
                self.lost.extend(stays.members(r, |stay| stay.at_start)?);
            }
        }
        Ok(())
    }
}
