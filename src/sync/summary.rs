//! A room's summary: who is in it, for clients that make its name of that.
//!
//! Source: client-server API, "Calculating the display name for a room" and `RoomSummary` of
//! `/sync`.

use ruma::{
    OwnedUserId, UserId, api::client::sync::sync_events::v3::RoomSummary, events::StateEventType,
};
use serde::Deserialize;

use crate::{
    rooms::{
        Error,
        state::{self, content, current},
    },
    store::{
        Reader, RoomNum, Rows, StateKeyNum,
        records::{Membership, RoomHeads},
    },
};

/// How many members make a name.
const HEROES: usize = 5;
/// How many pieces of state are looked at to find them: in a room where so many have left, those
/// found by then do.
const LOOKED_AT: usize = 500;

/// What names a room, in the content of either event.
#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    name: String,
    #[serde(default)]
    alias: String,
}

/// The summary of `room` for `user`.
pub fn summary(
    r: &impl Reader,
    room: RoomNum,
    heads: &RoomHeads,
    user: &UserId,
) -> Result<RoomSummary, Error> {
    let mut summary = RoomSummary::new();
    summary.joined_member_count = Some(heads.joined.into());
    summary.invited_member_count = Some(heads.invited.into());
    let named = |kind| content::current::<Named>(r, room, &kind, "");
    let names = [
        named(StateEventType::RoomName)?,
        named(StateEventType::RoomCanonicalAlias)?,
    ];
    let is_named = |named: &Named| !named.name.is_empty() || !named.alias.is_empty();
    if !names.iter().flatten().any(is_named) {
        summary.heroes = heroes(r, room, user)?;
    }
    Ok(summary)
}

/// The first members who are joined or invited, or, where there is nobody else, were. The keys of a
/// room's state are numbered as they come, so they are looked at in that order.
fn heroes(r: &impl Reader, room: RoomNum, user: &UserId) -> Result<Vec<OwnedUserId>, Error> {
    let (mut present, mut gone) = (Vec::new(), Vec::new());
    let current = r.current_state()?;
    let rows = current.range((room, StateKeyNum::MIN)..=(room, StateKeyNum::MAX))?;
    for row in rows.take(LOOKED_AT) {
        let (key, event) = row?;
        let (kind, state_key) = state::key_name(r, room, key.value().1)?;
        if kind != "m.room.member" {
            continue;
        }
        let Ok(member) = OwnedUserId::try_from(state_key) else {
            continue;
        };
        if member == user {
            continue;
        }
        match current::membership_of(r, event.value())? {
            Membership::Join | Membership::Invite => present.push(member),
            Membership::Leave | Membership::Ban if gone.len() < HEROES => gone.push(member),
            _ => {}
        }
        if present.len() >= HEROES {
            break;
        }
    }
    Ok(if present.is_empty() { gone } else { present })
}
