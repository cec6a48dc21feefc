//! The summary of a room (client-server API, "Calculating the display name for a room").

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
        Reader, RoomNum, Rows,
        records::{Membership, RoomHeads},
    },
};

const MAX_HEROES: usize = 5;
/// The most state events that are read to find heroes.
const MAX_STATE_EVENTS: usize = 500;

/// The content of `m.room.name` or `m.room.canonical_alias`.
#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    name: String,
    #[serde(default)]
    alias: String,
}

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

/// The first members who are joined or invited; the first former members if there are none. State keys
/// are numbered in order of arrival.
fn heroes(r: &impl Reader, room: RoomNum, user: &UserId) -> Result<Vec<OwnedUserId>, Error> {
    let (mut present, mut former) = (Vec::new(), Vec::new());
    let current = r.current_state()?;
    let rows = current.prefix(room)?;
    for row in rows.take(MAX_STATE_EVENTS) {
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
            Membership::Leave | Membership::Ban if former.len() < MAX_HEROES => former.push(member),
            _ => {}
        }
        if present.len() >= MAX_HEROES {
            break;
        }
    }
    Ok(if present.is_empty() { former } else { present })
}
