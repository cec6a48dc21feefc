//! Rooms.

use std::cmp::Reverse;

use ruma::{OwnedRoomId, OwnedRoomOrAliasId, RoomId, events::StateEventType, room::RoomSummary};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Nothing;
use crate::{
    api::{Api, Error},
    rooms::{
        self,
        background::member_events,
        blocked_rooms,
        deletion::{pending, run::has_destinations},
        directory::{aliases, summary},
        servers,
        state::current,
    },
    store::{
        Reader, RoomNum, Rows, Snapshot, Tx,
        records::{DeletionPhase, Membership, RoomDeletion},
    },
};

/// More are left out of a list.
const MAX_LISTED: usize = 10_000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Room {
    /// A room id, or an alias of this server.
    room: String,
}

/// The rooms that this server is or was in, those with the most members first.
pub async fn list(api: Api, _: Nothing) -> Result<Value, Error> {
    let scan = |s: &Snapshot| {
        let mut rooms = Vec::new();
        for row in s.room_heads()?.all()? {
            let room = row?.0.value();
            rooms.push(to_json(s, room, &summary::of(s, room)?)?);
        }
        Ok::<_, Error>(rooms)
    };
    let mut rooms = api.store.scan("the rooms", scan).await?;
    let total = rooms.len();
    rooms.sort_by_key(|room| Reverse(room["joined"].as_u64()));
    rooms.truncate(MAX_LISTED);
    Ok(json!({ "rooms": rooms, "total": total }))
}

pub async fn show(api: Api, Room { room }: Room) -> Result<Value, Error> {
    let scan = move |s: &Snapshot| {
        let num = find(s, &room)?;
        let summary = summary::of(s, num)?;
        let mut shown = to_json(s, num, &summary)?;
        shown["topic"] = summary.topic.clone().into();
        shown["join_rule"] = summary.join_rule.as_str().into();
        shown["blocked"] = blocked_rooms::is_blocked(s, &summary.room_id)?.into();
        shown["aliases"] = aliases::of_room(s, num)?.into();
        let servers = servers::names(s, num)?.into_iter().map(String::from);
        shown["servers"] = servers.collect();
        Ok::<_, Error>(shown)
    };
    api.store.scan("a room", scan).await
}

fn to_json(s: &Snapshot, room: RoomNum, summary: &RoomSummary) -> Result<Value, Error> {
    let here = current::local_members(s, room)?.into_iter();
    let joined_here = here.filter(|(_, membership)| *membership == Membership::Join);
    Ok(json!({
        "room_id": summary.room_id,
        "name": summary.name,
        "alias": summary.canonical_alias,
        "version": summary.room_version,
        "type": summary.room_type,
        "encrypted": summary.encryption.is_some(),
        "joined": summary.num_joined_members,
        "joined_here": joined_here.count(),
        "being_deleted": pending::load(s, &summary.room_id)?.is_some(),
    }))
}

/// Who is in a room, invited to it or banned from it.
pub async fn members(api: Api, Room { room }: Room) -> Result<Value, Error> {
    let scan = move |s: &Snapshot| {
        let room = find(s, &room)?;
        let kind = StateEventType::RoomMember.to_string();
        let mut members = Vec::new();
        for (user, event) in current::of_type(s, room, &kind)? {
            let membership = match current::membership_of(s, event)? {
                Membership::Leave => continue,
                Membership::Join => "join",
                Membership::Invite => "invite",
                Membership::Knock => "knock",
                Membership::Ban => "ban",
            };
            members.push(json!({ "user_id": user, "membership": membership }));
        }
        Ok::<_, Error>(members)
    };
    let mut members = api.store.scan("the members of a room", scan).await?;
    let total = members.len();
    members.truncate(MAX_LISTED);
    Ok(json!({ "members": members, "total": total }))
}

/// All users of this server leave the room.
pub async fn leave(api: Api, Room { room }: Room) -> Result<Value, Error> {
    let num = api.store.read(|s| find(s, &room))?;
    let mut left = 0;
    loop {
        let (local, now) = (api.local.clone(), api.clock.timestamp());
        let job = move |tx: &Tx| member_events::leave_batch(tx, &local, now, num);
        match api.store.write(job).await? {
            0 => break,
            batch => left += batch,
        }
    }
    log::info!("{left} users left {room} at the owner's request");
    Ok(json!({ "room": room, "left": left }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delete {
    room: String,
    /// Whether the room is blocked, too.
    block: bool,
}

/// Has all users of this server leave a room, and then everything of it deleted. [`deletion`] says how far that is.
pub async fn delete(api: Api, Delete { room, block }: Delete) -> Result<Value, Error> {
    let id = api.store.read(|s| match RoomId::parse(&room) {
        Ok(id) if pending::load(s, &id)?.is_some() => Ok(id),
        _ => Ok::<_, Error>(rooms::room::id(s, find(s, &room)?)?),
    })?;
    let (deleted, now_ms) = (id.clone(), api.clock.now_ms());
    let job = move |tx: &Tx| {
        if block {
            blocked_rooms::block(tx, &deleted, now_ms)?;
        }
        match rooms::room::num(tx, &deleted) {
            Ok(num) => pending::start(tx, &deleted, num),
            // It is being deleted already.
            Err(rooms::Error::UnknownRoom) => Ok(()),
            Err(error) => Err(error),
        }
    };
    // It frees disk space.
    api.store.write_shrinking(job).await?;
    log::info!("{id} is being deleted at the owner's request");
    Ok(json!({ "room_id": id, "block": block }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deletion {
    room_id: OwnedRoomId,
}

/// How far the deletion of a room is: `done` also if there is none.
pub async fn deletion(api: Api, Deletion { room_id }: Deletion) -> Result<Value, Error> {
    api.store.read(|s| {
        let Some(deletion) = pending::load(s, &room_id)? else {
            return Ok(json!({ "phase": "done" }));
        };
        let phase = match deletion.phase {
            DeletionPhase::Leave => "leaving",
            DeletionPhase::Send { .. } if has_destinations(s, deletion.room)? => "sending",
            _ => "deleting",
        };
        let RoomDeletion { left, events, .. } = deletion;
        Ok(json!({ "phase": phase, "left": left, "events": events }))
    })
}

/// Blocks a room, known here or not.
pub async fn block(api: Api, Room { room }: Room) -> Result<Value, Error> {
    let (id, now_ms) = (room_id(&api, &room)?, api.clock.now_ms());
    let blocked = id.clone();
    let job = move |tx: &Tx| blocked_rooms::block(tx, &blocked, now_ms);
    api.store.write(job).await?;
    log::info!("{id} was blocked by the owner");
    Ok(json!({ "room_id": id, "blocked": true }))
}

pub async fn unblock(api: Api, Room { room }: Room) -> Result<Value, Error> {
    let id = room_id(&api, &room)?;
    let unblocked = id.clone();
    let job = move |tx: &Tx| blocked_rooms::unblock(tx, &unblocked);
    if !api.store.write(job).await? {
        return Err(Error::not_found(format!(
            "{id} is not blocked; `hearth room blocked` shows all that are"
        )));
    }
    log::info!("{id} is no longer blocked by the owner");
    Ok(json!({ "room_id": id, "blocked": false }))
}

pub async fn blocked(api: Api, _: Nothing) -> Result<Value, Error> {
    let rooms = api.store.scan("the blocked rooms", blocked_rooms::all);
    let rooms = rooms.await?.into_iter();
    let rooms = rooms.map(|(id, ts)| json!({ "room_id": id, "blocked_ts": ts }));
    Ok(json!({ "rooms": rooms.collect::<Vec<_>>() }))
}

/// The id of a room; an alias must be one of this server.
fn room_id(api: &Api, room: &str) -> Result<OwnedRoomId, Error> {
    match RoomId::parse(room) {
        Ok(id) => Ok(id),
        Err(_) => api.store.read(|s| Ok(rooms::room::id(s, find(s, room)?)?)),
    }
}

pub(super) fn find(s: &Snapshot, room: &str) -> Result<RoomNum, Error> {
    let unknown = || {
        Error::not_found(format!(
            "this server has no room {room}: give its id (`!…`) or an alias of this server (`#…`); \
             `hearth room list` shows all"
        ))
    };
    let named = OwnedRoomOrAliasId::try_from(room).map_err(|_| unknown())?;
    match aliases::find(s, &named) {
        Ok(num) if s.room_heads()?.has(num)? => Ok(num),
        Ok(_) | Err(rooms::Error::UnknownRoom | rooms::Error::NotFound(_)) => Err(unknown()),
        Err(error) => Err(error.into()),
    }
}
