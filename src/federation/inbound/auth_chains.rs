//! Fetching the auth chains of events: a few missing events by `GET /event`, more by `GET /event_auth` of the
//! event that refers to them, or by `GET /state_ids` and `GET /state` if the server does not give that.
//!
//! Long chains are verified and stored in batches, the oldest events first. If an attempt fails or takes too
//! long, what was stored until then is not verified again by the next one.

use std::collections::{HashMap, HashSet};

use ruma::{EventId, OwnedEventId};

use super::{
    error::Error,
    event_fetcher::{EventFetcher, MAX_RAW_PDU_BYTES, VERIFIED_PER_BATCH, requests_for_claimed},
    event_source::{EventSource, FetchError, PDUS_PER_SLICE, RawPdu},
};
use crate::{
    executor::Slices,
    protocol::receive::{Incoming, Received},
};

/// How many events are fetched by `GET /event` before whole chains are requested, and how many in one round
/// after that.
const MAX_SINGLE_FETCHES: usize = 20;
/// After so many events whose chains the server does not give, only single events are requested.
const MAX_CHAIN_FAILURES: usize = 3;
/// How many references are followed before other tasks get their turn.
const STEPS_PER_SLICE: usize = 100;

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
        self.budget.spend_bytes(&pdus);
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
            Err(Error::Fetch(FetchError::Unavailable)) => Vec::new(),
            chain => chain?,
        };
        self.budget.spend_bytes(&chain);
        let mut roots = self.missing_auth_events(event)?;
        roots.retain(|id| !search.known.contains(id));
        let (ids, chain) = self.auth_chains_in(chain, roots.clone()).await?;
        search.known.extend(ids);
        roots.retain(|id| !search.known.contains(id));
        for id in &roots {
            self.failed(search, id, Tried::Chain);
        }
        search.chain_failures += usize::from(!roots.is_empty());
        self.store_chain(chain).await
    }

    /// The auth chain of `event`, perhaps with other events. Nothing is verified.
    async fn request_auth_chain(&mut self, event: &EventId) -> Result<Vec<RawPdu>, Error> {
        let (room, server) = (&self.room.id, &self.server);
        match self.source.event_auth(server, room, event).await {
            // The auth events are part of the state before the event.
            Err(FetchError::Unavailable) => {
                self.budget.spend_requests(1)?;
                let (_, missing, _memory) = self.claimed_state(event).await?;
                self.budget.spend_requests(requests_for_claimed(&missing))?;
                self.fetch_claimed(event, &missing).await
            }
            chain => Ok(self.hold(chain?)?),
        }
    }

    /// Those of `pdus` that are among `roots` or in their auth chains and are not stored, each after its auth
    /// events. Their ids, and themselves.
    pub(super) async fn auth_chains_in(
        &self,
        pdus: Vec<RawPdu>,
        roots: Vec<OwnedEventId>,
    ) -> Result<(Vec<OwnedEventId>, Vec<RawPdu>), Error> {
        enum Step {
            Visit(OwnedEventId),
            Add(OwnedEventId, RawPdu),
        }
        let mut found: HashMap<OwnedEventId, (RawPdu, Vec<OwnedEventId>)> = HashMap::new();
        let mut slices = Slices::of(PDUS_PER_SLICE);
        for pdu in pdus {
            slices.step().await;
            if pdu.get().len() > MAX_RAW_PDU_BYTES {
                continue;
            }
            let Ok(event) = Incoming::parse(pdu.get().as_bytes(), self.room.rules) else {
                continue;
            };
            let id = event.event_id().to_owned();
            if !self.not_stored([id.clone()])?.is_empty() {
                let auth_events = event.names("auth_events");
                found.entry(id).or_insert((pdu, auth_events));
            }
        }
        let mut steps: Vec<Step> = roots.into_iter().map(Step::Visit).collect();
        let mut ordered = (Vec::new(), Vec::new());
        let mut slices = Slices::of(STEPS_PER_SLICE);
        while let Some(step) = steps.pop() {
            slices.step().await;
            match step {
                Step::Add(id, pdu) => {
                    ordered.0.push(id);
                    ordered.1.push(pdu);
                }
                Step::Visit(id) => {
                    if let Some((pdu, auth_events)) = found.remove(&id) {
                        steps.push(Step::Add(id, pdu));
                        steps.extend(auth_events.into_iter().map(Step::Visit));
                    }
                }
            }
        }
        Ok(ordered)
    }

    /// Verifies and stores events, each of which comes after its auth events. Returns those that cannot be
    /// stored yet.
    ///
    /// # Errors
    /// [`FetchError::Unavailable`] if they exceed the [`FetchBudget`]. The oldest are stored then.
    ///
    /// [`FetchBudget`]: super::fetch_budget::FetchBudget
    pub(super) async fn store_chain(
        &mut self,
        mut pdus: Vec<RawPdu>,
    ) -> Result<Vec<Received>, Error> {
        let is_too_long = pdus.len() > self.budget.events;
        pdus.truncate(self.budget.events);
        self.budget.events -= pdus.len();
        let mut pdus = pdus.into_iter().peekable();
        let mut pending = Vec::new();
        while pdus.peek().is_some() {
            let batch = pdus.by_ref().take(VERIFIED_PER_BATCH).collect();
            let verified = self.verify(batch).await;
            pending.extend(self.store_outliers(verified).await?);
        }
        match is_too_long {
            true => Err(FetchError::Unavailable.into()),
            false => Ok(pending),
        }
    }
}
