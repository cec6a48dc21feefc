//! Fetching the auth events that the response to a join refers to but lacks: a few by `GET /event`, more by
//! `GET /event_auth` of the event that refers to them, which is written to a file as the response was.
//! Nothing is verified here.
//!
//! Each event of the response is looked at once, and each missing one requested at most once by each way, so
//! this ends when the resident server gives nothing more. What it gives is limited by bytes and time, and
//! its ids by the memory for joins, not by a number of events.

use std::{
    collections::HashSet,
    ops::Range,
    time::{Duration, Instant},
};

use ruma::{OwnedEventId, api::federation::authorization::get_event_authorization};

use super::{
    client::MembershipClient,
    error::Error,
    remote_join::{JoinedRoom, STATE_LIMITS},
};
use crate::{
    federation::{
        Error as PeerError,
        event_file::temporary_file,
        event_response::{EventResponse, Incomplete},
        inbound::{EventSource, Fetched},
    },
    protocol::receive::Received,
};

/// How many events are fetched by `GET /event` before auth chains are requested.
const MAX_SINGLE_FETCHES: usize = 20;
/// After so many events whose chains the server does not give, only single events are requested.
const MAX_CHAIN_FAILURES: usize = 3;
const MAX_TIME: Duration = Duration::from_mins(5);

/// The search for missing auth events.
struct Search {
    /// The indices of events in the response that were not looked at.
    open: Vec<Range<usize>>,
    requested: HashSet<OwnedEventId>,
    chain_failures: usize,
    bytes: usize,
    start: Instant,
}

impl Search {
    fn is_exhausted(&self) -> bool {
        self.bytes >= STATE_LIMITS.max_bytes || self.start.elapsed() >= MAX_TIME
    }
}

impl MembershipClient {
    /// Adds the missing auth events. An event whose auth events stay missing is dropped later.
    pub(super) async fn fetch_missing_auth_events(
        &self,
        room: &JoinedRoom<'_>,
        mut response: EventResponse,
        join: &Received,
    ) -> Result<EventResponse, Error> {
        let mut search = Search {
            open: Vec::new(),
            requested: HashSet::new(),
            chain_failures: 0,
            bytes: 0,
            start: Instant::now(),
        };
        search.open.push(0..response.graph.len());
        let mut missing = join.pdu.auth_events().to_vec();
        missing.retain(|id| !response.graph.contains(id));
        let mut incomplete = Some(Incomplete {
            id: join.pdu.event_id().to_owned(),
            missing,
        });
        while let Some(event) = incomplete.take().filter(|_| !search.is_exhausted()) {
            let first = response.graph.len();
            response = self.complete(room, &mut search, response, event).await?;
            // What these events refer to in turn comes first.
            search.open.push(first..response.graph.len());
            (incomplete, response) = self.next_incomplete(&mut search, response).await?;
        }
        Ok(response)
    }

    /// The next event of the response that refers to missing ones.
    async fn next_incomplete(
        &self,
        search: &mut Search,
        response: EventResponse,
    ) -> Result<(Option<Incomplete>, EventResponse), Error> {
        let mut open = std::mem::take(&mut search.open);
        let find = move |_: &_| {
            while let Some(indices) = open.pop() {
                if let Some((index, event)) = response.last_incomplete(indices.clone())? {
                    open.push(indices.start..index);
                    return Ok((Some(event), open, response));
                }
            }
            Ok::<_, Error>((None, open, response))
        };
        let store = &self.0.store;
        let found = store.scan_in_background("the auth graph of a joined room", find);
        let (event, open, response) = found.await?;
        search.open = open;
        Ok((event, response))
    }

    /// Requests the missing auth events of one event.
    async fn complete(
        &self,
        room: &JoinedRoom<'_>,
        search: &mut Search,
        mut response: EventResponse,
        event: Incomplete,
    ) -> Result<EventResponse, Error> {
        let Incomplete { id, mut missing } = event;
        missing.retain(|id| !search.requested.contains(id));
        let are_few = search.requested.len() + missing.len() <= MAX_SINGLE_FETCHES;
        if !are_few && !missing.is_empty() && search.chain_failures < MAX_CHAIN_FAILURES {
            response = self.add_auth_chain(room, search, response, id).await?;
            missing.retain(|id| !response.graph.contains(id));
            search.chain_failures += usize::from(!missing.is_empty());
        }
        for id in missing {
            if search.is_exhausted() {
                break;
            }
            if let Ok(Fetched { value: pdu, .. }) = self.0.source.event(room.server, &id).await {
                search.bytes += pdu.get().len();
                response.push(&pdu)?;
            }
            search.requested.insert(id);
        }
        Ok(response)
    }

    /// Adds the auth chain of `event`, if the server gives it.
    async fn add_auth_chain(
        &self,
        room: &JoinedRoom<'_>,
        search: &mut Search,
        mut response: EventResponse,
        event: OwnedEventId,
    ) -> Result<EventResponse, Error> {
        let file = temporary_file(&self.0.data_dir).map_err(PeerError::disk)?;
        let request = get_event_authorization::v1::Request::new(room.id.to_owned(), event.clone());
        let mut limits = STATE_LIMITS;
        limits.max_bytes = limits.max_bytes.saturating_sub(search.bytes);
        let client = &self.0.client;
        let file = match client.download(room.server, request, file, limits).await {
            Ok(file) => file,
            Err(error) => {
                log::debug!(
                    "no auth chain of event {event} from {}: {error}",
                    room.server
                );
                return Ok(response);
            }
        };
        search.bytes += file.metadata().map_or(0, |of| of.len() as usize);
        let read = move |_: &_| {
            response.read_more(file)?;
            Ok::<_, Error>(response)
        };
        let store = &self.0.store;
        store
            .scan_in_background("the auth chain of a joined room", read)
            .await
    }
}
