//! Room aliases of this server, and what `m.room.canonical_alias` may say.

use std::iter;

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedRoomAliasId, OwnedRoomId, OwnedServerName,
    RoomAliasId, RoomId, RoomOrAliasId, events::StateEventType,
};

use crate::{
    rooms::{
        Actor, Error, Local, room, servers,
        state::{
            content::{self, StateEvent},
            current, power_levels,
        },
        timeline::history_visibility::UserVisibility,
    },
    store::{
        Reader, Records, RoomNum, Rows, Tx,
        records::{Alias, Membership},
    },
};

/// The most bytes of an alias ([Room aliases]).
///
/// [Room aliases]: https://spec.matrix.org/v1.19/appendices/#room-aliases
const LONGEST: usize = 255;
/// How many other servers are named that are in a room.
const SERVERS: usize = 20;

/// The alias of this server whose local part is `localpart`.
///
/// # Errors
/// [`Error::Invalid`] if there can be no such alias.
pub fn from_localpart(local: &Local, localpart: &str) -> Result<OwnedRoomAliasId, Error> {
    let text = format!("#{localpart}:{}", local.server_name());
    match <&RoomAliasId>::try_from(text.as_str()) {
        Ok(alias) if alias.alias() == localpart => {
            check_name(local, alias)?;
            Ok(alias.to_owned())
        }
        _ => Err(Error::invalid("no room alias can have that name")),
    }
}

/// Whether `alias` is fit to be made here.
fn check_name(local: &Local, alias: &RoomAliasId) -> Result<(), Error> {
    if alias.server_name() != local.server_name() {
        let reason = format!("aliases of this server end in :{}", local.server_name());
        return Err(Error::invalid(reason));
    }
    let name = alias.alias();
    let unfit = |c: char| c.is_whitespace() || c.is_control();
    if name.is_empty() || name.contains(unfit) || alias.as_str().len() > LONGEST {
        let reason = "a room alias has a name without spaces, and at most 255 bytes in all";
        return Err(Error::invalid(reason));
    }
    Ok(())
}

/// The room that `alias` names, if it is an alias of this server.
///
/// # Errors
/// [`Error::NotFound`] if it names none.
pub fn resolve(r: &impl Reader, alias: &RoomAliasId) -> Result<RoomNum, Error> {
    let row = r.aliases()?.load(alias.as_str())?;
    row.map(|row| row.room)
        .ok_or(Error::NotFound("no room has that alias"))
}

/// The room that `alias` names, if it is an alias of this server, and servers that are in the room:
/// this one first.
///
/// # Errors
/// [`Error::NotFound`] if it names none.
pub fn look_up(
    r: &impl Reader,
    local: &Local,
    alias: &RoomAliasId,
) -> Result<(OwnedRoomId, Vec<OwnedServerName>), Error> {
    let room = resolve(r, alias)?;
    let own = local.server_name().to_owned();
    let others = servers::names(r, room)?.into_iter().take(SERVERS);
    Ok((room::id(r, room)?, iter::once(own).chain(others).collect()))
}

/// The room that is meant by its id or by an alias of this server.
///
/// # Errors
/// [`Error::UnknownRoom`] or [`Error::NotFound`] if there is none.
pub fn find(r: &impl Reader, room: &RoomOrAliasId) -> Result<RoomNum, Error> {
    match (<&RoomId>::try_from(room), <&RoomAliasId>::try_from(room)) {
        (Ok(id), _) => room::num(r, id),
        (_, Ok(alias)) => resolve(r, alias),
        _ => Err(Error::UnknownRoom),
    }
}

/// The aliases that this server has for the room.
pub fn of_room(r: &impl Reader, room: RoomNum) -> Result<Vec<String>, Error> {
    let mut aliases = Vec::new();
    for row in r.room_aliases()?.range((room, "")..)? {
        let (key, _) = row?;
        let (of_room, alias) = key.value();
        if of_room != room {
            break;
        }
        aliases.push(alias.to_owned());
    }
    Ok(aliases)
}

/// The aliases that this server has for the room, for `actor` to see.
///
/// # Errors
/// [`Error::Forbidden`] unless `actor` is in the room, or everybody may read it.
pub fn visible_to(
    r: &impl Reader,
    actor: &Actor,
    room: RoomNum,
) -> Result<Vec<OwnedRoomAliasId>, Error> {
    if !UserVisibility::new(r, room, &actor.id)?.can_see_now(r)? {
        return Err(Error::forbidden("only members of the room see its aliases"));
    }
    let aliases = of_room(r, room)?.into_iter();
    aliases
        .map(|alias| {
            OwnedRoomAliasId::try_from(&*alias)
                .map_err(|_| Error::corrupt("room_aliases", (room, &alias), "not an alias"))
        })
        .collect()
}

/// Lets `alias` name the room, at the wish of somebody who is in it.
///
/// # Errors
/// [`Error::Invalid`] if it cannot be an alias of this server, [`Error::AliasTaken`] if it names a
/// room already, [`Error::Forbidden`] if `actor` is not in the room.
pub fn create(
    tx: &Tx,
    local: &Local,
    actor: &Actor,
    alias: &RoomAliasId,
    room: RoomNum,
) -> Result<(), Error> {
    check_name(local, alias)?;
    if current::membership(tx, room, &actor.id)? != Membership::Join {
        return Err(Error::forbidden("only members of a room give it an alias"));
    }
    insert(tx, actor, alias, room)
}

/// Lets `alias`, which is fit, name the room.
///
/// # Errors
/// [`Error::AliasTaken`] if it names a room already.
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

/// Takes `alias` away, and out of the room's canonical alias event where `actor` may send one.
///
/// # Errors
/// [`Error::NotFound`] if it names no room; [`Error::Forbidden`] unless `actor` made it, may send
/// the room's canonical alias, or administers the server.
pub fn remove(tx: &Tx, local: &Local, actor: &Actor, alias: &RoomAliasId) -> Result<(), Error> {
    let row = tx.aliases()?.load(alias.as_str())?;
    let row = row.ok_or(Error::NotFound("no room has that alias"))?;
    let may_publish = may_publish(tx, row.room, actor)?;
    if row.creator != actor.num && !may_publish && !administers(tx, actor)? {
        let reason = "an alias is taken away by who made it, or by who may set the room's address";
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

/// Lets every alias of `old` name `new`; the aliases.
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

/// Whether `actor` is in the room and may send its canonical alias: the right by which this server
/// decides on its addresses and on its listing in the directory.
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

/// Whether `actor` administers the server.
pub(in crate::rooms) fn administers(r: &impl Reader, actor: &Actor) -> Result<bool, Error> {
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

/// The canonical alias `content` with those of its aliases that `keep` wants.
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

/// Whether `content` may become the content of the canonical alias event with `state_key`: a new
/// alias in it must be one and name the room. Those that the current event has already are not
/// looked at ([Sending state events]).
///
/// [Sending state events]: https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3roomsroomidstateeventtypestatekey
///
/// # Errors
/// [`Error::Invalid`] if a new alias is none, [`Error::BadAlias`] if it does not name the room, as
/// far as this server knows.
pub fn check_canonical(
    r: &impl Reader,
    room: RoomNum,
    state_key: &str,
    content: &CanonicalJsonObject,
) -> Result<(), Error> {
    let kind = StateEventType::RoomCanonicalAlias;
    let before = content::current::<CanonicalJsonObject>(r, room, &kind, state_key)?;
    let before = before.unwrap_or_default();
    // The current event is anyone's: one that makes no sense has no aliases.
    let before = named_in(&before).unwrap_or_default();
    for alias in named_in(content)? {
        if before.contains(&alias) {
            continue;
        }
        let alias = <&RoomAliasId>::try_from(alias)
            .ok()
            .filter(|alias| alias.as_str().len() <= LONGEST)
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

/// The aliases that a canonical alias event names. None and the empty text stand for no alias.
fn named_in(content: &CanonicalJsonObject) -> Result<Vec<&str>, Error> {
    let not_text = || Error::invalid("a room alias is a text");
    let mut aliases = Vec::new();
    match content.get("alias") {
        None | Some(CanonicalJsonValue::Null) => {}
        Some(alias) => aliases.push(alias.as_str().ok_or_else(not_text)?),
    }
    match content.get("alt_aliases") {
        None | Some(CanonicalJsonValue::Null) => {}
        Some(CanonicalJsonValue::Array(others)) => {
            for alias in others {
                aliases.push(alias.as_str().ok_or_else(not_text)?);
            }
        }
        Some(_) => return Err(Error::invalid("alt_aliases is a list of room aliases")),
    }
    aliases.retain(|alias| !alias.is_empty());
    Ok(aliases)
}
