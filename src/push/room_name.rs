//! The name of a room as its user's apps show it.
//!
//! Source: client-server API, "Calculating the display name for a room".

use std::collections::BTreeMap;

use ruma::{OwnedRoomAliasId, OwnedUserId, UserId, events::StateEventType};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    rooms::{Error, membership::out_of_band, room, state::content},
    store::{Reader, RoomNum, UserNum, records::OutOfBandMembership},
    sync::summary,
};

const EMPTY_ROOM: &str = "Empty Room";

#[derive(Deserialize)]
struct Name {
    name: String,
}

#[derive(Deserialize)]
struct Alias {
    alias: Option<OwnedRoomAliasId>,
}

/// The canonical alias.
pub fn alias(r: &impl Reader, room: RoomNum) -> Result<Option<OwnedRoomAliasId>, Error> {
    let kind = StateEventType::RoomCanonicalAlias;
    let alias = content::current::<Alias>(r, room, &kind, "")?;
    Ok(alias.and_then(|alias| alias.alias))
}

/// The name of `room` for `user`; of a room that this server is not in, after what came with the invite.
pub fn of(
    r: &impl Reader,
    (user, user_id): (UserNum, &UserId),
    room: RoomNum,
) -> Result<String, Error> {
    if let Some(outside) = out_of_band::load(r, user, room)? {
        return Ok(of_stripped(&outside, user_id));
    }
    let name = content::current::<Name>(r, room, &StateEventType::RoomName, "")?;
    if let Some(name) = name.map(|name| name.name).filter(|name| !name.is_empty()) {
        return Ok(name);
    }
    if let Some(alias) = alias(r, room)? {
        return Ok(alias.to_string());
    }
    let heads = room::heads(r, room)?;
    let heroes = summary::summary(r, room, &heads, user_id)?.heroes;
    let mut members = Vec::new();
    for hero in heroes {
        let name = content::display_name(r, room, &hero)?;
        members.push((hero, name));
    }
    let others = (heads.joined.saturating_add(heads.invited) as usize).saturating_sub(1);
    Ok(of_members(members, others))
}

/// The name of a room with `others` members beside the user, of whom `heroes` are some; of former members if
/// there are no others.
fn of_members(heroes: Vec<(OwnedUserId, Option<String>)>, others: usize) -> String {
    if heroes.is_empty() {
        return EMPTY_ROOM.to_owned();
    }
    let more = others.saturating_sub(heroes.len());
    let names = joined(&disambiguated(heroes), more);
    match others {
        0 => format!("{EMPTY_ROOM} (was {names})"),
        _ => names,
    }
}

/// A name each. Of a display name that several have, the user id is part.
fn disambiguated(members: Vec<(OwnedUserId, Option<String>)>) -> Vec<String> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for name in members.iter().filter_map(|(_, name)| name.as_ref()) {
        *counts.entry(name.clone()).or_default() += 1;
    }
    let name = |(id, name): (OwnedUserId, Option<String>)| match name {
        Some(name) if counts.get(&name) == Some(&1) => name,
        Some(name) => format!("{name} ({id})"),
        None => id.into(),
    };
    members.into_iter().map(name).collect()
}

fn joined(names: &[String], more: usize) -> String {
    match (names, more) {
        ([name], 0) => name.clone(),
        ([first @ .., last], 0) => format!("{} and {last}", first.join(", ")),
        (names, 1) => format!("{} and 1 other", names.join(", ")),
        (names, more) => format!("{} and {more} others", names.join(", ")),
    }
}

fn of_stripped(outside: &OutOfBandMembership, user_id: &UserId) -> String {
    #[derive(Deserialize)]
    struct Stripped {
        #[serde(rename = "type")]
        kind: String,
        #[serde(default)]
        state_key: String,
        content: Value,
    }
    let events = outside.stripped_state.iter();
    let events = events.filter_map(|event| serde_json::from_str::<Stripped>(event).ok());
    let events: Vec<Stripped> = events.collect();
    let text = |kind: &str, field: &str| {
        let mut of_kind = events.iter().filter(|event| event.kind == kind);
        let text = of_kind.find_map(|event| event.content[field].as_str());
        text.filter(|text| !text.is_empty()).map(ToOwned::to_owned)
    };
    if let Some(name) = text("m.room.name", "name").or(text("m.room.canonical_alias", "alias")) {
        return name;
    }
    let members = events.iter().filter_map(|event| {
        let is_in = event.kind == "m.room.member" && event.content["membership"] == "join";
        let id = OwnedUserId::try_from(event.state_key.as_str()).ok()?;
        let name = event.content["displayname"].as_str();
        let name = name.filter(|name| !name.is_empty()).map(ToOwned::to_owned);
        (is_in && id != user_id).then_some((id, name))
    });
    let members: Vec<_> = members.collect();
    let others = members.len();
    of_members(members, others)
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    fn name(heroes: &[(&UserId, Option<&str>)], others: usize) -> String {
        let heroes = heroes.iter();
        let owned = heroes.map(|(id, name)| ((*id).to_owned(), name.map(ToOwned::to_owned)));
        of_members(owned.collect(), others)
    }

    #[test]
    fn a_room_without_a_name_has_those_of_its_members() {
        let (alice, bob, carol) = (
            user_id!("@alice:a.example"),
            user_id!("@bob:a.example"),
            user_id!("@carol:a.example"),
        );
        let (a, b, c) = ((alice, Some("Alice")), (bob, Some("Bob")), (carol, None));
        assert_eq!(name(&[], 0), "Empty Room");
        assert_eq!(name(&[a], 1), "Alice");
        assert_eq!(name(&[a, b], 2), "Alice and Bob");
        assert_eq!(name(&[a, b, c], 3), "Alice, Bob and @carol:a.example");
        assert_eq!(name(&[a, b], 3), "Alice, Bob and 1 other");
        assert_eq!(name(&[a, b], 1236), "Alice, Bob and 1234 others");
        assert_eq!(name(&[a, b], 0), "Empty Room (was Alice and Bob)");
        assert_eq!(
            name(&[a, (bob, Some("Alice"))], 2),
            "Alice (@alice:a.example) and Alice (@bob:a.example)"
        );
    }
}
