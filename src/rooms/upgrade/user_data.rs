//! Copying a user's tags, `m.direct` entries and push rules from a room to the one that replaces it.
//!
//! Source: [Room upgrades](https://spec.matrix.org/v1.19/client-server-api/#room-upgrades), "Server
//! behaviour", the last paragraph.

use ruma::{
    OwnedRoomId, RoomId,
    events::{StateEventType, room::tombstone::RoomTombstoneEventContent},
    push::ConditionalPushRule,
};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    rooms::{
        Error, room,
        state::{content, current},
    },
    store::{RoomNum, Tx, UserNum, records::Membership},
    users::{
        self,
        account_data::{GLOBAL, fits, load, push_rules, put},
    },
};

/// To be called when `user` has joined `new`. Does nothing unless the user is joined to the room that
/// `new` replaces.
pub fn copy(tx: &Tx, user: UserNum, new: RoomNum) -> Result<(), Error> {
    let Some(old) = predecessor(tx, new)? else {
        return Ok(());
    };
    let row = current::local_membership(tx, user, old)?;
    if row.is_none_or(|row| row.membership != Membership::Join) {
        return Ok(());
    }
    if load(tx, user, new, "m.tag")?.is_none()
        && let Some(tags) = load(tx, user, old, "m.tag")?
        && fits(tx, user, new, "m.tag", &tags.content)?
    {
        put(tx, user, new, "m.tag", &tags.content)?;
    }
    let (old, new) = (room::id(tx, old)?, room::id(tx, new)?);
    copy_direct(tx, user, &old, &new)?;
    copy_push_rules(tx, user, &old, &new)
}

/// The room that `new` replaces, if its tombstone names `new`: any create event can name any
/// predecessor.
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
    let old = match room::num(tx, &predecessor.room_id) {
        Err(Error::UnknownRoom) => return Ok(None),
        old => old?,
    };
    let kind = StateEventType::RoomTombstone;
    let tombstone = content::current::<RoomTombstoneEventContent>(tx, old, &kind, "")?;
    let id = room::id(tx, new)?;
    Ok(tombstone
        .is_some_and(|tombstone| tombstone.replacement_room == id)
        .then_some(old))
}

/// Adds `new` to `m.direct` wherever `old` is in it.
fn copy_direct(tx: &Tx, user: UserNum, old: &RoomId, new: &RoomId) -> Result<(), Error> {
    const KIND: &str = "m.direct";
    let data = load(tx, user, GLOBAL, KIND)?;
    // Clients can store any JSON there.
    let chats =
        data.and_then(|data| serde_json::from_str::<Map<String, Value>>(&data.content).ok());
    let Some(mut chats) = chats else {
        return Ok(());
    };
    let mut changed = false;
    for rooms in chats.values_mut().filter_map(Value::as_array_mut) {
        let has = |room: &RoomId| rooms.iter().any(|other| other == room.as_str());
        if has(old) && !has(new) {
            rooms.push(new.as_str().into());
            changed = true;
        }
    }
    if changed {
        put(tx, user, GLOBAL, KIND, &Value::Object(chats).to_string())?;
    }
    Ok(())
}

/// Copies the push rules that clients make for a room: the one of kind `room`, and the one of kind
/// `override` whose id is the room id.
fn copy_push_rules(tx: &Tx, user: UserNum, old: &RoomId, new: &RoomId) -> Result<(), Error> {
    if push_rules::stored(tx, user)?.is_none() {
        return Ok(());
    }
    let id = users::id_of(tx, user)?;
    let mut rules = push_rules::load(tx, user, &id)?;
    // The copy comes right after the original, so that it has the same priority.
    let at = rules.room.get_full(old.as_str());
    if let Some((at, rule)) = at.filter(|_| !rules.room.contains(new.as_str())) {
        let mut rule = rule.clone();
        rule.rule_id = new.to_owned();
        rules.room.shift_insert(at + 1, rule);
    }
    let at = rules.override_.get_full(old.as_str());
    if let Some((at, rule)) = at.filter(|_| !rules.override_.contains(new.as_str()))
        && let Some(rule) = renamed(rule, old, new)
    {
        rules.override_.shift_insert(at + 1, rule);
    }
    match push_rules::put(tx, user, &id, rules, None) {
        Err(users::Error::Store(error)) => Err(error.into()),
        // Too many rules are no reason to refuse the join.
        _ => Ok(()),
    }
}

fn renamed(rule: &ConditionalPushRule, old: &RoomId, new: &RoomId) -> Option<ConditionalPushRule> {
    let mut rule = serde_json::to_value(rule).ok()?;
    rename(&mut rule, old, new);
    serde_json::from_value(rule).ok()
}

/// Replaces every string `old` in `value` by `new`.
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
