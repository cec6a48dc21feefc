//! Fetching what is missing before a received event (server-server API, "Backfilling and retrieving
//! missing events"):
//!
//! 1. the events between the forward extremities and the event, by `/get_missing_events`, again until
//!    they lead to what is stored or there are too many;
//! 2. the auth chains of all of them;
//! 3. where prev_events are missing still: these, and the state before the event, by `/state_ids`.

use std::collections::{HashMap, HashSet, VecDeque};

use ruma::{OwnedEventId, OwnedServerName};

use super::{
    error::Error,
    event_fetcher::{EventFetcher, is_processed, unless_unavailable},
    event_source::{EventSource, FetchError},
    receiver::PduReceiver,
    room::Room,
    topological_order::sort_topologically,
};
use crate::{
    protocol::{Pdu, receive::Received},
    rooms::{
        self,
        event::{self, graph},
        room,
    },
};

/// How many events are fetched for one that was received, about, and their size. If more are missing,
/// a gap stays in the timeline.
const MAX_FETCHED_EVENTS: usize = 200;
const MAX_FETCHED_BYTES: usize = 4 << 20;
pub(super) const MAX_REQUESTS: usize = 10;
/// Before how many events one request asks for those that are missing, and after how many.
const MAX_LATEST: usize = 20;
const MAX_EARLIEST: usize = 100;

impl<S: EventSource> PduReceiver<S> {
    /// Fetches from `server` what is missing before `event`, then processes all of it. A fetched event whose
    /// auth chain or state cannot be had is left out: the events that follow on it must arrive.
    ///
    /// # Errors
    /// [`Error::Fetch`] or [`rooms::Error::Missing`] if `server` does not give what `event` needs.
    pub(in crate::federation) async fn fetch_and_process(
        &self,
        room: &Room,
        server: OwnedServerName,
        event: Received,
    ) -> Result<(), Error> {
        let mut fetcher = EventFetcher::new(self.store(), self.source(), room, server);
        let received = event.pdu.event_id().to_owned();
        let mut events = Vec::new();
        if is_missing_prev_events(&fetcher, &event)? {
            events = fetch_events_between(&fetcher, &event).await?;
        }
        events.push(event);
        unless_unavailable(fetcher.fetch_auth_chains(&events).await)?;
        let mut events = VecDeque::from(sort_topologically(events, Pdu::prev_events));
        while !events.is_empty() {
            // After an error the first event is processed alone, for its own error.
            let chain = self.process_chain(room, events.make_contiguous()).await;
            let chain = chain.unwrap_or(0);
            events.drain(..chain);
            if chain == 0
                && let Some(event) = events.pop_front()
            {
                let id = event.pdu.event_id().to_owned();
                match self.process_fetched(&mut fetcher, event).await {
                    Err(error) if id != received && may_leave_out(&mut fetcher, &error) => {
                        log::debug!("event {id} before {received} is left out: {error}");
                        fetcher.leave_out(id);
                    }
                    processed => processed?,
                }
            }
        }
        Ok(())
    }

    /// Processes one of the events of which the auth chains, and those prev_events that the server
    /// gives, were fetched.
    async fn process_fetched(
        &self,
        fetcher: &mut EventFetcher<'_, S>,
        event: Received,
    ) -> Result<(), Error> {
        let id = event.pdu.event_id();
        if fetcher.store.read(|s| is_processed(s, id))? {
            return Ok(());
        }
        if !fetcher.unstored_auth_events(&event)?.is_empty() {
            return Err(rooms::Error::Missing.into());
        }
        let claimed_state = if is_missing_prev_events(fetcher, &event)? {
            fetcher.fetch_prev_events(&event).await?;
            Some(fetcher.fetch_state_before(id).await?)
        } else {
            None
        };
        self.process(fetcher.room, event, claimed_state).await
    }
}

/// Whether the events that follow on one may be processed without it. What failed requests cost is limited.
fn may_leave_out<S>(fetcher: &mut EventFetcher<'_, S>, error: &Error) -> bool {
    match error {
        Error::Rooms(rooms::Error::Missing | rooms::Error::Invalid(_)) => true,
        Error::Fetch(FetchError::Unavailable) => fetcher.budget.may_leave_out(),
        _ => false,
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

/// The events that lead from `event` back to events that are stored. Others that a server gives may be
/// from before this server joined: their states are older than the room's, and resolving them with it
/// as if they were a branch of it would undo what came since.
async fn fetch_events_between<S: EventSource>(
    fetcher: &EventFetcher<'_, S>,
    event: &Received,
) -> Result<Vec<Received>, Error> {
    let mut between: HashMap<OwnedEventId, Received> = HashMap::new();
    let (mut bytes, mut min_depth) = (0, 0);
    for _ in 0..MAX_REQUESTS {
        let (mut earliest, mut latest) = (HashSet::new(), Vec::new());
        let mut missing = Vec::new();
        for event in between.values().chain([event]) {
            let before = missing.len();
            for id in event.pdu.prev_events() {
                if fetcher.store.read(|s| is_processed(s, id))? {
                    earliest.insert(id.clone());
                } else if !between.contains_key(id) {
                    missing.push(id.clone());
                }
            }
            if missing.len() > before {
                latest.push(event.pdu.event_id().to_owned());
            }
        }
        if missing.is_empty() || between.len() >= MAX_FETCHED_EVENTS || bytes >= MAX_FETCHED_BYTES {
            break;
        }
        latest.truncate(MAX_LATEST);
        let fetched = fetch_missing_events(fetcher, earliest, latest).await?;
        let fetched = fetched.into_iter();
        let mut fetched: HashMap<OwnedEventId, Received> = fetched
            .filter(|event| event.pdu.depth() > min_depth)
            .map(|event| (event.pdu.event_id().to_owned(), event))
            .collect();
        let before = between.len();
        while let Some(id) = missing.pop() {
            if let Some(found) = fetched.remove(&id)
                && !fetcher.store.read(|s| is_processed(s, &id))?
            {
                missing.extend(found.pdu.prev_events().iter().cloned());
                bytes += found.json.len();
                between.insert(id, found);
            }
        }
        if between.len() == before {
            break;
        }
        // What the next requests give may be from before the join.
        let join = |s: &_| graph::join_depth(s, fetcher.room.num);
        min_depth = fetcher.store.read(join)?;
    }
    Ok(between.into_values().collect())
}

/// The events between the forward extremities or `earliest` and `latest`. None if the server does not
/// give any: the claimed state before the received event is used then.
///
/// # Errors
/// [`FetchError::Unreachable`]: other requests would fail, too.
async fn fetch_missing_events<S: EventSource>(
    fetcher: &EventFetcher<'_, S>,
    mut earliest: HashSet<OwnedEventId>,
    latest: Vec<OwnedEventId>,
) -> Result<Vec<Received>, Error> {
    fetcher.store.read(|s| {
        for num in room::heads(s, fetcher.room.num)?.extremities {
            earliest.insert(event::id(s, num)?);
        }
        Ok::<_, rooms::Error>(())
    })?;
    let (server, room) = (&fetcher.server, &fetcher.room.id);
    let earliest = earliest.into_iter().take(MAX_EARLIEST).collect();
    let pdus = match fetcher
        .source
        .missing_events(server, room, earliest, latest)
        .await
    {
        Err(FetchError::Unavailable) => Vec::new(),
        pdus => fetcher.hold(pdus?)?,
    };
    Ok(fetcher.verify(pdus).await)
}
