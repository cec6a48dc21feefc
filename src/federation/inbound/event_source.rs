//! The requests by which missing events and states are fetched from other servers.

use std::{io, path::Path, sync::Arc, time::Duration};

use ruma::{
    EventId, OwnedEventId, OwnedServerName, RoomId, ServerName, UInt,
    api::federation::{
        authorization::get_event_authorization,
        backfill::get_backfill,
        event::{get_event, get_missing_events, get_room_state, get_room_state_ids},
    },
};
use serde_json::value::RawValue;

use super::room::Room;
use crate::{
    config::Config,
    fair_semaphore::FairSemaphore,
    federation::{
        Client, Error, Limits,
        event_file::temporary_file,
        event_graph::{EventMemoryError, IdBudget},
        event_response::{self, EventResponse},
        keys::Keys,
        policy::PolicyServers,
        transport::client::ResponseMemory,
    },
    protocol::receive::{Incoming, ReceiveError, Received},
    rooms::unsigned_event::PolicyServer,
    store::{Snapshot, Store},
};

/// The `limit` of `/get_missing_events`.
const MAX_MISSING_EVENTS: u32 = 50;
/// The `limit` of `/backfill`.
const MAX_BACKFILL_EVENTS: u32 = 100;
/// Of auth chains, which are written to a file.
const AUTH_CHAIN_LIMITS: Limits = Limits {
    timeout: Duration::from_mins(2),
    max_bytes: 64 * 1024 * 1024,
};
/// How many are fetched at once.
const MAX_AUTH_CHAINS: usize = 4;

/// Why another server did not give what was requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// Or it is overloaded. Other requests would fail, too.
    #[error("the other server cannot be reached")]
    Unreachable,
    /// It responded with an error, or the response is invalid or lacks what was requested.
    #[error("the other server does not give an event or a state that was requested")]
    Unavailable,
}

/// The state before an event as another server claims it.
#[derive(Clone, Debug)]
pub struct ClaimedState<T> {
    pub state: Vec<T>,
    /// The auth chains of all events of the state.
    pub auth_chain: Vec<T>,
}

/// How many PDUs are parsed before other tasks get their turn.
pub const PDUS_PER_SLICE: usize = 1;

/// A PDU as received.
pub type RawPdu = Box<RawValue>;

/// A response, and its memory in the budget for responses. Tests have none.
#[derive(Debug)]
pub struct Fetched<T> {
    pub value: T,
    pub memory: Option<ResponseMemory>,
}

impl<T> Fetched<T> {
    fn new<R>((response, memory): (R, ResponseMemory), value: impl FnOnce(R) -> T) -> Self {
        Self {
            value: value(response),
            memory: Some(memory),
        }
    }

    /// The value and its memory, which may be kept for longer.
    ///
    /// # Errors
    /// [`FetchError::Unreachable`] if other responses have all memory: another attempt may succeed.
    pub(super) fn keep(mut self) -> Result<(T, Option<ResponseMemory>), FetchError> {
        if let Some(memory) = &mut self.memory {
            memory.keep().map_err(|_| FetchError::Unreachable)?;
        }
        Ok((self.value, self.memory))
    }
}

impl<T> From<T> for Fetched<T> {
    fn from(value: T) -> Self {
        Self {
            value,
            memory: None,
        }
    }
}

/// Where missing events come from: other servers, or a simulated history in tests. Responses are
/// bounded in size and time by the implementation. Nothing in them is verified.
pub trait EventSource: Send + Sync + 'static {
    /// `POST /get_missing_events`: events after `earliest` and before `latest`.
    fn missing_events(
        &self,
        server: &ServerName,
        room: &RoomId,
        earliest: Vec<OwnedEventId>,
        latest: Vec<OwnedEventId>,
    ) -> impl Future<Output = Result<Fetched<Vec<RawPdu>>, FetchError>> + Send;

    /// `GET /state_ids`: the ids of the state before `event`.
    fn state_ids(
        &self,
        server: &ServerName,
        room: &RoomId,
        event: &EventId,
    ) -> impl Future<Output = Result<Fetched<ClaimedState<OwnedEventId>>, FetchError>> + Send;

    /// `GET /state`: the state before `event`.
    fn state(
        &self,
        server: &ServerName,
        room: &RoomId,
        event: &EventId,
    ) -> impl Future<Output = Result<Fetched<ClaimedState<RawPdu>>, FetchError>> + Send;

    /// `GET /event`
    fn event(
        &self,
        server: &ServerName,
        event: &EventId,
    ) -> impl Future<Output = Result<Fetched<RawPdu>, FetchError>> + Send;

    /// `GET /event_auth`: the auth chain of `event`, which may be larger than the memory.
    fn event_auth(
        &self,
        server: &ServerName,
        room: &Room,
        event: &EventId,
    ) -> impl Future<Output = Result<EventResponse, FetchError>> + Send;

    /// An auth chain of these events, as if they were the response to `/event_auth`.
    fn auth_chain_of(
        &self,
        server: &ServerName,
        room: &Room,
        pdus: Vec<RawPdu>,
    ) -> impl Future<Output = Result<EventResponse, FetchError>> + Send;

    /// `GET /backfill`: `latest` and events before them.
    fn backfill(
        &self,
        server: &ServerName,
        room: &RoomId,
        latest: Vec<OwnedEventId>,
    ) -> impl Future<Output = Result<Fetched<Vec<RawPdu>>, FetchError>> + Send;

    /// The signature of a policy server for an event of `room`, if the server gives one.
    fn policy_signature(
        &self,
        _server: &PolicyServer,
        _room: &Room,
        _event: &[u8],
    ) -> impl Future<Output = Option<String>> + Send {
        async { None }
    }

    /// Fetches the signing keys that are needed, then performs [steps 2 and 3](super) for each event.
    fn verify(
        &self,
        events: Vec<Incoming>,
    ) -> impl Future<Output = Vec<Result<Received, ReceiveError>>> + Send;
}

/// Sends the requests to other servers.
#[derive(Clone)]
pub struct RemoteEventSource {
    pub client: Client,
    pub keys: Keys,
    pub policy_servers: PolicyServers,
    pub auth_chains: AuthChains,
}

/// Where auth chains are written, and how many at once.
#[derive(Clone)]
pub struct AuthChains {
    store: Store,
    directory: Arc<Path>,
    ids: IdBudget,
    permits: FairSemaphore<OwnedServerName>,
}

impl AuthChains {
    pub fn new(store: &Store, config: &Config) -> Self {
        Self {
            store: store.clone(),
            directory: config.data_dir.as_path().into(),
            ids: IdBudget::new(config.memory.auth_chain_ids()),
            permits: FairSemaphore::new(MAX_AUTH_CHAINS, MAX_AUTH_CHAINS),
        }
    }

    /// Makes a response of `server` on the pool.
    async fn run(
        &self,
        server: &ServerName,
        make: impl FnOnce(&Path, &IdBudget) -> Result<EventResponse, event_response::Error>
        + Send
        + 'static,
    ) -> Result<EventResponse, FetchError> {
        let (directory, ids) = (self.directory.clone(), self.ids.of_server(server));
        let make = move |_: &Snapshot| {
            make(&directory, &ids).map_err(|error| {
                log::debug!("cannot read an auth chain: {error}");
                match error {
                    event_response::Error::Memory(EventMemoryError::Busy) => {
                        FetchError::Unreachable
                    }
                    // The own disk failed.
                    event_response::Error::Read(error)
                        if !matches!(
                            error.kind(),
                            io::ErrorKind::InvalidData
                                | io::ErrorKind::UnexpectedEof
                                | io::ErrorKind::Other
                        ) =>
                    {
                        FetchError::Unreachable
                    }
                    _ => FetchError::Unavailable,
                }
            })
        };
        self.store.scan_in_background("an auth chain", make).await
    }
}

fn fetch_error(server: &ServerName) -> impl Fn(Error) -> FetchError {
    move |error| {
        log::debug!("cannot fetch events from {server}: {error}");
        let is_own = matches!(error, Error::NoMemory | Error::Disk(_));
        if error.is_unreachable() || error.is_overloaded() || is_own {
            FetchError::Unreachable
        } else {
            FetchError::Unavailable
        }
    }
}

impl EventSource for RemoteEventSource {
    async fn missing_events(
        &self,
        server: &ServerName,
        room: &RoomId,
        earliest: Vec<OwnedEventId>,
        latest: Vec<OwnedEventId>,
    ) -> Result<Fetched<Vec<RawPdu>>, FetchError> {
        let mut request = get_missing_events::v1::Request::new(room.to_owned(), earliest, latest);
        request.limit = UInt::from(MAX_MISSING_EVENTS);
        let response = self.client.send_for_pdus(server, request).await;
        let response = response.map_err(fetch_error(server))?;
        Ok(Fetched::new(response, |mut response| {
            response.events.truncate(MAX_MISSING_EVENTS as usize);
            response.events
        }))
    }

    async fn state_ids(
        &self,
        server: &ServerName,
        room: &RoomId,
        event: &EventId,
    ) -> Result<Fetched<ClaimedState<OwnedEventId>>, FetchError> {
        let request = get_room_state_ids::v1::Request::new(event.to_owned(), room.to_owned());
        let response = self.client.send_for_pdus(server, request).await;
        let response = response.map_err(fetch_error(server))?;
        Ok(Fetched::new(response, |response| ClaimedState {
            state: response.pdu_ids,
            auth_chain: response.auth_chain_ids,
        }))
    }

    async fn state(
        &self,
        server: &ServerName,
        room: &RoomId,
        event: &EventId,
    ) -> Result<Fetched<ClaimedState<RawPdu>>, FetchError> {
        let request = get_room_state::v1::Request::new(event.to_owned(), room.to_owned());
        let response = self.client.send_for_pdus(server, request).await;
        let response = response.map_err(fetch_error(server))?;
        Ok(Fetched::new(response, |response| ClaimedState {
            state: response.pdus,
            auth_chain: response.auth_chain,
        }))
    }

    async fn event(
        &self,
        server: &ServerName,
        event: &EventId,
    ) -> Result<Fetched<RawPdu>, FetchError> {
        let request = get_event::v1::Request::new(event.to_owned());
        let response = self.client.send_for_pdus(server, request).await;
        let response = response.map_err(fetch_error(server))?;
        Ok(Fetched::new(response, |response| response.pdu))
    }

    async fn event_auth(
        &self,
        server: &ServerName,
        room: &Room,
        event: &EventId,
    ) -> Result<EventResponse, FetchError> {
        let chains = &self.auth_chains;
        let _permit = chains.permits.acquire(server.to_owned()).await;
        let request = get_event_authorization::v1::Request::new(room.id.clone(), event.to_owned());
        let file = temporary_file(&chains.directory).map_err(Error::disk);
        let file = file.map_err(fetch_error(server))?;
        let response = self
            .client
            .download(server, request, file, AUTH_CHAIN_LIMITS);
        let file = response.await.map_err(fetch_error(server))?;
        let rules = room.rules;
        let read = move |directory: &Path, ids: &IdBudget| {
            EventResponse::read(file, directory, rules, ids)
        };
        chains.run(server, read).await
    }

    async fn auth_chain_of(
        &self,
        server: &ServerName,
        room: &Room,
        pdus: Vec<RawPdu>,
    ) -> Result<EventResponse, FetchError> {
        let rules = room.rules;
        let write =
            move |directory: &Path, ids: &IdBudget| EventResponse::of(&pdus, directory, rules, ids);
        self.auth_chains.run(server, write).await
    }

    async fn backfill(
        &self,
        server: &ServerName,
        room: &RoomId,
        latest: Vec<OwnedEventId>,
    ) -> Result<Fetched<Vec<RawPdu>>, FetchError> {
        let limit = UInt::from(MAX_BACKFILL_EVENTS);
        let request = get_backfill::v1::Request::new(room.to_owned(), latest, limit);
        let response = self.client.send_for_pdus(server, request).await;
        let response = response.map_err(fetch_error(server))?;
        Ok(Fetched::new(response, |response| response.pdus))
    }

    async fn policy_signature(
        &self,
        server: &PolicyServer,
        room: &Room,
        event: &[u8],
    ) -> Option<String> {
        let _lock = self.policy_servers.lock(&room.id).await;
        let signature = self.policy_servers.signature(server, event, room.rules);
        let signature = signature.await.inspect_err(|error| {
            log::info!(
                "{} does not sign an event in {}: {error}",
                server.name,
                room.id
            );
        });
        signature.ok()
    }

    async fn verify(&self, events: Vec<Incoming>) -> Vec<Result<Received, ReceiveError>> {
        self.keys.verify(events).await
    }
}
