//! What a response has: the rooms of the windows and subscriptions, and what of them the client lacks.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use super::{
    entry::{Entry, Listing, Order, room_num},
    filter::ResolvedFilters,
    next_state::{MAX_REQUIRED_BYTES, NextState, sent},
    request::{RoomConfig, Scope, SlidingSyncRequest},
    required_state::{self, size},
    room_list::RoomList,
    views::Merged,
};
use crate::{
    rooms::{Error, typing::Typing, unread::receipts},
    store::{
        Position, Reader, RoomNum, UserNum,
        records::{Membership, SentRoom, SlidingSyncState},
    },
    sync::request::SyncRange,
    users::account_data::{self, GLOBAL},
};

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

/// Which of the request's lists and subscriptions a room is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Rule {
    /// A bit for each list.
    lists: u128,
    subscription: Option<usize>,
}

impl Rule {
    fn of_list(number: usize) -> Self {
        Self {
            lists: 1 << number,
            subscription: None,
        }
    }

    fn of_subscription(number: usize) -> Self {
        Self {
            lists: 0,
            subscription: Some(number),
        }
    }

    /// Of several subscriptions to a room the last one counts.
    fn add(&mut self, other: &Self) {
        self.lists |= other.lists;
        self.subscription = other.subscription.or(self.subscription);
    }
}

/// The rooms in the windows and subscriptions.
struct Windows<'a> {
    /// The last active first.
    rooms: Vec<Windowed<'a>>,
}

struct Windowed<'a> {
    entry: &'a Entry,
    rule: Rule,
    /// What the client has of it.
    before: Option<SentRoom>,
}

impl Windows<'_> {
    fn rule(&self, entry: &Entry) -> Option<&Rule> {
        let order = entry.order();
        let index = (self.rooms).binary_search_by_key(&order, |windowed| windowed.entry.order());
        index.ok().map(|index| &self.rooms[index].rule)
    }

    fn rooms_of(&self, selection: &Selection) -> impl Iterator<Item = &Windowed<'_>> {
        self.rooms
            .iter()
            .filter(|windowed| selection.has(&windowed.rule))
    }
}

/// The lists and subscriptions of an extension.
#[derive(Default)]
struct Selection {
    /// A bit for each list.
    lists: u128,
    /// By the index of the subscription.
    subscriptions: Vec<bool>,
}

impl Selection {
    fn has(&self, rule: &Rule) -> bool {
        rule.lists & self.lists != 0
            || rule.subscription.is_some_and(|number| {
                let is_selected = self.subscriptions.get(number);
                is_selected.copied().unwrap_or_default()
            })
    }
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
        let (windows, counts) = self.windows(r)?;
        let mut plan = Plan {
            counts,
            rooms: Vec::new(),
            receipts: Vec::new(),
            account_data: BTreeMap::new(),
            typing: Vec::new(),
            next: NextState::new(self.state),
        };
        self.add_rooms(r, &windows, &mut plan)?;
        self.note_unsent(&windows, &mut plan);
        self.add_receipts(r, &windows, &mut plan)?;
        self.add_account_data(r, &windows, &mut plan)?;
        self.add_typing(&windows, &mut plan);
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
        let is_ignored = entry.details().inviter.as_ref().is_some_and(|inviter| {
            self.request.ignored.contains(inviter) || self.request.invites.ignores(inviter)
        });
        // The client learns once that the user has left a room.
        let is_leave_unsent = |sent: &SentRoom| sent.upto.unwrap_or(self.since()) < entry.activity;
        !is_ignored
            && (entry.listing == Listing::Always
                || sent(self.state, entry.room).is_some_and(is_leave_unsent))
    }

    /// The rooms in the windows and subscriptions, and how many rooms match each list.
    fn windows(&self, r: &impl Reader) -> Result<(Windows<'_>, Vec<usize>), Error> {
        let special = self.list.special().filter(|entry| self.is_listed(entry));
        let special: Vec<&Entry> = special.collect();
        let mut rules: Vec<(Order, Rule)> = Vec::new();
        let mut counts = Vec::new();
        for (number, list) in self.request.lists.iter().enumerate() {
            let filters = ResolvedFilters::new(r, &list.filters)?;
            let others = special.iter().filter(|entry| {
                filters.accept(entry, |space, room| self.list.is_child(space, room))
            });
            let view = self.list.view(&filters).unwrap_or_default();
            let matching = Merged::new(view, others.map(|entry| entry.order()));
            counts.push(matching.len());
            for index in indexes(list.ranges.as_deref(), matching.len()) {
                rules.push((matching.get(index), Rule::of_list(number)));
            }
        }
        for (number, (id, _)) in self.request.subscriptions.iter().enumerate() {
            if let Some(room) = room_num(r, id.as_str())?
                && let Some(entry) = self.list.get(room)
                && (entry.listing == Listing::IfSent || self.is_listed(entry))
            {
                rules.push((entry.order(), Rule::of_subscription(number)));
            }
        }
        // Most are sorted already.
        rules.sort_by_key(|(order, _)| *order);
        rules.dedup_by(|(order, rule), (kept, into)| {
            let is_same = order == kept;
            if is_same {
                into.add(rule);
            }
            is_same
        });
        let (mut rooms, mut next) = (Vec::with_capacity(rules.len()), 0);
        for (order, rule) in rules {
            let Some(index) = self.list.index_in(&order, next) else {
                continue;
            };
            next = index + 1;
            let entry = &self.list.entries()[index];
            let before = sent(self.state, entry.room).copied();
            rooms.push(Windowed {
                entry,
                rule,
                before,
            });
        }
        Ok((Windows { rooms }, counts))
    }

    /// Whether `room` is in a window or subscription of `selection`.
    fn is_in(&self, windows: &Windows<'_>, selection: &Selection, room: RoomNum) -> bool {
        let entry = self.list.get(room);
        let rule = entry.and_then(|entry| windows.rule(entry));
        rule.is_some_and(|rule| selection.has(rule))
    }

    fn add_rooms(
        &self,
        r: &impl Reader,
        windows: &Windows<'_>,
        plan: &mut Plan,
    ) -> Result<(), Error> {
        let mut configs: HashMap<Rule, (Arc<RoomConfig>, u16)> = HashMap::new();
        // Most rooms have the same as the one before.
        let mut last: Option<(Rule, Arc<RoomConfig>, u16)> = None;
        let mut bytes = 0;
        for Windowed {
            entry,
            rule,
            before,
        } in &windows.rooms
        {
            let (room, before) = (entry.room, *before);
            if last.as_ref().is_none_or(|(of, ..)| of != rule) {
                let (config, required_state) = configs.entry(*rule).or_insert_with(|| {
                    let config = self.config(*rule);
                    bytes += size(&config.required_state);
                    let required_state = plan.next.required_state(&config.required_state);
                    (Arc::new(config), required_state)
                });
                last = Some((*rule, config.clone(), *required_state));
            }
            let Some((_, config, required_state)) = last.clone() else {
                continue;
            };
            if bytes > MAX_REQUIRED_BYTES {
                return Err(Error::invalid(
                    "lists: their combinations have too much required_state",
                ));
            }
            let is_dm = entry.is_dm;
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
            plan.next.set(before, room, (!is_last).then_some(after));
            plan.rooms.push(PlannedRoom {
                room,
                since: before.map(|before| before.upto.unwrap_or(self.since())),
                config,
                expanded_from,
                lists: self.list_names(*rule),
                is_dm,
                is_dm_changed: before.is_some_and(|before| before.is_dm != is_dm),
            });
        }
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
    fn note_unsent(&self, windows: &Windows<'_>, plan: &mut Plan) {
        let since = self.since();
        let entries = self.list.entries().iter();
        for entry in entries.take_while(|entry| entry.activity > since) {
            if windows.rule(entry).is_none() {
                plan.next.edit(self.state, entry.room, |sent| {
                    sent.upto = Some(sent.upto.unwrap_or(since));
                });
            }
        }
    }

    fn selection(&self, scope: &Scope) -> Selection {
        let mut selection = Selection::default();
        for (number, list) in self.request.lists.iter().enumerate() {
            selection.lists |= u128::from(scope.has_list(&list.name)) << number;
        }
        let subscriptions = self.request.subscriptions.iter();
        let selected = subscriptions.map(|(room, _)| scope.has_subscription(room.as_str()));
        selection.subscriptions = selected.collect();
        selection
    }

    fn add_receipts(
        &self,
        r: &impl Reader,
        windows: &Windows<'_>,
        plan: &mut Plan,
    ) -> Result<(), Error> {
        let scope = self.request.extensions.receipts.as_ref();
        let selection = scope.map_or_else(Selection::default, |scope| self.selection(scope));
        for windowed in windows.rooms_of(&selection) {
            let (entry, room) = (windowed.entry, windowed.entry.room);
            let has_receipts = windowed.before.is_some_and(|before| before.has_receipts);
            if entry.membership != Membership::Join || has_receipts && !self.has_changed(room) {
                continue;
            }
            plan.receipts
                .push((room, has_receipts.then(|| self.since())));
            plan.next
                .edit(self.state, room, |sent| sent.has_receipts = true);
        }
        let changed: Vec<RoomNum> = match self.changed {
            Some(changed) => changed.iter().copied().collect(),
            None => self.state.rooms.iter().map(|(room, _)| *room).collect(),
        };
        for room in changed {
            if !self.is_in(windows, &selection, room)
                && sent(self.state, room).is_some_and(|sent| sent.has_receipts)
                && self.has_receipts_since(r, room, self.since())?
            {
                plan.next
                    .edit(self.state, room, |sent| sent.has_receipts = false);
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
        windows: &Windows<'_>,
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
        let selection = self.selection(scope);
        for windowed in windows.rooms_of(&selection) {
            let room = windowed.entry.room;
            let kinds = match windowed.before {
                Some(before) if before.has_account_data => match changed.remove(&room) {
                    Some(kinds) => kinds,
                    None => continue,
                },
                _ => account_data::kinds_in(r, user, room)?,
            };
            plan.next
                .edit(self.state, room, |sent| sent.has_account_data = true);
            if !kinds.is_empty() {
                plan.account_data.insert(room, kinds);
            }
        }
        for room in changed.into_keys() {
            if !self.is_in(windows, &selection, room) {
                self.forget_account_data(room, plan);
            }
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

    fn add_typing(&self, windows: &Windows<'_>, plan: &mut Plan) {
        let Some(scope) = &self.request.extensions.typing else {
            return;
        };
        let since = self.range.since.map_or(0, |since| since.ephemeral);
        let selection = self.selection(scope);
        let mut rooms: BTreeMap<RoomNum, u64> = BTreeMap::new();
        match self.typing.rooms_after(since) {
            Some(changed) => rooms.extend(changed.into_iter().map(|room| (room, since))),
            None => rooms.extend(
                (windows.rooms_of(&selection)).map(|windowed| (windowed.entry.room, since)),
            ),
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
                && self.is_in(windows, &selection, room)
                && let Some(users) = self.typing.changed_after(room, since)
                && (!users.is_empty() || sent(self.state, room).is_some())
            {
                plan.typing.push((room, users));
            }
        }
    }
}

/// The indexes below `len` in `ranges`, each once; all without ranges.
fn indexes(ranges: Option<&[(u64, u64)]>, len: usize) -> Vec<usize> {
    let Some(ranges) = ranges else {
        return (0..len).collect();
    };
    let end = |last: u64| {
        usize::try_from(last.saturating_add(1))
            .unwrap_or(len)
            .min(len)
    };
    let start = |first: u64| usize::try_from(first).unwrap_or(len).min(len);
    let ranges = ranges.iter().map(|(first, last)| start(*first)..end(*last));
    let mut indexes: Vec<usize> = ranges.flatten().collect();
    indexes.sort_unstable();
    indexes.dedup();
    indexes
}
