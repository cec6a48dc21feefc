//! Events that wait for what comes before them: one task a room works them off.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use ruma::{EventId, OwnedEventId, OwnedServerName, ServerName};
use smol::{
    Task, Timer,
    channel::{self, Receiver as Woken, Sender},
    future::FutureExt,
    lock::Semaphore,
};

use super::{
    Error,
    fetch::{Fetch, Room, is_here},
    order::sorted,
    peers::EventSource,
    work::Receiver,
};
use crate::{
    executor::Executor,
    protocol::{Pdu, receive::Received},
    rooms::{self, event, room},
    store::{Reader, RoomNum, Rows, Store, Tx, records::Waiting},
};

/// How many events of one room may wait; what is beyond is found again by what comes after it.
const WAITING: usize = 200;
/// How many of them one server may have sent.
const WAITING_OF_ONE: usize = 100;
/// How many rooms are worked on at once.
const ROOMS: usize = 8;
/// How long a room in which nothing went forward rests at first; twice as long each time, so often.
const REST: Duration = Duration::from_secs(15);
const DOUBLED: u32 = 6;
/// How long it rests even if more comes.
const BREATH: Duration = Duration::from_millis(200);
/// How long an event waits, since this server started, before it is given up: servers that cannot be
/// reached for a while cost nothing, whatever comes meanwhile.
const PATIENCE: Duration = Duration::from_secs(3600);

impl<P: EventSource> Receiver<P> {
    /// Stores `event` as waiting.
    ///
    /// # Errors
    /// If too much waits already.
    pub(super) async fn let_wait(
        &self,
        origin: &ServerName,
        room: &Room,
        event: Received,
    ) -> Result<(), Error> {
        let (num, origin) = (room.num, origin.to_string());
        let job = move |tx: &Tx| {
            let waiting = waiting(tx, num)?;
            let of_origin = waiting.values().filter(|event| event.origin == origin);
            if waiting.len() >= WAITING || of_origin.count() >= WAITING_OF_ONE {
                return Err(rooms::Error::forbidden("too many events of the room wait"));
            }
            let record = Waiting {
                origin: origin.clone(),
                json: event.json.clone(),
            };
            Ok(tx
                .waiting()?
                .put((num, event.pdu.event_id().as_str()), &record)?)
        };
        Ok(self.store().write(job).await?)
    }

    /// Fetches what `event` lacks, from `origin` above all, and works it in.
    ///
    /// # Errors
    /// [`Error::Missing`] if no server gives it; those of [`work_in`](Self::work_in).
    pub(in crate::federation) async fn complete(
        &self,
        room: &Room,
        origin: OwnedServerName,
        event: Received,
    ) -> Result<(), Error> {
        let fetch = Fetch {
            store: self.store(),
            peers: self.peers(),
            room,
            server: origin,
        };
        let mut events = Vec::new();
        if lacks_history(&fetch, &event)? {
            events = missing(&fetch, event.pdu.event_id()).await?;
            events.retain(|found| found.pdu.event_id() != event.pdu.event_id());
        }
        events.push(event);
        fetch.authorities(&events).await?;
        for event in sorted(events, Pdu::prev_events) {
            if fetch.store.read(|s| is_here(s, event.pdu.event_id()))? {
                continue;
            }
            let told = if lacks_history(&fetch, &event)? {
                fetch.predecessors(&event).await?;
                Some(fetch.state_before(event.pdu.event_id()).await?)
            } else {
                None
            };
            self.work_in(room, event, told).await?;
        }
        Ok(())
    }
}

/// The room's waiting events by their ids.
fn waiting(r: &impl Reader, room: RoomNum) -> Result<BTreeMap<String, Waiting>, rooms::Error> {
    let mut found = BTreeMap::new();
    for row in r.waiting()?.range((room, "")..)? {
        let (key, waiting) = row?;
        let (of_room, id) = key.value();
        if of_room != room {
            break;
        }
        found.insert(id.to_owned(), waiting.value().unpack()?);
    }
    Ok(found)
}

/// The tasks that work off what waits.
pub struct Queues<P> {
    executor: Executor,
    receiver: Receiver<P>,
    rooms: Arc<Mutex<HashMap<RoomNum, Queue>>>,
    slots: Arc<Semaphore>,
}

struct Queue {
    wake: Sender<()>,
    _task: Task<()>,
}

impl<P: EventSource> Queues<P> {
    /// The tasks for what `receiver` lets wait, beginning with what waited when the server stopped.
    pub fn start(executor: &Executor, receiver: Receiver<P>) -> Result<Self, rooms::Error> {
        let queues = Self {
            executor: executor.clone(),
            receiver,
            rooms: Arc::default(),
            slots: Arc::new(Semaphore::new(ROOMS)),
        };
        for room in queues.receiver.store().read(rooms_that_wait)? {
            queues.wake(room);
        }
        Ok(queues)
    }

    /// Has what waits in `room` worked off.
    pub fn wake(&self, room: RoomNum) {
        let mut rooms = lock(&self.rooms);
        if let Some(queue) = rooms.get(&room) {
            // Whoever is woken already looks at everything.
            let _ = queue.wake.try_send(());
            return;
        }
        let (wake, woken) = channel::bounded(1);
        let (receiver, slots, all) = (
            self.receiver.clone(),
            self.slots.clone(),
            self.rooms.clone(),
        );
        let task = self.executor.spawn(async move {
            work_off(&receiver, &slots, room, &woken).await;
            lock(&all).remove(&room);
        });
        rooms.insert(room, Queue { wake, _task: task });
    }
}

fn lock(rooms: &Mutex<HashMap<RoomNum, Queue>>) -> MutexGuard<'_, HashMap<RoomNum, Queue>> {
    rooms.lock().unwrap_or_else(PoisonError::into_inner)
}

fn rooms_that_wait(r: &impl Reader) -> Result<Vec<RoomNum>, rooms::Error> {
    let mut found: Vec<RoomNum> = Vec::new();
    let table = r.waiting()?;
    loop {
        let from = found
            .last()
            .map_or(RoomNum::MIN, |last| RoomNum(last.0 + 1));
        let Some(row) = table.range((from, "")..)?.next() else {
            return Ok(found);
        };
        found.push(row?.0.value().0);
    }
}

/// Works off what waits in `room`, until nothing does: it is worked in, or waited too long.
async fn work_off<P: EventSource>(
    receiver: &Receiver<P>,
    slots: &Semaphore,
    room: RoomNum,
    woken: &Woken<()>,
) {
    let mut since: HashMap<OwnedEventId, Instant> = HashMap::new();
    let mut rests = 0;
    loop {
        let slot = slots.acquire().await;
        let round = round(receiver, room).await;
        drop(slot);
        let result = match round {
            Ok(Round { forward: true, .. }) => {
                rests = 0;
                continue;
            }
            Ok(Round { stuck, .. }) if stuck.is_empty() => return,
            Ok(Round { stuck, .. }) => {
                since.retain(|id, _| stuck.contains(id));
                for id in stuck {
                    since.entry(id).or_insert_with(Instant::now);
                }
                give_up(receiver.store(), room, &mut since).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            log::error!("cannot work off what other servers sent: {error}");
            return;
        }
        let time = REST * 2_u32.pow(rests);
        let rest = async {
            Timer::after(time).await;
            (rests + 1).min(DOUBLED)
        };
        let woken = async {
            Timer::after(BREATH).await;
            let _ = woken.recv().await;
            0
        };
        rests = rest.or(woken).await;
    }
}

/// What a look at everything that waits in a room came to.
struct Round {
    /// Whether something was worked in.
    forward: bool,
    /// What goes on waiting.
    stuck: HashSet<OwnedEventId>,
}

async fn round<P: EventSource>(receiver: &Receiver<P>, num: RoomNum) -> Result<Round, Error> {
    let store = receiver.store();
    let (room, rows) =
        store.read(|s| Ok::<_, rooms::Error>((Room::load(s, num)?, waiting(s, num)?)))?;
    let mut origins = HashMap::new();
    let mut events = Vec::new();
    for (id, row) in rows {
        match parse(&room, &id, &row) {
            Some((origin, event)) => {
                origins.insert(event.pdu.event_id().to_owned(), origin);
                events.push(event);
            }
            None => done(store, num, &id).await?,
        }
    }
    let mut round = Round {
        forward: false,
        stuck: HashSet::new(),
    };
    for event in sorted(events, Pdu::prev_events) {
        let id = event.pdu.event_id().to_owned();
        let Some(origin) = origins.remove(&id) else {
            continue;
        };
        match receiver.complete(&room, origin, event).await {
            Ok(()) => {
                done(store, num, id.as_str()).await?;
                round.forward = true;
            }
            Err(Error::Rooms(rooms::Error::Store(error))) => return Err(error.into()),
            Err(error @ Error::Rooms(rooms::Error::Invalid(_))) => {
                log::debug!("dropped {id}: {error}");
                done(store, num, id.as_str()).await?;
            }
            Err(error) => {
                log::debug!("{id} goes on waiting: {error}");
                round.stuck.insert(id);
            }
        }
    }
    Ok(round)
}

fn parse(room: &Room, id: &str, row: &Waiting) -> Option<(OwnedServerName, Received)> {
    let id = <&EventId>::try_from(id).ok()?.to_owned();
    let event = Received {
        pdu: Pdu::parse(id, &row.json, room.rules, false).ok()?,
        json: row.json.clone(),
        redacted: false,
    };
    Some((OwnedServerName::try_from(row.origin.as_str()).ok()?, event))
}

async fn done(store: &Store, room: RoomNum, id: &str) -> Result<(), Error> {
    let id = id.to_owned();
    let job = move |tx: &Tx| {
        tx.waiting()?.remove((room, id.as_str()))?;
        Ok::<_, rooms::Error>(())
    };
    Ok(store.write(job).await?)
}

/// Forgets what has waited too long. What comes after it finds it again, or leaves a gap.
async fn give_up(
    store: &Store,
    room: RoomNum,
    since: &mut HashMap<OwnedEventId, Instant>,
) -> Result<(), Error> {
    let too_long = since.extract_if(|_, since| since.elapsed() > PATIENCE);
    for (id, _) in too_long.collect::<Vec<_>>() {
        log::warn!("gave up on {id}, whose history no server gives");
        done(store, room, id.as_str()).await?;
    }
    Ok(())
}

fn lacks_history<P>(fetch: &Fetch<'_, P>, event: &Received) -> Result<bool, Error> {
    fetch.store.read(|s| {
        for id in event.pdu.prev_events() {
            if !is_here(s, id)? {
                return Ok(true);
            }
        }
        Ok(false)
    })
}

/// The events between what the room ends with and `event`.
async fn missing<P: EventSource>(
    fetch: &Fetch<'_, P>,
    event: &EventId,
) -> Result<Vec<Received>, Error> {
    let earliest = fetch.store.read(|s| {
        let ends = room::heads(s, fetch.room.num)?.extremities;
        ends.into_iter()
            .map(|num| event::id(s, num))
            .collect::<Result<Vec<_>, _>>()
    })?;
    let span = (earliest, vec![event.to_owned()]);
    let (server, room) = (&fetch.server, &fetch.room.id);
    // Without them the state before the event has to do.
    let raw = fetch.peers.missing_events(server, room, span).await;
    Ok(fetch.check(raw.unwrap_or_default()).await)
}
