//! Working one room's events in.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use ruma::{OwnedEventId, OwnedRoomId, RoomId, ServerName};
use serde::Deserialize;
use smol::lock::MutexGuard;

use super::{
    Error,
    fetch::{self, Room},
    history::Before,
    peers::{EventSource, RawPdu},
};
use crate::{
    federation::locks::Locks,
    protocol::{
        Pdu,
        build::EventDraft,
        receive::{Incoming, Received},
    },
    rooms::{
        self, Local,
        event::{
            self,
            receive::{self, decide},
        },
        room,
        state::{overlay::StateOverlay, server_acl},
        unread::notify,
    },
    store::{Reader, RoomNum, Store, Tx},
};

/// How often an event is decided again because its room has moved.
pub(super) const TRIES: usize = 20;
/// Rooms share so many locks.
const LOCKS: usize = 64;
/// How many events one job works in that follow one upon the other, and after what time it leaves
/// the rest to the next, so that others get their turn.
const IN_LINE: usize = 32;
const JOB: Duration = Duration::from_millis(5);

/// What receives events. Clones are the same.
pub struct Receiver<P>(Arc<Parts<P>>);

struct Parts<P> {
    store: Store,
    local: Local,
    peers: P,
    locks: Locks<LOCKS>,
}

impl<P> Clone for Receiver<P> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// What became of an event that was handed in.
#[derive(Debug)]
pub enum Taken {
    /// It is worked in, or was here.
    In,
    /// It waits for what it names.
    Waits(RoomNum),
}

impl<P: EventSource> Receiver<P> {
    /// A receiver that asks `peers` for what is missing.
    pub fn new(store: Store, local: Local, peers: P) -> Self {
        Self(Arc::new(Parts {
            store,
            local,
            peers,
            locks: Locks::default(),
        }))
    }

    pub(super) fn store(&self) -> &Store {
        &self.0.store
    }

    pub(super) fn local(&self) -> &Local {
        &self.0.local
    }

    /// Of a room's events one is decided at a time: by whoever holds this.
    pub(in crate::federation) async fn lock_room(&self, room: RoomNum) -> MutexGuard<'_, ()> {
        self.0.locks.of(room).await
    }

    pub(in crate::federation) fn peers(&self) -> &P {
        &self.0.peers
    }

    /// Takes what `origin` sends: for each event what became of it, an error as a text for `origin`.
    /// What is not fit to have an event id is dropped. One bad event costs the others nothing.
    pub async fn take(
        &self,
        origin: &ServerName,
        pdus: Vec<RawPdu>,
    ) -> BTreeMap<OwnedEventId, Result<Taken, String>> {
        let mut results = BTreeMap::new();
        let mut rooms: BTreeMap<OwnedRoomId, Vec<RawPdu>> = BTreeMap::new();
        for pdu in pdus {
            if let Some(room) = room_of(&pdu) {
                rooms.entry(room).or_default().push(pdu);
            }
        }
        for (id, pdus) in rooms {
            match self.admit(origin, &id) {
                Ok(room) => results.extend(self.take_in(origin, &room, pdus).await),
                Err(rooms::Error::UnknownRoom) => {
                    match self.take_outside(origin, &id, pdus).await {
                        Ok(taken) => results.extend(taken),
                        Err(error) => log::debug!("{origin} sends to {id}: {error}"),
                    }
                }
                Err(error) => log::debug!("{origin} sends to {id}: {error}"),
            }
        }
        results
    }

    /// The room `id`, if `origin` may send to it and somebody here is in it.
    fn admit(&self, origin: &ServerName, id: &RoomId) -> Result<Room, rooms::Error> {
        self.0.store.read(|s| {
            let num = server_acl::open_to(s, id, origin)?;
            Room::load(s, num)
        })
    }

    /// Takes what `origin` sends to one room.
    pub(super) async fn take_in(
        &self,
        origin: &ServerName,
        room: &Room,
        pdus: Vec<RawPdu>,
    ) -> BTreeMap<OwnedEventId, Result<Taken, String>> {
        let mut results = BTreeMap::new();
        let mut new = Vec::new();
        for pdu in pdus {
            let Ok(event) = Incoming::parse(pdu.get().as_bytes(), room.rules) else {
                continue;
            };
            let id = event.event_id().to_owned();
            match self.0.store.read(|s| fetch::is_here(s, &id)) {
                Ok(true) => drop(results.insert(id, Ok(Taken::In))),
                Ok(false) => new.push((id, event)),
                Err(error) => drop(results.insert(id, Err(error.to_string()))),
            }
        }
        let (ids, events): (Vec<_>, Vec<_>) = new.into_iter().unzip();
        let checked = self.0.peers.verify(events).await;
        let mut good = VecDeque::new();
        for (id, checked) in ids.into_iter().zip(checked) {
            match checked {
                Ok(event) if event.pdu.room_id() == room.id => good.push_back(event),
                Ok(_) => drop(results.insert(id, Err("the event is of another room".to_owned()))),
                Err(error) => drop(results.insert(id, Err(error.to_string()))),
            }
        }
        while !good.is_empty() {
            // What goes wrong with them together is told of the one with which it does.
            let in_line = self.work_in_line(room, good.make_contiguous()).await;
            let in_line = in_line.unwrap_or(0);
            for event in good.drain(..in_line) {
                results.insert(event.pdu.event_id().to_owned(), Ok(Taken::In));
            }
            if in_line == 0
                && let Some(event) = good.pop_front()
            {
                let id = event.pdu.event_id().to_owned();
                let taken = self.take_one(origin, room, event).await;
                results.insert(id, taken.map_err(|error| error.to_string()));
            }
        }
        results
    }

    /// Works in the first of `events` that follow one upon the other on what the room ends with, as
    /// many as one job may: how many those are.
    async fn work_in_line(&self, room: &Room, events: &[Received]) -> Result<usize, Error> {
        let num = room.num;
        let mut length = usize::from(self.0.store.read(|s| match events.first() {
            Some(first) => follows(s, num, &first.pdu),
            None => Ok(false),
        })?);
        while length > 0
            && length < IN_LINE
            && let Some(next) = events.get(length)
            && *next.pdu.prev_events() == [events[length - 1].pdu.event_id().to_owned()]
        {
            length += 1;
        }
        if length < 2 {
            return Ok(0);
        }
        let _room_lock = self.lock_room(num).await;
        let mut line = Vec::new();
        for event in &events[..length] {
            line.push((event.clone(), self.notify(&event.pdu).await?));
        }
        let local = self.0.local.clone();
        let line = Arc::new(line);
        let job = move |tx: &Tx| {
            let begun = Instant::now();
            for (number, (event, notify)) in line.iter().enumerate() {
                let pdu = Arc::new(event.pdu.clone());
                let fills_gap = rooms::timeline::gap_of(tx, num, pdu.event_id())?.is_some();
                if begun.elapsed() > JOB || fills_gap || !follows(tx, num, &pdu)? {
                    return Ok(number);
                }
                match decide(tx, num, pdu, event.json.clone(), None) {
                    Ok(decision) => receive::commit(tx, &local, &decision, notify)?,
                    Err(error @ rooms::Error::Store(_)) => return Err(error),
                    Err(_) => return Ok(number),
                };
            }
            Ok(line.len())
        };
        Ok(self.0.store.write(job).await?)
    }

    /// Works `event` in, or lets it wait.
    async fn take_one(
        &self,
        origin: &ServerName,
        room: &Room,
        event: Received,
    ) -> Result<Taken, Error> {
        match self.work_in(room, event.clone(), None).await {
            Ok(()) => Ok(Taken::In),
            Err(Error::Rooms(rooms::Error::Missing)) => {
                self.let_wait(origin, room, event).await?;
                Ok(Taken::Waits(room.num))
            }
            Err(error) => Err(error),
        }
    }

    /// Checks the signatures and the hash of an event that is to be one of `room`.
    ///
    /// # Errors
    /// [`rooms::Error::Forbidden`] if they are not right; [`rooms::Error::Invalid`] if it is of another
    /// room.
    pub(in crate::federation) async fn verify(
        &self,
        room: &RoomId,
        event: Incoming,
    ) -> Result<Received, rooms::Error> {
        match self.0.peers.verify(vec![event]).await.pop() {
            Some(Ok(event)) if event.pdu.room_id() == room => Ok(event),
            Some(Ok(_)) | None => Err(rooms::Error::invalid("the event is of another room")),
            Some(Err(error)) => Err(rooms::Error::forbidden(error.to_string())),
        }
    }

    /// Works an event in that was handed in here for others too: they get it from here.
    ///
    /// # Errors
    /// Those of [`work_in`](Self::work_in).
    pub(in crate::federation) async fn work_in_for_others(
        &self,
        room: &Room,
        event: Received,
    ) -> Result<(), Error> {
        let _room_lock = self.lock_room(room.num).await;
        self.settle(room.num, event, (None, true)).await
    }

    /// Works an event in whose signatures and hash were checked. `told` is the state before it as
    /// another server has it, all of it here.
    ///
    /// # Errors
    /// [`rooms::Error::Missing`] if something that it names is not here.
    pub(in crate::federation) async fn work_in(
        &self,
        room: &Room,
        event: Received,
        told: Option<Vec<OwnedEventId>>,
    ) -> Result<(), Error> {
        let num = room.num;
        let gap = |s: &_| rooms::timeline::gap_of(s, num, event.pdu.event_id());
        if let Some(gap) = self.0.store.read(gap)? {
            let told = told
                .into_iter()
                .map(|told| (event.pdu.event_id().to_owned(), told));
            let before = Before::Told(told.collect());
            return self.fill(room, gap, vec![event], before).await;
        }
        let _room_lock = self.lock_room(num).await;
        self.settle(num, event, (told, false)).await
    }

    /// Decides about an event and stores it, as often as it takes.
    async fn settle(
        &self,
        num: RoomNum,
        event: Received,
        (told, hand_on): (Option<Vec<OwnedEventId>>, bool),
    ) -> Result<(), Error> {
        let notify = self.notify(&event.pdu).await?;
        let pdu = Arc::new(event.pdu);
        for _ in 0..TRIES {
            let decision = self.decide(num, &pdu, &event.json, told.as_deref()).await?;
            let decision = if hand_on {
                decision.with_relay()
            } else {
                decision
            };
            let (local, notify) = (self.0.local.clone(), notify.clone());
            let job = move |tx: &Tx| receive::commit(tx, &local, &decision, &notify);
            match self.0.store.write(job).await {
                Err(rooms::Error::Stale) => {}
                Err(error) => return Err(error.into()),
                Ok(_) => return Ok(()),
            }
        }
        Err(rooms::Error::Stale.into())
    }

    /// In place where the event follows on what the room ends with, else on the pool, as states may
    /// have to be resolved.
    async fn decide(
        &self,
        room: RoomNum,
        pdu: &Arc<Pdu>,
        json: &[u8],
        told: Option<&[OwnedEventId]>,
    ) -> Result<receive::Decision, rooms::Error> {
        let store = &self.0.store;
        if told.is_none() && store.read(|s| follows(s, room, pdu))? {
            return store.read(|s| decide(s, room, pdu.clone(), json.to_vec(), None));
        }
        let (pdu, json, told) = (pdu.clone(), json.to_vec(), told.map(<[_]>::to_vec));
        let decide = move |s: &_| {
            let told: Option<StateOverlay> = told
                .as_deref()
                .map(|ids| receive::claimed_state(s, room, ids))
                .transpose()?;
            decide(s, room, pdu.clone(), json.clone(), told)
        };
        store.scan("an event of another server", decide).await
    }

    async fn notify(&self, pdu: &Pdu) -> Result<rooms::event::insert::Notify, rooms::Error> {
        let draft = EventDraft::of(pdu)?;
        notify::evaluate(&self.0.store, &self.0.local, &draft).await
    }
}

/// Whether the room ends with one event, and `pdu` follows on it.
fn follows(r: &impl Reader, room: RoomNum, pdu: &Pdu) -> Result<bool, rooms::Error> {
    let heads = room::heads(r, room)?;
    match (heads.extremities.as_slice(), pdu.prev_events()) {
        ([end], [prev]) => Ok(event::num_of(r, prev)? == Some(*end)),
        _ => Ok(false),
    }
}

/// The room that an event says it is of.
fn room_of(pdu: &RawPdu) -> Option<OwnedRoomId> {
    #[derive(Deserialize)]
    struct OfRoom {
        room_id: OwnedRoomId,
    }
    let of_room: OfRoom = serde_json::from_str(pdu.get()).ok()?;
    Some(of_room.room_id)
}
