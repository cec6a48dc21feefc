//! What a user keeps who follows a room to the one that replaces it: tags, the mark of a direct
//! chat, the room's own push rules.
//!
//! Source: [Room upgrades](https://spec.matrix.org/v1.19/client-server-api/#room-upgrades), "Server
//! behaviour", the last paragraph.

use ruma::{
    OwnedRoomId, RoomId,
    events::{StateEventType, room::tombstone::RoomTombstoneEventContent},
};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Error, content, current};
use crate::{
    store::{RoomNum, Tx, UserNum, records::Membership},
    users::account_data::{GLOBAL, load, put},
};

/// Lets `user`, who has joined `new`, keep there what the user has for the room that it replaces,
/// if the user is in that one.
pub(super) fn inherit(tx: &Tx, user: UserNum, new: RoomNum) -> Result<(), Error> {
    let Some(old) = predecessor(tx, new)? else {
        return Ok(());
    };
    let row = current::local_membership(tx, user, old)?;
    if row.is_none_or(|row| row.membership != Membership::Join) {
        return Ok(());
    }
    if load(tx, user, new, "m.tag")?.is_none()
        && let Some(tags) = load(tx, user, old, "m.tag")?
    {
        put(tx, user, new, "m.tag", &tags.content)?;
    }
    let (old, new) = (super::id(tx, old)?, super::id(tx, new)?);
    change(tx, user, "m.direct", |chats| also_direct(chats, &old, &new))?;
    change(tx, user, "m.push_rules", |rules| {
        also_for(rules, &old, &new)
    })
}

/// The room that `new` replaces, if that room says so too: anyone can claim to replace a room.
fn predecessor(tx: &Tx, new: RoomNum) -> Result<Option<RoomNum>, Error> {
    #[derive(Deserialize)]
    struct Create {
        predecessor: Option<Predecessor>,
    }
    #[derive(Deserialize)]
    struct Predecessor {
        room_id: OwnedRoomId,
    }
    let create = content::current::<Create>(tx, new, &StateEventType::RoomCreate, "")?;
    let Some(predecessor) = create.and_then(|create| create.predecessor) else {
        return Ok(None);
    };
    let old = match super::num(tx, &predecessor.room_id) {
        Err(Error::UnknownRoom) => return Ok(None),
        old => old?,
    };
    let kind = StateEventType::RoomTombstone;
    let tombstone = content::current::<RoomTombstoneEventContent>(tx, old, &kind, "")?;
    let id = super::id(tx, new)?;
    Ok(tombstone
        .is_some_and(|tombstone| tombstone.replacement_room == id)
        .then_some(old))
}

/// Stores what `change` makes of the user's global `kind`, if there is any and it says that it
/// changed something.
fn change(
    tx: &Tx,
    user: UserNum,
    kind: &str,
    change: impl Fn(&mut Map<String, Value>) -> bool,
) -> Result<(), Error> {
    let data = load(tx, user, GLOBAL, kind)?;
    let data = data.and_then(|data| serde_json::from_str(&data.content).ok());
    if let Some(mut data) = data
        && change(&mut data)
    {
        put(tx, user, GLOBAL, kind, &Value::Object(data).to_string())?;
    }
    Ok(())
}

/// Makes `new` a direct chat with everyone with whom `old` is one.
fn also_direct(chats: &mut Map<String, Value>, old: &RoomId, new: &RoomId) -> bool {
    let mut changed = false;
    for rooms in chats.values_mut().filter_map(Value::as_array_mut) {
        if rooms.iter().any(|room| room == old.as_str())
            && !rooms.iter().any(|room| room == new.as_str())
        {
            rooms.push(new.as_str().into());
            changed = true;
        }
    }
    changed
}

/// Gives `new` the push rules that clients make for a room: those of kind `room`, and those of kind
/// `override` that are named after it.
fn also_for(rules: &mut Map<String, Value>, old: &RoomId, new: &RoomId) -> bool {
    let mut changed = false;
    let Some(global) = rules.get_mut("global") else {
        return false;
    };
    for kind in ["override", "room"] {
        let Some(rules) = global.get_mut(kind).and_then(Value::as_array_mut) else {
            continue;
        };
        let named = |id: &RoomId| rules.iter().position(|rule| rule["rule_id"] == id.as_str());
        if let (Some(at), None) = (named(old), named(new)) {
            let mut rule = rules[at].clone();
            rename(&mut rule, old, new);
            rules.insert(at + 1, rule);
            changed = true;
        }
    }
    changed
}

/// Puts `new` wherever `value` names `old`.
fn rename(value: &mut Value, old: &RoomId, new: &RoomId) {
    match value {
        Value::String(text) if text == old.as_str() => *value = new.as_str().into(),
        Value::Array(values) => values.iter_mut().for_each(|value| rename(value, old, new)),
        Value::Object(fields) => fields
            .values_mut()
            .for_each(|value| rename(value, old, new)),
        _ => {}
    }
}
