//! Fetching the events that an event refers to, and storing them. Fetched events pass steps 1 to 3 and are
//! stored as outliers, which performs step 4.
//!
//! An event that the server gives, but that does not pass, is left out, and so is one whose auth events
//! are left out or are not given: the events that follow on it must arrive.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
};

use ruma::{EventId, OwnedEventId, OwnedServerName, RoomId, room_version_rules::RoomVersionRules};

use super::{
    error::Error,
    event_source::{EventSource, FetchError, Fetched, PDUS_PER_SLICE, RawPdu},
    fetch_budget::FetchBudget,
    room::Room,
    topological_order::sort_topologically,
};
use crate::{
    executor::Slices,
    federation::{event_response::MAX_RAW_PDU_BYTES, transport::client::ResponseMemory},
    protocol::{
        Pdu,
        authorize::create_event,
        receive::{Incoming, Received},
    },
    rooms::{
        self,
        event::{self, outlier},
    },
    store::{Reader, Store, Tx},
};

/// How many events of a claimed state are fetched by `GET /event`.
const MAX_SINGLE_STATE_FETCHES: usize = 50;
/// How many ids are looked up before other tasks get their turn.
const IDS_PER_SLICE: usize = 200;
/// How many outliers one write job stores.
const OUTLIERS_PER_JOB: usize = 32;

/// Fetches events of one room from one server.
pub struct EventFetcher<'a, S> {
    pub store: &'a Store,
    pub source: &'a S,
    pub room: &'a Room,
    pub server: OwnedServerName,
    pub(super) budget: FetchBudget,
    /// The events that the server does not give, or that were left out. They are not requested again.
    pub(super) unavailable: HashSet<OwnedEventId>,
    /// Of the responses that were used so far.
    memory: Mutex<Vec<ResponseMemory>>,
}

impl<'a, S: EventSource> EventFetcher<'a, S> {
    pub fn new(store: &'a Store, source: &'a S, room: &'a Room, server: OwnedServerName) -> Self {
        Self {
            store,
            source,
            room,
            server,
            budget: FetchBudget::default(),
            unavailable: HashSet::new(),
            memory: Mutex::default(),
        }
    }

    /// Keeps the memory of a response for as long as this fetcher, as events of it may be kept.
    ///
    /// # Errors
    /// As [`Fetched::keep`].
    pub(super) fn hold<T>(&self, fetched: Fetched<T>) -> Result<T, FetchError> {
        let (value, memory) = fetched.keep()?;
        let mut held = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        held.extend(memory);
        Ok(value)
    }

    /// Later events are processed without this one, and it is not requested again.
    pub(super) fn leave_out(&mut self, event: OwnedEventId) {
        self.unavailable.insert(event);
    }

    /// Steps 1 to 3, see [`verify`].
    pub async fn verify(&self, pdus: Vec<RawPdu>) -> Vec<Received> {
        verify(self.source, &self.room.id, self.room.rules, pdus).await
    }

    /// The auth events of `event` that are not stored, except for those that cannot be had.
    pub(super) fn missing_auth_events(&self, event: &Received) -> Result<Vec<OwnedEventId>, Error> {
        let mut missing = self.unstored_auth_events(event)?;
        missing.retain(|id| !self.unavailable.contains(id));
        Ok(missing)
    }

    /// The auth events of `event` that are not stored.
    pub(super) fn unstored_auth_events(
        &self,
        event: &Received,
    ) -> Result<Vec<OwnedEventId>, Error> {
        let create = create_event(&event.pdu, self.room.rules);
        let create = create.filter(|id| id != event.pdu.event_id());
        self.not_stored(event.pdu.auth_events().iter().cloned().chain(create))
    }

    pub(super) fn not_stored(
        &self,
        ids: impl IntoIterator<Item = OwnedEventId>,
    ) -> Result<Vec<OwnedEventId>, Error> {
        self.store.read(|s| {
            let mut missing = Vec::new();
            for id in ids {
                if !outlier::is_stored(s, self.room.num, &id)? {
                    missing.push(id);
                }
            }
            Ok(missing)
        })
    }

    /// As [`not_stored`](Self::not_stored), for as many ids as a room has.
    pub(super) async fn not_stored_of_many(
        &self,
        ids: impl IntoIterator<Item = OwnedEventId>,
    ) -> Result<Vec<OwnedEventId>, Error> {
        let mut slices = Slices::of(IDS_PER_SLICE);
        let mut missing = Vec::new();
        for id in ids {
            slices.step().await;
            missing.extend(self.not_stored([id])?);
        }
        Ok(missing)
    }

    /// Fetches each event by `GET /event`. Nothing is verified.
    ///
    /// # Errors
    /// [`FetchError`] if the server does not give one of them.
    pub(super) async fn fetch_events(
        &self,
        ids: &[OwnedEventId],
    ) -> Result<Vec<RawPdu>, FetchError> {
        let mut pdus = Vec::new();
        for id in ids {
            pdus.push(self.hold(self.source.event(&self.server, id).await?)?);
        }
        Ok(pdus)
    }

    /// Those of `pdus` that are among `ids` and pass steps 1 to 3.
    pub(super) async fn verify_of(
        &self,
        mut pdus: Vec<RawPdu>,
        ids: &[OwnedEventId],
    ) -> Vec<Received> {
        pdus.retain(|pdu| pdu.get().len() <= MAX_RAW_PDU_BYTES);
        let mut found = self.verify(pdus).await;
        found.retain(|event| ids.iter().any(|id| id == event.pdu.event_id()));
        found
    }

    /// The ids of the state before `event` as the server claims it, and those of them and of their auth chains
    /// that are not stored. The memory is that of the ids.
    pub(super) async fn claimed_state(
        &self,
        event: &EventId,
    ) -> Result<(Vec<OwnedEventId>, Vec<OwnedEventId>, Option<ResponseMemory>), Error> {
        let (room, server) = (&self.room.id, &self.server);
        let claimed = self.source.state_ids(server, room, event).await?;
        let (claimed, memory) = claimed.keep()?;
        let ids = claimed.auth_chain.iter().chain(&claimed.state);
        let ids: HashSet<&OwnedEventId> = ids.collect();
        let missing = self.not_stored_of_many(ids.into_iter().cloned()).await?;
        Ok((claimed.state, missing, memory))
    }

    /// Fetches the `missing` events of the state before `event`, perhaps with others. Nothing is verified.
    pub(super) async fn fetch_claimed(
        &self,
        event: &EventId,
        missing: &[OwnedEventId],
    ) -> Result<Vec<RawPdu>, Error> {
        if are_fetched_singly(missing) {
            return Ok(self.fetch_events(missing).await?);
        }
        let (room, server) = (&self.room.id, &self.server);
        let mut full = self.hold(self.source.state(server, room, event).await?)?;
        full.auth_chain.extend(full.state);
        Ok(full.auth_chain)
    }

    /// Performs step 4 and stores the events as outliers. Returns those whose auth events are neither
    /// stored nor among them.
    pub async fn store_outliers(&self, events: Vec<Received>) -> Result<Vec<Received>, Error> {
        let (mut storable, mut left) = (Vec::new(), Vec::new());
        let mut ids: HashSet<OwnedEventId> = HashSet::new();
        let mut slices = Slices::of(PDUS_PER_SLICE);
        for event in sort_topologically(events, Pdu::auth_events) {
            slices.step().await;
            let missing = self.unstored_auth_events(&event)?;
            if missing.iter().all(|id| ids.contains(id)) {
                ids.insert(event.pdu.event_id().to_owned());
                storable.push(event);
            } else {
                left.push(event);
            }
        }
        let mut storable = storable.into_iter().peekable();
        while storable.peek().is_some() {
            let batch: Vec<Received> = storable.by_ref().take(OUTLIERS_PER_JOB).collect();
            let (room, rules) = (self.room.num, self.room.rules);
            let job = move |tx: &Tx| {
                for event in &batch {
                    match outlier::store(tx, room, rules, event) {
                        Ok(_) | Err(rooms::Error::Missing) => {}
                        Err(rooms::Error::Invalid(error)) => {
                            let id = event.pdu.event_id();
                            log::debug!("event {id} is left out: {error}");
                        }
                        Err(error) => return Err(error),
                    }
                }
                Ok(())
            };
            self.store.write(job).await?;
        }
        Ok(left)
    }
}

fn are_fetched_singly(missing: &[OwnedEventId]) -> bool {
    missing.len() <= MAX_SINGLE_STATE_FETCHES
}

/// How many requests [`fetch_claimed`](EventFetcher::fetch_claimed) takes.
pub(super) fn requests_for_claimed(missing: &[OwnedEventId]) -> usize {
    if are_fetched_singly(missing) {
        missing.len()
    } else {
        1
    }
}

/// Ignores that a server does not give something, or not within the budget.
pub fn unless_unavailable(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(Error::Fetch(FetchError::Unavailable)) => Ok(()),
        result => result,
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
