//! Deleting everything that the database has of a room: first what leads to it, then the rows of local users,
//! the events, and at last all tables whose keys begin with its number
//! ([`TableInfo::is_by_room`](crate::store::TableInfo::is_by_room)).
//!
//! Media that a user of this server uploaded and sent here go with the message if nothing else refers to them, as
//! with a redaction ([`media::remove_redacted`]).

use ruma::OwnedUserId;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::left_rooms;
use crate::{
    media,
    rooms::{
        Error, event,
        event::{StoredEvent, send},
        servers,
    },
    store::{
        EventNum, Position, Reader, Records, RoomNum, Rows, Snapshot, Tx, UserNum,
        records::EventHeader, unpack_before,
    },
    users::account_data,
};

/// How many users one job looks at.
const BATCH_USERS: usize = if cfg!(test) { 2 } else { 64 };
/// How many events one job deletes.
const BATCH_EVENTS: usize = if cfg!(test) { 3 } else { 100 };
/// How many rows of `events` are read to find them.
const MAX_EVENTS_READ: usize = if cfg!(test) { 7 } else { 4096 };
/// How many rows of other tables one job deletes.
const BATCH_ROWS: usize = if cfg!(test) { 5 } else { 500 };

/// Deletes what leads to the room, so that nobody finds it any more.
pub(super) fn hide(tx: &Tx, room: RoomNum) -> Result<(), Error> {
    let aliases = tx.room_aliases()?;
    let rows = aliases.prefix(room)?;
    let names = rows.map(|row| Ok(row?.0.value().1.to_owned()));
    let names = names.collect::<Result<Vec<String>, Error>>()?;
    drop(aliases);
    for name in names {
        tx.aliases()?.remove(name.as_str())?;
    }
    tx.server_notice_rooms()?
        .remove_in(UserNum::MIN.., |_, notices| notices == room)?;
    tx.pending_upgrades()?
        .remove_in(RoomNum::MIN.., |_, upgrade| {
            upgrade
                .unpack()
                .is_ok_and(|upgrade| upgrade.old_room == room)
        })?;
    tx.outgoing()?.remove_in(Position::MIN.., |_, outgoing| {
        outgoing
            .unpack()
            .is_ok_and(|outgoing| outgoing.room == room)
    })?;
    let mut leaves = Vec::new();
    for row in tx.pending_leaves()?.all()? {
        leaves.push(row?.0.value());
    }
    for leave in leaves.into_iter().filter(|(_, _, of)| *of == room) {
        tx.pending_leaves()?.remove(leave)?;
    }
    let id = tx.rooms()?.load(room)?.map(|record| record.id);
    if let Some(id) = id {
        tx.room_nums()?.remove(id.as_str())?;
    }
    tx.public_rooms()?.remove(room)?;
    Ok(())
}

/// Deletes the rows of local users from `next` on. Returns the first user that is left. Afterwards the room is gone
/// for everything that would add to it.
pub(super) fn erase_users(
    tx: &Tx,
    room: RoomNum,
    mut next: UserNum,
) -> Result<Option<UserNum>, Error> {
    for _ in 0..BATCH_USERS {
        let user = {
            let memberships = tx.memberships()?;
            let mut rows = memberships.range((next, RoomNum::MIN)..)?;
            rows.next().transpose()?.map(|(key, _)| key.value().0)
        };
        let Some(user) = user else {
            for server in servers::of_room(tx, room)? {
                tx.server_rooms()?.remove((server, room))?;
            }
            tx.rooms()?.remove(room)?;
            tx.room_heads()?.remove(room)?;
            return Ok(None);
        };
        erase_user(tx, room, user)?;
        next = UserNum(user.0 + 1);
    }
    Ok(Some(next))
}

fn erase_user(tx: &Tx, room: RoomNum, user: UserNum) -> Result<(), Error> {
    if !tx.memberships()?.has((user, room))? {
        return Ok(());
    }
    match keep_leave(tx, room, user) {
        Err(Error::Store(error)) if error.is_caused_by_data() => {
            log::error!("clients do not learn that a room was left, which is deleted: {error}");
        }
        added => added?,
    }
    tx.memberships()?.remove((user, room))?;
    tx.out_of_band_memberships()?.remove((user, room))?;
    Ok(account_data::remove_of_room(tx, user, room)?)
}

fn keep_leave(tx: &Tx, room: RoomNum, user: UserNum) -> Result<(), Error> {
    match tx.memberships()?.load((user, room))? {
        Some(member) => left_rooms::add(tx, user, room, &member),
        None => Ok(()),
    }
}

/// The numbers between which the events of the room are: an event has a larger number than its auth events, and
/// all state events are in the table `auth`.
pub(super) fn event_range(r: &impl Reader, room: RoomNum) -> Result<(EventNum, EventNum), Error> {
    let (auth, events) = (r.auth()?, r.events()?);
    let first = auth.prefix(room)?.next().transpose()?;
    let last = events.all()?.next_back().transpose()?;
    Ok((
        first.map_or(EventNum::MAX, |(key, _)| key.value().1),
        last.map_or(EventNum::MIN, |(key, _)| key.value()),
    ))
}

/// Some events of the room, and the event after which the search goes on; `None` if none are left.
pub(super) struct Found {
    pub(super) events: Vec<EventNum>,
    pub(super) next: Option<EventNum>,
}

/// The next events of the room between `from` and `last`. For the pool.
pub(super) fn find_events(
    s: &Snapshot,
    room: RoomNum,
    from: EventNum,
    last: EventNum,
) -> Result<Found, Error> {
    let mut events = Vec::new();
    if from > last {
        return Ok(Found { events, next: None });
    }
    for (read, row) in s.events()?.range(from..=last)?.enumerate() {
        let (key, row) = row?;
        if read == MAX_EVENTS_READ || events.len() == BATCH_EVENTS {
            let next = Some(key.value());
            return Ok(Found { events, next });
        }
        // It is not known of which room a row is that does not decode.
        let header = unpack_before::<EventHeader>(row.value());
        if header.is_ok_and(|(header, _)| header.room == room) {
            events.push(key.value());
        }
    }
    Ok(Found { events, next: None })
}

pub(super) fn erase_events(tx: &Tx, events: &[EventNum]) -> Result<(), Error> {
    let mut loaded = Vec::new();
    for num in events {
        if tx.events()?.has(*num)? {
            loaded.push(event::load(tx, *num)?);
        }
    }
    let mut named = Vec::new();
    for event in &loaded {
        let is_stored_anew = {
            let nums = tx.event_nums()?;
            let num = nums.get(event.header.id.as_str())?;
            num.map(|num| num.value()) != Some(event.num)
        };
        if !is_stored_anew {
            tx.event_nums()?.remove(event.header.id.as_str())?;
            named.extend(unreferenced(tx, event)?);
        }
        if let Some((device, id)) = &event.header.sent_by {
            send::forget(tx, *device, id, event.num)?;
        }
        tx.events()?.remove(event.num)?;
    }
    for (sender, content) in named {
        media::remove_redacted(tx, &sender, content.get())?;
    }
    Ok(())
}

#[derive(Deserialize)]
struct Content {
    sender: OwnedUserId,
    content: Box<RawValue>,
}

/// Undoes that the event refers to media. Returns its sender and content.
fn unreferenced(
    tx: &Tx,
    event: &StoredEvent,
) -> Result<Option<(OwnedUserId, Box<RawValue>)>, Error> {
    if event.header.redacted_by.is_some() {
        return Ok(None);
    }
    let Ok(Content { sender, content }) = event.parse::<Content>() else {
        return Ok(None);
    };
    media::references::remove(tx, content.get())?;
    Ok(Some((sender, content)))
}

/// Deletes rows of all tables whose keys begin with the number of the room; whether any may be left.
pub(super) fn erase_rows(tx: &Tx, room: RoomNum) -> Result<bool, Error> {
    Ok(tx.remove_rows_of(room, BATCH_ROWS)? == BATCH_ROWS)
}
