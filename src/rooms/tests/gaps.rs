//! Events whose history is missing, and the history that comes later.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use ruma::{OwnedEventId, RoomVersionId};
use serde_json::json;

use super::{local, with_store};
use crate::{
    protocol::{
        Pdu,
        history::{Action, History, State},
        receive::Received,
        versions,
    },
    rooms::{
        Error, Local,
        event::{self, backfill, insert::Notify, outlier, receive},
        room::{self, heads},
        state::{self, overlay::StateOverlay},
        timeline,
    },
    store::{EventNum, NodeNum, Place, RoomNum, Store, Tx, records::Status},
};

const ALICE: &str = "@alice:a.example";

/// A state by names and event ids.
type Named = BTreeMap<(String, String), String>;

/// A room of a history on a server that gets it piece by piece.
struct Copy<'a> {
    store: &'a Store,
    local: Local,
    room: RoomNum,
    history: &'a History,
}

impl<'a> Copy<'a> {
    async fn new(store: &'a Store, history: &'a History, version: &RoomVersionId) -> Self {
        let (id, version) = (history.create_event().room_id().to_owned(), version.clone());
        let room = store.write(move |tx: &Tx| room::create(tx, &id, &version));
        Self {
            store,
            local: local(),
            room: room.await.expect("the room is made"),
            history,
        }
    }

    fn received(&self, index: usize) -> Received {
        let handed = &self.history.events[index];
        let id = handed.pdu.event_id().to_owned();
        let pdu = Pdu::parse(id, &handed.json, self.history.rules, false);
        Received {
            json: handed.json.clone(),
            pdu: pdu.expect("an event of the history"),
            redacted: false,
        }
    }

    /// Hands in an event with, if it is to count, the state before it.
    async fn hand_in(&self, index: usize, told: Option<&State>) -> Result<EventNum, Error> {
        let received = self.received(index);
        let room = self.room;
        let decision = self.store.read(|s| {
            let told = told.map(|state| receive::claimed_state(s, room, &self.ids(state)));
            let told = told.transpose()?;
            receive::decide(s, room, Arc::new(received.pdu), received.json, told)
        })?;
        let local = self.local.clone();
        let job = move |tx: &Tx| receive::commit(tx, &local, &decision, &Notify::default());
        self.store.write(job).await
    }

    fn ids(&self, state: &State) -> Vec<OwnedEventId> {
        let id = |index: &usize| self.history.events[*index].pdu.event_id().to_owned();
        state.values().map(id).collect()
    }

    /// Stores events, and what authorizes them, as outliers.
    async fn know_of(&self, indices: impl IntoIterator<Item = usize>) -> Vec<EventNum> {
        let events = self.with_authorities(indices).into_iter();
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

    /// In the order of the history, in which authorities come first.
    fn with_authorities(&self, indices: impl IntoIterator<Item = usize>) -> BTreeSet<usize> {
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

    fn num(&self, index: usize) -> EventNum {
        let id = self.history.events[index].pdu.event_id();
        let num = self.store.read(|s| event::num_of(s, id)).expect("a read");
        num.expect("it is here")
    }

    fn gaps(&self) -> Vec<Place> {
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

    /// Fetches what is before the first gap: the events of `indices`.
    async fn fill(&self, indices: impl IntoIterator<Item = usize>) {
        let indices: Vec<usize> = indices.into_iter().collect();
        self.know_of(indices.clone()).await;
        let nums: Vec<EventNum> = indices.iter().map(|index| self.num(*index)).collect();
        let (room, gap) = (self.room, self.gaps()[0]);
        let stretch = self
            .store
            .read(|s| {
                let mut told = HashMap::new();
                for index in &indices {
                    let state = &self.history.events[*index].state_before;
                    if let Ok(view) = receive::claimed_state(s, room, &self.ids(state)) {
                        told.insert(self.num(*index), view);
                    }
                }
                backfill::decide(s, room, gap, &nums, &told)
            })
            .expect("the events are judged");
        let local = self.local.clone();
        let job = move |tx: &Tx| backfill::commit(tx, &local, &stretch);
        self.store.write(job).await.expect("they are stored");
    }

    /// The stored state `root`, by event ids.
    fn named(&self, root: NodeNum) -> Named {
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

    fn expected(&self, state: &State) -> Named {
        let name = |index: &usize| self.history.events[*index].pdu.event_id().to_string();
        let named = state
            .iter()
            .map(|((kind, key), index)| ((kind.to_string(), key.clone()), name(index)));
        named.collect()
    }

    fn check_state_before(&self, index: usize) {
        let root = self.store.read(|s| event::header(s, self.num(index)));
        let root = root.expect("an event").state_before;
        let expected = self.expected(&self.history.events[index].state_before);
        assert_eq!(self.named(root), expected, "event {index}");
    }

    /// Checks that the current state is that of what the room ends with here, and that it ends with
    /// what nothing follows on, not even behind what came too late to be allowed.
    fn check_current(&self) {
        let heads = self.store.read(|s| heads(s, self.room)).expect("a room");
        let is_in = |index: &usize| self.status(*index) == Status::Accepted;
        let all = 0..self.history.events.len();
        let mut ended = BTreeSet::new();
        let mut open: Vec<usize> = all.clone().filter(is_in).collect();
        while let Some(index) = open.pop() {
            for before in &self.history.events[index].prev {
                if ended.insert(*before) && !is_in(before) {
                    open.push(*before);
                }
            }
        }
        let is_end = |index: &usize| is_in(index) && !ended.contains(index);
        let ends: Vec<usize> = all.filter(is_end).collect();
        let nums: BTreeSet<EventNum> = ends.iter().map(|index| self.num(*index)).collect();
        assert_eq!(
            heads.extremities.iter().copied().collect::<BTreeSet<_>>(),
            nums
        );
        let expected = self.expected(&self.history.state_after_all(&ends));
        assert_eq!(self.named(heads.state), expected);
    }

    fn status(&self, index: usize) -> Status {
        let header = self.store.read(|s| event::header(s, self.num(index)));
        header.expect("an event").status
    }
}

#[test]
fn after_a_gap_is_filled_the_state_at_every_event_is_what_whole_resolution_gives() {
    for version in versions::SUPPORTED {
        for seed in 10..12 {
            let history = History::random(&version, seed, 60);
            with_store(async |store| {
                let copy = Copy::new(store, &history, &version).await;
                let (start, end) = (12, 35);
                for index in 0..start {
                    copy.hand_in(index, None).await.expect("it is taken");
                }
                for index in end..history.events.len() {
                    let told = &history.events[index].state_before;
                    copy.know_of(told.values().copied().chain([index])).await;
                    copy.hand_in(index, Some(told)).await.expect("it is taken");
                }
                while !copy.gaps().is_empty() {
                    copy.fill(start..end).await;
                }
                // What led to no gap comes by itself.
                for index in start..end {
                    if copy.status(index).is_outlier() {
                        copy.hand_in(index, None).await.expect("it is taken");
                    }
                }
                for index in 0..end {
                    copy.check_state_before(index);
                }
                copy.check_current();
            });
        }
    }
}

#[test]
fn before_an_event_whose_predecessors_are_not_here_is_a_gap() {
    let version = RoomVersionId::V12;
    let mut history = History::public(&version, ALICE);
    let message = |body: &str| Action::message(ALICE, "m.room.message", json!({ "body": body }));
    let known = history.events.len();
    let missing: Vec<usize> = (0..5)
        .map(|n| history.then(message(&format!("{n}"))))
        .collect();
    let late = history.then(message("late"));
    with_store(async |store| {
        let copy = Copy::new(store, &history, &version).await;
        for index in 0..known {
            copy.hand_in(index, None).await.expect("it is taken");
        }
        let refused = copy.hand_in(late, None).await;
        assert!(matches!(refused, Err(Error::Missing)), "{refused:?}");
        let told = history.events[late].state_before.clone();
        copy.hand_in(late, Some(&told)).await.expect("it is taken");
        let [gap] = copy.gaps()[..] else {
            panic!("one gap");
        };
        copy.fill(missing[3..].iter().copied()).await;
        let [earlier] = copy.gaps()[..] else {
            panic!("it has moved");
        };
        assert_eq!(earlier, Place(gap.0 - 2));
        copy.fill(missing[..3].iter().copied()).await;
        assert!(copy.gaps().is_empty());
        let all = store.read(|s| timeline::forwards(s, copy.room, Place::MIN, usize::MAX));
        let all: Vec<_> = all
            .expect("a timeline")
            .into_iter()
            .map(|(_, row)| row.event)
            .collect();
        let expected: Vec<_> = (0..=late).map(|index| copy.num(index)).collect();
        assert_eq!(all, expected);
        let extremities = store
            .read(|s| heads(s, copy.room))
            .expect("a room")
            .extremities;
        assert!(extremities.contains(&copy.num(late)));
    });
}

#[test]
fn an_outlier_without_its_authorities_is_refused() {
    let version = RoomVersionId::V12;
    let history = History::public(&version, ALICE);
    with_store(async |store| {
        let copy = Copy::new(store, &history, &version).await;
        // The creator's join is authorized by the create event, which is not named.
        for index in [1, history.events.len() - 1] {
            let received = copy.received(index);
            let (room, rules) = (copy.room, history.rules);
            let job = move |tx: &Tx| outlier::store(tx, room, rules, &received);
            assert!(matches!(store.write(job).await, Err(Error::Missing)));
        }
    });
}

#[test]
fn a_told_state_with_what_is_no_state_is_refused() {
    let version = RoomVersionId::V12;
    let mut history = History::public(&version, ALICE);
    let message = history.then(Action::message(
        ALICE,
        "m.room.message",
        json!({ "body": "x" }),
    ));
    with_store(async |store| {
        let copy = Copy::new(store, &history, &version).await;
        copy.know_of([message]).await;
        let told = |ids: &[usize]| {
            let id = |index: &usize| history.events[*index].pdu.event_id().to_owned();
            let ids: Vec<_> = ids.iter().map(id).collect();
            store.read(|s| receive::claimed_state(s, copy.room, &ids).map(|_: StateOverlay| ()))
        };
        assert!(matches!(told(&[message]), Err(Error::Invalid(_))));
        assert!(matches!(told(&[1, 1]), Err(Error::Invalid(_))));
        assert!(told(&[1]).is_ok());
    });
}
