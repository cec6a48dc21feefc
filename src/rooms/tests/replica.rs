//! A server that receives the room of a history event by event, for tests.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use ruma::{OwnedEventId, RoomVersionId};

use super::local;
use crate::{
    protocol::{
        Pdu,
        history::{History, State},
        receive::Received,
    },
    rooms::{
        Error, Local,
        event::{self, backfill, import, insert::Notify, outlier, receive},
        room::{self, heads},
        state, timeline,
    },
    store::{EventNum, NodeNum, Place, RoomNum, Store, Tx, records::Status},
};

/// A state by (type, state key) and event id.
pub(super) type Named = BTreeMap<(String, String), String>;

/// A server that receives the room of a history.
pub(super) struct Replica<'a> {
    pub(super) store: &'a Store,
    pub(super) local: Local,
    pub(super) room: RoomNum,
    pub(super) history: &'a History,
}

impl<'a> Replica<'a> {
    pub(super) async fn new(
        store: &'a Store,
        history: &'a History,
        version: &RoomVersionId,
    ) -> Self {
        let (id, version) = (history.create_event().room_id().to_owned(), version.clone());
        let room = store.write(move |tx: &Tx| room::create(tx, &id, &version));
        Self {
            store,
            local: local(),
            room: room.await.expect("the room is made"),
            history,
        }
    }

    /// A server that joins the room with the event `join`.
    pub(super) async fn joined(store: &'a Store, history: &'a History, join: usize) -> Self {
        let replica = Self::new(store, history, &history.version).await;
        let state = history.events[join].state_before.clone();
        let joined = replica.join(join, &state).await;
        joined.expect("the room is joined");
        replica
    }

    /// Joins with the event `join` and the state before it as another server gives it.
    pub(super) async fn join(&self, join: usize, given: &State) -> Result<(), Error> {
        self.store_outliers(given.values().copied()).await;
        let given: Vec<EventNum> = given.values().map(|index| self.num(*index)).collect();
        let (room, local, event) = (self.room, self.local.clone(), self.received(join));
        let (id, version) = (event.pdu.room_id().to_owned(), self.history.version.clone());
        let job = move |tx: &Tx| {
            import::begin(tx, &id, &version)?;
            let diff = import::StateDiff::new(tx, room, &given, &event.pdu)?;
            for batch in diff.batches() {
                import::apply_batch(tx, &local, room, &batch)?;
            }
            import::commit_join(tx, &local, room, &event)
        };
        self.store.write(job).await
    }

    pub(super) fn received(&self, index: usize) -> Received {
        let handed = &self.history.events[index];
        let id = handed.pdu.event_id().to_owned();
        let pdu = Pdu::parse(id, &handed.json, self.history.rules, false);
        Received {
            json: handed.json.clone(),
            pdu: pdu.expect("an event of the history"),
            redacted: false,
        }
    }

    /// Receives an event, with the state before it that its server claims.
    pub(super) async fn receive(
        &self,
        index: usize,
        claimed: Option<&State>,
    ) -> Result<EventNum, Error> {
        self.receive_notifying(index, claimed, Notify::default())
            .await
    }

    /// [`receive`](Self::receive) an event that notifies.
    pub(super) async fn receive_notifying(
        &self,
        index: usize,
        claimed: Option<&State>,
        notify: Notify,
    ) -> Result<EventNum, Error> {
        let received = self.received(index);
        let room = self.room;
        let decision = self.store.read(|s| {
            let claimed = claimed.map(|state| receive::claimed_state(s, room, &self.ids(state)));
            let claimed = claimed.transpose()?;
            receive::decide(s, room, Arc::new(received.pdu), received.json, claimed)
        })?;
        let local = self.local.clone();
        let job = move |tx: &Tx| receive::commit(tx, &local, &decision, &notify);
        self.store.write(job).await
    }

    pub(super) fn ids(&self, state: &State) -> Vec<OwnedEventId> {
        let id = |index: &usize| self.history.events[*index].pdu.event_id().to_owned();
        state.values().map(id).collect()
    }

    /// Stores events and their auth chains as outliers.
    pub(super) async fn store_outliers(
        &self,
        indices: impl IntoIterator<Item = usize>,
    ) -> Vec<EventNum> {
        let events = self.with_auth_chains(indices).into_iter();
        let events: Vec<Received> = events.map(|index| self.received(index)).collect();
        let (room, rules) = (self.room, self.history.rules);
        let job = move |tx: &Tx| {
            let each = events.iter();
            each.map(|event| outlier::store(tx, room, rules, event))
                .collect::<Result<Vec<_>, _>>()
        };
        let nums = self.store.write(job).await;
        nums.expect("the outliers are stored")
    }

    /// In topological order.
    pub(super) fn with_auth_chains(
        &self,
        indices: impl IntoIterator<Item = usize>,
    ) -> BTreeSet<usize> {
        let events = self.history.events.iter().enumerate();
        let by_id: HashMap<_, _> = events
            .map(|(index, event)| (event.pdu.event_id(), index))
            .collect();
        let mut open: Vec<usize> = indices.into_iter().chain([0]).collect();
        let mut all = BTreeSet::new();
        while let Some(index) = open.pop() {
            if all.insert(index) {
                let auth = self.history.events[index].pdu.auth_events();
                open.extend(auth.iter().map(|id| by_id[&**id]));
            }
        }
        all
    }

    pub(super) fn num(&self, index: usize) -> EventNum {
        let id = self.history.events[index].pdu.event_id();
        let num = self.store.read(|s| event::num_of(s, id)).expect("a read");
        num.expect("it is here")
    }

    pub(super) fn gaps(&self) -> Vec<Place> {
        let rows = self
            .store
            .read(|s| timeline::forwards(s, self.room, Place::MIN, usize::MAX))
            .expect("a timeline");
        let places = rows.into_iter().map(|(place, _)| place);
        let is_gap = |place: &Place| {
            let gap = self.store.read(|s| timeline::gap(s, self.room, *place));
            gap.expect("a read").is_some()
        };
        places.filter(is_gap).collect()
    }

    /// Backfills the first gap with the events `indices`.
    pub(super) async fn fill(&self, indices: impl IntoIterator<Item = usize>) {
        let indices: Vec<usize> = indices.into_iter().collect();
        self.store_outliers(indices.clone()).await;
        let (room, gap) = (self.room, self.gaps()[0]);
        let chunk = self
            .store
            .read(|s| {
                let mut claimed = HashMap::new();
                for index in &indices {
                    let state = &self.history.events[*index].state_before;
                    if let Ok(view) = receive::claimed_state(s, room, &self.ids(state)) {
                        claimed.insert(self.num(*index), view);
                    }
                }
                backfill::decide(s, room, gap, &claimed)
            })
            .expect("a decision");
        let local = self.local.clone();
        let job = move |tx: &Tx| backfill::commit(tx, &local, &chunk);
        self.store.write(job).await.expect("they are stored");
    }

    /// The stored state `root`, by event ids.
    pub(super) fn named(&self, root: NodeNum) -> Named {
        let named: Result<Named, Error> = self.store.read(|s| {
            let name = |(key, num)| {
                Ok::<_, Error>((
                    state::key_name(s, self.room, key)?,
                    event::header(s, num)?.id,
                ))
            };
            let entries = state::entries(s, self.room, root)?.into_iter();
            entries.map(name).collect()
        });
        named.expect("a state")
    }

    pub(super) fn expected(&self, state: &State) -> Named {
        let name = |index: &usize| self.history.events[*index].pdu.event_id().to_string();
        let named = state
            .iter()
            .map(|((kind, key), index)| ((kind.to_string(), key.clone()), name(index)));
        named.collect()
    }

    pub(super) fn state_before(&self, index: usize) -> Named {
        let root = self.store.read(|s| event::header(s, self.num(index)));
        self.named(root.expect("an event").state_before)
    }

    pub(super) fn check_state_before(&self, index: usize) {
        let expected = self.expected(&self.history.events[index].state_before);
        assert_eq!(self.state_before(index), expected, "event {index}");
    }

    /// Checks the extremities (no accepted event follows on them, not even behind rejected or
    /// soft-failed events) and that the current state is resolved from them.
    pub(super) fn check_current(&self) {
        let heads = self.store.read(|s| heads(s, self.room)).expect("a room");
        let is_in = |index: &usize| self.status(*index) == Status::Accepted;
        let all = 0..self.history.events.len();
        let mut superseded = BTreeSet::new();
        let mut open: Vec<usize> = all.clone().filter(is_in).collect();
        while let Some(index) = open.pop() {
            for before in &self.history.events[index].prev {
                if superseded.insert(*before) && !is_in(before) {
                    open.push(*before);
                }
            }
        }
        let is_end = |index: &usize| is_in(index) && !superseded.contains(index);
        let ends: Vec<usize> = all.filter(is_end).collect();
        let nums: BTreeSet<EventNum> = ends.iter().map(|index| self.num(*index)).collect();
        assert_eq!(
            heads.extremities.iter().copied().collect::<BTreeSet<_>>(),
            nums
        );
        let expected = self.expected(&self.history.state_after_all(&ends));
        assert_eq!(self.named(heads.state), expected);
    }

    pub(super) fn status(&self, index: usize) -> Status {
        let header = self.store.read(|s| event::header(s, self.num(index)));
        header.expect("an event").status
    }

    /// The current state, by event ids.
    pub(super) fn current(&self) -> Named {
        let heads = self.store.read(|s| heads(s, self.room)).expect("a room");
        self.named(heads.state)
    }
}
