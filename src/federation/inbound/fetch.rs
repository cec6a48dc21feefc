//! Getting hold of what an event names: the events that authorize it, and the state before it.
//!
//! What is fetched is checked like what is handed in, and kept as outliers.

use std::collections::{HashMap, HashSet};

use ruma::{
    EventId, OwnedEventId, OwnedRoomId, OwnedServerName, room_version_rules::RoomVersionRules,
};

use super::{
    Error,
    order::sorted,
    peers::{EventSource, RawPdu},
};
use crate::{
    protocol::{
        Pdu,
        authorize::create_event,
        receive::{Incoming, Received},
    },
    rooms::{
        self,
        event::{self, outlier},
        room,
    },
    store::{Reader, RoomNum, Rows, Store, Tx},
};

/// How many events are fetched one by one for one event.
const ONE_BY_ONE: usize = 50;
/// How many outliers one job stores.
const SLICE: usize = 32;

/// A room about which others are asked.
#[derive(Clone, Debug)]
pub struct Room {
    /// Its number.
    pub num: RoomNum,
    /// Its room id.
    pub id: OwnedRoomId,
    /// The rules of its version.
    pub rules: &'static RoomVersionRules,
}

impl Room {
    /// The room `num`.
    pub fn load(r: &impl Reader, num: RoomNum) -> Result<Self, rooms::Error> {
        Ok(Self {
            num,
            id: room::id(r, num)?,
            rules: room::rules(r, num)?,
        })
    }
}

/// Fetches from one server what is missing in one room.
pub struct Fetch<'a, P> {
    /// Where it goes.
    pub store: &'a Store,
    /// Through whom it is asked.
    pub peers: &'a P,
    /// The room.
    pub room: &'a Room,
    /// Who is asked.
    pub server: OwnedServerName,
}

impl<P: EventSource> Fetch<'_, P> {
    /// Those of `raw` that are events of the room, signed by whom they should be. The others leave
    /// no trace.
    pub async fn check(&self, raw: Vec<RawPdu>) -> Vec<Received> {
        check(self.peers, self.room, raw).await
    }

    /// Makes sure that all that authorizes `events` is here, apart from what is among them.
    ///
    /// # Errors
    /// [`Error::Missing`] if the server does not give it.
    pub async fn authorities(&self, events: &[Received]) -> Result<(), Error> {
        let known = events.iter().map(|event| event.pdu.event_id().to_owned());
        let mut known: HashSet<OwnedEventId> = known.collect();
        let open = self.lacking_authorities(events, &mut known)?;
        self.complete(open, known).await
    }

    /// Fetches and keeps `open` and all that authorizes it, apart from what is `known`.
    pub(super) async fn complete(
        &self,
        mut open: Vec<OwnedEventId>,
        mut known: HashSet<OwnedEventId>,
    ) -> Result<(), Error> {
        let mut fetched = Vec::new();
        while !open.is_empty() {
            if fetched.len() + open.len() > ONE_BY_ONE {
                return Err(Error::Missing);
            }
            let found = self.events(open).await?;
            open = self.lacking_authorities(&found, &mut known)?;
            fetched.extend(found);
        }
        self.keep(fetched).await
    }

    /// The ids of what authorizes `events` and is neither here nor `known`, which then it is.
    fn lacking_authorities(
        &self,
        events: &[Received],
        known: &mut HashSet<OwnedEventId>,
    ) -> Result<Vec<OwnedEventId>, Error> {
        let mut named = Vec::new();
        for event in events {
            let create = create_event(&event.pdu, self.room.rules);
            let create = create.filter(|id| id != event.pdu.event_id());
            named.extend(event.pdu.auth_events().iter().cloned().chain(create));
        }
        named.retain(|id| known.insert(id.clone()));
        self.lacking(named)
    }

    pub(super) fn lacking(&self, mut ids: Vec<OwnedEventId>) -> Result<Vec<OwnedEventId>, Error> {
        self.store.read(|s| {
            let known = s.event_nums()?;
            let mut failure = None;
            ids.retain(|id| match known.has(id.as_str()) {
                Ok(here) => !here,
                Err(error) => {
                    failure = Some(error);
                    false
                }
            });
            match failure {
                Some(error) => Err(Error::Rooms(error.into())),
                None => Ok(ids),
            }
        })
    }

    /// The events `ids`, fetched one by one.
    async fn events(&self, ids: Vec<OwnedEventId>) -> Result<Vec<Received>, Error> {
        let mut raw = Vec::new();
        for id in &ids {
            let event = self.peers.event(&self.server, id).await;
            raw.push(event.map_err(|_| Error::Missing)?);
        }
        let found = self.check(raw).await;
        let is_found = |id: &OwnedEventId| found.iter().any(|event| event.pdu.event_id() == id);
        if ids.iter().all(is_found) {
            Ok(found)
        } else {
            Err(Error::Missing)
        }
    }

    /// Makes sure that the events right before `event` are here, if only as outliers. What comes from
    /// nowhere must not become what the room ends with: others would ask here for what comes before
    /// it, and get nothing.
    ///
    /// # Errors
    /// [`Error::Missing`] if the server does not give them.
    pub async fn predecessors(&self, event: &Received) -> Result<(), Error> {
        let ids = self.lacking(event.pdu.prev_events().to_vec())?;
        let found = self.events(ids).await?;
        self.authorities(&found).await?;
        self.keep(found).await
    }

    /// Makes sure that the state before `event`, as the server has it, is here; its ids.
    ///
    /// # Errors
    /// [`Error::Missing`] if the server does not give it.
    pub async fn state_before(&self, event: &EventId) -> Result<Vec<OwnedEventId>, Error> {
        let (room, server) = (&self.room.id, &self.server);
        let told = self.peers.state_ids(server, room, event).await;
        let told = told.map_err(|_| Error::Missing)?;
        let mut ids = told.auth_chain;
        ids.extend(told.state.iter().cloned());
        let mut seen = HashSet::new();
        ids.retain(|id| seen.insert(id.clone()));
        let lacking = self.lacking(ids)?;
        let fetched = if lacking.len() > ONE_BY_ONE {
            let told = self.peers.state(server, room, event).await;
            let told = told.map_err(|_| Error::Missing)?;
            let mut raw = told.auth_chain;
            raw.extend(told.state);
            self.check(raw).await
        } else {
            self.events(lacking).await?
        };
        self.authorities(&fetched).await?;
        self.keep(fetched).await?;
        Ok(told.state)
    }

    /// Keeps events, whose authorities are here or among them, as outliers.
    pub async fn keep(&self, events: Vec<Received>) -> Result<(), Error> {
        let mut events = sorted(events, Pdu::auth_events).into_iter().peekable();
        while events.peek().is_some() {
            let slice: Vec<Received> = events.by_ref().take(SLICE).collect();
            let (room, rules) = (self.room.num, self.room.rules);
            let job = move |tx: &Tx| {
                for event in &slice {
                    outlier::store(tx, room, rules, event)?;
                }
                Ok::<_, rooms::Error>(())
            };
            self.store.write(job).await?;
        }
        Ok(())
    }
}

/// Those of `raw` that are events of `room`, signed by whom they should be.
pub async fn check<P: EventSource>(peers: &P, room: &Room, raw: Vec<RawPdu>) -> Vec<Received> {
    let mut parsed: HashMap<OwnedEventId, Incoming> = HashMap::new();
    for raw in raw {
        match Incoming::parse(raw.get().as_bytes(), room.rules) {
            Ok(event) => {
                parsed.insert(event.event_id().to_owned(), event);
            }
            Err(error) => log::debug!("dropped what another server calls an event: {error}"),
        }
    }
    let checked = peers.verify(parsed.into_values().collect()).await;
    let of_room = checked.into_iter().filter_map(|checked| match checked {
        Ok(event) if event.pdu.room_id() == room.id => Some(event),
        Ok(event) => {
            log::debug!("dropped {}: it is of another room", event.pdu.event_id());
            None
        }
        Err(error) => {
            log::debug!("dropped an event: {error}");
            None
        }
    });
    of_room.collect()
}

/// Whether the event `id` is here, and more than an outlier.
pub fn is_here(r: &impl Reader, id: &EventId) -> Result<bool, rooms::Error> {
    match event::num_of(r, id)? {
        Some(num) => Ok(!event::header(r, num)?.status.is_outlier()),
        None => Ok(false),
    }
}
