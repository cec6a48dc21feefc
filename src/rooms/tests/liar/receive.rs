//! Handing events in, as this server receives, imports and back-fills them.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use rand::{RngExt, seq::IndexedRandom};
use ruma::{EventId, OwnedEventId};

use super::{Claim, Liar, Opened, Placed, model::Model};
use crate::{
    protocol::{
        Pdu,
        authorize::{check_by_auth_events, check_by_state},
        history::{History, Index, State},
        receive::Received,
    },
    rooms::{
        Error,
        event::{self, backfill, import, insert::Notify, outlier, receive},
        state::{self, current},
        timeline,
    },
    store::{EventNum, Place, Position, Reader, Rows, records::Status},
};

impl Liar<'_> {
    pub(super) fn id(&self, index: Index) -> OwnedEventId {
        self.history.events[index].pdu.event_id().to_owned()
    }

    pub(super) fn parsed(&self, index: Index) -> Pdu {
        let event = &self.history.events[index];
        let parsed = Pdu::parse(self.id(index), &event.json, self.history.rules, false);
        parsed.expect("an event of the history")
    }

    /// Marks what is rejected here in the history, for the model's resolution.
    pub(super) fn mark_rejected(&mut self) -> Result<(), Error> {
        for index in 0..self.history.events.len() {
            if let Some(num) = event::num_of(self.tx, &self.id(index))? {
                let is_rejected = event::header(self.tx, num)?.status.is_rejected();
                self.history.events[index].pdu = self.marked(index, is_rejected);
            }
        }
        Ok(())
    }

    fn marked(&self, index: Index, is_rejected: bool) -> Arc<Pdu> {
        let mut pdu = self.parsed(index);
        if is_rejected {
            pdu.reject();
        }
        Arc::new(pdu)
    }

    /// The history in which no event is rejected because of the state before it.
    pub(super) fn regardless_of_states(&self) -> History {
        let status = |num| event::header(self.tx, num).expect("a read").status;
        let is_rejected = |index: &Index| {
            self.num(*index)
                .is_ok_and(|num| status(num) == Status::RejectedByState)
        };
        let rejected = (0..self.history.events.len()).filter(is_rejected);
        self.history
            .with_pdus(rejected.map(|index| (index, self.marked(index, false))))
    }

    pub(super) fn is_rejected(&self, index: Index) -> Result<bool, Error> {
        let num = event::num_of(self.tx, &self.id(index))?.expect("it is here");
        Ok(event::header(self.tx, num)?.status.is_rejected())
    }

    pub(super) fn received(&self, index: Index) -> Received {
        Received {
            json: self.history.events[index].json.clone(),
            pdu: self.parsed(index),
            redacted: false,
        }
    }

    /// Stores events and their auth chains as outliers.
    pub(super) fn store_outliers(&self, of: impl IntoIterator<Item = Index>) -> Result<(), Error> {
        let mut chain: Vec<Index> = self.history.auth_chain(of).into_iter().collect();
        chain.sort_unstable();
        for of in chain {
            let received = self.received(of);
            outlier::store(self.tx, self.room, self.history.rules, &received)?;
        }
        Ok(())
    }

    /// This server joins the room.
    pub(super) fn import(&mut self, join: Index) -> Result<(), Error> {
        let state = self.history.events[join].state_before.clone();
        let event = self.received(join);
        let id = self.history.create_event().room_id();
        import::begin(self.tx, id, &self.history.version)?;
        self.store_outliers(state.values().copied())?;
        let given: Result<Vec<_>, _> = state.values().map(|index| self.num(*index)).collect();
        let diff = import::StateDiff::new(self.tx, self.room, &given?, &event.pdu)?;
        for batch in diff.batches() {
            import::apply_batch(self.tx, &self.local, self.room, &batch)?;
        }
        import::commit_join(self.tx, &self.local, self.room, &event)?;
        let placed = Placed {
            status: Status::Accepted,
            current: Arc::default(),
            claim: None,
            ends: Vec::new(),
            fixed: Some(state),
        };
        self.placed.insert(join, placed);
        self.timeline.push(join);
        self.opened.insert(self.place_of(join)?, None);
        self.received = join + 1;
        Ok(())
    }

    fn place_of(&self, index: Index) -> Result<Place, Error> {
        let place = event::header(self.tx, self.num(index)?)?.place;
        Ok(place.expect("an accepted event has a place"))
    }

    pub(super) fn count(&mut self, what: impl Into<String>) {
        *self.counts.entry(what.into()).or_default() += 1;
    }

    /// Hands in an event, as it is received from another server.
    pub(super) fn send(&mut self, index: Index) -> Result<(), Error> {
        if self.placed.contains_key(&index) {
            return Ok(());
        }
        let auth = self.history.events[index].auth.clone();
        self.store_outliers(auth.into_iter().chain([0]))?;
        let id = self.id(index);
        if let Some(gap) = timeline::gap_of(self.tx, self.room, &id)? {
            return self.fill(gap, vec![index]);
        }
        let (known, missing) = self.prev(index);
        let (ids, claim) = match missing {
            true => self.claim().map(|(ids, state)| (Some(ids), Some(state)))?,
            false => (None, None),
        };
        let overlay = ids.map(|ids| receive::claimed_state(self.tx, self.room, &ids));
        let received = self.received(index);
        let pdu = Arc::new(received.pdu);
        let decided =
            receive::decide(self.tx, self.room, pdu, received.json, overlay.transpose()?)?;
        let (before, ends) = (self.current()?, self.ends()?);
        let claim = claim.map(|state| Claim {
            state: self.undecided(&before, &state, Position::MAX),
            known_upto: self.timeline.last().copied(),
        });
        let is_history = self.is_history(index, &known);
        // The state before it with the claim has what came before the gap.
        let received_in = match &claim {
            Some(_) => &[],
            None => std::slice::from_ref(&before),
        };
        let model = Model::of(self);
        let mut expected = model.status(index, &known, claim.as_ref(), &before, received_in);
        let rests_on_claim = missing || model.depend_on_claim(&known);
        if is_history && expected == Status::Accepted {
            self.count("history");
            expected = Status::SoftFailed;
        }
        expected = match expected {
            Status::RejectedByAuthEvents if missing || is_history => Status::RejectedOutlier,
            Status::RejectedByState | Status::SoftFailed if rests_on_claim || is_history => {
                Status::Outlier
            }
            status => status,
        };
        assert_eq!(decided.status(), expected, "event {index}");
        receive::commit(self.tx, &self.local, &decided, &Notify::default())?;
        self.count(format!("{expected:?}"));
        if expected.is_outlier() {
            return Ok(());
        }
        let claim = claim.filter(|_| expected == Status::Accepted);
        let placed = Placed {
            status: expected,
            current: before.clone(),
            claim,
            ends,
            fixed: None,
        };
        self.placed.insert(index, placed);
        if expected == Status::Accepted {
            self.timeline.push(index);
            if missing {
                let after = self.current()?;
                let opened = Some((before, after));
                self.opened.insert(self.place_of(index)?, opened);
            }
        }
        Ok(())
    }

    /// Whether an event is the create event, or follows on nothing but what came before the join.
    fn is_history(&self, index: Index, known: &[Index]) -> bool {
        let (_, missing) = self.prev(index);
        let is_old = |index: &Index| self.before_join.contains(index);
        let has_none = known.is_empty() && (missing || self.timeline.is_empty());
        known.iter().all(is_old) && !has_none
    }

    pub(super) fn num(&self, index: Index) -> Result<EventNum, Error> {
        event::num_of(self.tx, &self.id(index))?.ok_or(Error::Missing)
    }

    /// The prev_events whose place is known, and whether there are others.
    pub(super) fn prev(&self, index: Index) -> (Vec<Index>, bool) {
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

    pub(super) fn is_allowed_by_auth_events(&self, index: Index) -> bool {
        let fetch = |id: &EventId| Ok::<_, ()>(self.pdu(id));
        check_by_auth_events(&self.parsed(index), self.history.rules, fetch).is_ok()
    }

    /// An event by its id, marked if it is rejected here.
    pub(super) fn pdu(&self, id: &EventId) -> Option<Arc<Pdu>> {
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

    pub(super) fn is_allowed(&self, index: Index, state: &State) -> bool {
        let pdu = self.parsed(index);
        let checked = check_by_state(&pdu, self.history.rules, |kind, key| {
            let event = state.get(&(kind.clone(), key.to_owned()));
            Ok::<_, ()>(event.map(|event| Arc::new(self.parsed(*event))))
        });
        checked.is_ok()
    }

    /// Fills any gap with what the liar likes of what comes before it.
    pub(super) fn fill_gap(&mut self) -> Result<(), Error> {
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
        let row = timeline::gap(self.tx, self.room, gap)?.expect("a gap");
        let opened: Opened = self.opened[&gap].clone();
        let current = opened.as_ref().map(|(before, _)| before.clone());
        let current = current.unwrap_or_default();
        let known_upto = match &row.opened {
            Some(opened) => self.last_upto(opened.known_upto)?,
            None => None,
        };
        for index in &chunk {
            self.store_outliers([0, *index])?;
            let num = self.num(*index)?;
            let (ids, state) = self.claim()?;
            overlays.insert(num, receive::claimed_state(self.tx, self.room, &ids)?);
            let state = match (&opened, &row.opened) {
                (Some((known, _)), Some(at)) => self.undecided(known, &state, at.position),
                _ => state,
            };
            let claim = Claim { state, known_upto };
            claims.insert(*index, claim);
        }
        let mut leading = self.leading_to(row.missing)?;
        let decided = backfill::decide(self.tx, self.room, gap, &overlays)?;
        let after_gap = self.at(gap)?;
        let mut added = Vec::new();
        let mut waiting = VecDeque::new();
        let mut count = leading.len();
        while let Some(index) = leading.pop_front().or_else(|| {
            leading = std::mem::take(&mut waiting);
            let is_done = leading.len() == std::mem::replace(&mut count, leading.len());
            leading.pop_front().filter(|_| !is_done)
        }) {
            let (known, missing) = self.prev(index);
            let is_history = opened.is_some()
                && !known.is_empty()
                && known.iter().all(|index| self.before_join.contains(index));
            let nothing = Claim {
                state: Arc::default(),
                known_upto,
            };
            let claim = claims.get(&index).filter(|_| missing);
            let claim = claim.or_else(|| Some(&nothing).filter(|_| is_history && !missing));
            if missing && claim.is_none() || index == 0 && opened.is_some() {
                waiting.push_back(index);
                continue;
            }
            let received_in = opened.iter();
            let received_in = received_in.flat_map(|(before, with)| [before.clone(), with.clone()]);
            let received_in: Vec<_> = received_in.collect();
            let mut model = Model::of(self);
            model.is_before_join = opened.is_none();
            model.upto = row.opened.as_ref().map_or(Position::MAX, |at| at.position);
            let status = model.status(index, &known, claim, &current, &received_in);
            let rests_on_claim = missing
                || is_history
                || opened.is_none() && status == Status::RejectedByState
                || opened.is_some()
                    && status != Status::RejectedByAuthEvents
                    && model.depend_on_claim(&known);
            if rests_on_claim && status != Status::Accepted {
                waiting.push_back(index);
                continue;
            }
            let mut placed = Placed {
                status,
                current: current.clone(),
                claim: claim.cloned(),
                ends: self.placed[&after_gap].ends.clone(),
                fixed: None,
            };
            if opened.is_none() {
                placed.fixed = Some(model.state_before(&known, claim, &current));
                placed.claim = None;
                self.before_join.insert(index);
                self.count("back-filled before the join");
            }
            self.count(format!("back-filled {status:?}"));
            self.placed.insert(index, placed);
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
            self.opened.entry(place).or_insert(opened.clone());
        }
        Ok(())
    }

    /// The outliers that are `missing` or come before one that is, each after those before it, in the
    /// order in which the room decides them.
    fn leading_to(&self, missing: Vec<String>) -> Result<VecDeque<Index>, Error> {
        let ids = missing
            .iter()
            .map(|id| EventId::parse(id).expect("an event id"));
        let mut open: Vec<(OwnedEventId, bool)> = ids.map(|id| (id, false)).collect();
        let (mut seen, mut leading) = (HashSet::new(), VecDeque::new());
        while let Some((id, is_entered)) = open.pop() {
            let Some(index) = self.history.index(&id) else {
                continue;
            };
            if is_entered {
                leading.push_back(index);
            } else if event::num_of(self.tx, &id)?.is_some()
                && !self.placed.contains_key(&index)
                && seen.insert(index)
            {
                open.push((id, true));
                let prev = self.history.events[index].pdu.prev_events();
                open.extend(prev.iter().map(|id| (id.clone(), false)));
            }
        }
        Ok(leading)
    }

    pub(super) fn at(&self, place: Place) -> Result<Index, Error> {
        let (_, row) = timeline::forwards(self.tx, self.room, place, 1)?
            .pop()
            .expect("an event");
        let id = event::id(self.tx, row.event)?;
        Ok(self.history.index(&id).expect("an event of the history"))
    }

    pub(super) fn last_upto(&self, place: Place) -> Result<Option<Index>, Error> {
        let row = timeline::backwards(self.tx, self.room, place, 1)?.pop();
        let id = row
            .map(|(_, row)| event::id(self.tx, row.event))
            .transpose()?;
        Ok(id.and_then(|id| self.history.index(&id)))
    }

    /// The current state, by indices.
    pub(super) fn current(&self) -> Result<Arc<State>, Error> {
        let mut found = State::new();
        for (key, num) in current::all(self.tx, self.room)? {
            let (kind, key) = state::key_name(self.tx, self.room, key)?;
            let index = self.history.index(&event::id(self.tx, num)?);
            found.insert((kind.into(), key), index.expect("an event of the history"));
        }
        Ok(Arc::new(found))
    }
}
