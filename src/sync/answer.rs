//! One answer of `/sync`: which rooms it tells of, and its frame.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ruma::{OwnedRoomId, api::client::filter::RoomFilter};
use serde::Serialize;
use serde_json::{json, value::RawValue};

use super::{
    SyncToken,
    fields::Fields,
    invited, joined,
    notifier::Notifier,
    request::{Request, SyncRange},
};
use crate::{
    rooms::{Error, event, room, state::current, timeline::filter, typing::Typing},
    store::{
        Position, Reader, Records, RoomNum, Rows, Store, UserNum,
        records::{MemberRow, Membership},
    },
    users::{self, account_data, presence::Presence},
};

/// How many rooms are read from one snapshot.
pub const SLICE: usize = 16;
/// So many rooms are read in place; more on the pool.
const IN_PLACE: usize = 4;
/// So many changes of the server are read in place; more on the pool.
const POSITIONS_IN_PLACE: u64 = 256;

/// Under which heading of the answer a room stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Section {
    /// The user is in it.
    Join,
    /// The user is invited.
    Invite,
    /// The user knocks.
    Knock,
    /// The user has left it.
    Leave,
}

/// A room that an answer may tell of.
#[derive(Clone, Debug)]
pub struct Candidate {
    section: Section,
    room: RoomNum,
    row: MemberRow,
}

/// A room of an answer.
#[derive(Clone, Debug)]
pub struct Told {
    /// Where it stands.
    pub section: Section,
    /// Its id.
    pub room: OwnedRoomId,
    /// What is told of it.
    pub json: Box<RawValue>,
}

/// The rooms that an answer may tell of, ordered by section.
pub fn candidates(
    r: &impl Reader,
    notifier: &Notifier,
    typing: &Typing,
    request: &Request,
    range: SyncRange,
) -> Result<Vec<Candidate>, Error> {
    let mut found = Vec::new();
    let mut add = |room: RoomNum, row: MemberRow| -> Result<(), Error> {
        if let Some(section) = section(request, range, &row)
            && wants_room(&request.filter.room, &room::id(r, room)?)
        {
            found.push(Candidate { section, room, row });
        }
        Ok(())
    };
    match changed_rooms(r, notifier, typing, request, range)? {
        Some(rooms) => {
            for room in rooms {
                if let Some(row) = r.memberships()?.load((request.user, room))? {
                    add(room, row)?;
                }
            }
        }
        None => {
            for (room, row) in memberships(r, request.user)? {
                add(room, row)?;
            }
        }
    }
    found.sort_by_key(|candidate| candidate.section);
    Ok(found)
}

/// The rooms in which something may have changed for the user; `None` if in any.
fn changed_rooms(
    r: &impl Reader,
    notifier: &Notifier,
    typing: &Typing,
    request: &Request,
    range: SyncRange,
) -> Result<Option<BTreeSet<RoomNum>>, Error> {
    let Some(since) = range.since.filter(|_| !request.full_state) else {
        return Ok(None);
    };
    let Some(rooms) = notifier.rooms_after(since.position) else {
        return Ok(None);
    };
    let mut rooms: BTreeSet<RoomNum> = rooms.into_iter().collect();
    rooms.extend(typing.rooms_after(since.ephemeral));
    if notifier.user_changed_after(request.user, since.position) {
        let changed =
            account_data::changed_between(r, request.user, since.position, range.end.stored)?;
        rooms.extend(changed.iter().map(|changed| changed.room));
    }
    rooms.remove(&account_data::GLOBAL);
    Ok(Some(rooms))
}

fn memberships(r: &impl Reader, user: UserNum) -> Result<Vec<(RoomNum, MemberRow)>, Error> {
    let mut found = Vec::new();
    for row in r
        .memberships()?
        .range((user, RoomNum::MIN)..=(user, RoomNum::MAX))?
    {
        let (key, row) = row?;
        found.push((key.value().1, row.value().unpack()?));
    }
    Ok(found)
}

fn section(request: &Request, range: SyncRange, row: &MemberRow) -> Option<Section> {
    let since = range.since.map_or(Position::MIN, |since| since.position);
    let news = row.position > since && row.position <= range.end.stored;
    match row.membership {
        Membership::Join => Some(Section::Join),
        Membership::Invite => news.then_some(Section::Invite),
        Membership::Knock => news.then_some(Section::Knock),
        Membership::Leave | Membership::Ban => {
            let whole = range.since.is_none() || request.full_state;
            let archived = whole && request.filter.room.include_leave && !row.forgotten;
            // A room that another device forgot must still be left on this one.
            let left = range.since.is_some() && news;
            (left || archived).then_some(Section::Leave)
        }
    }
}

fn wants_room(filter: &RoomFilter, room: &OwnedRoomId) -> bool {
    !filter.not_rooms.contains(room)
        && filter
            .rooms
            .as_ref()
            .is_none_or(|rooms| rooms.contains(room))
}

/// What is told of each of `candidates`, of some of them nothing.
pub fn rooms(
    r: &impl Reader,
    typing: &Typing,
    request: &Request,
    range: SyncRange,
    candidates: &[Candidate],
) -> Result<Vec<Told>, Error> {
    let mut told = Vec::new();
    for Candidate { section, room, row } in candidates {
        let at = (*room, row.clone());
        if *section == Section::Invite && is_ignored(r, request, row)? {
            continue;
        }
        let json = match section {
            Section::Join => joined::joined(r, request, range, at, typing)?,
            Section::Leave => joined::left(r, request, range, at)?,
            Section::Invite | Section::Knock => Some(shown(r, request, *section, at)?),
        };
        if let Some(json) = json {
            told.push(Told {
                section: *section,
                room: room::id(r, *room)?,
                json,
            });
        }
    }
    Ok(told)
}

/// Whether the membership is the deed of somebody whom the user ignores.
fn is_ignored(r: &impl Reader, request: &Request, row: &MemberRow) -> Result<bool, Error> {
    if request.ignored.is_empty() {
        return Ok(false);
    }
    let sender = event::load(r, row.event)?.sender()?;
    Ok(request.ignored.contains(&sender))
}

fn shown(
    r: &impl Reader,
    request: &Request,
    section: Section,
    (room, row): (RoomNum, MemberRow),
) -> Result<Box<RawValue>, Error> {
    let events = invited::shown_state(r, room, (request.user, &request.user_id), row.event)?;
    let name = if section == Section::Invite {
        "invite_state"
    } else {
        "knock_state"
    };
    let shown = BTreeMap::from([(name, BTreeMap::from([("events", events)]))]);
    serde_json::value::to_raw_value(&shown).map_err(|_| Error::not_serializable("an invitation"))
}

/// What is told beside the rooms, as the fields of the answer; the empty ones are not there.
pub fn beside_rooms(
    r: &impl Reader,
    notifier: &Notifier,
    request: &Request,
    range: SyncRange,
) -> Result<Fields, Error> {
    let mut fields = Fields::default();
    let wanted = &request.filter.account_data;
    let changed = match range.since {
        Some(since) if notifier.user_changed_after(request.user, since.position) => {
            let range = (since.position, range.end.stored);
            account_data::changed_between(r, request.user, range.0, range.1)?
        }
        Some(_) => Vec::new(),
        None => account_data::all_in(r, request.user, account_data::GLOBAL)?,
    };
    let mut events = Vec::new();
    for changed in changed
        .iter()
        .filter(|changed| changed.room == account_data::GLOBAL)
    {
        if filter::accepts_type(&wanted.types, &wanted.not_types, &changed.kind) {
            events.push(joined::account_data_event::<serde_json::Value>(changed)?);
        }
    }
    if !events.is_empty() {
        fields.put_events("account_data", &events)?;
    }
    Ok(fields)
}

/// How those are whom the user shares rooms with, as far as that changed or is new to the user.
pub fn presence(
    r: &impl Reader,
    presence: &Presence,
    request: &Request,
    range: SyncRange,
    candidates: &[Candidate],
) -> Result<Option<serde_json::Value>, Error> {
    let wanted = &request.filter.presence;
    let mut changed = presence.changed_after(range.since.map_or(0, |since| since.ephemeral));
    for met in newly_met(r, range, candidates)? {
        if !changed.iter().any(|(user, _)| *user == met) {
            changed.extend(presence.get(met).map(|of| (met, of)));
        }
    }
    if changed.is_empty() || !filter::accepts_type(&wanted.types, &wanted.not_types, "m.presence") {
        return Ok(None);
    }
    let known = current::sharing_rooms(r, request.user)?;
    let mut events = Vec::new();
    for (user, of) in changed {
        let sender = users::id_of(r, user)?;
        let is_local = sender.server_name() == request.user_id.server_name();
        let is_known = user == request.user
            || known.contains(&user)
            || !is_local && current::share_a_room(r, request.user, &sender)?;
        if !is_known {
            continue;
        }
        if wanted.not_senders.contains(&sender)
            || wanted
                .senders
                .as_ref()
                .is_some_and(|senders| !senders.contains(&sender))
        {
            continue;
        }
        let mut content = json!({
            "presence": of.state,
            "last_active_ago": range.now_ms.saturating_sub(of.active_ms),
            "currently_active": of.currently_active(range.now_ms),
        });
        if let Some(status_msg) = of.status_msg {
            content["status_msg"] = status_msg.into();
        }
        events.push(json!({ "type": "m.presence", "sender": sender, "content": content }));
    }
    Ok((!events.is_empty()).then(|| json!({ "events": events })))
}

/// The local users who have come into a room of the user's, or into whose rooms the user has come.
fn newly_met(
    r: &impl Reader,
    range: SyncRange,
    candidates: &[Candidate],
) -> Result<BTreeSet<UserNum>, Error> {
    let mut met = BTreeSet::new();
    let Some(since) = range.since else {
        return Ok(met);
    };
    for Candidate { section, room, row } in candidates {
        if *section != Section::Join || room::heads(r, *room)?.state_position <= since.position {
            continue;
        }
        for (user, membership) in current::local_members(r, *room)? {
            let news = row.position > since.position
                || current::local_membership(r, user, *room)?
                    .is_some_and(|row| row.position > since.position);
            if membership == Membership::Join && news {
                met.insert(user);
            }
        }
    }
    Ok(met)
}

/// Whether `candidates` are few and small enough to be read in place: rooms that the user has been
/// in all the time, of which only what changed a short while ago is told.
pub fn is_small(candidates: &[Candidate], range: SyncRange) -> bool {
    let since = range.since.map_or(Position::MIN, |since| since.position);
    candidates.len() <= IN_PLACE
        && range.end.stored.0.saturating_sub(since.0) <= POSITIONS_IN_PLACE
        && candidates
            .iter()
            .all(|candidate| candidate.row.position <= since)
}

/// The token with which the next answer goes on, if messages to the device were told up to
/// `to_device`.
pub fn next_batch(notifier: &Notifier, range: SyncRange, to_device: Position) -> SyncToken {
    SyncToken {
        position: range.end.stored,
        to_device,
        instance: notifier.instance(),
        ephemeral: range.end.ephemeral,
    }
}

/// Reads `candidates`, a slice of them, from one snapshot on the pool.
pub async fn slice(
    store: &Store,
    typing: &Arc<Typing>,
    request: &Arc<Request>,
    range: SyncRange,
    candidates: Vec<Candidate>,
) -> Result<Vec<Told>, Error> {
    let (typing, request) = (typing.clone(), request.clone());
    store
        .scan("sync", move |s| {
            rooms(s, &typing, &request, range, &candidates)
        })
        .await
}
