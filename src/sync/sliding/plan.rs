//! What a response has: the rooms of the windows and subscriptions, and what of them the client lacks.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use super::{
    filter::ResolvedFilters,
    request::{RoomConfig, Scope, SlidingSyncRequest},
    required_state,
    room_list::{Entry, Listing, RoomList, room_num},
};
use crate::{
    rooms::{Error, typing::Typing, unread::receipts},
    store::{
        Position, Reader, RoomNum, UserNum,
        records::{Membership, RequiredState, SentRoom, SlidingSyncState},
    },
    sync::request::SyncRange,
    users::account_data::{self, GLOBAL},
};

/// The most patterns of required state in the room configs of a request, of which each combination of lists
/// and a subscription has its own.
const MAX_COMBINED_PATTERNS: usize = 10_000;

/// What a response has.
#[derive(Debug)]
pub struct Plan {
    /// How many rooms match each list of the request.
    pub counts: Vec<usize>,
    /// The last active first.
    pub rooms: Vec<PlannedRoom>,
    /// The rooms whose receipts are sent, and since when; `None` if the client has none of them.
    pub receipts: Vec<(RoomNum, Option<Position>)>,
    /// The types of account data by room, or [`GLOBAL`].
    pub account_data: BTreeMap<RoomNum, Vec<String>>,
    /// Who types, where that changed.
    pub typing: Vec<(RoomNum, Vec<UserNum>)>,
    pub next: NextState,
}

/// A room that may be sent.
#[derive(Clone, Debug)]
pub struct PlannedRoom {
    pub room: RoomNum,
    /// The client has the room up to here; `None` if it has nothing of it.
    pub since: Option<Position>,
    pub config: Arc<RoomConfig>,
    /// With what the room was last sent, if that was less than `config`.
    pub expanded_from: Option<RoomConfig>,
    /// The names of the lists that it is in.
    pub lists: Vec<String>,
    pub is_dm: bool,
    pub is_dm_changed: bool,
}

/// How the stored state of the connection changes by a response.
#[derive(Debug)]
pub struct NextState {
    required_states: Vec<Arc<Vec<RequiredState>>>,
    /// `None` where the client is to get the whole room when it comes again.
    rooms: BTreeMap<RoomNum, Option<SentRoom>>,
    has_account_data: bool,
    is_changed: bool,
}

impl NextState {
    fn new(state: &SlidingSyncState) -> Self {
        let required_states = state.required_states.iter().cloned().map(Arc::new);
        Self {
            required_states: required_states.collect(),
            rooms: BTreeMap::new(),
            has_account_data: state.has_account_data,
            is_changed: false,
        }
    }

    pub fn is_changed(&self) -> bool {
        self.is_changed
    }

    fn required_state(&mut self, wanted: &[RequiredState]) -> u16 {
        let known = self.required_states.iter();
        let index = known.clone().position(|known| known.as_slice() == wanted);
        let index = index.unwrap_or_else(|| {
            self.required_states.push(Arc::new(wanted.to_vec()));
            self.required_states.len() - 1
        });
        u16::try_from(index).unwrap_or(u16::MAX)
    }

    fn set(&mut self, before: Option<SentRoom>, room: RoomNum, after: Option<SentRoom>) {
        if before != after {
            self.rooms.insert(room, after);
            self.is_changed = true;
        }
    }

    /// Changes the room that `before` or an earlier change has.
    fn edit(&mut self, before: &SlidingSyncState, room: RoomNum, edit: impl FnOnce(&mut SentRoom)) {
        let before = match self.rooms.get(&room) {
            Some(changed) => *changed,
            None => sent(before, room).copied(),
        };
        if let Some(before) = before {
            let mut after = before;
            edit(&mut after);
            self.set(Some(before), room, Some(after));
        }
    }

    /// The state after the response to a request for `before`.
    pub fn apply(&self, before: &SlidingSyncState) -> SlidingSyncState {
        let mut rooms: BTreeMap<_, _> = before.rooms.iter().copied().collect();
        for (room, after) in &self.rooms {
            match after {
                Some(after) => drop(rooms.insert(*room, *after)),
                None => drop(rooms.remove(room)),
            }
        }
        let mut indexes = HashMap::new();
        let mut required_states = Vec::new();
        for sent in rooms.values_mut() {
            let index = *indexes.entry(sent.required_state).or_insert_with(|| {
                let known = self.required_states.get(usize::from(sent.required_state));
                required_states.push(known.map_or_else(Vec::new, |known| known.to_vec()));
                required_states.len() - 1
            });
            sent.required_state = u16::try_from(index).unwrap_or(u16::MAX);
        }
        SlidingSyncState {
            required_states,
            rooms: rooms.into_iter().collect(),
            has_account_data: self.has_account_data,
        }
    }
}

/// Which of the request's lists and subscriptions a room is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Rule {
    /// A bit for each list.
    lists: u128,
    subscription: Option<usize>,
}

/// What a plan is made of.
pub struct Planner<'a> {
    pub request: &'a SlidingSyncRequest,
    /// What the client has received.
    pub state: &'a SlidingSyncState,
    pub list: &'a RoomList,
    /// The rooms that changed in the range, by whatever; `None` if that may be any.
    pub changed: Option<&'a BTreeSet<RoomNum>>,
    pub typing: &'a Typing,
    pub range: SyncRange,
}

impl Planner<'_> {
    pub fn plan(&self, r: &impl Reader) -> Result<Plan, Error> {
        let (rules, counts) = self.rules(r)?;
        let mut plan = Plan {
            counts,
            rooms: Vec::new(),
            receipts: Vec::new(),
            account_data: BTreeMap::new(),
            typing: Vec::new(),
            next: NextState::new(self.state),
        };
        self.add_rooms(r, &rules, &mut plan)?;
        self.note_unsent(&rules, &mut plan);
        self.add_receipts(r, &rules, &mut plan)?;
        self.add_account_data(r, &rules, &mut plan)?;
        self.add_typing(&rules, &mut plan);
        Ok(plan)
    }

    /// The position of the request's token.
    fn since(&self) -> Position {
        self.range
            .since
            .map_or(Position::MIN, |since| since.position)
    }

    fn has_changed(&self, room: RoomNum) -> bool {
        self.changed.is_none_or(|changed| changed.contains(&room))
    }

    fn is_listed(&self, entry: &Entry) -> bool {
        let is_ignored = entry
            .inviter
            .as_ref()
            .is_some_and(|inviter| self.request.ignored.contains(inviter));
        // The client learns once that the user has left a room.
        let is_leave_unsent = |sent: &SentRoom| sent.upto.unwrap_or(self.since()) < entry.activity;
        !is_ignored
            && (entry.listing == Listing::Always
                || sent(self.state, entry.room).is_some_and(is_leave_unsent))
    }

    /// The rooms in the windows and subscriptions, and how many rooms match each list.
    fn rules(&self, r: &impl Reader) -> Result<(BTreeMap<RoomNum, Rule>, Vec<usize>), Error> {
        let mut rules: HashMap<RoomNum, Rule> = HashMap::new();
        let mut counts = Vec::new();
        for (number, list) in self.request.lists.iter().enumerate() {
            let mut spaces = Vec::new();
            for space in list.filters.spaces.iter().flatten() {
                spaces.extend(room_num(r, space)?);
            }
            let filters = ResolvedFilters {
                filters: &list.filters,
                spaces,
                name: list
                    .filters
                    .room_name_like
                    .as_ref()
                    .map(|name| name.to_lowercase()),
            };
            let mut count = 0;
            for entry in self.list.entries() {
                if !self.is_listed(entry) || !filters.accept(self.list, entry) {
                    continue;
                }
                let index = count as u64;
                let is_in = |ranges: &Vec<(u64, u64)>| {
                    ranges
                        .iter()
                        .any(|(first, last)| (*first..=*last).contains(&index))
                };
                if list.ranges.as_ref().is_none_or(is_in) {
                    rules.entry(entry.room).or_default().lists |= 1 << number;
                }
                count += 1;
            }
            counts.push(count);
        }
        for (number, (id, _)) in self.request.subscriptions.iter().enumerate() {
            if let Some(room) = room_num(r, id.as_str())?
                && let Some(entry) = self.list.get(room)
                && (self.is_listed(entry) || entry.listing == Listing::IfSent)
            {
                rules.entry(room).or_default().subscription = Some(number);
            }
        }
        Ok((rules.into_iter().collect(), counts))
    }

    fn add_rooms(
        &self,
        r: &impl Reader,
        rules: &BTreeMap<RoomNum, Rule>,
        plan: &mut Plan,
    ) -> Result<(), Error> {
        let mut configs: HashMap<Rule, (Arc<RoomConfig>, u16)> = HashMap::new();
        let mut patterns = 0;
        for (room, rule) in rules {
            let Some(entry) = self.list.get(*room) else {
                continue;
            };
            let (config, required_state) = configs.entry(*rule).or_insert_with(|| {
                let config = self.config(*rule);
                patterns += 1 + config.required_state.iter().map(size).sum::<usize>();
                let required_state = plan.next.required_state(&config.required_state);
                (Arc::new(config), required_state)
            });
            let (config, required_state) = (config.clone(), *required_state);
            if patterns > MAX_COMBINED_PATTERNS {
                return Err(Error::invalid(
                    "lists: their combinations have too many patterns of required_state",
                ));
            }
            let before = sent(self.state, *room).copied();
            let is_dm = self.list.is_dm(*room);
            let expanded_from = before.and_then(|before| {
                let known = &plan.next.required_states[usize::from(before.required_state)];
                let is_expanded = before.timeline_limit < config.timeline_limit
                    || before.required_state != required_state
                        && required_state::is_expanded(known, &config.required_state);
                is_expanded.then(|| RoomConfig {
                    timeline_limit: before.timeline_limit,
                    required_state: known.to_vec(),
                })
            });
            if let Some(before) = before {
                let since = before.upto.unwrap_or(self.since());
                let is_due = entry.activity > since
                    || expanded_from.is_some()
                    || is_dm != before.is_dm
                    || self.own_receipt_moved(r, entry, since)?;
                if !is_due {
                    continue;
                }
            }
            let after = SentRoom {
                required_state,
                timeline_limit: config.timeline_limit,
                upto: None,
                is_dm,
                has_receipts: before.is_some_and(|before| before.has_receipts),
                has_account_data: before.is_some_and(|before| before.has_account_data),
            };
            // Who comes back to a room that they left gets the whole of it.
            let is_last = entry.listing != Listing::Always && rule.subscription.is_none();
            plan.next.set(before, *room, (!is_last).then_some(after));
            plan.rooms.push(PlannedRoom {
                room: *room,
                since: before.map(|before| before.upto.unwrap_or(self.since())),
                config,
                expanded_from,
                lists: self.list_names(*rule),
                is_dm,
                is_dm_changed: before.is_some_and(|before| before.is_dm != is_dm),
            });
        }
        let activity = |room| self.list.get(room).map(|entry| entry.activity);
        plan.rooms
            .sort_by_key(|planned| std::cmp::Reverse(activity(planned.room)));
        Ok(())
    }

    fn config(&self, rule: Rule) -> RoomConfig {
        let mut config = RoomConfig::default();
        for (number, list) in self.request.lists.iter().enumerate() {
            if rule.lists & (1 << number) != 0 {
                config.extend(&list.config);
            }
        }
        if let Some(number) = rule.subscription {
            config.extend(&self.request.subscriptions[number].1);
        }
        config
    }

    fn list_names(&self, rule: Rule) -> Vec<String> {
        let lists = self.request.lists.iter().enumerate();
        let lists = lists.filter(|(number, _)| rule.lists & (1 << number) != 0);
        lists.map(|(_, list)| list.name.clone()).collect()
    }

    /// Whether the unread counts changed by a receipt of the user, perhaps on another device.
    fn own_receipt_moved(
        &self,
        r: &impl Reader,
        entry: &Entry,
        since: Position,
    ) -> Result<bool, Error> {
        if entry.membership != Membership::Join || !self.has_changed(entry.room) {
            return Ok(false);
        }
        let own = receipts::of_user(r, entry.room, self.request.user)?;
        Ok(own.iter().any(|(_, receipt)| receipt.position > since))
    }

    /// Rooms outside of the windows that changed: the client has them only up to its token.
    fn note_unsent(&self, rules: &BTreeMap<RoomNum, Rule>, plan: &mut Plan) {
        let since = self.since();
        let entries = self.list.entries().iter();
        for entry in entries.take_while(|entry| entry.activity > since) {
            if !rules.contains_key(&entry.room) {
                plan.next.edit(self.state, entry.room, |sent| {
                    sent.upto = Some(sent.upto.unwrap_or(since));
                });
            }
        }
    }

    /// The rooms of an extension, among those of the windows and the subscriptions.
    fn scope(&self, scope: &Scope, rules: &BTreeMap<RoomNum, Rule>) -> BTreeSet<RoomNum> {
        let mut lists = 0;
        for (number, list) in self.request.lists.iter().enumerate() {
            lists |= u128::from(scope.has_list(&list.name)) << number;
        }
        let is_in = |rule: &Rule| {
            let is_subscribed = |number: usize| {
                scope.has_subscription(self.request.subscriptions[number].0.as_str())
            };
            rule.lists & lists != 0 || rule.subscription.is_some_and(is_subscribed)
        };
        let rooms = rules.iter().filter(|(_, rule)| is_in(rule));
        rooms.map(|(room, _)| *room).collect()
    }

    fn add_receipts(
        &self,
        r: &impl Reader,
        rules: &BTreeMap<RoomNum, Rule>,
        plan: &mut Plan,
    ) -> Result<(), Error> {
        let scope = self.request.extensions.receipts.as_ref();
        let wanted = scope.map_or_else(BTreeSet::new, |scope| self.scope(scope, rules));
        for room in &wanted {
            let is_joined =
                (self.list.get(*room)).is_some_and(|entry| entry.membership == Membership::Join);
            let has_receipts = sent(self.state, *room).is_some_and(|sent| sent.has_receipts);
            if !is_joined || has_receipts && !self.has_changed(*room) {
                continue;
            }
            plan.receipts
                .push((*room, has_receipts.then(|| self.since())));
            plan.next
                .edit(self.state, *room, |sent| sent.has_receipts = true);
        }
        for (room, sent) in &self.state.rooms {
            if sent.has_receipts
                && !wanted.contains(room)
                && self.has_changed(*room)
                && self.has_receipts_since(r, *room, self.since())?
            {
                plan.next
                    .edit(self.state, *room, |sent| sent.has_receipts = false);
            }
        }
        Ok(())
    }

    fn has_receipts_since(
        &self,
        r: &impl Reader,
        room: RoomNum,
        since: Position,
    ) -> Result<bool, Error> {
        let (user, end) = (self.request.user, self.range.end.stored);
        Ok(!receipts::moved_between(r, room, since, end, user, 1)?.is_empty())
    }

    fn add_account_data(
        &self,
        r: &impl Reader,
        rules: &BTreeMap<RoomNum, Rule>,
        plan: &mut Plan,
    ) -> Result<(), Error> {
        let (user, end) = (self.request.user, self.range.end.stored);
        let mut changed: BTreeMap<RoomNum, Vec<String>> = BTreeMap::new();
        if self.range.since.is_some() {
            for (room, kind) in account_data::changes_between(r, user, self.since(), end)? {
                changed.entry(room).or_default().push(kind);
            }
        }
        let Some(scope) = &self.request.extensions.account_data else {
            for room in changed.into_keys() {
                self.forget_account_data(room, plan);
            }
            return Ok(());
        };
        let global = changed.remove(&GLOBAL).unwrap_or_default();
        let global = match self.state.has_account_data {
            true => global,
            false => account_data::kinds_in(r, user, GLOBAL)?,
        };
        plan.next.is_changed |= !self.state.has_account_data;
        plan.next.has_account_data = true;
        if !global.is_empty() {
            plan.account_data.insert(GLOBAL, global);
        }
        let wanted = self.scope(scope, rules);
        for room in &wanted {
            let kinds = match sent(self.state, *room) {
                Some(sent) if sent.has_account_data => changed.remove(room).unwrap_or_default(),
                _ => account_data::kinds_in(r, user, *room)?,
            };
            plan.next
                .edit(self.state, *room, |sent| sent.has_account_data = true);
            if !kinds.is_empty() {
                plan.account_data.insert(*room, kinds);
            }
        }
        for room in changed.into_keys().filter(|room| !wanted.contains(room)) {
            self.forget_account_data(room, plan);
        }
        Ok(())
    }

    /// The client does not have the account data of `room`, or [`GLOBAL`], any more.
    fn forget_account_data(&self, room: RoomNum, plan: &mut Plan) {
        if room == GLOBAL {
            plan.next.is_changed |= plan.next.has_account_data;
            plan.next.has_account_data = false;
        } else {
            let forget = |sent: &mut SentRoom| sent.has_account_data = false;
            plan.next.edit(self.state, room, forget);
        }
    }

    fn add_typing(&self, rules: &BTreeMap<RoomNum, Rule>, plan: &mut Plan) {
        let Some(scope) = &self.request.extensions.typing else {
            return;
        };
        let since = self.range.since.map_or(0, |since| since.ephemeral);
        let wanted = self.scope(scope, rules);
        let mut rooms: BTreeMap<RoomNum, u64> = BTreeMap::new();
        let changed = self.typing.rooms_after(since);
        for room in changed.unwrap_or_else(|| wanted.iter().copied().collect()) {
            rooms.insert(room, since);
        }
        for planned in &plan.rooms {
            // In no window, the client learned of no change.
            let before = sent(self.state, planned.room);
            if before.is_none_or(|before| before.upto.is_some()) {
                rooms.insert(planned.room, 0);
            }
        }
        for (room, since) in rooms {
            let is_joined =
                (self.list.get(room)).is_some_and(|entry| entry.membership == Membership::Join);
            if is_joined
                && wanted.contains(&room)
                && let Some(users) = self.typing.changed_after(room, since)
                && (!users.is_empty() || sent(self.state, room).is_some())
            {
                plan.typing.push((room, users));
            }
        }
    }
}

/// The number of patterns.
fn size(required: &RequiredState) -> usize {
    required.include.len() + required.exclude.len()
}

/// What the client has of `room`.
fn sent(state: &SlidingSyncState, room: RoomNum) -> Option<&SentRoom> {
    let index = state.rooms.binary_search_by_key(&room, |(room, _)| *room);
    index.ok().map(|index| &state.rooms[index].1)
}
