//! A server that lies about history and state, against a room that is here.
//!
//! Each liar makes events of its own users with prev_events of its choice, some of which do not
//! exist or are kept back ([`lie`]), and claims any selection of real and forged events to be the
//! state before them. It fills gaps with what it likes, and sends old events again. In between, the
//! true history of the room goes on. Half of the rooms are made before this server joins them.
//!
//! After every step the room is compared with a model ([`model`]), which derives every state from the
//! graph anew, and its changes are judged by what resolution of the true events gives ([`oracle`]).

mod lie;
mod model;
mod oracle;
mod receive;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use ruma::RoomVersionId;
use serde_json::json;

use super::{local, with_store};
use crate::{
    protocol::history::{Action, History, Index, State},
    rooms::{Error, Local, event, room},
    store::{Place, Position, RoomNum, Tx, records::Status},
};

const ALICE: &str = "@alice:a.example";
const BOB: &str = "@bob:b.example";
const BEN: &str = "@ben:b.example";
const DAVE: &str = "@dave:here";
const LIARS: [&str; 2] = ["@carol:c.example", "@carl:c.example"];
/// How many events of the true history are here at first, and how many come later.
const KNOWN: usize = 20;
const LATER: usize = 8;
const STEPS: usize = 18;

/// What the model knows of an event in the graph.
#[derive(Clone)]
struct Placed {
    status: Status,
    /// The current state before it, as if it had been received before its gap.
    current: Arc<State>,
    claim: Option<Claim>,
    /// The room's extremities before it, if the state before it rests on a claim.
    ends: Vec<Index>,
    /// The state before it, if that never changes: from before the join of this server.
    fixed: Option<Arc<State>>,
}

/// A claimed state.
#[derive(Clone)]
struct Claim {
    state: Arc<State>,
    /// The last event of the timeline before the claim.
    known_upto: Option<Index>,
}

/// What the model knows of a gap: the current states before and with the event after it; nothing of
/// the gap before the join.
type Opened = Option<(Arc<State>, Arc<State>)>;

struct Liar<'t> {
    tx: &'t Tx,
    local: Local,
    room: RoomNum,
    rng: StdRng,
    history: History,
    /// The first event of the history that is no part of the true one.
    truth: usize,
    /// How much of the true history is here, or was here before the join.
    received: usize,
    /// The join event of this server, if it was not in the room from the start.
    join: Option<Index>,
    /// What is here from before the join.
    before_join: HashSet<Index>,
    /// Liars' events that were not sent yet.
    hidden: Vec<Index>,
    placed: HashMap<Index, Placed>,
    /// Accepted events in the order of the timeline.
    timeline: Vec<Index>,
    opened: HashMap<Place, Opened>,
    /// When outliers were replaced in the current state.
    replaced: HashMap<Index, Position>,
    /// What became of the events.
    counts: BTreeMap<String, usize>,
}

/// A room with users of the liar's server and others, one of whom may moderate; and the index at which
/// a user of this server joins. There are old events of everything that a liar may want back.
fn room_of_all(version: &RoomVersionId, is_closed: bool) -> (History, Index) {
    let mut history = History::public(version, ALICE);
    let visibility = json!({ "history_visibility": "world_readable" });
    history.then(Action::state(
        ALICE,
        "m.room.history_visibility",
        "",
        visibility,
    ));
    history.then(Action::join(BOB));
    history.then(Action::member(BOB, BOB, "leave"));
    for user in [BOB, BEN, LIARS[0], LIARS[1]] {
        history.then(Action::join(user));
    }
    let levels = history.levels(&[(ALICE, 100), (BOB, 50)], json!({}));
    history.then(Action::state(ALICE, "m.room.power_levels", "", levels));
    history.then(Action::member(BOB, BEN, "ban"));
    let visibility = json!({ "history_visibility": "shared" });
    history.then(Action::state(
        ALICE,
        "m.room.history_visibility",
        "",
        visibility,
    ));
    let join = history.then(Action::join(DAVE));
    if is_closed {
        let rule = json!({ "join_rule": "invite" });
        history.then(Action::state(ALICE, "m.room.join_rules", "", rule));
    }
    (history, join)
}

impl<'t> Liar<'t> {
    fn new(tx: &'t Tx, version: &RoomVersionId, seed: u64) -> Result<Self, Error> {
        let (mut history, join) = room_of_all(version, seed % 4 < 2);
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
            join: (seed % 2 == 1).then_some(join),
            before_join: HashSet::new(),
            hidden: Vec::new(),
            placed: HashMap::new(),
            timeline: Vec::new(),
            opened: HashMap::new(),
            replaced: HashMap::new(),
            counts: BTreeMap::new(),
        };
        if let Some(join) = liar.join {
            liar.import(join)?;
        }
        while liar.received < KNOWN {
            liar.truth_goes_on()?;
        }
        Ok(liar)
    }

    /// All steps of one liar; what became of the events.
    fn run(
        tx: &'t Tx,
        version: &RoomVersionId,
        seed: u64,
    ) -> Result<BTreeMap<String, usize>, Error> {
        let mut liar = Self::new(tx, version, seed)?;
        for step in 0..STEPS {
            log::trace!("version {version}, seed {seed}, step {step}");
            liar.step()?;
        }
        Ok(liar.counts)
    }

    fn step(&mut self) -> Result<(), Error> {
        let before = self.current()?;
        match self.rng.random_range(0..11) {
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
            7 if self.join.is_some() => {
                let old = self.rng.random_range(0..self.received);
                self.send(old)?;
            }
            _ => self.fill_gap()?,
        }
        self.note_replaced(&before)?;
        self.check()?;
        self.judge(&before)
    }

    fn truth_goes_on(&mut self) -> Result<(), Error> {
        if self.received < self.truth {
            let before = self.current()?;
            self.received += 1;
            self.send(self.received - 1)?;
            self.note_replaced(&before)?;
        }
        Ok(())
    }

    /// Notes which outliers of the state `before` are not in the current one.
    fn note_replaced(&mut self, before: &State) -> Result<(), Error> {
        let now = self.current()?;
        let position = room::heads(self.tx, self.room)?.state_position;
        for (key, index) in before {
            if now.get(key) != Some(index) && !self.placed.contains_key(index) {
                self.replaced.insert(*index, position);
            }
        }
        Ok(())
    }

    /// Whether an event was received, or replaced in the current state, before `upto`.
    fn is_decided(&self, index: Index, upto: Position) -> bool {
        let position = match self.placed.contains_key(&index) {
            true => {
                let num = self.num(index).expect("it is here");
                let header = event::header(self.tx, num).expect("a read");
                Some(header.position)
            }
            false => self.replaced.get(&index).copied(),
        };
        position.is_some_and(|position| position < upto)
    }

    /// `claimed` with what is `known` in the place of what was decided before `upto`.
    fn undecided(&self, known: &State, claimed: &State, upto: Position) -> Arc<State> {
        let mut undecided = claimed.clone();
        for (key, index) in claimed {
            if known.get(key) != Some(index) && self.is_decided(*index, upto) {
                match known.get(key) {
                    Some(known) => undecided.insert(key.clone(), *known),
                    None => undecided.remove(key),
                };
            }
        }
        Arc::new(undecided)
    }
}

fn lies(version: &RoomVersionId, seeds: Range<u64>) {
    with_store(async |store| {
        let mut counts = BTreeMap::new();
        let mut failed = Vec::new();
        for seed in seeds {
            let of = version.clone();
            let (sender, receiver) = smol::channel::bounded(1);
            let job = move |tx: &Tx| {
                let taken = catch_unwind(AssertUnwindSafe(|| Liar::run(tx, &of, seed)));
                let _ = sender.try_send(taken);
                // Nothing is kept for the next liar.
                Err::<(), _>(Error::Stale)
            };
            let stored = store.write(job).await;
            assert!(matches!(stored, Err(Error::Stale)), "{stored:?}");
            match receiver.try_recv().expect("the job ran") {
                Ok(Ok(of_liar)) => {
                    for (status, count) in of_liar {
                        *counts.entry(status).or_insert(0) += count;
                    }
                }
                _ => failed.push(seed),
            }
        }
        assert!(failed.is_empty(), "version {version}, seeds {failed:?}");
        for status in [
            "Accepted",
            "Outlier",
            "RejectedOutlier",
            "RejectedByAuthEvents",
            "SoftFailed",
            "back-filled Accepted",
            "back-filled RejectedByAuthEvents",
            "back-filled before the join",
            "history",
            "settled",
            "news",
            "judged",
        ] {
            assert!(counts.contains_key(status), "no {status} in {counts:?}");
        }
    });
}

/// The seeds of the liars of a room version. `HEARTH_LIARS` is their number, `HEARTH_LIARS_SKIPPED` how
/// many seeds are left out before them.
fn liars(first: u64) -> Range<u64> {
    let number = |name| std::env::var(name).ok()?.parse().ok();
    let first = first + number("HEARTH_LIARS_SKIPPED").unwrap_or(0);
    first..first + number("HEARTH_LIARS").unwrap_or(50)
}

#[test]
fn whatever_a_server_claims_in_version_1_a_room_is_what_resolution_gives() {
    lies(&RoomVersionId::V1, liars(4_000_000));
}

#[test]
fn whatever_a_server_claims_in_version_2_a_room_is_what_resolution_gives() {
    lies(&RoomVersionId::V2, liars(5_000_000));
}

#[test]
fn whatever_a_server_claims_in_version_3_a_room_is_what_resolution_gives() {
    lies(&RoomVersionId::V3, liars(6_000_000));
}

#[test]
fn whatever_a_server_claims_in_version_5_a_room_is_what_resolution_gives() {
    lies(&RoomVersionId::V5, liars(7_000_000));
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
