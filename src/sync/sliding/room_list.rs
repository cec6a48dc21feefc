//! The rooms of each user in the order of their activity, in memory.
//!
//! The activity of a room that the user is joined to is the position of its last event or change of state; of
//! other rooms that of the user's membership. A list knows up to which position it has all changes, and is
//! brought up to date by what the notifier's index has since. It is made from the store when it is missing.

use std::{
    borrow::Cow,
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use ruma::{OwnedUserId, RoomId, UserId, events::StateEventType};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

use super::{
    filter::ResolvedFilters,
    request::{Filters, MAX_TAGS, SlidingSyncRequest},
    view::{self, Order, View},
};
use crate::{
    rooms::{
        Error, event,
        membership::out_of_band,
        room,
        state::{content, current},
    },
    store::{
        Position, Reader, Records, RoomNum, Rows, UserNum,
        records::{MemberRow, Membership},
    },
    sync::{
        membership_history::{self, last_leave},
        rooms::memberships,
    },
    users::account_data::{self, GLOBAL},
};

/// The most rooms in the lists of all users; beyond it the lists used longest ago are dropped.
const MAX_ENTRIES: usize = 50_000;
/// As much memory as an entry takes so many rooms of a view.
const VIEW_ROOMS_PER_ENTRY: usize = 4;
/// Of a list, or as many as a request has lists.
const MAX_VIEWS: usize = 16;
/// The most spaces whose children a list remembers.
const MAX_SPACES: usize = 100;
/// Up to so many changed rooms are read on the thread.
const MAX_CHANGES_ON_THREAD: usize = 64;

/// Of a name, a type or a tag; the rest is cut off.
const MAX_TEXT_CHARS: usize = 255;

const DIRECT: &str = "m.direct";
const TAG: &str = "m.tag";

#[derive(Debug, Default)]
pub struct RoomLists(Mutex<Lists>);

#[derive(Debug, Default)]
struct Lists {
    uses: u64,
    /// The sizes of all.
    entries: usize,
    /// With the number of the last use.
    of: HashMap<UserNum, (u64, RoomList)>,
}

impl RoomLists {
    /// Takes the list of `user` out, until [`put`](Self::put); an empty one if there is none.
    pub fn take(&self, user: UserNum) -> RoomList {
        let mut lists = self.lock();
        let taken = lists.of.remove(&user).map(|(_, list)| list);
        let taken = taken.unwrap_or_default();
        lists.entries -= taken.size();
        taken
    }

    pub fn put(&self, user: UserNum, list: RoomList) {
        let mut lists = self.lock();
        lists.uses += 1;
        lists.entries += list.size();
        let used = lists.uses;
        if let Some((_, replaced)) = lists.of.insert(user, (used, list)) {
            lists.entries -= replaced.size();
        }
        while lists.entries > MAX_ENTRIES {
            let oldest = lists.of.iter().min_by_key(|(_, (used, _))| *used);
            let Some(oldest) = oldest.map(|(user, _)| *user) else {
                break;
            };
            let dropped = lists.of.remove(&oldest);
            lists.entries -= dropped.map_or(0, |(_, list)| list.size());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Lists> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The rooms of one user.
#[derive(Debug, Default)]
pub struct RoomList {
    /// Up to here it has all changes; `None` if it has not been made.
    upto: Option<Position>,
    /// The last active first.
    entries: Vec<Entry>,
    activity: HashMap<RoomNum, Position>,
    /// The [special](Entry::is_special) entries.
    special: BTreeSet<Order>,
    /// Those used last come last.
    views: Vec<View>,
    /// The parts of the entries that have been read.
    read: FilterInputs,
    /// The rooms in `m.direct`.
    direct: HashSet<RoomNum>,
    /// The children of spaces, with the position of the space's state.
    spaces: HashMap<RoomNum, (Position, HashSet<RoomNum>)>,
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub room: RoomNum,
    pub activity: Position,
    pub membership: Membership,
    /// Of the membership.
    pub member_position: Position,
    pub listing: Listing,
    /// Whether it is in `m.direct`.
    pub is_dm: bool,
    details: Option<Box<Details>>,
}

/// What few rooms have, or few requests ask for: each request passes over all entries, so they are small.
#[derive(Clone, Debug)]
pub struct Details {
    /// Who invited the user.
    pub inviter: Option<OwnedUserId>,
    pub attributes: Attributes,
    pub tags: Vec<String>,
}

impl Details {
    const NONE: Self = Self {
        inviter: None,
        attributes: Attributes {
            room_type: None,
            is_encrypted: false,
            name: None,
            state_position: Position::MIN,
        },
        tags: Vec::new(),
    };

    /// As an entry has them.
    fn boxed(self) -> Option<Box<Self>> {
        let Attributes {
            room_type,
            is_encrypted,
            name,
            state_position,
        } = &self.attributes;
        // Those of a room that this server is not in have no position.
        let is_any = self.inviter.is_some()
            || !self.tags.is_empty()
            || *state_position > Position::MIN
            || room_type.is_some()
            || *is_encrypted
            || name.is_some();
        is_any.then(|| Box::new(self))
    }
}

/// When a room is in the lists of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listing {
    Always,
    /// If it was sent before: the user has left it.
    IfSent,
    /// If it was sent before, and not for a subscription otherwise: the user was banned without ever being in
    /// it.
    NeverJoined,
    /// The user has forgotten it.
    Forgotten,
}

/// What filters read of a room's state.
#[derive(Clone, Debug, Default)]
pub struct Attributes {
    pub room_type: Option<String>,
    pub is_encrypted: bool,
    /// In lower case.
    pub name: Option<String>,
    /// The position of the state from which they are.
    state_position: Position,
}

/// What filters read of rooms beside memberships and `m.direct`: a bit for each part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct FilterInputs(u8);

impl FilterInputs {
    const ROOM_TYPE: Self = Self(1);
    const ENCRYPTION: Self = Self(2);
    const NAME: Self = Self(4);
    const ATTRIBUTES: Self = Self(7);
    const TAGS: Self = Self(8);

    fn of<'a>(filters: impl Iterator<Item = &'a Filters>) -> Self {
        let mut parts = Self::default();
        for filters in filters {
            let is_read = [
                (
                    Self::ROOM_TYPE,
                    filters.room_types.is_some() || filters.not_room_types.is_some(),
                ),
                (Self::ENCRYPTION, filters.is_encrypted.is_some()),
                (Self::NAME, filters.room_name_like.is_some()),
                (
                    Self::TAGS,
                    filters.tags.is_some() || filters.not_tags.is_some(),
                ),
            ];
            for (part, _) in is_read.into_iter().filter(|(_, is_read)| *is_read) {
                parts = parts.and(part);
            }
        }
        parts
    }

    fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    fn has_any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl RoomList {
    /// In entries.
    fn size(&self) -> usize {
        let viewed: usize = self.views.iter().map(|view| view.rooms.len()).sum();
        self.entries.len() + viewed / VIEW_ROOMS_PER_ENTRY
    }

    /// How many entries a request looks at to find those that match a list of it.
    pub fn checks(&self, r: &impl Reader, filters: &Filters) -> Result<usize, Error> {
        let filters = ResolvedFilters::new(r, filters)?;
        Ok(match self.view(&filters) {
            Some(_) => self.special.len(),
            None => self.entries.len(),
        })
    }

    /// The position up to which it has all changes.
    pub fn upto(&self) -> Option<Position> {
        self.upto
    }

    /// Whether [`refresh`](Self::refresh) reads only a few rows.
    pub fn is_fast(
        &self,
        r: &impl Reader,
        request: &SlidingSyncRequest,
        changed: Option<&[RoomNum]>,
        end: Position,
    ) -> Result<bool, Error> {
        let (Some(upto), Some(changed)) = (self.upto, changed) else {
            return Ok(false);
        };
        let parts = FilterInputs::of(request.lists.iter().map(|list| &list.filters));
        if changed.len() > MAX_CHANGES_ON_THREAD || !self.read.has(parts) {
            return Ok(false);
        }
        let own = account_data::changes_between(r, request.user, upto, end)?;
        if own.len() > MAX_CHANGES_ON_THREAD || own.iter().any(|(_, kind)| kind == DIRECT) {
            return Ok(false);
        }
        for space in wanted_spaces(r, request)? {
            let known = self.spaces.get(&space);
            if known.is_none_or(|known| changed.contains(&space) && known.0 < end) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Brings it up to `end`. `changed` has the rooms that changed since [`upto`](Self::upto); `None` if that
    /// may be any.
    pub fn refresh(
        &mut self,
        r: &impl Reader,
        request: &SlidingSyncRequest,
        changed: Option<&[RoomNum]>,
        end: Position,
    ) -> Result<(), Error> {
        let parts = FilterInputs::of(request.lists.iter().map(|list| &list.filters));
        let owner = Owner {
            user: request.user,
            id: &request.user_id,
            parts: parts.and(self.read),
        };
        match (self.upto, changed) {
            (Some(upto), Some(changed)) => {
                let own = account_data::changes_between(r, owner.user, upto, end)?;
                if own.iter().any(|(_, kind)| kind == DIRECT) {
                    self.direct = direct_rooms(r, owner.user)?;
                    for entry in &mut self.entries {
                        entry.is_dm = self.direct.contains(&entry.room);
                    }
                    self.views.clear();
                }
                let tagged = own.into_iter().filter(|(_, kind)| kind == TAG);
                let tagged: BTreeSet<RoomNum> = tagged.map(|(room, _)| room).collect();
                if self.read.has(parts) {
                    let rooms: BTreeSet<_> = changed.iter().chain(&tagged).copied().collect();
                    for room in rooms {
                        self.update(r, &owner, room, tagged.contains(&room))?;
                    }
                } else {
                    self.build(r, &owner)?;
                }
            }
            _ => {
                self.direct = direct_rooms(r, owner.user)?;
                self.spaces.clear();
                self.build(r, &owner)?;
            }
        }
        self.read = owner.parts;
        for space in wanted_spaces(r, request)? {
            self.refresh_space(r, space)?;
        }
        self.refresh_views(r, request)?;
        self.upto = Some(end);
        Ok(())
    }

    fn build(&mut self, r: &impl Reader, owner: &Owner<'_>) -> Result<(), Error> {
        self.entries.clear();
        for (room, member) in memberships(r, owner.user)? {
            let mut entry = owner.entry(r, room, &member, None)?;
            entry.is_dm = self.direct.contains(&room);
            self.entries.push(entry);
        }
        self.entries.sort_unstable_by_key(Entry::order);
        let activity = self
            .entries
            .iter()
            .map(|entry| (entry.room, entry.activity));
        self.activity = activity.collect();
        let special = self.entries.iter().filter(|entry| entry.is_special());
        self.special = special.map(Entry::order).collect();
        self.views.clear();
        Ok(())
    }

    /// Makes the views that the request needs, and drops those that were used longest ago.
    fn refresh_views(
        &mut self,
        r: &impl Reader,
        request: &SlidingSyncRequest,
    ) -> Result<(), Error> {
        for list in &request.lists {
            let filters = ResolvedFilters::new(r, &list.filters)?;
            let known = self.views.iter().position(|view| view.filters == filters);
            let view = match known {
                Some(index) => self.views.remove(index),
                None => {
                    let entries = self.entries.iter();
                    let matching =
                        entries.filter(|entry| !entry.is_special() && filters.accept(self, entry));
                    let rooms = matching.map(Entry::order).collect();
                    View { filters, rooms }
                }
            };
            self.views.push(view);
        }
        let max = MAX_VIEWS.max(request.lists.len());
        self.views.drain(..self.views.len().saturating_sub(max));
        Ok(())
    }

    /// The rooms that match `filters`, without [special](Entry::is_special) ones.
    pub fn view(&self, filters: &ResolvedFilters) -> Option<&[Order]> {
        let view = self.views.iter().find(|view| view.filters == *filters);
        view.map(|view| view.rooms.as_slice())
    }

    /// The [special](Entry::is_special) entries, the last active first.
    pub fn special(&self) -> impl Iterator<Item = &Entry> {
        let orders = self.special.iter();
        orders.filter_map(|order| self.index_in(order, 0).map(|index| &self.entries[index]))
    }

    fn update(
        &mut self,
        r: &impl Reader,
        owner: &Owner<'_>,
        room: RoomNum,
        is_tagged: bool,
    ) -> Result<(), Error> {
        // Who is in a space decides whether it counts.
        self.views
            .retain(|view| !view.filters.spaces().contains(&room));
        let index = self.index_of(room);
        let mut before = index.map(|index| self.entries[index].take());
        let order_before = before.as_ref().map(Entry::order);
        self.activity.remove(&room);
        if let Some(order) = &order_before {
            self.special.remove(order);
        }
        let member = r.memberships()?.load((owner.user, room))?;
        if is_tagged
            && member.is_some()
            && let Some(before) = &mut before
        {
            let mut details = before.take_details();
            details.tags = owner.tags(r, room)?;
            before.details = details.boxed();
        }
        let entry = match &member {
            Some(member) => Some(Entry {
                is_dm: self.direct.contains(&room),
                ..owner.entry(r, room, member, before)?
            }),
            None => None,
        };
        if let Some(entry) = &entry {
            self.activity.insert(room, entry.activity);
            if entry.is_special() {
                self.special.insert(entry.order());
            }
        }
        let mut views = std::mem::take(&mut self.views);
        for view in &mut views {
            let matching = entry
                .as_ref()
                .filter(|entry| !entry.is_special() && view.filters.accept(self, entry));
            view.update(order_before, matching.map(Entry::order));
        }
        self.views = views;
        view::update(&mut self.entries, index, entry, Entry::order);
        Ok(())
    }

    fn refresh_space(&mut self, r: &impl Reader, space: RoomNum) -> Result<(), Error> {
        let position = room::heads(r, space)?.state_position;
        if self
            .spaces
            .get(&space)
            .is_some_and(|known| known.0 == position)
        {
            return Ok(());
        }
        if self.spaces.len() >= MAX_SPACES {
            self.spaces.clear();
        }
        self.spaces.insert(space, (position, children(r, space)?));
        self.views
            .retain(|view| !view.filters.spaces().contains(&space));
        Ok(())
    }

    /// All rooms, the last active first.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub fn get(&self, room: RoomNum) -> Option<&Entry> {
        self.index_of(room).map(|index| &self.entries[index])
    }

    /// The index in [`entries`](Self::entries).
    pub fn index_of(&self, room: RoomNum) -> Option<usize> {
        let activity = *self.activity.get(&room)?;
        self.index_in(&(Reverse(activity), Reverse(room)), 0)
    }

    /// The index of the entry at `order`, which is not before `start`. Rooms that follow each other are found at
    /// once.
    pub fn index_in(&self, order: &Order, start: usize) -> Option<usize> {
        let entries = self.entries.get(start..)?;
        if entries.first()?.order() == *order {
            return Some(start);
        }
        let index = entries.binary_search_by_key(order, Entry::order).ok()?;
        Some(start + index)
    }

    /// Whether `room` is a child of `space`, to which the user must be joined.
    pub fn is_child(&self, space: RoomNum, room: RoomNum) -> bool {
        let children = self.spaces.get(&space).map(|(_, children)| children);
        children.is_some_and(|children| children.contains(&room))
            && self
                .get(space)
                .is_some_and(|space| space.membership == Membership::Join)
    }
}

impl Entry {
    pub fn details(&self) -> &Details {
        const NONE: &Details = &Details::NONE;
        self.details.as_deref().unwrap_or(NONE)
    }

    /// Whether a client may lack it in lists with all rooms: what decides that is not known here.
    pub fn is_special(&self) -> bool {
        self.listing != Listing::Always || self.details().inviter.is_some()
    }

    /// Leaves an entry without details.
    fn take(&mut self) -> Self {
        let details = self.details.take();
        Self {
            details,
            ..self.clone()
        }
    }

    fn take_details(&mut self) -> Details {
        self.details
            .take()
            .map_or(Details::NONE, |details| *details)
    }

    pub fn order(&self) -> Order {
        (Reverse(self.activity), Reverse(self.room))
    }
}

/// The user of a list.
struct Owner<'a> {
    user: UserNum,
    id: &'a UserId,
    /// What of the entries is to be read.
    parts: FilterInputs,
}

impl Owner<'_> {
    /// `before` is the entry of the room so far.
    fn entry(
        &self,
        r: &impl Reader,
        room: RoomNum,
        member: &MemberRow,
        before: Option<Entry>,
    ) -> Result<Entry, Error> {
        let heads = room::heads(r, room)?;
        let activity = match member.membership {
            Membership::Join => heads.last_position.max(member.position),
            _ => member.position,
        };
        let before = before.filter(|before| before.member_position == member.position);
        let is_new = before.is_none();
        let (known, mut details) = match before {
            Some(mut before) => (Some(before.listing), before.take_details()),
            None => (None, Details::NONE),
        };
        let listing = match known {
            Some(listing) if !member.forgotten => listing,
            _ => {
                details.inviter = self.inviter(r, member)?;
                self.listing(r, room, member)?
            }
        };
        let is_old = is_new || details.attributes.state_position < heads.state_position;
        if is_old && self.parts.has_any(FilterInputs::ATTRIBUTES) {
            details.attributes = self.attributes(r, room, member, heads.state_position)?;
        }
        if is_new && self.parts.has(FilterInputs::TAGS) {
            details.tags = self.tags(r, room)?;
        }
        Ok(Entry {
            room,
            activity,
            membership: member.membership,
            member_position: member.position,
            listing,
            is_dm: false,
            details: details.boxed(),
        })
    }

    fn listing(
        &self,
        r: &impl Reader,
        room: RoomNum,
        member: &MemberRow,
    ) -> Result<Listing, Error> {
        let has_left = matches!(member.membership, Membership::Leave | Membership::Ban);
        if member.forgotten {
            return Ok(Listing::Forgotten);
        }
        if !has_left {
            return Ok(Listing::Always);
        }
        let is_own = member.membership == Membership::Leave
            && event::load(r, member.event)?.sender()? == *self.id;
        if is_own {
            return Ok(Listing::IfSent);
        }
        let is_refused_knock = || {
            let before = membership_history::before(r, room, member)?;
            Ok::<_, Error>(
                member.membership == Membership::Leave && before == Some(Membership::Knock),
            )
        };
        let was_joined = last_leave(r, room, member, Position::MIN)?.is_some();
        Ok(if was_joined || is_refused_knock()? {
            Listing::Always
        } else if member.membership == Membership::Ban {
            Listing::NeverJoined
        } else {
            Listing::IfSent
        })
    }

    fn inviter(&self, r: &impl Reader, member: &MemberRow) -> Result<Option<OwnedUserId>, Error> {
        match member.membership {
            Membership::Invite => event::load(r, member.event)?.sender().map(Some),
            _ => Ok(None),
        }
    }

    fn tags(&self, r: &impl Reader, room: RoomNum) -> Result<Vec<String>, Error> {
        #[derive(Deserialize)]
        struct Content {
            tags: BTreeMap<String, IgnoredAny>,
        }
        let data = account_data::load(r, self.user, room, TAG)?;
        let content = data.and_then(|data| serde_json::from_str::<Content>(&data.content).ok());
        let tags = content
            .into_iter()
            .flat_map(|content| content.tags.into_keys());
        Ok(tags.take(MAX_TAGS).map(|tag| shortened(&tag)).collect())
    }

    fn attributes(
        &self,
        r: &impl Reader,
        room: RoomNum,
        member: &MemberRow,
        state_position: Position,
    ) -> Result<Attributes, Error> {
        if member.membership != Membership::Join
            && let Some(outside) = out_of_band::load(r, self.user, room)?
        {
            return Ok(Attributes::of_stripped(
                &outside.stripped_state,
                state_position,
            ));
        }
        let mut attributes = Attributes {
            state_position,
            ..Attributes::default()
        };
        if self.parts.has(FilterInputs::ROOM_TYPE) {
            let room_types = r.room_types()?;
            let room_type = room_types.get(room)?;
            attributes.room_type = room_type.map(|kind| shortened(kind.value()));
        }
        if self.parts.has(FilterInputs::ENCRYPTION) {
            let encryption = current::get(r, room, "m.room.encryption", "")?;
            attributes.is_encrypted = encryption.is_some();
        }
        // A room that the user has left may have another name now.
        let is_member = !matches!(member.membership, Membership::Leave | Membership::Ban);
        if is_member && self.parts.has(FilterInputs::NAME) {
            let name = content::current::<Name>(r, room, &StateEventType::RoomName, "")?;
            attributes.name = name.map(|name| shortened(&name.name.to_lowercase()));
        }
        Ok(attributes)
    }
}

#[derive(Default, Deserialize)]
struct Create {
    #[serde(rename = "type")]
    room_type: Option<String>,
}

#[derive(Default, Deserialize)]
struct Name {
    #[serde(default)]
    name: String,
}

impl Attributes {
    fn of_stripped(events: &[String], state_position: Position) -> Self {
        #[derive(Deserialize)]
        struct Stripped<'a> {
            #[serde(rename = "type", borrow)]
            kind: Cow<'a, str>,
            #[serde(borrow)]
            content: &'a RawValue,
        }
        let mut attributes = Self {
            state_position,
            ..Self::default()
        };
        for event in events {
            let Ok(event) = serde_json::from_str::<Stripped<'_>>(event) else {
                continue;
            };
            let content = event.content.get();
            match &*event.kind {
                "m.room.create" => {
                    let create = serde_json::from_str::<Create>(content).unwrap_or_default();
                    attributes.room_type = create.room_type.map(|kind| shortened(&kind));
                }
                "m.room.encryption" => attributes.is_encrypted = true,
                "m.room.name" => {
                    let name = serde_json::from_str::<Name>(content).unwrap_or_default();
                    attributes.name = Some(shortened(&name.name.to_lowercase()));
                }
                _ => {}
            }
        }
        attributes
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(MAX_TEXT_CHARS).collect()
}

fn direct_rooms(r: &impl Reader, user: UserNum) -> Result<HashSet<RoomNum>, Error> {
    let data = account_data::load(r, user, GLOBAL, DIRECT)?;
    let direct = data
        .and_then(|data| serde_json::from_str::<BTreeMap<String, Vec<String>>>(&data.content).ok());
    let mut rooms = HashSet::new();
    for id in direct.into_iter().flat_map(BTreeMap::into_values).flatten() {
        rooms.extend(room_num(r, &id)?);
    }
    Ok(rooms)
}

/// The number of the room `id`, if it is here.
pub fn room_num(r: &impl Reader, id: &str) -> Result<Option<RoomNum>, Error> {
    let Ok(id) = <&RoomId>::try_from(id) else {
        return Ok(None);
    };
    match room::num(r, id) {
        Err(Error::UnknownRoom) => Ok(None),
        num => num.map(Some),
    }
}

/// The spaces in the filters of the request that are here.
fn wanted_spaces(
    r: &impl Reader,
    request: &SlidingSyncRequest,
) -> Result<BTreeSet<RoomNum>, Error> {
    let mut spaces = BTreeSet::new();
    for list in &request.lists {
        for id in list.filters.spaces.iter().flatten() {
            spaces.extend(room_num(r, id)?);
        }
    }
    Ok(spaces)
}

/// The rooms in the `m.space.child` events of `space` that have a `via`.
fn children(r: &impl Reader, space: RoomNum) -> Result<HashSet<RoomNum>, Error> {
    #[derive(Deserialize)]
    struct Child {
        state_key: String,
        content: Content,
    }
    #[derive(Deserialize)]
    struct Content {
        via: Vec<String>,
    }
    let mut children = HashSet::new();
    for (_, num) in current::of_type(r, space, "m.space.child")? {
        if let Ok(child) = event::load(r, num)?.parse::<Child>()
            && !child.content.via.is_empty()
        {
            children.extend(room_num(r, &child.state_key)?);
        }
    }
    Ok(children)
}
