//! The rooms of each user in the order of their activity, in memory.
//!
//! The activity of a room that the user is joined to is the position of its last event or change of state; of
//! other rooms that of the user's membership. A list knows up to which position it has all changes, and is
//! brought up to date by what the notifier's index has since. It is made from the store when it is missing.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::Deserialize;

use super::{
    entry::{Entry, FilterInputs, Order, Owner, TAG, room_num},
    filter::ResolvedFilters,
    request::{Filters, SlidingSyncRequest},
    views::{self, View},
};
use crate::{
    rooms::{Error, deletion::left_rooms, event, room, state::current},
    store::{Position, Reader, RoomNum, UserNum, records::Membership},
    sync::rooms::{membership, memberships},
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

const DIRECT: &str = "m.direct";

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
        for room in left_rooms::of_user(r, owner.user)? {
            if let Some(left) = left_rooms::load(r, owner.user, room)? {
                self.entries.push(Entry::deleted(room, left.position));
            }
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
                    let matching = entries.filter(|entry| {
                        !entry.is_special()
                            && filters.accept(entry, |space, room| self.is_child(space, room))
                    });
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
        let member = membership(r, owner.user, room)?;
        if is_tagged
            && member.is_some()
            && let Some(before) = &mut before
        {
            let mut details = before.take_details();
            details.tags = owner.tags(r, room)?;
            before.set_details(details);
        }
        let entry = match &member {
            Some(member) => {
                let mut entry = owner.entry(r, room, member, before)?;
                entry.is_dm = self.direct.contains(&room);
                Some(entry)
            }
            None => {
                let left = left_rooms::load(r, owner.user, room)?;
                left.map(|left| Entry::deleted(room, left.position))
            }
        };
        if let Some(entry) = &entry {
            self.activity.insert(room, entry.activity);
            if entry.is_special() {
                self.special.insert(entry.order());
            }
        }
        let mut views = std::mem::take(&mut self.views);
        for view in &mut views {
            let matching = entry.as_ref().filter(|entry| {
                !entry.is_special()
                    && view
                        .filters
                        .accept(entry, |space, room| self.is_child(space, room))
            });
            view.update(order_before, matching.map(Entry::order));
        }
        self.views = views;
        views::update(&mut self.entries, index, entry, Entry::order);
        Ok(())
    }

    fn refresh_space(&mut self, r: &impl Reader, space: RoomNum) -> Result<(), Error> {
        let position = match room::heads(r, space) {
            // It has been deleted.
            Err(Error::UnknownRoom) => return Ok(()),
            heads => heads?.state_position,
        };
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
