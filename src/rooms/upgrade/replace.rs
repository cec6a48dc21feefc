//! `POST /rooms/{roomId}/upgrade`: the new room and the tombstone of the old one, in one transaction.
//! [`room_data`] copies bans and space children afterwards.
//!
//! Source: [Room upgrades](https://spec.matrix.org/v1.19/client-server-api/#room-upgrades).

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, Int, OwnedRoomId, OwnedUserId, RoomId, RoomVersionId,
    events::{StateEventType, room::tombstone::RoomTombstoneEventContent},
    room_version_rules::AuthorizationRules,
};

use super::{room_data, user_data};
use crate::{
    protocol::build::canonical_content,
    rooms::{
        Actor, Error, Local,
        create::{self, Blueprint, presets},
        directory::{self, aliases},
        event::{self, state_event::StateEvent},
        room,
        state::{content, current, power_levels},
        timeline,
    },
    store::{Place, Reader, RoomNum, Tx, records::Membership},
};

/// State that is copied unchanged.
const COPIED_TYPES: [StateEventType; 8] = [
    StateEventType::RoomServerAcl,
    StateEventType::RoomEncryption,
    StateEventType::RoomName,
    StateEventType::RoomAvatar,
    StateEventType::RoomTopic,
    StateEventType::RoomGuestAccess,
    StateEventType::RoomHistoryVisibility,
    StateEventType::RoomJoinRules,
];

/// The fields of a power levels event that are a level.
const LEVEL_FIELDS: [&str; 7] = [
    "ban",
    "events_default",
    "invite",
    "kick",
    "redact",
    "state_default",
    "users_default",
];
/// The fields of a power levels event that are objects of levels.
const LEVEL_MAPS: [&str; 3] = ["events", "notifications", "users"];

/// The lowest `events_default` and `invite` level of a room that was replaced.
const MIN_LEVEL_IN_OLD_ROOM: i32 = 50;

/// The room that is to replace another.
#[derive(Clone, Debug)]
pub struct Upgrade {
    /// Used in room versions in which the server chooses the id.
    pub id: OwnedRoomId,
    pub version: RoomVersionId,
    /// Creators beside the user who upgrades, in room versions that have them.
    pub additional_creators: Vec<OwnedUserId>,
}

/// Replaces the room `old`.
///
/// # Errors
/// Those of [`room::rules_of_new`]; [`Error::Forbidden`] unless `actor` may send a tombstone into
/// the old room; those of [`create::build`].
pub fn upgrade(
    tx: &Tx,
    local: &Local,
    actor: &Actor,
    old: RoomNum,
    upgrade: &Upgrade,
) -> Result<OwnedRoomId, Error> {
    let rules = &room::rules_of_new(&upgrade.version)?.authorization;
    check_permission(tx, actor, old)?;
    let plan = Blueprint {
        id: upgrade.id.clone(),
        version: upgrade.version.clone(),
        create: create_content(tx, actor, old, upgrade, rules)?,
        alias: None,
        state: copied_state(tx, old)?,
        invite: Vec::new(),
        is_direct: false,
        listed: directory::is_listed(tx, old)?,
    };
    let levels = power_levels(tx, actor, old, upgrade, rules)?;
    let (new, new_id) = create::build(tx, local, actor, &plan)?;
    move_aliases(tx, local, actor, old, new)?;
    // Last: the old levels may not allow the creator to send the other events.
    if let Some(levels) = levels {
        levels.send(tx, local, new, actor)?;
    }
    close(tx, local, actor, old, &new_id)?;
    user_data::copy(tx, actor.num, new)?;
    room_data::schedule(tx, actor, old, new)?;
    Ok(new_id)
}

fn check_permission(r: &impl Reader, actor: &Actor, old: RoomNum) -> Result<(), Error> {
    let rules = room::rules(r, old)?;
    let levels = power_levels::levels(r, old, rules)?;
    if current::membership(r, old, &actor.id)? == Membership::Join
        && levels.user_can_send_state(&actor.id, StateEventType::RoomTombstone)
    {
        Ok(())
    } else {
        Err(Error::forbidden("you may not upgrade this room"))
    }
}

/// The content of the new room's create event.
fn create_content(
    r: &impl Reader,
    actor: &Actor,
    old: RoomNum,
    upgrade: &Upgrade,
    rules: &AuthorizationRules,
) -> Result<CanonicalJsonObject, Error> {
    let before = content::current::<CanonicalJsonObject>(r, old, &StateEventType::RoomCreate, "")?;
    let mut content = CanonicalJsonObject::new();
    for (field, value) in before.unwrap_or_default() {
        if field == "type" || field == "m.federate" {
            content.insert(field, value);
        }
    }
    let mut predecessor = CanonicalJsonObject::new();
    predecessor.insert("room_id".to_owned(), room::id(r, old)?.as_str().into());
    if let Some((_, newest)) = timeline::backwards(r, old, Place::MAX, 1)?.pop() {
        let newest = event::id(r, newest.event)?;
        predecessor.insert("event_id".to_owned(), newest.as_str().into());
    }
    content.insert("predecessor".to_owned(), predecessor.into());
    content.insert("room_version".to_owned(), upgrade.version.as_str().into());
    if !rules.use_room_create_sender {
        content.insert("creator".to_owned(), actor.id.as_str().into());
    }
    if rules.additional_room_creators && !upgrade.additional_creators.is_empty() {
        let creators = upgrade
            .additional_creators
            .iter()
            .map(|user| user.as_str().into())
            .collect();
        content.insert(
            "additional_creators".to_owned(),
            CanonicalJsonValue::Array(creators),
        );
    }
    Ok(content)
}

fn copied_state(r: &impl Reader, old: RoomNum) -> Result<Vec<StateEvent>, Error> {
    let mut state = Vec::new();
    for kind in COPIED_TYPES {
        if let Some(content) = content::current(r, old, &kind, "")? {
            state.push(StateEvent::new(kind, content));
        }
    }
    Ok(state)
}

/// The old room's power levels, adapted to the rules of the new version.
fn power_levels(
    r: &impl Reader,
    actor: &Actor,
    old: RoomNum,
    upgrade: &Upgrade,
    rules: &AuthorizationRules,
) -> Result<Option<StateEvent>, Error> {
    let kind = StateEventType::RoomPowerLevels;
    let Some(mut content) = content::current::<CanonicalJsonObject>(r, old, &kind, "")? else {
        return Ok(None);
    };
    if rules.integer_power_levels {
        convert_to_integers(&mut content);
    }
    if rules.explicitly_privilege_room_creators {
        presets::raise_tombstone(&mut content);
    }
    let old_rules = room::rules(r, old)?;
    if old_rules.authorization.explicitly_privilege_room_creators {
        // Creators had no level in the old room, but power over all.
        let highest = highest_level(&content);
        let users = content
            .entry("users".to_owned())
            .or_insert_with(|| CanonicalJsonValue::Object(CanonicalJsonObject::new()));
        if let CanonicalJsonValue::Object(users) = users {
            for creator in power_levels::creators(r, old, old_rules)? {
                users.insert(creator.to_string(), highest.into());
            }
        }
    }
    if let Some(CanonicalJsonValue::Object(users)) = content.get_mut("users")
        && rules.explicitly_privilege_room_creators
    {
        users.remove(actor.id.as_str());
        for creator in &upgrade.additional_creators {
            users.remove(creator.as_str());
        }
    }
    Ok(Some(StateEvent::new(kind, content)))
}

/// The highest level that is named, at least that of administrators.
fn highest_level(content: &CanonicalJsonObject) -> Int {
    let fields = LEVEL_FIELDS.iter().filter_map(|field| content.get(*field));
    let maps = LEVEL_MAPS
        .iter()
        .filter_map(|field| match content.get(*field) {
            Some(CanonicalJsonValue::Object(levels)) => Some(levels.values()),
            _ => None,
        });
    let levels = fields.chain(maps.flatten()).filter_map(presets::level_in);
    levels.fold(Int::from(presets::ADMINISTRATOR), Int::max)
}

/// Converts levels that are strings, which older versions allow, to integers, and removes other values.
fn convert_to_integers(content: &mut CanonicalJsonObject) {
    let fix = |value: &mut CanonicalJsonValue| match presets::level_in(value) {
        Some(level) => {
            *value = level.into();
            true
        }
        None => false,
    };
    content.retain(|field, value| {
        if LEVEL_FIELDS.contains(&field.as_str()) {
            return fix(value);
        }
        if LEVEL_MAPS.contains(&field.as_str()) {
            let CanonicalJsonValue::Object(levels) = value else {
                return false;
            };
            levels.retain(|_, level| fix(level));
        }
        true
    });
}

/// Moves this server's aliases and the directory entry from `old` to `new`, and updates the canonical
/// alias of both.
fn move_aliases(
    tx: &Tx,
    local: &Local,
    actor: &Actor,
    old: RoomNum,
    new: RoomNum,
) -> Result<(), Error> {
    if directory::is_listed(tx, old)? {
        directory::unlist(tx, old)?;
    }
    let moved = aliases::move_all(tx, old, new)?;
    let kind = StateEventType::RoomCanonicalAlias;
    let Some(content) = content::current::<CanonicalJsonObject>(tx, old, &kind, "")? else {
        return Ok(());
    };
    let named = |alias: &str| moved.iter().any(|other| other == alias);
    let published = aliases::retain_aliases(&content, named);
    if !published.is_empty() {
        StateEvent::new(kind.clone(), published).send(tx, local, new, actor)?;
        let left = aliases::retain_aliases(&content, |alias| !named(alias));
        if_allowed(StateEvent::new(kind, left).send(tx, local, old, actor))?;
    }
    Ok(())
}

/// Sends the tombstone into `old` and raises the levels for sending and inviting there.
fn close(tx: &Tx, local: &Local, actor: &Actor, old: RoomNum, new: &RoomId) -> Result<(), Error> {
    let body = "This room has been replaced".to_owned();
    let tombstone = RoomTombstoneEventContent::new(body, new.to_owned());
    StateEvent::new(
        StateEventType::RoomTombstone,
        canonical_content(&tombstone)?,
    )
    .send(tx, local, old, actor)?;
    let kind = StateEventType::RoomPowerLevels;
    let Some(mut content) = content::current::<CanonicalJsonObject>(tx, old, &kind, "")? else {
        return Ok(());
    };
    let level = |content: &CanonicalJsonObject, field: &str| {
        let level = content.get(field).and_then(presets::level_in);
        level.unwrap_or(Int::from(0))
    };
    let above = level(&content, "users_default").saturating_add(Int::from(1));
    let least = Int::from(MIN_LEVEL_IN_OLD_ROOM).max(above);
    for field in ["events_default", "invite"] {
        let raised = level(&content, field).max(least);
        content.insert(field.to_owned(), raised.into());
    }
    if_allowed(StateEvent::new(kind, content).send(tx, local, old, actor))
}

/// Ignores that the rules forbid an event that need only be tried.
fn if_allowed(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(Error::Forbidden(_)) => Ok(()),
        result => result,
    }
}
