//! Fetching the auth chains of events: a few missing events by `GET /event`, more by `GET /event_auth` of the
//! event that refers to them, or by `GET /state_ids` and `GET /state` if the server does not give that.
//!
//! A chain may be larger than the memory, so it is in a file. It is verified and stored in batches, the oldest
//! events first. If an attempt fails or takes too long, what was stored until then is not verified again by the
//! next one.

use std::collections::{HashMap, HashSet};

use ruma::{EventId, OwnedEventId};

use super::{
    error::Error,
    event_fetcher::{EventFetcher, requests_for_claimed},
    event_source::{EventSource, FetchError, PDUS_PER_SLICE},
};
use crate::{
    executor::Slices,
    federation::{event_file::EventFile, event_response::EventResponse},
    protocol::receive::Received,
    rooms::event::outlier,
    store::{Reader, RoomNum, Snapshot},
};

/// How many events are fetched by `GET /event` before whole chains are requested, and how many in one round
/// after that.
const MAX_SINGLE_FETCHES: usize = 20;
/// After so many events whose chains the server does not give, only single events are requested.
const MAX_CHAIN_FAILURES: usize = 3;
/// The most bytes of events of one chain that wait for auth events which it lacks. Others are fetched again
/// if they are needed.
const MAX_PENDING_BYTES: usize = 1024 * 1024;

/// How a missing event was requested without success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tried {
    Nothing,
    /// `GET /event` does not give it.
    Single,
    /// The auth chain of an event that refers to it does not have it, or is not given.
    Chain,
}

/// The search for the auth chains of some events.
struct Search<'a> {
    events: &'a [Received],
    /// Fetched events that are not stored, because their auth events are not.
    pending: Vec<Received>,
    /// Events that need not be requested: `events`, and those that the server has given.
    known: HashSet<OwnedEventId>,
    missing: HashMap<OwnedEventId, Tried>,
    single_fetches: usize,
    chain_failures: usize,
}

impl Search<'_> {
    /// Notes that `id` was requested without success; whether it was requested both ways.
    fn failed(&mut self, id: &EventId, tried: Tried) -> bool {
        let before = self.missing.insert(id.to_owned(), tried);
        let cannot_be_had = before.is_some_and(|before| before != Tried::Nothing);
        if cannot_be_had {
            self.missing.remove(id);
        }
        cannot_be_had
    }

    /// The newest of the events that refer to a missing one of which no auth chain was requested.
    fn next_chain(&self) -> Option<&Received> {
        if self.chain_failures >= MAX_CHAIN_FAILURES {
            return None;
        }
        let is_open = |id| {
            let tried = self.missing.get(id);
            tried.is_some_and(|tried| *tried != Tried::Chain)
        };
        let events = self.events.iter().chain(&self.pending);
        let candidates = events.filter(|event| event.pdu.auth_events().iter().any(is_open));
        candidates.max_by_key(|event| event.pdu.depth())
    }

    /// The events to be fetched by `GET /event` before any chain is requested.
    fn first_singles(&self) -> Vec<OwnedEventId> {
        let untried = self.missing.iter();
        let untried = untried.filter(|(_, tried)| **tried == Tried::Nothing);
        let untried: Vec<_> = untried.map(|(id, _)| id.clone()).collect();
        match self.single_fetches + untried.len() <= MAX_SINGLE_FETCHES {
            true => untried,
            false => Vec::new(),
        }
    }

    /// Those to be fetched when there is no other chain to be requested.
    fn last_singles(&self) -> Vec<OwnedEventId> {
        let left = self.missing.iter();
        let left = left.filter(|(_, tried)| **tried != Tried::Single);
        let left = left.map(|(id, _)| id.clone());
        left.take(MAX_SINGLE_FETCHES).collect()
    }
}

impl<S: EventSource> EventFetcher<'_, S> {
    /// Stores the auth chains of `events`, except for events among `events` themselves. An event that the
    /// server does not give is left out, with those that depend on it.
    ///
    /// # Errors
    /// [`Error::Fetch`] if the server cannot be reached, or if the chains exceed the [`FetchBudget`]. What was
    /// fetched until then and has its auth events is stored.
    ///
    /// [`FetchBudget`]: super::fetch_budget::FetchBudget
    pub(super) async fn fetch_auth_chains(&mut self, events: &[Received]) -> Result<(), Error> {
        let ids = events.iter().map(|event| event.pdu.event_id().to_owned());
        let mut search = Search {
            events,
            pending: Vec::new(),
            known: ids.collect(),
            missing: HashMap::new(),
            single_fetches: 0,
            chain_failures: 0,
        };
        self.add_missing(&mut search.missing, events, &search.known)
            .await?;
        while !search.missing.is_empty() {
            let mut singles = search.first_singles();
            let found = match search.next_chain() {
                Some(event) if singles.is_empty() => {
                    let event = event.clone();
                    self.search_chain(&mut search, &event).await?
                }
                _ => {
                    if singles.is_empty() {
                        singles = search.last_singles();
                    }
                    if singles.is_empty() {
                        break;
                    }
                    self.search_singles(&mut search, singles).await?
                }
            };
            let Search { missing, known, .. } = &mut search;
            known.extend(found.iter().map(|event| event.pdu.event_id().to_owned()));
            self.add_missing(missing, &found, known).await?;
            search.pending.extend(found);
            search.pending = self.store_outliers(search.pending).await?;
            let left = self.not_stored(search.missing.keys().cloned())?;
            let left: HashSet<_> = left.into_iter().collect();
            let known = &search.known;
            search
                .missing
                .retain(|id, _| left.contains(id) && !known.contains(id));
        }
        for id in search.missing.into_keys() {
            self.leave_out(id);
        }
        Ok(())
    }

    /// Adds those auth events of `events` that are neither stored nor in `known`.
    async fn add_missing(
        &self,
        missing: &mut HashMap<OwnedEventId, Tried>,
        events: &[Received],
        known: &HashSet<OwnedEventId>,
    ) -> Result<(), Error> {
        let mut slices = Slices::of(PDUS_PER_SLICE);
        for event in events {
            slices.step().await;
            for id in self.missing_auth_events(event)? {
                if !known.contains(&id) {
                    missing.entry(id).or_insert(Tried::Nothing);
                }
            }
        }
        Ok(())
    }

    /// Fetches events by `GET /event`. Returns those that pass steps 1 to 3.
    async fn search_singles(
        &mut self,
        search: &mut Search<'_>,
        ids: Vec<OwnedEventId>,
    ) -> Result<Vec<Received>, Error> {
        let mut pdus = Vec::new();
        for id in &ids {
            match self.budget.spend_requests(1) {
                Err(_) if !pdus.is_empty() => break,
                spent => spent?,
            }
            search.single_fetches += 1;
            match self.source.event(&self.server, id).await {
                Ok(pdu) => {
                    search.known.insert(id.clone());
                    pdus.push(self.hold(pdu)?);
                }
                Err(FetchError::Unavailable) => self.failed(search, id, Tried::Single),
                Err(error) => return Err(error.into()),
            }
        }
        self.budget
            .spend_bytes(pdus.iter().map(|pdu| pdu.get().len()).sum());
        Ok(self.verify_of(pdus, &ids).await)
    }

    fn failed(&mut self, search: &mut Search<'_>, id: &EventId, tried: Tried) {
        if search.failed(id, tried) {
            self.leave_out(id.to_owned());
        }
    }

    /// Fetches the auth chain of `event` and stores it. Returns the events of it that cannot be stored yet.
    async fn search_chain(
        &mut self,
        search: &mut Search<'_>,
        event: &Received,
    ) -> Result<Vec<Received>, Error> {
        self.budget.spend_requests(1)?;
        let chain = match self.request_auth_chain(event.pdu.event_id()).await {
            Err(Error::Fetch(FetchError::Unavailable)) => None,
            chain => Some(chain?),
        };
        let mut roots = self.missing_auth_events(event)?;
        roots.retain(|id| !search.known.contains(id));
        let mut pending = Vec::new();
        if let Some(chain) = chain {
            self.budget.spend_bytes(chain.received_bytes);
            let stored = self.store_chain(chain, roots.clone()).await?;
            search.known.extend(stored.ids);
            pending = stored.pending;
        }
        roots.retain(|id| !search.known.contains(id));
        for id in &roots {
            self.failed(search, id, Tried::Chain);
        }
        search.chain_failures += usize::from(!roots.is_empty());
        Ok(pending)
    }

    /// The auth chain of `event`, perhaps with other events. Nothing is verified.
    async fn request_auth_chain(&mut self, event: &EventId) -> Result<EventResponse, Error> {
        match self.source.event_auth(&self.server, self.room, event).await {
            // The auth events are part of the state before the event.
            Err(FetchError::Unavailable) => {
                self.budget.spend_requests(1)?;
                let (_, missing, _memory) = self.claimed_state(event).await?;
                self.budget.spend_requests(requests_for_claimed(&missing))?;
                let pdus = self.fetch_claimed(event, &missing).await?;
                Ok(self
                    .source
                    .auth_chain_of(&self.server, self.room, pdus)
                    .await?)
            }
            chain => Ok(chain?),
        }
    }

    /// Verifies and stores those events of `chain` that are among `roots` or in their auth chains and are not
    /// stored.
    ///
    /// # Errors
    /// [`FetchError::Unavailable`] if they exceed the [`FetchBudget`]. The oldest are stored then.
    ///
    /// [`FetchBudget`]: super::fetch_budget::FetchBudget
    pub(super) async fn store_chain(
        &mut self,
        chain: EventResponse,
        roots: Vec<OwnedEventId>,
    ) -> Result<StoredChain, Error> {
        let (room, limit) = (self.room.num, self.budget.events);
        let find = move |s: &Snapshot| Chain::find(s, room, chain, &roots, limit);
        let found = self.store.scan_in_background("an auth chain", find);
        let mut chain: Chain = found.await?;
        self.budget.events -= chain.order.len();
        let mut left = &chain.order[..];
        let (mut pending, mut pending_bytes) = (Vec::new(), 0);
        while !left.is_empty() {
            let (batch, later) = left.split_at(chain.events.batch_length(left));
            left = later;
            let (batch, events) = (batch.to_vec(), chain.events);
            let read = move |_: &_| Ok::<_, Error>((events.read_all(&batch)?, events));
            let read = self
                .store
                .scan_in_background("events of an auth chain", read);
            let (pdus, events) = read.await?;
            chain.events = events;
            let verified = self
                .verify(pdus.into_iter().map(|(_, pdu)| pdu).collect())
                .await;
            for event in self.store_outliers(verified).await? {
                pending_bytes += event.json.len();
                match pending_bytes <= MAX_PENDING_BYTES {
                    true => pending.push(event),
                    false => drop(chain.ids.remove(event.pdu.event_id())),
                }
            }
        }
        match chain.is_too_long {
            true => Err(FetchError::Unavailable.into()),
            false => Ok(StoredChain {
                ids: chain.ids,
                pending,
            }),
        }
    }
}

/// What became of an auth chain.
pub(super) struct StoredChain {
    /// Its events.
    ids: HashSet<OwnedEventId>,
    /// Those that cannot be stored yet.
    pub(super) pending: Vec<Received>,
}

/// The part of an auth chain that is to be stored.
struct Chain {
    events: EventFile,
    /// The numbers of the events in the file, each after its auth events.
    order: Vec<u32>,
    ids: HashSet<OwnedEventId>,
    /// Whether there are more.
    is_too_long: bool,
}

impl Chain {
    /// At most `limit` events of `response` that are among `roots` or in their auth chains and are not stored.
    /// Reads a file: for the pool.
    fn find(
        r: &impl Reader,
        room: RoomNum,
        response: EventResponse,
        roots: &[OwnedEventId],
        limit: usize,
    ) -> Result<Self, Error> {
        let EventResponse { events, graph, .. } = response;
        let reachable = graph.reachable_from(roots.iter().map(|id| &**id));
        let mut chain = Self {
            events,
            order: Vec::new(),
            ids: HashSet::new(),
            is_too_long: false,
        };
        for index in graph.topological_order() {
            if !reachable[index as usize] {
                continue;
            }
            let (id, _) = chain.events.read(index as usize)?;
            if outlier::is_stored(r, room, &id)? {
                continue;
            }
            if chain.order.len() == limit {
                chain.is_too_long = true;
                break;
            }
            chain.order.push(index);
            chain.ids.insert(id);
        }
        Ok(chain)
    }
}
