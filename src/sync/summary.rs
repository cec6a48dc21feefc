//! A room's summary: who is in it, for clients that make its name of that.
//!
//! Source: client-server API, "Calculating the display name for a room" and `RoomSummary` of
//! `/sync`.

use ruma::{OwnedUserId, UserId, api::client::sync::sync_events::v3::RoomSummary};

use crate::{
    rooms::{Error, current},
    store::{
        Reader, RoomNum, Rows,
        records::{Membership, RoomHot},
    },
};

/// How many members make a name.
const HEROES: usize = 5;
/// How many members are looked at to find them: in a room where so many have left, those found
/// by then do.
const LOOKED_AT: usize = 500;

/// The summary of `room` for `user`.
pub fn summary(
    r: &impl Reader,
    room: RoomNum,
    hot: &RoomHot,
    user: &UserId,
) -> Result<RoomSummary, Error> {
    let mut summary = RoomSummary::new();
    summary.joined_member_count = Some(hot.joined.into());
    summary.invited_member_count = Some(hot.invited.into());
    let named = current::get(r, room, "m.room.name", "")?.is_some()
        || current::get(r, room, "m.room.canonical_alias", "")?.is_some();
    if !named {
        summary.heroes = heroes(r, room, user)?;
    }
    Ok(summary)
}

/// The first members who are joined or invited, or, where there is nobody else, were.
fn heroes(r: &impl Reader, room: RoomNum, user: &UserId) -> Result<Vec<OwnedUserId>, Error> {
    let (mut present, mut gone) = (Vec::new(), Vec::new());
    let current = r.current_state()?;
    let keys = r.state_keys()?;
    for row in keys.range((room, "m.room.member", "")..)?.take(LOOKED_AT) {
        let (key, num) = row?;
        let (of_room, kind, state_key) = key.value();
        if of_room != room || kind != "m.room.member" || present.len() >= HEROES {
            break;
        }
        let Ok(member) = OwnedUserId::try_from(state_key) else {
            continue;
        };
        if member == user {
            continue;
        }
        let Some(event) = current.get((room, num.value()))? else {
            continue;
        };
        match current::membership_of(r, event.value())? {
            Membership::Join | Membership::Invite => present.push(member),
            Membership::Leave | Membership::Ban if gone.len() < HEROES => gone.push(member),
            _ => {}
        }
    }
    Ok(if present.is_empty() { gone } else { present })
}
