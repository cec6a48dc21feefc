//! Searching the messages of one's rooms (client-server API, "Server Side Search").

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use ruma::{
    OwnedEventId, OwnedRoomId, OwnedUserId,
    api::{
        client::search::search_events::v3::{Criteria, GroupingKey, OrderBy, Request},
        error::{DeserializationError, ErrorKind},
    },
};
use serde::Serialize;
use serde_json::{json, value::RawValue};

use super::{
    room_reader::{EventContext, RoomReader, page_limit},
    search_token::{Group, SearchToken},
};
use crate::{
    api::{Adapted, Api, Error, EventStream, Quirk, Session, Streamed, adapted::edit_body},
    rooms::{
        self,
        event::{self, StoredEvent},
        room,
        search::{
            candidates::{Candidate, Order, candidates},
            words::{self, Terms},
        },
        timeline::{
            client_event::Formatter,
            filter::{self, EventFilter},
            pagination_token::PaginationToken,
        },
    },
    store::{EventNum, Place, Reader, RoomNum, Rows, Snapshot, records::Membership},
    users::account_data::ignored_users::{self, IgnoredUsers},
};

const DEFAULT_RESULTS: usize = 10;
/// How many candidates are read for one page. It ends there if few of them match the filter.
const MAX_READ: usize = 1000;
/// A page ends with the result by which the results have more bytes.
const MAX_BYTES: usize = 1024 * 1024;
/// The most events of the context of a result, on each side. NOTSPEC: more are not returned.
const MAX_CONTEXT: usize = 20;

/// What ruma's type for the criteria does not read: the filter as hearth has it. Without `event_context`
/// there is none, which that type takes for one of five events on each side.
#[derive(Debug)]
pub struct CriteriaFilter(EventFilter);

impl Quirk for CriteriaFilter {
    fn apply(
        request: &mut http::Request<Cow<'_, [u8]>>,
        _path_arguments: &[&str],
    ) -> Result<Self, DeserializationError> {
        let mut filter = None;
        edit_body(request, |body| {
            if let Some(criteria) = body
                .get_mut("search_categories")
                .and_then(|categories| categories.get_mut("room_events"))
                .and_then(|criteria| criteria.as_object_mut())
            {
                let none = json!({ "before_limit": 0, "after_limit": 0 });
                criteria.entry("event_context").or_insert(none);
                filter = criteria.get("filter").cloned();
            }
        })?;
        let filter = filter.map(serde_json::from_value).transpose()?;
        Ok(Self(filter.unwrap_or_default()))
    }
}

/// `POST /_matrix/client/v3/search`
pub async fn search_events(
    api: Api,
    session: Session,
    Adapted {
        request,
        quirk: CriteriaFilter(filter),
    }: Adapted<Request, CriteriaFilter>,
) -> Result<Streamed, Error> {
    if !api.config.search {
        return Err(Error::new(
            ErrorKind::Unknown,
            "this server does not search messages; apps can search what they have on the device",
        ));
    }
    let Some(criteria) = request.search_categories.room_events else {
        return Streamed::json(&json!({ "search_categories": {} }));
    };
    filter.check_size()?;
    let token = request.next_batch.map(|token| token.parse()).transpose()?;
    let order = match &criteria.order_by {
        None | Some(OrderBy::Rank) => Order::Rank,
        Some(OrderBy::Recent) => Order::Recent,
        Some(_) => {
            let message = "`order_by` has to be \"rank\" or \"recent\"";
            return Err(Error::new(ErrorKind::InvalidParam, message));
        }
    };
    let now_ms = api.clock.now_ms();
    let search = move |s: &Snapshot| {
        let mut search = Search {
            s,
            session: &session,
            now_ms,
            terms: Terms::new(&criteria.search_term),
            criteria: &criteria,
            filter: &filter,
            order,
            ignored: ignored_users::load(s, session.user)?,
            relations_read: 0,
            readers: BTreeMap::new(),
        };
        let page = search.page(token)?;
        let states = search.states(&page)?;
        let readers = search.readers.into_iter();
        let formatters = readers.filter_map(|(room, reader)| Some((room, reader?.formatter)));
        Ok::<_, rooms::Error>((page, states, formatters.collect()))
    };
    let (page, states, formatters) = api.store.scan("search", search).await?;
    respond(&api, &page, states, formatters).await
}

/// `room_events` of the response, without `state`.
#[derive(Debug, Serialize)]
struct Page {
    count: usize,
    highlights: Vec<String>,
    results: Vec<SearchResult>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    groups: BTreeMap<&'static str, BTreeMap<String, ResultGroup>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch: Option<String>,
}

#[derive(Debug, Serialize)]
struct SearchResult {
    rank: u32,
    result: Box<RawValue>,
    context: Context,
    #[serde(skip)]
    room: RoomNum,
}

#[derive(Debug, Default, Serialize)]
struct Context {
    start: String,
    end: String,
    events_before: Vec<Box<RawValue>>,
    events_after: Vec<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile_info: Option<BTreeMap<OwnedUserId, Box<RawValue>>>,
}

#[derive(Debug, Serialize)]
struct ResultGroup {
    results: Vec<OwnedEventId>,
    order: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch: Option<String>,
}

type States = Vec<(OwnedRoomId, Vec<EventNum>)>;

async fn respond(
    api: &Api,
    page: &Page,
    states: States,
    mut formatters: BTreeMap<RoomNum, Formatter>,
) -> Result<Streamed, Error> {
    let unserializable = |_| Error::Internal("search results that do not serialize");
    let mut page = serde_json::to_string(page).map_err(unserializable)?;
    if !states.is_empty() {
        page.pop();
        page.push_str(r#","state":{"#);
    }
    let mut response = EventStream::default()
        .text(r#"{"search_categories":{"room_events":"#)
        .text(page);
    let is_empty = states.is_empty();
    for (index, (room_id, state)) in states.into_iter().enumerate() {
        let comma = if index > 0 { "," } else { "" };
        response = response
            .text(format!("{comma}\"{room_id}\":"))
            .events(state);
    }
    if !is_empty {
        response = response.text("}}");
    }
    let formatted = response.text("}}").formatted(&api.store, move |s, num| {
        let stored = event::load(s, num)?;
        let formatter = formatters.get_mut(&stored.header.room);
        let json = formatter.map(|formatter| formatter.format(s, &stored));
        Ok(json.transpose()?.map(|json| json.get().into()))
    });
    formatted.await
}

struct Search<'a> {
    s: &'a Snapshot,
    session: &'a Session,
    now_ms: u64,
    criteria: &'a Criteria,
    filter: &'a EventFilter,
    terms: Terms,
    order: Order,
    ignored: IgnoredUsers,
    relations_read: usize,
    /// None of a room that the user may not read.
    readers: BTreeMap<RoomNum, Option<RoomReader>>,
}

impl Search<'_> {
    fn page(&mut self, token: Option<SearchToken>) -> Result<Page, rooms::Error> {
        let token = token.unwrap_or(SearchToken::FIRST);
        let mut rooms = self.rooms()?;
        if let Some(Group::Room(id)) = &token.group {
            let only = room::num(self.s, id)?;
            rooms.retain(|room| *room == only);
        }
        let mut found = Vec::new();
        if !self.terms.is_empty() {
            found = candidates(self.s, &rooms, &self.terms, token.upto, self.order)?;
        }
        let limit = self.filter.limit.map_or(DEFAULT_RESULTS, page_limit);
        let (limit, mut bytes) = (limit.max(1), 0);
        let mut page = Page {
            count: token.found,
            highlights: self.terms.as_slice().to_vec(),
            results: Vec::new(),
            groups: BTreeMap::new(),
            next_batch: None,
        };
        // How many candidates the results needed, and the events with these results.
        let (mut end, mut events) = (token.offset, Vec::new());
        let is_full = |events: &Vec<_>, bytes| events.len() >= limit || bytes >= MAX_BYTES;
        let read = found.iter().enumerate().skip(token.offset).take(MAX_READ);
        let mut read_upto = token.offset + MAX_READ;
        let mut more = found.len() > read_upto;
        for (index, candidate) in read {
            if self.relations_read >= filter::MAX_RELATIONS {
                (read_upto, more) = (index, true);
                break;
            }
            let Some(stored) = self.visible(candidate, &token)? else {
                continue;
            };
            page.count += 1;
            if is_full(&events, bytes) {
                more = true;
                continue;
            }
            let result = self.result(candidate, &stored)?;
            bytes += result.bytes();
            page.results.push(result);
            events.push(stored);
            end = index + 1;
        }
        if !is_full(&events, bytes) {
            end = read_upto;
        }
        let newest = found.iter().map(|candidate| candidate.position).max();
        let next = SearchToken {
            upto: newest.unwrap_or(token.upto),
            offset: end,
            found: token.found + events.len(),
            ..token
        };
        if more {
            page.next_batch = Some(next.to_string());
        }
        self.group(&mut page, &events, &found, &next, more)?;
        Ok(page)
    }

    /// The rooms that are searched: those that the user is in, or was.
    fn rooms(&self) -> Result<Vec<RoomNum>, rooms::Error> {
        let mut rooms = Vec::new();
        for row in self.s.memberships()?.prefix(self.session.user)? {
            let (key, row) = row?;
            let (member, room) = (row.record(&key)?, key.value().1);
            let was_in = matches!(
                member.membership,
                Membership::Join | Membership::Leave | Membership::Ban
            );
            if was_in
                && !member.forgotten
                && filter::accepts_room(self.filter, &room::id(self.s, room)?)
            {
                rooms.push(room);
            }
        }
        Ok(rooms)
    }

    /// The event of a candidate, if it has the terms in the right keys, and the user wants it and may see it.
    fn visible(
        &mut self,
        candidate: &Candidate,
        token: &SearchToken,
    ) -> Result<Option<StoredEvent>, rooms::Error> {
        let stored = event::load(self.s, candidate.event)?;
        let words = words::of_event(&stored, self.criteria.keys.as_deref())?;
        if self.terms.score(&words).is_none() {
            return Ok(None);
        }
        if let Some(Group::Sender(sender)) = &token.group
            && stored.sender()? != *sender
        {
            return Ok(None);
        }
        let (s, filter, mut relations_read) = (self.s, self.filter, self.relations_read);
        let Some(reader) = self.reader(candidate.room)? else {
            return Ok(None);
        };
        let mut found = None;
        if filter::accepts(s, filter, reader.children(), &stored, &mut relations_read)?
            && !filter::is_left_out(s, &reader.ignored, &stored)?
        {
            found = reader.formatter.visibility.visible(s, stored)?;
        }
        self.relations_read = relations_read;
        Ok(found)
    }

    fn reader(&mut self, room: RoomNum) -> Result<Option<&mut RoomReader>, rooms::Error> {
        if !self.readers.contains_key(&room) {
            let room_id = room::id(self.s, room)?;
            // Contexts are not filtered.
            let filter = EventFilter::default();
            let ignored = self.ignored.clone();
            let reader = RoomReader::with_ignored(
                self.s,
                self.session,
                self.now_ms,
                room_id,
                filter,
                ignored,
            );
            let reader = match reader {
                Ok(reader) => Some(reader),
                Err(rooms::Error::Forbidden(_)) => None,
                Err(error) => return Err(error),
            };
            self.readers.insert(room, reader);
        }
        Ok(self.readers.get_mut(&room).and_then(Option::as_mut))
    }

    fn result(
        &mut self,
        candidate: &Candidate,
        stored: &StoredEvent,
    ) -> Result<SearchResult, rooms::Error> {
        let (s, context) = (self.s, &self.criteria.event_context);
        let before_limit = page_limit(context.before_limit).min(MAX_CONTEXT);
        let after_limit = page_limit(context.after_limit).min(MAX_CONTEXT);
        let with_profiles = context.include_profile;
        let reader = self.reader(candidate.room)?;
        let reader = reader.ok_or(rooms::Error::UnknownRoom)?;
        let EventContext {
            start,
            end,
            before,
            after,
        } = reader.context(s, candidate.place, (before_limit, after_limit))?;
        let mut profile_info = None;
        if with_profiles {
            let events = before.iter().chain([stored]).chain(&after);
            profile_info = Some(profiles(
                s,
                reader.room,
                &events.cloned().collect::<Vec<_>>(),
            )?);
        }
        Ok(SearchResult {
            rank: candidate.score,
            result: reader.format(s, stored)?,
            context: Context {
                start: PaginationToken::Place(start).to_string(),
                end: PaginationToken::Place(end).to_string(),
                events_before: reader.format_all(s, &before)?,
                events_after: reader.format_all(s, &after)?,
                profile_info,
            },
            room: candidate.room,
        })
    }

    /// Puts the results into the groups that were asked for.
    fn group(
        &self,
        page: &mut Page,
        events: &[StoredEvent],
        found: &[Candidate],
        next: &SearchToken,
        more: bool,
    ) -> Result<(), rooms::Error> {
        for grouping in &self.criteria.groupings.group_by {
            let by_room = match &grouping.key {
                Some(GroupingKey::RoomId) => true,
                Some(GroupingKey::Sender) => false,
                _ => continue,
            };
            let mut groups: BTreeMap<String, ResultGroup> = BTreeMap::new();
            for (result, event) in page.results.iter().zip(events) {
                let (name, group, offset);
                if by_room {
                    let id = room::id(self.s, result.room)?;
                    // The candidates of a search in this room alone.
                    let of_room = found.iter().take(next.offset);
                    offset = of_room.filter(|it| it.room == result.room).count();
                    (name, group) = (id.to_string(), Group::Room(id));
                } else {
                    let sender = event.sender()?;
                    offset = next.offset;
                    (name, group) = (sender.to_string(), Group::Sender(sender));
                }
                let order = groups.len();
                let entry = groups.entry(name).or_insert_with(|| ResultGroup {
                    results: Vec::new(),
                    order,
                    next_batch: None,
                });
                entry.results.push(event.id()?);
                // What is on the pages before counts if they were pages of this group.
                let before = match next.group.as_ref() == Some(&group) {
                    true => next.found - events.len(),
                    false => 0,
                };
                let token = SearchToken {
                    upto: next.upto,
                    offset,
                    found: before + entry.results.len(),
                    group: Some(group),
                };
                entry.next_batch = more.then(|| token.to_string());
            }
            let key = if by_room { "room_id" } else { "sender" };
            page.groups.insert(key, groups);
        }
        Ok(())
    }

    /// The current state of the rooms of the results, as far as the user may see it.
    fn states(&mut self, page: &Page) -> Result<States, rooms::Error> {
        if self.criteria.include_state != Some(true) {
            return Ok(Vec::new());
        }
        let rooms: BTreeSet<RoomNum> = page.results.iter().map(|result| result.room).collect();
        let (s, mut states) = (self.s, Vec::new());
        for room in rooms {
            let Some(reader) = self.reader(room)? else {
                continue;
            };
            let visibility = &mut reader.formatter.visibility;
            if let Some(state) = visibility.readable_state(s, Place::MAX)? {
                let entries = state.entries(s, room)?;
                let events = entries.into_iter().map(|(_, num)| num).collect();
                states.push((reader.room_id.clone(), events));
            }
        }
        Ok(states)
    }
}

impl SearchResult {
    fn bytes(&self) -> usize {
        let context = self.context.events_before.iter();
        let events = context.chain(&self.context.events_after);
        let events = events.chain([&self.result]);
        events.map(|event| event.get().len()).sum()
    }
}

/// The names and pictures that the senders of `events` had then.
fn profiles(
    s: &Snapshot,
    room: RoomNum,
    events: &[StoredEvent],
) -> Result<BTreeMap<OwnedUserId, Box<RawValue>>, rooms::Error> {
    #[derive(serde::Deserialize)]
    struct Member {
        state_key: OwnedUserId,
        content: Profile,
    }
    #[derive(serde::Deserialize, Serialize)]
    struct Profile {
        #[serde(skip_serializing_if = "Option::is_none")]
        displayname: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        avatar_url: Option<String>,
    }
    let mut profiles = BTreeMap::new();
    for num in rooms::timeline::messages::sender_members(s, room, events)? {
        // The content may be anything.
        if let Ok(member) = event::load(s, num)?.parse::<Member>() {
            let profile = serde_json::value::to_raw_value(&member.content)
                .map_err(|_| rooms::Error::not_serializable("a profile"))?;
            profiles.insert(member.state_key, profile);
        }
    }
    Ok(profiles)
}
