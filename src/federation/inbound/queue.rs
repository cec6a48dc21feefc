//! The queue of a room: verified events whose prev_events or auth events are missing. It is stored,
//! so an acknowledged event survives a restart. One task per room works it off.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use ruma::{EventId, OwnedEventId, OwnedServerName, ServerName};
use smol::{
    Task, Timer,
    channel::{self, Receiver, Sender},
    future::FutureExt,
    lock::Semaphore,
};

use super::{
    error::Error, event_source::EventSource, receiver::PduReceiver, room::Room,
    topological_order::sort_topologically,
};
use crate::{
    executor::Executor,
    protocol::{Pdu, receive::Received},
    rooms,
    store::{Reader, RoomNum, Rows, Store, Tx, records::Waiting},
};

/// An event that does not fit is fetched again when a later event refers to it.
const MAX_QUEUED_PER_ROOM: usize = 200;
const MAX_QUEUED_PER_ORIGIN: usize = 100;
/// How many rooms are worked on at once.
const MAX_ACTIVE_ROOMS: usize = 8;
/// The backoff after a round without progress. It doubles up to [`MAX_BACKOFF_DOUBLINGS`] times.
const MIN_BACKOFF: Duration = Duration::from_secs(15);
const MAX_BACKOFF_DOUBLINGS: u32 = 6;
/// The pause after a round without progress even if new events arrive.
const MIN_ROUND_INTERVAL: Duration = Duration::from_millis(200);
/// How long an event stays in the queue, counted from the start of the server.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(3600);

impl<S: EventSource> PduReceiver<S> {
    /// Stores `event` in the queue of its room.
    ///
    /// # Errors
    /// [`rooms::Error::Forbidden`] if the queue is full.
    pub(super) async fn enqueue(
        &self,
        origin: &ServerName,
        room: &Room,
        event: Received,
    ) -> Result<(), Error> {
        let (num, origin) = (room.num, origin.to_string());
        let job = move |tx: &Tx| {
            let queued = queued(tx, num)?;
            let of_origin = queued.values().filter(|event| event.origin == origin);
            if queued.len() >= MAX_QUEUED_PER_ROOM || of_origin.count() >= MAX_QUEUED_PER_ORIGIN {
                return Err(rooms::Error::forbidden(
                    "too many events of the room are queued",
                ));
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
}

/// The queued events of a room by event id.
fn queued(r: &impl Reader, room: RoomNum) -> Result<BTreeMap<String, Waiting>, rooms::Error> {
    let mut queued = BTreeMap::new();
    for row in r.waiting()?.range((room, "")..)? {
        let (key, waiting) = row?;
        let (of_room, id) = key.value();
        if of_room != room {
            break;
        }
        queued.insert(id.to_owned(), waiting.value().unpack()?);
    }
    Ok(queued)
}

/// The tasks that work off the queues.
pub struct RoomQueues<S> {
    executor: Executor,
    receiver: PduReceiver<S>,
    active: Arc<Mutex<HashMap<RoomNum, Worker>>>,
    permits: Arc<Semaphore>,
}

struct Worker {
    wake: Sender<()>,
    _task: Task<()>,
}

impl<S: EventSource> RoomQueues<S> {
    /// Starts tasks for the rooms whose queues are not empty since the last run of the server.
    pub fn start(executor: &Executor, receiver: PduReceiver<S>) -> Result<Self, rooms::Error> {
        let queues = Self {
            executor: executor.clone(),
            receiver,
            active: Arc::default(),
            permits: Arc::new(Semaphore::new(MAX_ACTIVE_ROOMS)),
        };
        for room in queues.receiver.store().read(rooms_with_queue)? {
            queues.wake(room);
        }
        Ok(queues)
    }

    /// Starts or wakes the task of the room's queue.
    pub fn wake(&self, room: RoomNum) {
        let mut active = lock(&self.active);
        if let Some(worker) = active.get(&room) {
            // If the channel is full, the task is about to look at the whole queue anyway.
            let _ = worker.wake.try_send(());
            return;
        }
        let (wake, woken) = channel::bounded(1);
        let receiver = self.receiver.clone();
        let permits = self.permits.clone();
        let workers = self.active.clone();
        let task = self.executor.spawn(async move {
            process_queue(&receiver, &permits, room, &woken).await;
            lock(&workers).remove(&room);
        });
        active.insert(room, Worker { wake, _task: task });
    }
}

fn lock(workers: &Mutex<HashMap<RoomNum, Worker>>) -> MutexGuard<'_, HashMap<RoomNum, Worker>> {
    workers.lock().unwrap_or_else(PoisonError::into_inner)
}

fn rooms_with_queue(r: &impl Reader) -> Result<Vec<RoomNum>, rooms::Error> {
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

/// Works off the queue of `room` until it is empty.
async fn process_queue<S: EventSource>(
    receiver: &PduReceiver<S>,
    permits: &Semaphore,
    room: RoomNum,
    woken: &Receiver<()>,
) {
    let mut queued_since: HashMap<OwnedEventId, Instant> = HashMap::new();
    let mut doublings = 0;
    loop {
        let permit = permits.acquire().await;
        let round = attempt_all(receiver, room).await;
        drop(permit);
        let result = match round {
            Ok(Round { progress: true, .. }) => {
                doublings = 0;
                continue;
            }
            Ok(Round { remaining, .. }) if remaining.is_empty() => return,
            Ok(Round { remaining, .. }) => {
                queued_since.retain(|id, _| remaining.contains(id));
                for id in remaining {
                    queued_since.entry(id).or_insert_with(Instant::now);
                }
                drop_timed_out(receiver.store(), room, &mut queued_since).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            log::error!("cannot process queued events of other servers until the next: {error}");
            return;
        }
        let backoff = async {
            Timer::after(MIN_BACKOFF * 2_u32.pow(doublings)).await;
            (doublings + 1).min(MAX_BACKOFF_DOUBLINGS)
        };
        let woken = async {
            Timer::after(MIN_ROUND_INTERVAL).await;
            let _ = woken.recv().await;
            0
        };
        doublings = backoff.or(woken).await;
    }
}

/// The result of one attempt at every event of a queue.
struct Round {
    /// Whether an event was processed.
    progress: bool,
    /// The events that stay in the queue.
    remaining: HashSet<OwnedEventId>,
}

async fn attempt_all<S: EventSource>(
    receiver: &PduReceiver<S>,
    num: RoomNum,
) -> Result<Round, Error> {
    let store = receiver.store();
    let (room, rows) =
        store.read(|s| Ok::<_, rooms::Error>((Room::load(s, num)?, queued(s, num)?)))?;
    let mut origins = HashMap::new();
    let mut events = Vec::new();
    for (id, row) in rows {
        match parse(&room, &id, &row) {
            Some((origin, event)) => {
                origins.insert(event.pdu.event_id().to_owned(), origin);
                events.push(event);
            }
            None => dequeue(store, num, &id).await?,
        }
    }
    let mut round = Round {
        progress: false,
        remaining: HashSet::new(),
    };
    for event in sort_topologically(events, Pdu::prev_events) {
        let id = event.pdu.event_id().to_owned();
        let Some(origin) = origins.remove(&id) else {
            continue;
        };
        match receiver.fetch_and_process(&room, origin, event).await {
            Ok(()) => {
                dequeue(store, num, id.as_str()).await?;
                round.progress = true;
            }
            Err(Error::Rooms(rooms::Error::Store(error))) => return Err(error.into()),
            Err(error @ Error::Rooms(rooms::Error::Invalid(_))) => {
                log::debug!("dropped event {id} of room {}: {error}", room.id);
                dequeue(store, num, id.as_str()).await?;
            }
            Err(error) => {
                log::debug!("event {id} of room {} stays queued: {error}", room.id);
                round.remaining.insert(id);
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

async fn dequeue(store: &Store, room: RoomNum, id: &str) -> Result<(), Error> {
    let id = id.to_owned();
    let job = move |tx: &Tx| {
        tx.waiting()?.remove((room, id.as_str()))?;
        Ok::<_, rooms::Error>(())
    };
    Ok(store.write(job).await?)
}

/// Drops events that were queued for too long. A later event that refers to one has it fetched again,
/// or leaves a gap in the timeline.
async fn drop_timed_out(
    store: &Store,
    room: RoomNum,
    queued_since: &mut HashMap<OwnedEventId, Instant>,
) -> Result<(), Error> {
    let timed_out = queued_since.extract_if(|_, since| since.elapsed() > QUEUE_TIMEOUT);
    for (id, _) in timed_out.collect::<Vec<_>>() {
        log::info!("dropped event {id}: no server gives the events before it");
        dequeue(store, room, id.as_str()).await?;
    }
    Ok(())
}
