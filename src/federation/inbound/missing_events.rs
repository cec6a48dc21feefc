//! Fetching what is missing before a received event (server-server API, "Backfilling and retrieving
//! missing events"):
//!
//! 1. the events between the forward extremities and the event, by `/get_missing_events`;
//! 2. the auth chains of all of them;
//! 3. where prev_events are missing still: these, and the state before the event, by `/state_ids`.

use std::collections::HashMap;

use ruma::{EventId, OwnedServerName};

use super::{
    error::Error,
    event_fetcher::{EventFetcher, is_processed},
    event_source::{EventSource, FetchError},
    receiver::PduReceiver,
    room::Room,
    topological_order::sort_topologically,
};
use crate::{
    protocol::{Pdu, receive::Received},
    rooms::{event, room},
};

impl<S: EventSource> PduReceiver<S> {
    /// Fetches from `server` what is missing before `event`, then processes all of it.
    ///
    /// # Errors
    /// [`Error::Fetch`] if `server` does not give it.
    pub(in crate::federation) async fn fetch_and_process(
        &self,
        room: &Room,
        server: OwnedServerName,
        event: Received,
    ) -> Result<(), Error> {
        let fetcher = EventFetcher {
            store: self.store(),
            source: self.source(),
            room,
            server,
        };
        let mut events = Vec::new();
        if is_missing_prev_events(&fetcher, &event)? {
            let fetched = fetch_missing_events(&fetcher, event.pdu.event_id()).await?;
            events = events_between(&fetcher, &event, fetched)?;
        }
        events.push(event);
        fetcher.fetch_auth_chains(&events).await?;
        for event in sort_topologically(events, Pdu::prev_events) {
            if fetcher
                .store
                .read(|s| is_processed(s, event.pdu.event_id()))?
            {
                continue;
            }
            let claimed_state = if is_missing_prev_events(&fetcher, &event)? {
                fetcher.fetch_prev_events(&event).await?;
                Some(fetcher.fetch_state_before(event.pdu.event_id()).await?)
            } else {
                None
            };
            self.process(room, event, claimed_state).await?;
        }
        Ok(())
    }
}

fn is_missing_prev_events<S>(
    fetcher: &EventFetcher<'_, S>,
    event: &Received,
) -> Result<bool, Error> {
    fetcher.store.read(|s| {
        for id in event.pdu.prev_events() {
            if !is_processed(s, id)? {
                return Ok(true);
            }
        }
        Ok(false)
    })
}

/// Those of `fetched` that lead from `event` back to events that are stored, and are not stored
/// themselves. Others may be from before this server joined: their states are older than the
/// room's, and resolving them with it as if they were a branch of it would undo what came since.
fn events_between<S>(
    fetcher: &EventFetcher<'_, S>,
    event: &Received,
    fetched: Vec<Received>,
) -> Result<Vec<Received>, Error> {
    let fetched = fetched.into_iter();
    let mut fetched: HashMap<_, _> = fetched
        .map(|event| (event.pdu.event_id().to_owned(), event))
        .collect();
    fetched.remove(event.pdu.event_id());
    let mut between = Vec::new();
    let mut open = event.pdu.prev_events().to_vec();
    while let Some(id) = open.pop() {
        if let Some(found) = fetched.remove(&id)
            && !fetcher.store.read(|s| is_processed(s, &id))?
        {
            open.extend(found.pdu.prev_events().iter().cloned());
            between.push(found);
        }
    }
    Ok(between)
}

/// The events between the forward extremities and `event`. None if the server does not give any: the
/// claimed state before the event is used then.
///
/// # Errors
/// [`FetchError::Unreachable`]: other requests would fail, too.
async fn fetch_missing_events<S: EventSource>(
    fetcher: &EventFetcher<'_, S>,
    event: &EventId,
) -> Result<Vec<Received>, Error> {
    let extremities = fetcher.store.read(|s| {
        let extremities = room::heads(s, fetcher.room.num)?.extremities;
        extremities
            .into_iter()
            .map(|num| event::id(s, num))
            .collect::<Result<Vec<_>, _>>()
    })?;
    let (server, room) = (&fetcher.server, &fetcher.room.id);
    let latest = vec![event.to_owned()];
    let source = fetcher.source;
    let pdus = match source
        .missing_events(server, room, extremities, latest)
        .await
    {
        Err(error @ FetchError::Unreachable) => return Err(error.into()),
        pdus => pdus.unwrap_or_default(),
    };
    Ok(fetcher.verify(pdus).await)
}
