//! One room of a response.

use std::collections::BTreeSet;

use ruma::{OwnedRoomId, OwnedUserId};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use super::{
    plan::PlannedRoom,
    request::{Dialect, SlidingSyncRequest},
    required_state::{self, Entries, StateChange},
};
use crate::{
    rooms::{
        Error,
        deletion::left_rooms::{self, LeftRoom},
        event::{self, StoredEvent},
        relations::aggregations::Aggregator,
        room,
        state::{self as room_state, overlay::StateOverlay},
        timeline::{
            self as room_timeline,
            client_event::{Formatter, RoomIdField, membership_state},
            pagination_token::PaginationToken,
        },
        unread::{self, receipts},
    },
    store::{
        EventNum, Place, Position, Reader, Records, RoomNum,
        records::{MemberRow, Membership, RequiredState, RoomHeads},
    },
    sync::{
        membership_history::{Continuity, continuity, last_leave},
        request::SyncRange,
        room_update::end_of_range,
        state::MEMBER,
        stripped_state, summary,
        timeline::{self, Part, Selected},
    },
};

/// The types of events that raise the bump stamp of a room (MSC4186, `bump_stamp`).
const BUMP_TYPES: [&str; 11] = [
    "m.room.create",
    "m.room.message",
    "m.room.encrypted",
    "m.sticker",
    "m.call.invite",
    "m.poll.start",
    "org.matrix.msc3381.poll.start",
    "m.beacon_info",
    "org.matrix.msc3672.beacon_info",
    "m.call.notify",
    "org.matrix.msc4075.call.notify",
];
/// How far back an event is looked for that raises the bump stamp.
const MAX_BUMP_ROWS: usize = 100;

/// What a response has of a room.
#[derive(Debug)]
pub struct RoomUpdate {
    pub room: RoomNum,
    pub room_id: OwnedRoomId,
    /// An object with all but the state.
    pub json: String,
    /// The state events, which are loaded while the response is sent; event 0 is none.
    pub state: Vec<StateChange>,
    /// Of the state.
    pub formatter: Option<Formatter>,
    /// The place of the first event of the timeline.
    pub first: Option<Place>,
}

/// `RoomResult` of the proposal, without the `required_state` that is in the database.
#[derive(Debug, Default, Serialize)]
struct Fields {
    #[serde(skip_serializing_if = "is_false")]
    initial: bool,
    membership: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lists: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bump_stamp: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    is_dm: Option<bool>,
    /// `null` if the room has none any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    avatar: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    heroes: Option<Vec<Hero>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    joined_count: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    invited_count: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    notification_count: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    highlight_count: Option<u32>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    timeline: Option<TimelineFields>,
    #[serde(skip_serializing_if = "is_false")]
    expanded_timeline: bool,
    #[serde(skip_serializing_if = "is_false")]
    unstable_expanded_timeline: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stripped_state: Option<Vec<Box<RawValue>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    invite_state: Option<Vec<Box<RawValue>>>,
    /// Of a room that has been deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    required_state: Option<Vec<Box<RawValue>>>,
}

#[derive(Debug, Serialize)]
struct TimelineFields {
    timeline: Vec<Box<RawValue>>,
    limited: bool,
    num_live: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    prev_batch: Option<String>,
}

#[derive(Debug, Serialize)]
struct Hero {
    user_id: OwnedUserId,
    #[serde(skip_serializing_if = "Option::is_none")]
    displayname: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    avatar_url: Option<String>,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// The update of a planned room; `None` if there is none.
pub fn update(
    r: &impl Reader,
    request: &SlidingSyncRequest,
    range: SyncRange,
    planned: &PlannedRoom,
) -> Result<Option<RoomUpdate>, Error> {
    let room = planned.room;
    let Some(member) = r.memberships()?.load((request.user, room))? else {
        let left = left_rooms::load(r, request.user, room)?;
        return left.map(|left| deleted(request, planned, left)).transpose();
    };
    let (user, device) = (&request.user_id, Some(request.device));
    let builder = Builder {
        request,
        planned,
        range,
        heads: room::heads(r, room)?,
        room_id: room::id(r, room)?,
        formatter: Formatter::new(r, room, user, device, range.now_ms, RoomIdField::Omit)?,
        since: planned.since,
        fields: Fields {
            membership: membership_state(member.membership).to_string(),
            lists: planned.lists.clone(),
            is_dm: (planned.is_dm_changed || planned.is_dm && planned.since.is_none())
                .then_some(planned.is_dm),
            ..Fields::default()
        },
        member,
    };
    match builder.member.membership {
        Membership::Join => builder.joined(r),
        Membership::Leave | Membership::Ban => builder.left(r),
        Membership::Invite | Membership::Knock => builder.stripped(r),
    }
}

/// The leave of a room that has been deleted.
fn deleted(
    request: &SlidingSyncRequest,
    planned: &PlannedRoom,
    left: LeftRoom,
) -> Result<RoomUpdate, Error> {
    let required = &planned.config.required_state;
    let fields = Fields {
        initial: planned.since.is_none(),
        membership: membership_state(Membership::Leave).to_string(),
        lists: planned.lists.clone(),
        required_state: is_own_membership_wanted(required, request)
            .then(|| vec![left.event.clone()]),
        timeline: Some(TimelineFields {
            timeline: vec![left.event],
            limited: true,
            num_live: 1,
            prev_batch: None,
        }),
        ..Fields::default()
    };
    let json = serde_json::to_string(&fields);
    Ok(RoomUpdate {
        room: planned.room,
        room_id: left.id,
        json: json.map_err(|_| Error::not_serializable("a deleted room"))?,
        state: Vec::new(),
        formatter: None,
        first: None,
    })
}

fn is_own_membership_wanted(required: &[RequiredState], request: &SlidingSyncRequest) -> bool {
    required_state::is_lazy(required)
        || required_state::matches(required, MEMBER, request.user_id.as_str())
}

struct Builder<'a> {
    request: &'a SlidingSyncRequest,
    planned: &'a PlannedRoom,
    range: SyncRange,
    heads: RoomHeads,
    room_id: OwnedRoomId,
    formatter: Formatter,
    member: MemberRow,
    /// The client has the room up to here; `None` if it gets the whole of it.
    since: Option<Position>,
    fields: Fields,
}

/// The part of a room's history that a response covers, and what its state was then.
struct End {
    last: Place,
    state: StateOverlay,
    upto: Position,
}

impl Builder<'_> {
    fn joined(mut self, r: &impl Reader) -> Result<Option<RoomUpdate>, Error> {
        let room = self.planned.room;
        self.end_absence(r)?;
        let (last, state) = end_of_range(r, room, &self.heads, self.range.end.stored)?;
        let upto = self.range.end.stored;
        let end = End { last, state, upto };
        let own_receipt_moved = self.own_receipt_moved(r)?;
        let (selected, state) = self.history(r, &end)?;
        let is_empty = self.is_unchanged(&selected, &state) && !own_receipt_moved;
        if self.since.is_some() && is_empty {
            return Ok(None);
        }
        self.fields.bump_stamp = self.bump_stamp(r, last)?;
        let user = self.request.user;
        let unread = unread::count(r, room, &self.heads, user, self.member.since)?.all();
        self.fields.notification_count = Some(unread.notify);
        self.fields.highlight_count = Some(unread.highlight);
        self.finish(r, selected, state).map(Some)
    }

    /// The room up to the end of the user's last stay.
    fn left(mut self, r: &impl Reader) -> Result<Option<RoomUpdate>, Error> {
        let room = self.planned.room;
        if self
            .since
            .is_some_and(|since| since >= self.member.position)
        {
            return Ok(None);
        }
        self.fields.bump_stamp = Some(self.member.position.0);
        let Some(leave) = last_leave(r, room, &self.member, Position::MIN)? else {
            return self.only_membership(r).map(Some);
        };
        let header = event::header(r, leave)?;
        let is_later = leave != self.member.event;
        if is_later && self.since.is_some_and(|since| since >= header.position) {
            return self.only_membership(r).map(Some);
        }
        self.end_absence(r)?;
        let Some(last) = header.place else {
            return Ok(None);
        };
        let end = End {
            last,
            state: StateOverlay::after(r, leave, &header)?,
            upto: header.position,
        };
        let (mut selected, mut state) = self.history(r, &end)?;
        if is_later {
            // A ban after the leave, or an unban: history visibility hides it, but the user must learn of it.
            let event = event::load(r, self.member.event)?;
            state.retain(|change| Some(change.key) != event.header.state_key);
            state.extend(self.own_membership(&event));
            selected.events.push(event);
            let limit = usize::from(self.planned.config.timeline_limit).max(1);
            let excess = selected.events.len().saturating_sub(limit);
            if let Some(dropped) = selected.events.drain(..excess).next_back() {
                selected.limited = true;
                selected.before = dropped.header.place.unwrap_or(selected.before);
            }
        }
        self.finish(r, selected, state).map(Some)
    }

    /// What there is of a room in which the user was not since the last response: the event that ended an
    /// invitation or a knock, a ban after a leave, or an unban.
    fn only_membership(mut self, r: &impl Reader) -> Result<RoomUpdate, Error> {
        let event = event::load(r, self.member.event)?;
        let state = self.own_membership(&event);
        self.fields.initial = self.since.is_none();
        let selected = Selected {
            events: vec![event],
            limited: false,
            before: Place::MIN,
        };
        self.finish(r, selected, state.into_iter().collect())
    }

    /// The membership event of the user as state, if that is wanted.
    fn own_membership(&self, event: &StoredEvent) -> Option<StateChange> {
        let required = &self.planned.config.required_state;
        let is_wanted = is_own_membership_wanted(required, self.request);
        let key = event.header.state_key.filter(|_| is_wanted);
        key.map(|key| StateChange {
            key,
            kind: MEMBER.to_owned(),
            state_key: self.request.user_id.to_string(),
            event: event.num,
        })
    }

    fn stripped(mut self, r: &impl Reader) -> Result<Option<RoomUpdate>, Error> {
        let is_known = self
            .since
            .is_some_and(|since| since >= self.member.position);
        if is_known && !self.planned.is_dm_changed {
            return Ok(None);
        }
        let (user, id) = (self.request.user, &self.request.user_id);
        let events = stripped_state::load(r, self.planned.room, user, id, self.member.event)?;
        let events = events.into_iter().map(|event| event.into_json()).collect();
        match self.request.dialect {
            Dialect::Unstable => self.fields.invite_state = Some(events),
            Dialect::Proposal => self.fields.stripped_state = Some(events),
        }
        self.fields.initial = self.since.is_none();
        self.fields.bump_stamp = Some(self.member.position.0);
        self.update(Vec::new(), None).map(Some)
    }

    /// Who was not in the room all the time gets the whole of it.
    fn end_absence(&mut self, r: &impl Reader) -> Result<(), Error> {
        if let Some(since) = self.since
            && continuity(r, self.planned.room, &self.member, since)? != Continuity::Unbroken
        {
            self.since = None;
        }
        self.fields.initial = self.since.is_none();
        if self.since.is_none() {
            self.fields.is_dm = self.planned.is_dm.then_some(true);
        }
        Ok(())
    }

    fn own_receipt_moved(&self, r: &impl Reader) -> Result<bool, Error> {
        let since = self.since.unwrap_or(Position::MIN);
        let own = receipts::of_user(r, self.planned.room, self.request.user)?;
        Ok(own.iter().any(|(_, receipt)| receipt.position > since))
    }

    /// The timeline and the state; the fields that follow from the state.
    fn history(
        &mut self,
        r: &impl Reader,
        end: &End,
    ) -> Result<(Selected, Vec<StateChange>), Error> {
        let limit = usize::from(self.planned.config.timeline_limit);
        let known_limit = self.planned.expanded_from.as_ref();
        let is_expanded =
            known_limit.is_some_and(|known| usize::from(known.timeline_limit) < limit);
        let part = Part {
            room: self.planned.room,
            room_id: &self.room_id,
            upto: end.last,
            after: self.since.filter(|_| !is_expanded),
            limit,
            ignored: &self.request.ignored,
        };
        let mut selected = timeline::select(r, part, &Default::default(), &mut self.formatter)?;
        // What the client had before it was away need not be adjacent.
        selected.limited |= self.since.is_none() && self.planned.since.is_some();
        let first = selected.events.first();
        let has_old = first.is_some_and(|first| Some(first.header.position) <= self.since);
        if is_expanded && has_old && self.since.is_some() {
            match self.request.dialect {
                Dialect::Unstable => self.fields.unstable_expanded_timeline = true,
                Dialect::Proposal => self.fields.expanded_timeline = true,
            }
        }
        let changes = match self.since {
            Some(since) => required_state::changes(r, self.planned.room, since, end.upto)?,
            None => Vec::new(),
        };
        self.add_summary(r, end, &changes)?;
        let state = self.state(r, end, &selected, changes)?;
        Ok((selected, state))
    }

    /// Name, avatar, heroes and counts, if they may have changed.
    fn add_summary(
        &mut self,
        r: &impl Reader,
        end: &End,
        changes: &[StateChange],
    ) -> Result<(), Error> {
        #[derive(Deserialize)]
        struct Name {
            name: Option<String>,
        }
        #[derive(Deserialize)]
        struct Avatar {
            url: Option<String>,
        }
        let is_initial = self.since.is_none();
        let changed = |kind: &str| {
            let mut changes = changes.iter();
            changes.any(|change| change.kind == kind && change.state_key.is_empty())
        };
        let is_joined = self.member.membership == Membership::Join;
        let is_set = |text: &String| !text.is_empty();
        if is_initial || changed("m.room.name") {
            let name: Option<Name> = self.content(r, end, "m.room.name", "")?;
            let name = name.and_then(|content| content.name).filter(is_set);
            self.fields.name = (!is_initial || name.is_some()).then_some(name);
        }
        if is_initial || changed("m.room.avatar") {
            let avatar: Option<Avatar> = self.content(r, end, "m.room.avatar", "")?;
            let url = avatar.and_then(|content| content.url).filter(is_set);
            self.fields.avatar = (!is_initial || url.is_some()).then_some(url);
        }
        let members_changed = changes.iter().any(|change| change.kind == MEMBER);
        if is_joined && (is_initial || members_changed) {
            self.fields.joined_count = Some(self.heads.joined);
            self.fields.invited_count = Some(self.heads.invited);
        }
        let names_changed = changed("m.room.name") || changed("m.room.canonical_alias");
        if is_joined && (is_initial || members_changed || names_changed) {
            let (room, user) = (self.planned.room, &self.request.user_id);
            let heroes = summary::summary(r, room, &self.heads, user)?.heroes;
            if !heroes.is_empty() {
                let heroes = heroes.into_iter().map(|user| self.hero(r, end, user));
                self.fields.heroes = Some(heroes.collect::<Result<_, _>>()?);
            }
        }
        Ok(())
    }

    fn hero(&self, r: &impl Reader, end: &End, user_id: OwnedUserId) -> Result<Hero, Error> {
        #[derive(Default, Deserialize)]
        struct Profile {
            #[serde(default)]
            displayname: Option<String>,
            #[serde(default)]
            avatar_url: Option<String>,
        }
        let profile: Option<Profile> = self.content(r, end, MEMBER, user_id.as_str())?;
        let profile = profile.unwrap_or_default();
        Ok(Hero {
            user_id,
            displayname: profile.displayname,
            avatar_url: profile.avatar_url,
        })
    }

    fn content<T: DeserializeOwned>(
        &self,
        r: &impl Reader,
        end: &End,
        kind: &str,
        state_key: &str,
    ) -> Result<Option<T>, Error> {
        #[derive(Deserialize)]
        struct WithContent<T> {
            content: T,
        }
        let Some(num) = end.state.get(r, self.planned.room, kind, state_key)? else {
            return Ok(None);
        };
        let event = event::load(r, num)?.parse::<WithContent<T>>();
        Ok(event.ok().map(|event| event.content))
    }

    fn state(
        &self,
        r: &impl Reader,
        end: &End,
        selected: &Selected,
        changes: Vec<StateChange>,
    ) -> Result<Vec<StateChange>, Error> {
        let room = self.planned.room;
        let required = &self.planned.config.required_state;
        let is_lazy = required_state::is_lazy(required);
        let mut entries = Entries::new();
        if self.since.is_none() {
            entries.extend(required_state::full(r, room, &end.state, required)?);
        } else if let Some(known) = &self.planned.expanded_from {
            let all = required_state::full(r, room, &end.state, required)?;
            let known = required_state::full(r, room, &end.state, &known.required_state)?;
            entries.extend(all.into_iter().filter(|(key, _)| !known.contains_key(key)));
        }
        if is_lazy {
            let needed = needed_members(&selected.events)?;
            for (key, event) in required_state::members(r, room, &end.state, &needed)? {
                let is_known =
                    self.since.is_some() && self.request.lazy_loaded.has(room, key, event);
                if !is_known {
                    entries.insert(key, event);
                }
            }
        }
        // A client flushes its members when the timeline is limited.
        let all_members = is_lazy && !selected.limited;
        for change in changes {
            let is_wanted = required_state::matches(required, &change.kind, &change.state_key)
                || all_members && change.kind == MEMBER;
            let has_stub = self.request.dialect == Dialect::Proposal;
            if is_wanted && (change.event != EventNum(0) || has_stub) {
                entries.insert(change.key, change.event);
            }
        }
        let named = entries.into_iter().map(|(key, event)| {
            let (kind, state_key) = room_state::key_name(r, room, key)?;
            Ok(StateChange {
                key,
                kind,
                state_key,
                event,
            })
        });
        named.collect()
    }

    fn is_unchanged(&self, selected: &Selected, state: &[StateChange]) -> bool {
        selected.events.is_empty()
            && !selected.limited
            && state.is_empty()
            && self.fields.is_dm.is_none()
            && self.fields.name.is_none()
            && self.fields.avatar.is_none()
            && self.fields.heroes.is_none()
            && self.fields.joined_count.is_none()
    }

    /// The position of the last event that raises it; `None` if it has not changed.
    fn bump_stamp(&self, r: &impl Reader, last: Place) -> Result<Option<u64>, Error> {
        #[derive(Deserialize)]
        struct Typed {
            #[serde(rename = "type")]
            kind: String,
        }
        let rows = room_timeline::backwards(r, self.planned.room, last, MAX_BUMP_ROWS)?;
        let mut oldest = None;
        for (_, row) in rows {
            if self.since.is_some_and(|since| row.position <= since) {
                return Ok(None);
            }
            let typed = event::load(r, row.event)?.parse::<Typed>();
            if typed.is_ok_and(|typed| BUMP_TYPES.contains(&typed.kind.as_str())) {
                return Ok(Some(row.position.0));
            }
            oldest = Some(row.position.0);
        }
        Ok(oldest.filter(|_| self.since.is_none()))
    }

    fn finish(
        mut self,
        r: &impl Reader,
        selected: Selected,
        state: Vec<StateChange>,
    ) -> Result<RoomUpdate, Error> {
        // What came since the last response is live, in a room that is new to the client too.
        let since = self.range.since.map(|since| since.position);
        let is_live =
            |event: &&StoredEvent| since.is_some_and(|since| event.header.position > since);
        let num_live = selected.events.iter().rev().take_while(is_live).count();
        let first = selected.events.first().and_then(|event| event.header.place);
        let has_history = selected.limited || !selected.events.is_empty();
        // As in `/sync`: a client that has all later events aggregates them itself.
        let is_expanded = self.fields.expanded_timeline || self.fields.unstable_expanded_timeline;
        let aggregator = match selected.limited || is_expanded {
            true => {
                let (user, ignored) = (self.request.user, self.request.ignored.clone());
                Some(Aggregator::new(r, &self.formatter, user, ignored)?)
            }
            false => None,
        };
        let mut timeline = Vec::new();
        for event in &selected.events {
            timeline.push(match &aggregator {
                Some(aggregator) => aggregator.format(r, &mut self.formatter, event)?,
                None => self.formatter.format(r, event)?,
            });
        }
        self.fields.timeline = Some(TimelineFields {
            timeline,
            limited: selected.limited,
            num_live,
            prev_batch: has_history.then(|| PaginationToken::Place(selected.before).to_string()),
        });
        self.update(state, first)
    }

    fn update(self, state: Vec<StateChange>, first: Option<Place>) -> Result<RoomUpdate, Error> {
        let json = serde_json::to_string(&self.fields);
        Ok(RoomUpdate {
            room: self.planned.room,
            room_id: self.room_id,
            json: json.map_err(|_| Error::not_serializable("a room"))?,
            state,
            formatter: Some(self.formatter),
            first,
        })
    }
}

/// The senders of the events, and the members whom they change.
fn needed_members(events: &[StoredEvent]) -> Result<BTreeSet<String>, Error> {
    let mut needed = BTreeSet::new();
    for event in events {
        needed.insert(event.sender()?.into());
        needed.extend(event.member()?);
    }
    Ok(needed)
}
