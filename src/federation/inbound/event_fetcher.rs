//! Fetching the events that an event refers to: its auth chain, its prev_events, and the state
//! before it. Fetched events pass steps 1 to 3 and are stored as outliers, which performs step 4.
//!
//! An event that the server gives, but that does not pass, is left out, and so is one whose auth events
//! are left out: all other servers may have accepted it, and the events that follow on it must arrive.

use std::collections::{HashMap, HashSet};

use ruma::{EventId, OwnedEventId, OwnedServerName, RoomId, room_version_rules::RoomVersionRules};

use super::{
    error::Error,
    event_source::{EventSource, FetchError, PDUS_PER_SLICE, RawPdu},
    room::Room,
    topological_order::sort_topologically,
};
use crate::{
    executor::Slices,
    protocol::{
        Pdu,
        authorize::create_event,
        receive::{Incoming, Received},
    },
    rooms::{
        self,
        event::{self, outlier},
    },
    store::{Reader, Rows, Store, Tx},
};

/// How many events are fetched by `GET /event` at once.
const MAX_SINGLE_FETCHES: usize = 50;
/// How many requests the auth chains of some events may take, and how many bytes they may have.
const MAX_CHAIN_REQUESTS: usize = 150;
const MAX_CHAIN_BYTES: usize = 16 * 1024 * 1024;
/// How many events of a claimed state and of auth chains are fetched for one event.
const MAX_STATE_FETCHES: usize = 10_000;
/// How many events of a response are verified at once.
const VERIFIED_PER_BATCH: usize = 100;
/// The size beyond which an event is refused before it is parsed, with its `unsigned`.
const MAX_RAW_PDU_BYTES: usize = 256 * 1024;
/// How many outliers one write job stores.
const OUTLIERS_PER_JOB: usize = 32;

/// What a server may cost that lets auth chains be fetched.
struct Budget {
    requests: usize,
    bytes: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            requests: MAX_CHAIN_REQUESTS,
            bytes: MAX_CHAIN_BYTES,
        }
    }
}

impl Budget {
    fn spend(&mut self, requests: usize, bytes: usize) -> Result<(), FetchError> {
        let left = self.requests.checked_sub(requests);
        self.requests = left.ok_or(FetchError::Unavailable)?;
        self.bytes = self
            .bytes
            .checked_sub(bytes)
            .ok_or(FetchError::Unavailable)?;
        Ok(())
    }
}

/// Fetches events of one room from one server.
pub struct EventFetcher<'a, S> {
    pub store: &'a Store,
    pub source: &'a S,
    pub room: &'a Room,
    pub server: OwnedServerName,
}

impl<S: EventSource> EventFetcher<'_, S> {
    /// Steps 1 to 3, see [`verify`].
    pub async fn verify(&self, pdus: Vec<RawPdu>) -> Vec<Received> {
        verify(self.source, &self.room.id, self.room.rules, pdus).await
    }

    /// Stores the auth chains of `events`, except for events among `events` themselves.
    pub async fn fetch_auth_chains(&self, events: &[Received]) -> Result<(), Error> {
        let ids = events.iter().map(|event| event.pdu.event_id().to_owned());
        let mut known: HashSet<OwnedEventId> = ids.collect();
        let mut missing = self.missing_auth_events(events, &mut known)?;
        let mut fetched: Vec<Received> = Vec::new();
        let mut budget = Budget::default();
        while !missing.is_empty() {
            let found = if missing.len() <= MAX_SINGLE_FETCHES {
                budget.spend(missing.len(), 0)?;
                let found = self.fetch_events(std::mem::take(&mut missing)).await?;
                budget.spend(0, found.iter().map(|event| event.json.len()).sum())?;
                found
            } else {
                budget.spend(1, 0)?;
                let open: HashSet<&EventId> = missing.iter().map(|id| &**id).collect();
                let names_open = |event: &&Received| {
                    let mut names = event.pdu.auth_events().iter();
                    names.any(|id| open.contains(&**id))
                };
                let mut candidates = events.iter().chain(&fetched);
                let event = candidates.find(names_open).ok_or(FetchError::Unavailable)?;
                let id = event.pdu.event_id();
                let found = self.fetch_auth_chain(id, &fetched, &mut budget).await?;
                // What it names that is not among them was refused.
                missing.retain(|id| !event.pdu.auth_events().contains(id));
                found
            };
            let ids: HashSet<OwnedEventId> = found
                .iter()
                .map(|event| event.pdu.event_id().to_owned())
                .collect();
            missing.retain(|id| !ids.contains(id));
            known.extend(ids);
            missing.extend(self.missing_auth_events(&found, &mut known)?);
            fetched.extend(found);
        }
        self.store_outliers(fetched).await
    }

    /// Fetches the auth chain of an event by `GET /event_auth`. Returns the events that are neither stored
    /// nor among `fetched`.
    ///
    /// # Errors
    /// [`Error::Fetch`] if the server gives none, or too many.
    async fn fetch_auth_chain(
        &self,
        event: &EventId,
        fetched: &[Received],
        budget: &mut Budget,
    ) -> Result<Vec<Received>, Error> {
        let (room, server) = (&self.room.id, &self.server);
        let chain = self.source.event_auth(server, room, event).await?;
        budget.spend(0, chain.iter().map(|pdu| pdu.get().len()).sum())?;
        let fetched: HashSet<&EventId> = fetched.iter().map(|event| event.pdu.event_id()).collect();
        let mut pdus: HashMap<OwnedEventId, RawPdu> = HashMap::new();
        let mut slices = Slices::of(PDUS_PER_SLICE);
        for pdu in chain {
            slices.step().await;
            if pdu.get().len() > MAX_RAW_PDU_BYTES || pdus.len() > MAX_STATE_FETCHES {
                continue;
            }
            let Ok(event) = Incoming::parse(pdu.get().as_bytes(), self.room.rules) else {
                continue;
            };
            let id = event.event_id().to_owned();
            if !fetched.contains(&*id) && !self.not_stored(vec![id.clone()])?.is_empty() {
                pdus.insert(id, pdu);
            }
        }
        if pdus.is_empty() {
            return Err(FetchError::Unavailable.into());
        }
        let (ids, pdus): (Vec<_>, Vec<_>) = pdus.into_iter().unzip();
        Ok(self.verify_of(pdus, &ids).await)
    }

    /// The auth events of `events` that are neither stored nor in `known`. Adds them to `known`.
    fn missing_auth_events(
        &self,
        events: &[Received],
        known: &mut HashSet<OwnedEventId>,
    ) -> Result<Vec<OwnedEventId>, Error> {
        let mut ids = Vec::new();
        for event in events {
            let create = create_event(&event.pdu, self.room.rules);
            let create = create.filter(|id| id != event.pdu.event_id());
            ids.extend(event.pdu.auth_events().iter().cloned().chain(create));
        }
        ids.retain(|id| known.insert(id.clone()));
        self.not_stored(ids)
    }

    pub(super) fn not_stored(&self, ids: Vec<OwnedEventId>) -> Result<Vec<OwnedEventId>, Error> {
        self.store.read(|s| {
            let stored = s.event_nums()?;
            let mut missing = Vec::new();
            for id in ids {
                if !stored.has(id.as_str())? {
                    missing.push(id);
                }
            }
            Ok(missing)
        })
    }

    /// Fetches each event by `GET /event`.
    ///
    /// # Errors
    /// [`Error::Fetch`] if the server does not give one of them.
    async fn fetch_events(&self, ids: Vec<OwnedEventId>) -> Result<Vec<Received>, Error> {
        let mut pdus = Vec::new();
        for id in &ids {
            let pdu = self.source.event(&self.server, id).await?;
            if pdu.get().len() <= MAX_RAW_PDU_BYTES {
                pdus.push(pdu);
            }
        }
        Ok(self.verify_of(pdus, &ids).await)
    }

    /// Those of `pdus` that are among `ids` and pass steps 1 to 3.
    async fn verify_of(&self, pdus: Vec<RawPdu>, ids: &[OwnedEventId]) -> Vec<Received> {
        let ids: HashSet<_> = ids.iter().map(|id| &**id).collect();
        let mut pdus = pdus.into_iter().peekable();
        let mut found = Vec::new();
        while pdus.peek().is_some() {
            let batch = pdus.by_ref().take(VERIFIED_PER_BATCH).collect();
            let verified = self.verify(batch).await.into_iter();
            found.extend(verified.filter(|event| ids.contains(event.pdu.event_id())));
        }
        found
    }

    /// Stores the prev_events of `event` as outliers: once it is a forward extremity, other servers
    /// request them from this one.
    pub async fn fetch_prev_events(&self, event: &Received) -> Result<(), Error> {
        let ids = self.not_stored(event.pdu.prev_events().to_vec())?;
        let found = self.fetch_events(ids).await?;
        self.fetch_auth_chains(&found).await?;
        self.store_outliers(found).await
    }

    /// The ids of the state before `event` as the server claims it. All its events and their auth chains
    /// are stored.
    pub async fn fetch_state_before(&self, event: &EventId) -> Result<Vec<OwnedEventId>, Error> {
        let (room, server) = (&self.room.id, &self.server);
        let claimed = self.source.state_ids(server, room, event).await;
        let claimed = claimed?;
        let (mut ids, mut state) = (claimed.auth_chain, claimed.state);
        ids.extend(state.iter().cloned());
        let mut seen = HashSet::new();
        ids.retain(|id| seen.insert(id.clone()));
        let missing = self.not_stored(ids)?;
        if missing.len() > MAX_STATE_FETCHES {
            return Err(FetchError::Unavailable.into());
        }
        let fetched = if missing.len() > MAX_SINGLE_FETCHES {
            let full = self.source.state(server, room, event).await;
            let full = full?;
            let mut pdus = full.auth_chain;
            pdus.extend(full.state);
            self.verify_of(pdus, &missing).await
        } else {
            self.fetch_events(missing).await?
        };
        self.fetch_auth_chains(&fetched).await?;
        self.store_outliers(fetched).await?;
        let left_out: HashSet<_> = self.not_stored(state.clone())?.into_iter().collect();
        state.retain(|id| !left_out.contains(id));
        Ok(state)
    }

    /// Performs step 4 and stores the events as outliers, except for those whose auth events are neither
    /// stored nor among them.
    pub async fn store_outliers(&self, events: Vec<Received>) -> Result<(), Error> {
        let mut events = sort_topologically(events, Pdu::auth_events)
            .into_iter()
            .peekable();
        while events.peek().is_some() {
            let batch: Vec<Received> = events.by_ref().take(OUTLIERS_PER_JOB).collect();
            let (room, rules) = (self.room.num, self.room.rules);
            let job = move |tx: &Tx| {
                for event in &batch {
                    match outlier::store(tx, room, rules, event) {
                        Ok(_) | Err(rooms::Error::Missing) => {}
                        Err(error) => return Err(error),
                    }
                }
                Ok(())
            };
            self.store.write(job).await?;
        }
        Ok(())
    }
}

/// Performs [steps 1 to 3](super). Returns the events of `room` that pass; the others are dropped.
pub async fn verify<S: EventSource>(
    source: &S,
    room: &RoomId,
    rules: &'static RoomVersionRules,
    pdus: Vec<RawPdu>,
) -> Vec<Received> {
    let mut parsed: HashMap<OwnedEventId, Incoming> = HashMap::new();
    let mut slices = Slices::of(PDUS_PER_SLICE);
    for pdu in pdus {
        slices.step().await;
        match Incoming::parse(pdu.get().as_bytes(), rules) {
            Ok(event) => {
                parsed.insert(event.event_id().to_owned(), event);
            }
            Err(error) => log::debug!("dropped an invalid event of room {room}: {error}"),
        }
    }
    let verified = source.verify(parsed.into_values().collect()).await;
    let of_room = verified.into_iter().filter_map(|verified| match verified {
        Ok(event) if event.pdu.room_id() == room => Some(event),
        Ok(event) => {
            let (id, other) = (event.pdu.event_id(), event.pdu.room_id());
            log::debug!("dropped event {id}: it belongs to {other}, not to {room}");
            None
        }
        Err(error) => {
            log::debug!("dropped an event of room {room}: {error}");
            None
        }
    });
    of_room.collect()
}

/// Whether the event is stored, and not only as an outlier.
pub fn is_processed(r: &impl Reader, id: &EventId) -> Result<bool, rooms::Error> {
    match event::num_of(r, id)? {
        Some(num) => Ok(!event::header(r, num)?.status.is_outlier()),
        None => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::{Budget, MAX_CHAIN_BYTES, MAX_CHAIN_REQUESTS, MAX_SINGLE_FETCHES};

    #[test]
    fn a_server_that_gives_no_end_of_an_auth_chain_is_given_up() {
        let mut budget = Budget::default();
        let spent = (0..).take_while(|_| budget.spend(MAX_SINGLE_FETCHES, 0).is_ok());
        assert_eq!(spent.count(), MAX_CHAIN_REQUESTS / MAX_SINGLE_FETCHES);
        assert!(Budget::default().spend(1, MAX_CHAIN_BYTES).is_ok());
        assert!(Budget::default().spend(1, MAX_CHAIN_BYTES + 1).is_err());
    }
}
