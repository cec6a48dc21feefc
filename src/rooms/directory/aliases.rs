//! Room aliases of this server, and the checks of `m.room.canonical_alias`.

use std::iter;

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedRoomAliasId, OwnedRoomId, OwnedServerName,
    RoomAliasId, RoomId, RoomOrAliasId, events::StateEventType,
};

use crate::{
    rooms::{
        Actor, Error, Local,
        event::state_event::StateEvent,
        room, servers,
        state::{content, current, power_levels},
        timeline::history_visibility::UserVisibility,
    },
    store::{
        Reader, Records, RoomNum, Rows, Tx,
        records::{Alias, Membership},
    },
};

/// Source: [Room aliases](https://spec.matrix.org/v1.19/appendices/#room-aliases).
const MAX_ALIAS_BYTES: usize = 255;
/// The most other servers that are returned with the room of an alias.
const MAX_SERVERS: usize = 20;

/// The alias of this server with that local part.
///
/// # Errors
/// [`Error::Invalid`] if the local part is not valid.
pub fn from_localpart(local: &Local, localpart: &str) -> Result<OwnedRoomAliasId, Error> {
    let text = format!("#{localpart}:{}", local.server_name());
    match <&RoomAliasId>::try_from(text.as_str()) {
        Ok(alias) if alias.alias() == localpart => {
            check_name(local, alias)?;
            Ok(alias.to_owned())
        }
        _ => Err(Error::invalid(format!("{text} is not a valid room alias"))),
    }
}

fn check_name(local: &Local, alias: &RoomAliasId) -> Result<(), Error> {
    if alias.server_name() != local.server_name() {
        let (found, own) = (alias.server_name(), local.server_name());
        let reason = format!("room alias: expected one of the server {own}, found one of {found}");
        return Err(Error::invalid(reason));
    }
    let name = alias.alias();
    let not_allowed = |c: char| c.is_whitespace() || c.is_control();
    if name.is_empty() || name.contains(not_allowed) || alias.as_str().len() > MAX_ALIAS_BYTES {
        return Err(Error::invalid(format!(
            "room alias: expected a local part without spaces and at most {MAX_ALIAS_BYTES} bytes \
             in all, found {alias}"
        )));
    }
    Ok(())
}

/// The room of an alias of this server.
///
/// # Errors
/// [`Error::NotFound`].
pub fn resolve(r: &impl Reader, alias: &RoomAliasId) -> Result<RoomNum, Error> {
    let row = r.aliases()?.load(alias.as_str())?;
    row.map(|row| row.room)
        .ok_or(Error::NotFound("no room has this alias"))
}

/// The room of an alias of this server, and servers that are in the room, this one first.
///
/// # Errors
/// [`Error::NotFound`].
pub fn look_up(
    r: &impl Reader,
    local: &Local,
    alias: &RoomAliasId,
) -> Result<(OwnedRoomId, Vec<OwnedServerName>), Error> {
    let room = resolve(r, alias)?;
    let own = local.server_name().to_owned();
    let others = servers::names(r, room)?.into_iter().take(MAX_SERVERS);
    Ok((room::id(r, room)?, iter::once(own).chain(others).collect()))
}

/// The room with that id or that alias of this server.
///
/// # Errors
/// [`Error::UnknownRoom`] or [`Error::NotFound`].
pub fn find(r: &impl Reader, room: &RoomOrAliasId) -> Result<RoomNum, Error> {
    match (<&RoomId>::try_from(room), <&RoomAliasId>::try_from(room)) {
        (Ok(id), _) => room::num(r, id),
        (_, Ok(alias)) => resolve(r, alias),
        _ => Err(Error::UnknownRoom),
    }
}

/// The aliases that this server has for the room.
pub fn of_room(r: &impl Reader, room: RoomNum) -> Result<Vec<String>, Error> {
    let table = r.room_aliases()?;
    table
        .prefix(room)?
        .map(|row| Ok(row?.0.value().1.to_owned()))
        .collect()
}

/// [`of_room`] for `actor`.
///
/// # Errors
/// [`Error::Forbidden`] unless `actor` is joined, or the room is world-readable.
pub fn visible_to(
    r: &impl Reader,
    actor: &Actor,
    room: RoomNum,
) -> Result<Vec<OwnedRoomAliasId>, Error> {
    if !UserVisibility::new(r, room, &actor.id)?.can_see_now(r)? {
        return Err(Error::forbidden(
            "only members of this room may see its aliases",
        ));
    }
    let aliases = of_room(r, room)?.into_iter();
    aliases
        .map(|alias| {
            OwnedRoomAliasId::try_from(&*alias)
                .map_err(|_| Error::corrupt("room_aliases", (room, &alias), "not an alias"))
        })
        .collect()
}

/// Gives the room an alias.
///
/// # Errors
/// [`Error::Invalid`] if it is not a valid alias of this server, [`Error::AliasTaken`] if a room has
/// it, [`Error::Forbidden`] if `actor` is not joined to the room.
pub fn create(
    tx: &Tx,
    local: &Local,
    actor: &Actor,
    alias: &RoomAliasId,
    room: RoomNum,
) -> Result<(), Error> {
    check_name(local, alias)?;
    if current::membership(tx, room, &actor.id)? != Membership::Join {
        return Err(Error::forbidden(
            "only members of this room may give it an alias",
        ));
    }
    insert(tx, actor, alias, room)
}

/// Gives the room an alias that was checked.
///
/// # Errors
/// [`Error::AliasTaken`] if a room has it.
pub(in crate::rooms) fn insert(
    tx: &Tx,
    actor: &Actor,
    alias: &RoomAliasId,
    room: RoomNum,
) -> Result<(), Error> {
    if tx.aliases()?.has(alias.as_str())? {
        return Err(Error::AliasTaken);
    }
    tx.aliases()?.put(
        alias.as_str(),
        &Alias {
            room,
            creator: actor.num,
        },
    )?;
    Ok(tx.room_aliases()?.insert((room, alias.as_str()), ())?)
}

/// Removes `alias`, also from the room's canonical alias event if `actor` may send one.
///
/// # Errors
/// [`Error::NotFound`] if no room has it; [`Error::Forbidden`] unless `actor` created it, may send
/// the room's canonical alias, or is a server administrator.
pub fn remove(tx: &Tx, local: &Local, actor: &Actor, alias: &RoomAliasId) -> Result<(), Error> {
    let row = tx.aliases()?.load(alias.as_str())?;
    let row = row.ok_or(Error::NotFound("no room has this alias"))?;
    let may_publish = may_publish(tx, row.room, actor)?;
    if row.creator != actor.num && !may_publish && !is_server_admin(tx, actor)? {
        let reason = "only its creator, and users who may set the room's canonical alias, may \
                      remove an alias";
        return Err(Error::forbidden(reason));
    }
    tx.aliases()?.remove(alias.as_str())?;
    tx.room_aliases()?.remove((row.room, alias.as_str()))?;
    if may_publish {
        unpublish(tx, local, actor, alias, row.room)
    } else {
        Ok(())
    }
}

/// Moves all aliases from `old` to `new`; returns them.
pub(in crate::rooms) fn move_all(
    tx: &Tx,
    old: RoomNum,
    new: RoomNum,
) -> Result<Vec<String>, Error> {
    let moved = of_room(tx, old)?;
    for alias in &moved {
        let row = tx.aliases()?.load(alias.as_str())?;
        let mut row = row.ok_or_else(|| Error::corrupt("aliases", alias, "missing"))?;
        row.room = new;
        tx.aliases()?.put(alias.as_str(), &row)?;
        tx.room_aliases()?.remove((old, alias.as_str()))?;
        tx.room_aliases()?.insert((new, alias.as_str()), ())?;
    }
    Ok(moved)
}

/// Whether `actor` is joined to the room and may send its canonical alias. This server requires that
/// of who changes the room's aliases or its visibility in the directory.
pub(in crate::rooms) fn may_publish(
    r: &impl Reader,
    room: RoomNum,
    actor: &Actor,
) -> Result<bool, Error> {
    if current::membership(r, room, &actor.id)? != Membership::Join {
        return Ok(false);
    }
    let rules = room::rules(r, room)?;
    let levels = power_levels::levels(r, room, rules)?;
    Ok(levels.user_can_send_state(&actor.id, StateEventType::RoomCanonicalAlias))
}

pub(in crate::rooms) fn is_server_admin(r: &impl Reader, actor: &Actor) -> Result<bool, Error> {
    Ok(r.accounts()?
        .load(actor.num)?
        .is_some_and(|account| account.admin))
}

/// Sends a canonical alias event without `alias`, if the current one names it.
fn unpublish(
    tx: &Tx,
    local: &Local,
    actor: &Actor,
    alias: &RoomAliasId,
    room: RoomNum,
) -> Result<(), Error> {
    let kind = StateEventType::RoomCanonicalAlias;
    let Some(content) = content::current::<CanonicalJsonObject>(tx, room, &kind, "")? else {
        return Ok(());
    };
    let without = retain_aliases(&content, |other| other != alias.as_str());
    if without == content {
        return Ok(());
    }
    StateEvent::new(kind, without).send(tx, local, room, actor)
}

/// The content of a canonical alias event with only the aliases that `keep` accepts.
pub(in crate::rooms) fn retain_aliases(
    content: &CanonicalJsonObject,
    keep: impl Fn(&str) -> bool,
) -> CanonicalJsonObject {
    let keep = |value: &CanonicalJsonValue| value.as_str().is_none_or(&keep);
    let mut content = content.clone();
    if content.get("alias").is_some_and(|alias| !keep(alias)) {
        content.remove("alias");
    }
    if let Some(CanonicalJsonValue::Array(others)) = content.get_mut("alt_aliases") {
        others.retain(keep);
        if others.is_empty() {
            content.remove("alt_aliases");
        }
    }
    content
}

/// Checks a new canonical alias event: the aliases that the current event does not have must belong
/// to the room.
///
/// Source: [Sending state events](https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3roomsroomidstateeventtypestatekey).
///
/// # Errors
/// [`Error::Invalid`] for what is not an alias, [`Error::BadAlias`] for one that, as far as this
/// server knows, is not the room's.
pub fn check_canonical(
    r: &impl Reader,
    room: RoomNum,
    state_key: &str,
    content: &CanonicalJsonObject,
) -> Result<(), Error> {
    let kind = StateEventType::RoomCanonicalAlias;
    let before = content::current::<CanonicalJsonObject>(r, room, &kind, state_key)?;
    let before = before.unwrap_or_default();
    // A current event with an invalid content counts as one without aliases.
    let before = aliases_in(&before).unwrap_or_default();
    for alias in aliases_in(content)? {
        if before.contains(&alias) {
            continue;
        }
        let alias = <&RoomAliasId>::try_from(alias)
            .ok()
            .filter(|alias| alias.as_str().len() <= MAX_ALIAS_BYTES)
            .ok_or_else(|| Error::invalid(format!("{alias} is not a room alias")))?;
        match resolve(r, alias) {
            Ok(named) if named == room => {}
            Ok(_) | Err(Error::NotFound(_)) => {
                return Err(Error::BadAlias(alias.to_string().into()));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The aliases in a canonical alias event. `null` and the empty string stand for no alias.
fn aliases_in(content: &CanonicalJsonObject) -> Result<Vec<&str>, Error> {
    let not_a_string = || Error::invalid("alias, alt_aliases: expected strings");
    let mut aliases = Vec::new();
    match content.get("alias") {
        None | Some(CanonicalJsonValue::Null) => {}
        Some(alias) => aliases.push(alias.as_str().ok_or_else(not_a_string)?),
    }
    match content.get("alt_aliases") {
        None | Some(CanonicalJsonValue::Null) => {}
        Some(CanonicalJsonValue::Array(others)) => {
            for alias in others {
                aliases.push(alias.as_str().ok_or_else(not_a_string)?);
            }
        }
        Some(_) => return Err(Error::invalid("alt_aliases: expected an array")),
    }
    aliases.retain(|alias| !alias.is_empty());
    Ok(aliases)
}
