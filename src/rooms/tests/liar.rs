//! A server that lies about history and state, against a room that is here.
//!
//! Each liar makes events of its own users with prev_events of its choice, some of which do not
//! exist or are kept back, and claims any selection of real and forged events to be the state before
//! them. It fills gaps with what it likes. In between, the true history of the room goes on.
//!
//! After every step the room is compared with a model: it derives every state from the graph anew,
//! by ruma's resolution of whole states with whole auth chains.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use ruma::{EventId, OwnedEventId, RoomVersionId, events::StateEventType};
use serde_json::json;

use super::{local, with_store};
use crate::{
    protocol::{
        Pdu,
        authorize::{check_by_auth_events, check_by_state},
        build::BuiltEvent,
        history::{Action, History, Index, State},
        receive::Received,
    },
    rooms::{
        Error, Local,
        event::{self, backfill, insert::Notify, outlier, receive},
        room,
        state::{self, current},
        timeline,
    },
    store::{EventNum, Place, Reader, RoomNum, Rows, Tx, records::Status},
};

const LIARS: [&str; 2] = ["@carol:c.example", "@carl:c.example"];
/// How many events of the true history are here at first, and how many come later.
const KNOWN: usize = 14;
const LATER: usize = 8;
const STEPS: usize = 18;

/// What the model knows of an event in the graph.
#[derive(Clone)]
struct Placed {
    status: Status,
    /// Its claimed state, with the last event of the timeline before it.
    claim: Option<(Arc<State>, Option<Index>)>,
}

/// What the model knows of a gap: the current states before and with the event after it.
type Opened = (Arc<State>, Arc<State>);

struct Liar<'t> {
    tx: &'t Tx,
    local: Local,
    room: RoomNum,
    rng: StdRng,
    history: History,
    /// The first event of the history that is no part of the true one.
    truth: usize,
    /// How much of the true history is here.
    received: usize,
    /// Liars' events that were not sent yet.
    hidden: Vec<Index>,
    placed: HashMap<Index, Placed>,
    /// Accepted events in the order of the timeline.
    timeline: Vec<Index>,
    opened: HashMap<Place, Opened>,
    /// Rejected by its auth events, of every event that was handed in.
    counts: BTreeMap<String, usize>,
}

/// A public room with users of the liar's server and others, one of whom may moderate.
fn room_of_all(version: &RoomVersionId) -> History {
    const ALICE: &str = "@alice:a.example";
    const BOB: &str = "@bob:b.example";
    let mut history = History::public(version, ALICE);
    for user in [BOB, "@ben:b.example", LIARS[0], LIARS[1]] {
        history.then(Action::join(user));
    }
    let levels = history.levels(&[(ALICE, 100), (BOB, 50)], json!({}));
    history.then(Action::state(ALICE, "m.room.power_levels", "", levels));
    history.then(Action::member(BOB, "@ben:b.example", "ban"));
    history
}

impl<'t> Liar<'t> {
    fn new(tx: &'t Tx, version: &RoomVersionId, seed: u64) -> Result<Self, Error> {
        let mut history = room_of_all(version);
        history.extend_randomly(seed % 50, KNOWN + LATER);
        let room = room::create(tx, history.create_event().room_id(), version)?;
        let mut liar = Self {
            tx,
            local: local(),
            room,
            rng: StdRng::seed_from_u64(seed),
            truth: history.events.len(),
            history,
            received: 0,
            hidden: Vec::new(),
            placed: HashMap::new(),
            timeline: Vec::new(),
            opened: HashMap::new(),
            counts: BTreeMap::new(),
        };
        for _ in 0..KNOWN {
            liar.truth_goes_on()?;
        }
        Ok(liar)
    }

    fn step(&mut self) -> Result<(), Error> {
        match self.rng.random_range(0..10) {
            0 | 1 => self.truth_goes_on()?,
            2..6 => {
                let event = self.lie()?;
                let prev = &self.history.events[event].prev;
                let follows_hidden = prev.iter().any(|prev| self.hidden.contains(prev));
                if self.rng.random_bool(if follows_hidden { 0.2 } else { 0.6 }) {
                    self.hidden.push(event);
                } else {
                    self.send(event)?;
                }
            }
            6 => {
                if let Some(event) = self.hidden.choose(&mut self.rng).copied() {
                    self.send(event)?;
                }
            }
            _ => self.fill_gap()?,
        }
        self.check()
    }

    fn truth_goes_on(&mut self) -> Result<(), Error> {
        if self.received < self.truth {
            self.received += 1;
            self.send(self.received - 1)?;
        }
        Ok(())
    }

    fn id(&self, index: Index) -> OwnedEventId {
        self.history.events[index].pdu.event_id().to_owned()
    }

    fn parsed(&self, index: Index) -> Pdu {
        let event = &self.history.events[index];
        let parsed = Pdu::parse(self.id(index), &event.json, self.history.rules, false);
        parsed.expect("an event of the history")
    }

    /// Any state that the liar knows of.
    fn any_state(&mut self) -> Arc<State> {
        let index = self.rng.random_range(0..self.history.events.len());
        self.history.events[index].state_after.clone()
    }

    /// A new event of the liar's.
    fn lie(&mut self) -> Result<Index, Error> {
        let mut prev: Vec<Index> = Vec::new();
        let ends = room::heads(self.tx, self.room)?.extremities;
        if self.rng.random_bool(0.6) {
            for end in ends.iter().take(5) {
                let id = event::id(self.tx, *end)?;
                prev.extend(self.history.index(&id));
            }
        }
        if self.rng.random_bool(0.7) {
            prev.extend(self.hidden.choose(&mut self.rng));
        }
        for _ in 0..self.rng.random_range(0..2) {
            let visible = (0..self.received).chain(self.truth..self.history.events.len());
            prev.extend(visible.collect::<Vec<_>>().choose(&mut self.rng));
        }
        prev.sort_unstable();
        prev.dedup();
        let mut missing = Vec::new();
        if prev.is_empty() || self.rng.random_bool(0.25) {
            let id = format!("${:043}", self.rng.random::<u32>());
            missing.push(EventId::parse(id).expect("an event id"));
        }
        let sender = *LIARS.choose(&mut self.rng).expect("not empty");
        let action = self.action(sender);
        let cited = if self.rng.random_bool(0.85) {
            self.current()?
        } else {
            self.any_state()
        };
        let built = self.history.build_missing(&prev, &missing, &cited, action);
        // What the liar says about the state after its event.
        let state = self.any_state();
        Ok(self.push(&prev, state, built))
    }

    fn push(&mut self, prev: &[Index], state: Arc<State>, built: BuiltEvent) -> Index {
        self.history.push(prev, state, built, true)
    }

    fn action(&mut self, sender: &'static str) -> Action {
        let users = [
            "@alice:a.example",
            "@bob:b.example",
            "@ben:b.example",
            sender,
        ];
        let target = *users.choose(&mut self.rng).expect("not empty");
        let n = self.rng.random::<u32>();
        match self.rng.random_range(0..10) {
            0 => {
                let memberships = ["leave", "ban", "invite", "join"];
                let membership = memberships.choose(&mut self.rng).expect("not empty");
                let content = json!({ "membership": membership, "n": n });
                Action::state(sender, "m.room.member", target, content)
            }
            1 => Action::state(
                sender,
                "m.room.member",
                sender,
                json!({ "membership": "join", "n": n }),
            ),
            2 => {
                let levels = self
                    .history
                    .levels(&[(sender, 100)], json!({ "users_default": n % 60 }));
                Action::state(sender, "m.room.power_levels", "", levels)
            }
            3 => {
                let visibility = json!({ "history_visibility": "world_readable", "n": n });
                Action::state(sender, "m.room.history_visibility", "", visibility)
            }
            4 => Action::state(sender, "test.state", sender, json!({ "n": n })),
            _ => Action::message(sender, "m.room.message", json!({ "n": n })),
        }
    }

    /// Any selection of events as a state, some of them forged. They are here as outliers.
    fn claim(&mut self) -> Result<(Vec<OwnedEventId>, Arc<State>), Error> {
        let mut claimed = State::clone(&*self.any_state());
        let keep = *[0.3, 0.7, 0.95, 1.0]
            .choose(&mut self.rng)
            .expect("not empty");
        claimed.retain(|_, _| self.rng.random_bool(keep));
        for _ in 0..self.rng.random_range(0..4) {
            let index = self.rng.random_range(0..self.history.events.len());
            if let Some((kind, key)) = self.history.events[index].pdu.state_pair() {
                claimed.insert((kind, key.to_owned()), index);
            }
        }
        let mut chain: Vec<Index> = self
            .history
            .auth_chain(claimed.values().copied().chain([0]))
            .into_iter()
            .collect();
        chain.sort_unstable();
        for index in chain {
            let received = self.received(index);
            outlier::store(self.tx, self.room, self.history.rules, &received)?;
        }
        let ids = claimed.values().map(|index| self.id(*index)).collect();
        // Rejected events are in no state, and the create event in every one.
        let mut state = State::new();
        for (key, index) in claimed {
            if !self.is_rejected(index)? {
                state.insert(key, index);
            }
        }
        state.insert((StateEventType::RoomCreate, String::new()), 0);
        self.mark_rejected()?;
        Ok((ids, Arc::new(state)))
    }

    /// Marks what is rejected here in the history, for the model's resolution.
    fn mark_rejected(&mut self) -> Result<(), Error> {
        for index in 0..self.history.events.len() {
            let Some(num) = event::num_of(self.tx, &self.id(index))? else {
                continue;
            };
            let mut pdu = self.parsed(index);
            if event::header(self.tx, num)?.status.is_rejected() {
                pdu.reject();
            }
            self.history.events[index].pdu = Arc::new(pdu);
        }
        Ok(())
    }

    fn is_rejected(&self, index: Index) -> Result<bool, Error> {
        let num = event::num_of(self.tx, &self.id(index))?.expect("it is here");
        Ok(event::header(self.tx, num)?.status.is_rejected())
    }

    fn received(&self, index: Index) -> Received {
        Received {
            json: self.history.events[index].json.clone(),
            pdu: self.parsed(index),
            redacted: false,
        }
    }

    /// Hands in an event, as it is received from another server.
    fn send(&mut self, index: Index) -> Result<(), Error> {
        if self.placed.contains_key(&index) {
            return Ok(());
        }
        let auth: Vec<Index> = self
            .history
            .auth_chain(self.history.events[index].auth.iter().copied().chain([0]))
            .into_iter()
            .collect();
        let mut auth: Vec<Index> = auth.into_iter().filter(|of| *of != index).collect();
        auth.sort_unstable();
        for of in auth {
            outlier::store(self.tx, self.room, self.history.rules, &self.received(of))?;
        }
        let id = self.id(index);
        if let Some(gap) = timeline::gap_of(self.tx, self.room, &id)? {
            return self.fill(gap, vec![index]);
        }
        let (known, missing) = self.prev(index);
        let claim = if missing { Some(self.claim()?) } else { None };
        let overlay = match &claim {
            Some((ids, _)) => Some(receive::claimed_state(self.tx, self.room, ids)?),
            None => None,
        };
        let received = self.received(index);
        let pdu = Arc::new(received.pdu);
        let decided = receive::decide(self.tx, self.room, pdu, received.json, overlay)?;
        let before = self.current()?;
        let expected = self.expected_status(index, &known, &claim, std::slice::from_ref(&before));
        let expected = as_received(expected, missing);
        assert_eq!(decided.status(), expected, "event {index}");
        receive::commit(self.tx, &self.local, &decided, &Notify::default())?;
        *self.counts.entry(format!("{expected:?}")).or_default() += 1;
        if expected.is_outlier() {
            return Ok(());
        }
        let upto = self.timeline.last().copied();
        let claim = claim.map(|(_, state)| (state, upto));
        let claim = claim.filter(|_| expected == Status::Accepted);
        let status = expected;
        self.placed.insert(index, Placed { status, claim });
        if status == Status::Accepted {
            self.timeline.push(index);
            if missing {
                let place = event::header(self.tx, self.num(index)?)?.place;
                let place = place.expect("an accepted event has a place");
                let after = self.current()?;
                self.opened.insert(place, (before, after));
            }
        }
        Ok(())
    }

    fn num(&self, index: Index) -> Result<EventNum, Error> {
        Ok(event::num_of(self.tx, &self.id(index))?.expect("it is here"))
    }

    /// The prev_events whose place is known, and whether there are others.
    fn prev(&self, index: Index) -> (Vec<Index>, bool) {
        let mut known = Vec::new();
        let mut missing = false;
        for id in self.history.events[index].pdu.prev_events() {
            match self.history.index(id) {
                Some(prev) if self.placed.contains_key(&prev) => known.push(prev),
                _ => missing = true,
            }
        }
        (known, missing)
    }

    fn expected_status(
        &self,
        index: Index,
        known: &[Index],
        claim: &Option<(Vec<OwnedEventId>, Arc<State>)>,
        received_in: &[Arc<State>],
    ) -> Status {
        let model = Model::of(self);
        let claimed = claim.as_ref().map(|(_, state)| state.clone());
        let before = model.state_before(known, claimed);
        let allowed = |state: &State| self.is_allowed(index, state);
        let pdu = self.parsed(index);
        let fetch = |id: &EventId| Ok::<_, ()>(self.pdu(id));
        if check_by_auth_events(&pdu, self.history.rules, fetch).is_err() {
            Status::RejectedByAuthEvents
        } else if !allowed(&before) {
            Status::RejectedByState
        } else if !received_in.is_empty() && !received_in.iter().any(|state| allowed(state)) {
            Status::SoftFailed
        } else {
            Status::Accepted
        }
    }

    /// An event by its id, marked if it is rejected here.
    fn pdu(&self, id: &EventId) -> Option<Arc<Pdu>> {
        let mut pdu = self.parsed(self.history.index(id)?);
        let num = event::num_of(self.tx, id).expect("a read")?;
        if event::header(self.tx, num)
            .expect("a read")
            .status
            .is_rejected()
        {
            pdu.reject();
        }
        Some(Arc::new(pdu))
    }

    fn is_allowed(&self, index: Index, state: &State) -> bool {
        let pdu = self.parsed(index);
        let checked = check_by_state(&pdu, self.history.rules, |kind, key| {
            let event = state.get(&(kind.clone(), key.to_owned()));
            Ok::<_, ()>(event.map(|event| Arc::new(self.parsed(*event))))
        });
        checked.is_ok()
    }

    /// Fills any gap with what the liar likes of what comes before it.
    fn fill_gap(&mut self) -> Result<(), Error> {
        let mut gaps = Vec::new();
        for row in self.tx.gaps()?.prefix(self.room)? {
            let (key, gap) = row?;
            let missing = gap.record(&key)?.missing;
            let is_made = |id: &String| {
                let id = EventId::parse(id).expect("an event id");
                self.history.index(&id).is_some()
            };
            if missing.iter().any(is_made) {
                gaps.push(key.value().1);
            }
        }
        let Some(gap) = gaps.choose(&mut self.rng).copied() else {
            return Ok(());
        };
        let missing = timeline::gap(self.tx, self.room, gap)?
            .expect("a gap")
            .missing;
        let mut open: Vec<OwnedEventId> = missing
            .iter()
            .map(|id| EventId::parse(id).expect("an event id"))
            .collect();
        let mut chunk = HashSet::new();
        while let Some(id) = open.pop() {
            if let Some(index) = self.history.index(&id)
                && !self.placed.contains_key(&index)
                && (index >= self.truth || index < self.received)
                && self.rng.random_bool(0.8)
                && chunk.insert(index)
            {
                open.extend(self.history.events[index].pdu.prev_events().to_vec());
            }
        }
        let mut chunk: Vec<Index> = chunk.into_iter().collect();
        chunk.sort_unstable();
        self.fill(gap, chunk)
    }

    fn fill(&mut self, gap: Place, chunk: Vec<Index>) -> Result<(), Error> {
        let (mut overlays, mut claims) = (HashMap::new(), HashMap::new());
        for index in &chunk {
            let mut chain: Vec<Index> = self.history.auth_chain([0, *index]).into_iter().collect();
            chain.sort_unstable();
            for of in chain {
                outlier::store(self.tx, self.room, self.history.rules, &self.received(of))?;
            }
            let num = self.num(*index)?;
            let claim = self.claim()?;
            overlays.insert(num, receive::claimed_state(self.tx, self.room, &claim.0)?);
            claims.insert(*index, claim);
        }
        let row = timeline::gap(self.tx, self.room, gap)?.expect("a gap");
        let mut leading = BTreeSet::new();
        let mut open = row.missing;
        while let Some(id) = open.pop() {
            let id = EventId::parse(&id).expect("an event id");
            if let Some(index) = self.history.index(&id)
                && event::num_of(self.tx, &id)?.is_some()
                && !self.placed.contains_key(&index)
                && leading.insert(index)
            {
                let prev = self.history.events[index].pdu.prev_events();
                open.extend(prev.iter().map(ToString::to_string));
            }
        }
        let decided = backfill::decide(self.tx, self.room, gap, &overlays)?;
        let (before, with) = self.opened[&gap].clone();
        let after_gap = self.at(gap)?;
        let upto = row.opened.expect("a gap while the room is here").known_upto;
        let upto = self.last_upto(upto)?;
        let mut added = Vec::new();
        for index in leading {
            let (known, missing) = self.prev(index);
            let claim = claims.get(&index).filter(|_| missing).cloned();
            if missing && claim.is_none() {
                continue;
            }
            let received_in = [before.clone(), with.clone()];
            let status = self.expected_status(index, &known, &claim, &received_in);
            if missing && status != Status::Accepted {
                continue;
            }
            let claim = claim.map(|(_, state)| (state, upto));
            *self
                .counts
                .entry(format!("back-filled {status:?}"))
                .or_default() += 1;
            self.placed.insert(index, Placed { status, claim });
            if status == Status::Accepted {
                added.push(index);
            }
        }
        backfill::commit(self.tx, &self.local, &decided)?;
        let at = self.timeline.iter().position(|index| *index == after_gap);
        let at = at.expect("it is in the timeline");
        self.timeline.splice(at..at, added);
        self.opened.remove(&gap);
        for row in self.tx.gaps()?.prefix(self.room)? {
            let place = row?.0.value().1;
            self.opened
                .entry(place)
                .or_insert((before.clone(), with.clone()));
        }
        Ok(())
    }

    fn at(&self, place: Place) -> Result<Index, Error> {
        let (_, row) = timeline::forwards(self.tx, self.room, place, 1)?
            .pop()
            .expect("an event");
        let id = event::id(self.tx, row.event)?;
        Ok(self.history.index(&id).expect("an event of the history"))
    }

    fn last_upto(&self, place: Place) -> Result<Option<Index>, Error> {
        let row = timeline::backwards(self.tx, self.room, place, 1)?.pop();
        let id = row
            .map(|(_, row)| event::id(self.tx, row.event))
            .transpose()?;
        Ok(id.and_then(|id| self.history.index(&id)))
    }

    /// The current state, by indices.
    fn current(&self) -> Result<Arc<State>, Error> {
        let mut found = State::new();
        for (key, num) in current::all(self.tx, self.room)? {
            let (kind, key) = state::key_name(self.tx, self.room, key)?;
            let index = self.history.index(&event::id(self.tx, num)?);
            found.insert((kind.into(), key), index.expect("an event of the history"));
        }
        Ok(Arc::new(found))
    }

    /// Compares the room with the model.
    fn check(&mut self) -> Result<(), Error> {
        self.mark_rejected()?;
        let model = Model::of(self);
        for (index, placed) in &model.placed {
            let header = event::header(self.tx, self.num(*index)?)?;
            assert_eq!(header.status, placed.status, "event {index}");
        }
        let mut ends = Vec::new();
        for num in room::heads(self.tx, self.room)?.extremities {
            let index = self.history.index(&event::id(self.tx, num)?);
            ends.push(index.expect("an event of the history"));
        }
        let behind = model.behind(&ends);
        for (index, placed) in &model.placed {
            let is_end = placed.status != Status::Accepted || ends.contains(index);
            assert!(is_end || behind.contains(index), "{index} is lost");
        }
        let states = ends.iter().map(|end| model.after[end].clone()).collect();
        assert_eq!(*self.current()?, *model.resolve(states));
        self.placed = model.placed;
        Ok(())
    }
}

/// What a received event with these prev_events becomes.
fn as_received(status: Status, missing: bool) -> Status {
    match status {
        Status::RejectedByAuthEvents if missing => Status::RejectedOutlier,
        Status::RejectedByState | Status::SoftFailed if missing => Status::Outlier,
        status => status,
    }
}

/// What a room is by the model: all states derived from the graph.
struct Model<'a, 't> {
    liar: &'a Liar<'t>,
    placed: HashMap<Index, Placed>,
    after: HashMap<Index, Arc<State>>,
}

impl<'a, 't> Model<'a, 't> {
    fn of(liar: &'a Liar<'t>) -> Self {
        let mut model = Self {
            liar,
            placed: liar.placed.clone(),
            after: HashMap::new(),
        };
        while model.settle_one() {}
        let mut indices: Vec<Index> = model.placed.keys().copied().collect();
        indices.sort_unstable();
        for index in indices {
            model.derive(index);
        }
        model
    }

    /// Drops a claim of which everything since the events before the gap is known.
    fn settle_one(&mut self) -> bool {
        let settled = self.placed.iter().find_map(|(index, placed)| {
            let (_, upto) = placed.claim.as_ref()?;
            self.is_settled(*index, *upto).then_some(*index)
        });
        if let Some(placed) = settled.and_then(|index| self.placed.get_mut(&index)) {
            placed.claim = None;
        }
        settled.is_some()
    }

    fn is_settled(&self, index: Index, upto: Option<Index>) -> bool {
        let at = |index: Index| self.liar.timeline.iter().position(|other| *other == index);
        let upto = upto.and_then(at);
        let (mut open, missing) = self.liar.prev(index);
        if missing {
            return false;
        }
        while let Some(index) = open.pop() {
            if self.placed[&index].claim.is_some() {
                return false;
            }
            if at(index).is_some_and(|at| upto.is_some_and(|upto| at <= upto)) {
                continue;
            }
            let (prev, missing) = self.liar.prev(index);
            if missing {
                return false;
            }
            open.extend(prev);
        }
        true
    }

    fn derive(&mut self, index: Index) {
        let liar = self.liar;
        let placed = self.placed[&index].clone();
        let event = &liar.history.events[index];
        let (known, _) = liar.prev(index);
        let before = if index < liar.truth {
            event.state_before.clone()
        } else {
            self.state_before(&known, placed.claim.map(|(state, _)| state))
        };
        let mut status = placed.status;
        if liar.timeline.contains(&index) {
            status = match liar.is_allowed(index, &before) {
                true => Status::Accepted,
                false => Status::RejectedByState,
            };
        }
        self.placed.get_mut(&index).expect("it is there").status = status;
        let mut after = before;
        if matches!(status, Status::Accepted | Status::SoftFailed)
            && let Some((kind, key)) = event.pdu.state_pair()
        {
            Arc::make_mut(&mut after).insert((kind, key.to_owned()), index);
        }
        self.after.insert(index, after);
    }

    fn state_before(&self, known: &[Index], claimed: Option<Arc<State>>) -> Arc<State> {
        let states = known.iter().map(|index| self.after[index].clone());
        self.resolve(states.chain(claimed).collect())
    }

    fn resolve(&self, states: Vec<Arc<State>>) -> Arc<State> {
        match states.split_first() {
            None => Arc::default(),
            Some((first, others)) if others.iter().all(|other| other == first) => first.clone(),
            _ => {
                let states: Vec<&State> = states.iter().map(|state| &**state).collect();
                Arc::new(self.liar.history.resolve_fully(&states))
            }
        }
    }

    /// All events that come before `ends`.
    fn behind(&self, ends: &[Index]) -> HashSet<Index> {
        let mut behind = HashSet::new();
        let mut open = ends.to_vec();
        while let Some(index) = open.pop() {
            let (prev, _) = self.liar.prev(index);
            open.extend(prev.into_iter().filter(|prev| behind.insert(*prev)));
        }
        behind
    }
}

fn lies(version: &RoomVersionId, seeds: std::ops::Range<u64>) {
    with_store(async |store| {
        let mut counts = BTreeMap::new();
        for seed in seeds {
            let of = version.clone();
            let (sender, receiver) = smol::channel::bounded(1);
            let job = move |tx: &Tx| {
                let mut liar = Liar::new(tx, &of, seed)?;
                for step in 0..STEPS {
                    log::trace!("version {of}, seed {seed}, step {step}");
                    liar.step()?;
                }
                let _ = sender.try_send(liar.counts);
                // Nothing is kept for the next liar.
                Err::<(), _>(Error::Stale)
            };
            match store.write(job).await {
                Err(Error::Stale) => {}
                other => panic!("version {version}, seed {seed}: {other:?}"),
            }
            for (status, count) in receiver.try_recv().expect("the steps were taken") {
                *counts.entry(status).or_insert(0) += count;
            }
        }
        for status in [
            "Accepted",
            "Outlier",
            "RejectedOutlier",
            "RejectedByAuthEvents",
            "SoftFailed",
            "back-filled Accepted",
            "back-filled RejectedByAuthEvents",
        ] {
            assert!(counts.contains_key(status), "no {status} in {counts:?}");
        }
    });
}

/// How many liars of each room version there are. `HEARTH_LIARS` asks for more.
fn liars(first: u64) -> std::ops::Range<u64> {
    let count = std::env::var("HEARTH_LIARS").ok();
    let count = count.and_then(|count| count.parse().ok()).unwrap_or(250);
    first..first + count
}

#[test]
fn whatever_a_server_claims_in_version_6_a_room_is_what_resolution_gives() {
    lies(&RoomVersionId::V6, liars(0));
}

#[test]
fn whatever_a_server_claims_in_version_10_a_room_is_what_resolution_gives() {
    lies(&RoomVersionId::V10, liars(1_000_000));
}

#[test]
fn whatever_a_server_claims_in_version_11_a_room_is_what_resolution_gives() {
    lies(&RoomVersionId::V11, liars(2_000_000));
}

#[test]
fn whatever_a_server_claims_in_version_12_a_room_is_what_resolution_gives() {
    lies(&RoomVersionId::V12, liars(3_000_000));
}
