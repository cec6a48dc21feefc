//! Filling the gaps in a room's history.

use std::collections::{HashMap, HashSet};

use ruma::{OwnedEventId, OwnedServerName};

use super::{
    Error,
    fetch::{self, Fetch, Room},
    order::sorted,
    peers::EventSource,
    work::{Receiver, TRIES},
};
use crate::{
    protocol::{Pdu, receive::Received},
    rooms::{
        self,
        event::{self, backfill, outlier, receive},
        timeline,
    },
    store::{EventNum, Place, RoomNum, Tx},
};

/// How many states a server is asked for to fill a gap once.
const STATES: usize = 5;

/// How the state before those events is known whose predecessors are not here.
#[derive(Clone, Debug)]
pub(super) enum Before {
    /// Another server told it.
    Told(HashMap<OwnedEventId, Vec<OwnedEventId>>),
    /// Nothing changed between them and the gap.
    Unchanged,
}

impl<P: EventSource> Receiver<P> {
    /// Fetches some of what comes before the gap at `gap` from the first of `servers` that gives
    /// it; whether one did.
    pub async fn backfill(
        &self,
        room: RoomNum,
        gap: Place,
        servers: Vec<OwnedServerName>,
    ) -> Result<bool, Error> {
        let room = self.store().read(|s| Room::load(s, room))?;
        for server in servers {
            let fetch = Fetch {
                store: self.store(),
                peers: self.peers(),
                room: &room,
                server,
            };
            match self.fetch_from(&fetch, gap).await {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(Error::Rooms(rooms::Error::Store(error))) => return Err(error.into()),
                Err(error) => log::debug!("no history from {}: {error}", fetch.server),
            }
        }
        Ok(false)
    }

    async fn fetch_from(&self, fetch: &Fetch<'_, P>, gap: Place) -> Result<bool, Error> {
        let missing = fetch
            .store
            .read(|s| timeline::gap(s, fetch.room.num, gap))?
            .ok_or(rooms::Error::Stale)?
            .missing;
        let ids = missing.iter().filter_map(|id| id.as_str().try_into().ok());
        let (server, room) = (&fetch.server, &fetch.room.id);
        let raw = fetch.peers.backfill(server, room, ids.collect()).await;
        let found = fetch.check(raw.map_err(|_| Error::Missing)?).await;
        let events = sorted(leading_to(found, &missing), Pdu::prev_events);
        if events.is_empty() {
            return Ok(false);
        }
        fetch.authorities(&events).await?;
        let before = self.before(fetch, &events).await?;
        self.fill(fetch.room, gap, events, before).await?;
        Ok(true)
    }

    async fn before(&self, fetch: &Fetch<'_, P>, events: &[Received]) -> Result<Before, Error> {
        let is_line = events.windows(2).all(|two| {
            let [prev] = two[1].pdu.prev_events() else {
                return false;
            };
            prev == two[0].pdu.event_id()
        });
        if is_line && events.iter().all(|event| event.pdu.state_key().is_none()) {
            return Ok(Before::Unchanged);
        }
        let among: HashSet<_> = events.iter().map(|event| event.pdu.event_id()).collect();
        let mut told = HashMap::new();
        for event in events {
            let mut lacks = false;
            for id in event.pdu.prev_events() {
                lacks |= !among.contains(&**id) && !fetch.store.read(|s| fetch::is_here(s, id))?;
            }
            if !lacks {
                continue;
            }
            if told.len() == STATES {
                return Err(Error::Missing);
            }
            let id = event.pdu.event_id();
            told.insert(id.to_owned(), fetch.state_before(id).await?);
        }
        Ok(Before::Told(told))
    }

    /// Puts `events`, sorted, in their places before the gap at `gap`, to which they lead.
    pub(super) async fn fill(
        &self,
        room: &Room,
        gap: Place,
        events: Vec<Received>,
        before: Before,
    ) -> Result<(), Error> {
        let (num, rules) = (room.num, room.rules);
        let _room_lock = self.lock_room(num).await;
        let job = move |tx: &Tx| {
            let each = events.iter();
            each.map(|event| outlier::store(tx, num, rules, event))
                .collect::<Result<Vec<_>, _>>()
        };
        let nums: Vec<EventNum> = self.store().write(job).await?;
        for _ in 0..TRIES {
            let (nums, before) = (nums.clone(), before.clone());
            let judge = move |s: &_| {
                let mut states = HashMap::new();
                for event in &nums {
                    let state = match &before {
                        Before::Unchanged => backfill::state_before_gap_end(s, num, gap)?,
                        Before::Told(told) => match told.get(&event::id(s, *event)?) {
                            Some(ids) => receive::claimed_state(s, num, ids)?,
                            None => continue,
                        },
                    };
                    states.insert(*event, state);
                }
                backfill::decide(s, num, gap, &nums, &states)
            };
            let stretch = self.store().scan("history", judge).await?;
            let local = self.local().clone();
            let job = move |tx: &Tx| backfill::commit(tx, &local, &stretch);
            match self.store().write(job).await {
                Err(rooms::Error::Stale) => {}
                Err(error) => return Err(error.into()),
                Ok(()) => return Ok(()),
            }
        }
        Err(rooms::Error::Stale.into())
    }
}

/// Those of `events` that are `missing`, or come before one that is.
fn leading_to(events: Vec<Received>, missing: &[String]) -> Vec<Received> {
    let mut left: HashMap<OwnedEventId, Received> = events
        .into_iter()
        .map(|event| (event.pdu.event_id().to_owned(), event))
        .collect();
    let mut open: Vec<OwnedEventId> = missing
        .iter()
        .filter_map(|id| id.as_str().try_into().ok())
        .collect();
    let mut leading = Vec::new();
    while let Some(id) = open.pop() {
        if let Some(event) = left.remove(&id) {
            open.extend(event.pdu.prev_events().iter().cloned());
            leading.push(event);
        }
    }
    leading
}
