//! Upgrading a room: a new room of another version takes its place.
//!
//! All that makes the new room is one transaction; bans, and the rooms of a space, follow as an
//! [errand](crate::rooms::background::jobs), because there may be thousands.
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
        event, room,
        state::{
            content::{self, StateEvent},
            current, power_levels,
        },
        timeline,
    },
    store::{Place, Reader, RoomNum, Tx, records::Membership},
};

/// What the new room takes over, beside power levels and addresses.
const CARRIED: [StateEventType; 8] = [
    StateEventType::RoomServerAcl,
    StateEventType::RoomEncryption,
    StateEventType::RoomName,
    StateEventType::RoomAvatar,
    StateEventType::RoomTopic,
    StateEventType::RoomGuestAccess,
    StateEventType::RoomHistoryVisibility,
    StateEventType::RoomJoinRules,
];

/// The fields of a power levels event that hold a level.
const LEVELS: [&str; 7] = [
    "ban",
    "events_default",
    "invite",
    "kick",
    "redact",
    "state_default",
    "users_default",
];
/// The fields of a power levels event that hold levels by name.
const LEVELS_BY_NAME: [&str; 3] = ["events", "notifications", "users"];

/// The least level for sending and inviting in a room that was replaced.
const REPLACED: i32 = 50;

/// What is to become of a room.
#[derive(Clone, Debug)]
pub struct Upgrade {
    /// The new room's id in versions that let the server choose it.
    pub id: OwnedRoomId,
    /// The new room's version.
    pub version: RoomVersionId,
    /// Who counts as its creator beside the user who upgrades, in versions that know of such.
    pub additional_creators: Vec<OwnedUserId>,
}

/// Replaces the room `old`.
///
/// # Errors
/// [`Error::UnsupportedVersion`]; [`Error::Forbidden`] unless `actor` may send a tombstone into
/// the old room; those of [`create::build`].
pub fn upgrade(
    tx: &Tx,
    local: &Local,
    actor: &Actor,
    old: RoomNum,
    wish: &Upgrade,
) -> Result<OwnedRoomId, Error> {
    let rules = &room::rules_of(&wish.version)?.authorization;
    check_permission(tx, actor, old)?;
    let plan = Blueprint {
        id: wish.id.clone(),
        version: wish.version.clone(),
        create: create_content(tx, actor, old, wish, rules)?,
        alias: None,
        state: carried(tx, old)?,
        invite: Vec::new(),
        is_direct: false,
        listed: directory::is_listed(tx, old)?,
    };
    let levels = power_levels(tx, actor, old, wish, rules)?;
    let (new, new_id) = create::build(tx, local, actor, &plan)?;
    move_addresses(tx, local, actor, old, new)?;
    // Last, because until now the creator stood above everything.
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
    wish: &Upgrade,
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
    content.insert("room_version".to_owned(), wish.version.as_str().into());
    if !rules.use_room_create_sender {
        content.insert("creator".to_owned(), actor.id.as_str().into());
    }
    if rules.additional_room_creators && !wish.additional_creators.is_empty() {
        let creators = wish
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

/// The state that the new room takes over as it is.
fn carried(r: &impl Reader, old: RoomNum) -> Result<Vec<StateEvent>, Error> {
    let mut state = Vec::new();
    for kind in CARRIED {
        if let Some(content) = content::current(r, old, &kind, "")? {
            state.push(StateEvent::new(kind, content));
        }
    }
    Ok(state)
}

/// The new room's power levels: the old ones, as the rules of the new version want them.
fn power_levels(
    r: &impl Reader,
    actor: &Actor,
    old: RoomNum,
    wish: &Upgrade,
    rules: &AuthorizationRules,
) -> Result<Option<StateEvent>, Error> {
    let kind = StateEventType::RoomPowerLevels;
    let Some(mut content) = content::current::<CanonicalJsonObject>(r, old, &kind, "")? else {
        return Ok(None);
    };
    if rules.integer_power_levels {
        only_integers(&mut content);
    }
    let old_rules = room::rules(r, old)?;
    if let Some(CanonicalJsonValue::Object(users)) = content.get_mut("users")
        && rules.explicitly_privilege_room_creators
    {
        users.remove(actor.id.as_str());
        users.retain(|user, _| {
            !wish
                .additional_creators
                .iter()
                .any(|creator| creator == user)
        });
    }
    if rules.explicitly_privilege_room_creators {
        presets::raise_tombstone(&mut content);
    } else if old_rules.authorization.explicitly_privilege_room_creators {
        // Creators who stood above all levels stand at the highest of those that rooms begin with.
        let users = content
            .entry("users".to_owned())
            .or_insert_with(|| CanonicalJsonValue::Object(CanonicalJsonObject::new()));
        if let CanonicalJsonValue::Object(users) = users {
            for creator in power_levels::creators(r, old, old_rules)? {
                users.insert(creator.to_string(), presets::level(presets::ADMINISTRATOR));
            }
        }
    }
    Ok(Some(StateEvent::new(kind, content)))
}

/// Makes integers of levels that are texts, which older versions allow, and drops what is neither.
fn only_integers(content: &mut CanonicalJsonObject) {
    let fix = |value: &mut CanonicalJsonValue| match presets::level_in(value) {
        Some(level) => {
            *value = level.into();
            true
        }
        None => false,
    };
    content.retain(|field, value| {
        if LEVELS.contains(&field.as_str()) {
            return fix(value);
        }
        if LEVELS_BY_NAME.contains(&field.as_str()) {
            let CanonicalJsonValue::Object(levels) = value else {
                return false;
            };
            levels.retain(|_, level| fix(level));
        }
        true
    });
}

/// Lets the addresses that this server gave to `old` name `new`, and says so in both rooms.
fn move_addresses(
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

/// Tells the members of `old` where the room has gone, and lets fewer of them speak there.
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
    let least = Int::from(REPLACED).max(above);
    for field in ["events_default", "invite"] {
        let raised = level(&content, field).max(least);
        content.insert(field.to_owned(), raised.into());
    }
    if_allowed(StateEvent::new(kind, content).send(tx, local, old, actor))
}

/// Counts what the room's rules forbid as done: it was to be tried, not more.
fn if_allowed(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(Error::Forbidden(_)) => Ok(()),
        result => result,
    }
}
