//! Fetching the history before a gap in a room's timeline (server-server API, "Backfilling and
//! retrieving missing events").

use std::collections::{HashMap, HashSet};

use ruma::{OwnedEventId, OwnedServerName};

use super::{
    error::Error,
    event_fetcher::{EventFetcher, is_processed, unless_unavailable},
    event_source::{EventSource, FetchError},
    gap::StateBefore,
    receiver::PduReceiver,
    room::Room,
    topological_order::sort_topologically,
};
use crate::{
    protocol::{Pdu, receive::Received},
    rooms::{self, timeline},
    store::{Place, RoomNum},
};

/// How many states one backfill fetches.
const MAX_STATE_FETCHES: usize = 5;

impl<S: EventSource> PduReceiver<S> {
    /// Fetches some of the events before the gap at `gap` from the first of `servers` that gives any.
    /// Returns whether one did.
    pub async fn backfill(
        &self,
        room: RoomNum,
        gap: Place,
        servers: Vec<OwnedServerName>,
    ) -> Result<bool, Error> {
        let room = self.store().read(|s| Room::load(s, room))?;
        for server in servers {
            let mut fetcher = EventFetcher::new(self.store(), self.source(), &room, server);
            match self.backfill_from(&mut fetcher, gap).await {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(Error::Rooms(rooms::Error::Store(error))) => return Err(error.into()),
                Err(error) => {
                    let server = &fetcher.server;
                    log::debug!("no backfill of room {} from {server}: {error}", room.id);
                }
            }
        }
        Ok(false)
    }

    async fn backfill_from(
        &self,
        fetcher: &mut EventFetcher<'_, S>,
        gap: Place,
    ) -> Result<bool, Error> {
        let missing = fetcher
            .store
            .read(|s| timeline::gap(s, fetcher.room.num, gap))?
            .ok_or(rooms::Error::Stale)?
            .missing;
        let ids = missing.iter().filter_map(|id| id.as_str().try_into().ok());
        let ids: Vec<OwnedEventId> = ids.collect();
        // A stored outlier is missing because its own prev_events are. A server counts what it sends
        // from the newest event on, so only those are requested.
        let mut wanted = fetcher.not_stored(ids.clone())?;
        if wanted.is_empty() {
            wanted = ids;
        }
        let (server, room) = (&fetcher.server, &fetcher.room.id);
        let pdus = fetcher.source.backfill(server, room, wanted).await;
        let found = fetcher.verify(fetcher.hold(pdus?)?).await;
        let events = sort_topologically(ancestors(found, &missing), Pdu::prev_events);
        if events.is_empty() {
            return Ok(false);
        }
        unless_unavailable(fetcher.fetch_auth_chains(&events).await)?;
        let events = with_auth_events(fetcher, events)?;
        let before = state_before(fetcher, &events).await?;
        self.fill_gap(fetcher.room, gap, events, before).await
    }
}

/// Those of `events` whose auth events are stored or among them. They are in topological order.
fn with_auth_events<S: EventSource>(
    fetcher: &EventFetcher<'_, S>,
    events: Vec<Received>,
) -> Result<Vec<Received>, Error> {
    let mut ids = HashSet::new();
    let mut complete = Vec::new();
    for event in events {
        let missing = fetcher.unstored_auth_events(&event)?;
        if missing.iter().all(|id| ids.contains(id)) {
            ids.insert(event.pdu.event_id().to_owned());
            complete.push(event);
        }
    }
    Ok(complete)
}

async fn state_before<S: EventSource>(
    fetcher: &mut EventFetcher<'_, S>,
    events: &[Received],
) -> Result<StateBefore, Error> {
    let is_chain = events
        .windows(2)
        .all(|pair| *pair[1].pdu.prev_events() == [pair[0].pdu.event_id().to_owned()]);
    if is_chain && events.iter().all(|event| event.pdu.state_key().is_none()) {
        return Ok(StateBefore::Unchanged);
    }
    let ids: HashSet<_> = events.iter().map(|event| event.pdu.event_id()).collect();
    let mut claimed = HashMap::new();
    let mut state_fetches = 0;
    for event in events {
        let mut is_missing_prev = false;
        for id in event.pdu.prev_events() {
            is_missing_prev |=
                !ids.contains(&**id) && !fetcher.store.read(|s| is_processed(s, id))?;
        }
        if !is_missing_prev {
            continue;
        }
        if state_fetches == MAX_STATE_FETCHES {
            break;
        }
        state_fetches += 1;
        let id = event.pdu.event_id();
        match fetcher.fetch_state_before(id).await {
            // It stays missing. The others may lead to the gap without it.
            Err(Error::Fetch(FetchError::Unavailable)) => {}
            state => drop(claimed.insert(id.to_owned(), state?)),
        }
    }
    Ok(StateBefore::Claimed(claimed))
}

/// Those of `events` that are in `missing` or that such an event follows, directly or not.
fn ancestors(events: Vec<Received>, missing: &[String]) -> Vec<Received> {
    let mut remaining: HashMap<OwnedEventId, Received> = events
        .into_iter()
        .map(|event| (event.pdu.event_id().to_owned(), event))
        .collect();
    let mut open: Vec<OwnedEventId> = missing
        .iter()
        .filter_map(|id| id.as_str().try_into().ok())
        .collect();
    let mut ancestors = Vec::new();
    while let Some(id) = open.pop() {
        if let Some(event) = remaining.remove(&id) {
            open.extend(event.pdu.prev_events().iter().cloned());
            ancestors.push(event);
        }
    }
    ancestors
}
