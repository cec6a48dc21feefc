//! The queue of a room: verified events whose prev_events or auth events are missing. It is stored,
//! so an acknowledged event survives a restart. One task per room works it off.
//!
//! No server can fill it or hold it up for the others:
//!
//! - Only events of servers in the room are queued.
//! - When the queue is full, the server with the most events in it loses one.
//! - An event that its origin does not supply is dropped soon. It stays longer if its origin cannot be
//!   reached.
//! - One round spends limited time on the failures of one origin, and makes one attempt at an origin
//!   that cannot be reached: connections to other servers are limited, and honest ones need them too.
//! - A room is worked on for the server with the most events in its queue, which has a share of the rooms
//!   that are worked on at once.
//! - An event that cannot be processed because of a corrupt row or a panic is dropped.

use std::{
    collections::{BTreeMap, HashMap},
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use ruma::{EventId, OwnedEventId, OwnedServerName, ServerName};
use smol::{
    Task, Timer,
    channel::{self, Receiver, Sender},
    future::FutureExt,
};

use super::{
    error::Error,
    event_source::{EventSource, FetchError},
    receiver::PduReceiver,
    room::Room,
    topological_order::sort_topologically,
};
use crate::{
    executor::Executor,
    fair_semaphore::FairSemaphore,
    protocol::{Pdu, receive::Received},
    rooms::{self, room},
    store::{self, Reader, RoomNum, Rows, Store, Tx, records::Waiting},
};

/// An event that does not fit is fetched again when a later event refers to it.
const MAX_QUEUED_PER_ROOM: usize = 200;
const MAX_QUEUED_PER_ORIGIN: usize = 100;
/// How many rooms are worked on at once, of all servers and of one.
const MAX_ACTIVE_ROOMS: usize = 8;
const MAX_ACTIVE_ROOMS_PER_ORIGIN: usize = 3;
/// The backoff after a round without progress. It doubles up to [`MAX_BACKOFF_DOUBLINGS`] times.
const MIN_BACKOFF: Duration = Duration::from_secs(15);
const MAX_BACKOFF_DOUBLINGS: u32 = 6;
/// The pause after a round without progress even if new events arrive.
const MIN_ROUND_INTERVAL: Duration = Duration::from_millis(200);
/// How long an event stays in the queue after the first failure, if its origin cannot be reached.
const UNREACHABLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// The same if its origin responds, but does not give what is missing.
const UNAVAILABLE_TIMEOUT: Duration = Duration::from_secs(60);
/// After failures that took so long, the other events of the origin wait for the next round.
const MAX_FAILURE_TIME_PER_ORIGIN: Duration = Duration::from_secs(30);

impl<S: EventSource> PduReceiver<S> {
    /// Stores `event` in the queue of its room. `origin` is in the room. An event that is queued already
    /// stays, and so does its origin, unless the sender's own server sends it now.
    ///
    /// # Errors
    /// [`rooms::Error::Forbidden`] if `origin` has its share of the queue.
    pub(super) async fn enqueue(
        &self,
        origin: &ServerName,
        room: &Room,
        event: Received,
    ) -> Result<(), Error> {
        let (num, origin) = (room.num, origin.to_string());
        let (id, from) = (event.pdu.event_id().to_owned(), origin.clone());
        let job = move |tx: &Tx| {
            let id = event.pdu.event_id().as_str();
            let is_senders = event.pdu.sender().server_name().as_str() == origin;
            let queued = queued(tx, num)?;
            let dropped = match queued.get(id) {
                Some(_) if !is_senders || is_share_full(&queued, &origin) => return Ok(None),
                Some(_) => None,
                None => make_space(tx, num, &queued, &origin)?,
            };
            let record = Waiting {
                origin: origin.clone(),
                json: event.json.clone(),
            };
            tx.waiting()?.put((num, id), &record)?;
            Ok::<_, rooms::Error>(dropped)
        };
        if let Some(dropped) = self.store().write(job).await? {
            let room = &room.id;
            log::debug!(
                "dropped event {dropped} from the full queue of room {room} for {id} of {from}"
            );
        }
        Ok(())
    }
}

fn count_of(queued: &BTreeMap<String, Waiting>, origin: &str) -> usize {
    let events = queued.values();
    events.filter(|event| event.origin == origin).count()
}

fn is_share_full(queued: &BTreeMap<String, Waiting>, origin: &str) -> bool {
    count_of(queued, origin) >= MAX_QUEUED_PER_ORIGIN
}

/// Drops an event of the origin with the most events if the queue is full. Returns its id.
///
/// # Errors
/// [`rooms::Error::Forbidden`] if `origin` would have the most, or has its share.
fn make_space(
    tx: &Tx,
    room: RoomNum,
    queued: &BTreeMap<String, Waiting>,
    origin: &str,
) -> Result<Option<String>, rooms::Error> {
    let own = count_of(queued, origin);
    let full = || rooms::Error::forbidden(format!("{own} events of {origin} are queued"));
    if is_share_full(queued, origin) {
        return Err(full());
    }
    if queued.len() < MAX_QUEUED_PER_ROOM {
        return Ok(None);
    }
    let mut by_origin: HashMap<&str, Vec<&String>> = HashMap::new();
    for (id, event) in queued {
        by_origin.entry(&event.origin).or_default().push(id);
    }
    let largest = by_origin.into_values().max_by_key(Vec::len);
    let largest = largest.filter(|ids| ids.len() > own + 1).ok_or_else(full)?;
    let last = largest.last().copied().cloned();
    if let Some(id) = &last {
        tx.waiting()?.remove((room, id.as_str()))?;
    }
    Ok(last)
}

/// The queued events of a room by event id. A corrupt row is an empty record, which is dropped when it
/// is processed.
fn queued(r: &impl Reader, room: RoomNum) -> Result<BTreeMap<String, Waiting>, rooms::Error> {
    let mut queued = BTreeMap::new();
    for row in r.waiting()?.prefix(room)? {
        let (key, waiting) = row?;
        let id = key.value().1;
        let waiting = waiting.record(&key).unwrap_or_else(|_| Waiting {
            origin: String::new(),
            json: Vec::new(),
        });
        queued.insert(id.to_owned(), waiting);
    }
    Ok(queued)
}

/// The server with the most events in the queue of a room.
fn largest_origin(r: &impl Reader, room: RoomNum) -> Result<String, rooms::Error> {
    let mut counts: HashMap<String, usize> = HashMap::new();
    for event in queued(r, room)?.into_values() {
        *counts.entry(event.origin).or_default() += 1;
    }
    let largest = counts.into_iter().max_by_key(|(_, count)| *count);
    Ok(largest.map(|(origin, _)| origin).unwrap_or_default())
}

/// The tasks that work off the queues.
pub struct RoomQueues<S> {
    executor: Executor,
    receiver: PduReceiver<S>,
    active: Arc<Mutex<HashMap<RoomNum, Worker>>>,
    permits: FairSemaphore<String>,
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
            permits: FairSemaphore::new(MAX_ACTIVE_ROOMS, MAX_ACTIVE_ROOMS_PER_ORIGIN),
        };
        for room in queues
            .receiver
            .store()
            .read(|s| s.waiting()?.first_parts())?
        {
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

/// Works off the queue of `room` until it is empty.
async fn process_queue<S: EventSource>(
    receiver: &PduReceiver<S>,
    permits: &FairSemaphore<String>,
    room: RoomNum,
    woken: &Receiver<()>,
) {
    let mut failures: HashMap<OwnedEventId, Failure> = HashMap::new();
    let mut doublings = 0;
    loop {
        let round = match receiver.store().read(|s| largest_origin(s, room)) {
            Ok(origin) => {
                let _permit = permits.acquire(origin).await;
                attempt_all(receiver, room, &mut failures).await
            }
            Err(error) => Err(error.into()),
        };
        let result = match round {
            Ok(Round { progress: true, .. }) => {
                doublings = 0;
                continue;
            }
            Ok(Round { remaining: 0, .. }) => return,
            Ok(_) => drop_timed_out(receiver.store(), room, &mut failures).await,
            Err(error) => Err(error),
        };
        match result {
            Ok(()) => {}
            Err(Error::Rooms(rooms::Error::Store(store::Error::Closed))) => return,
            Err(error) => {
                let id = room::id_for_log(receiver.store(), room);
                log::error!("queued events of {id} wait for another attempt: {error}");
            }
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
    /// Whether an event was processed or dropped. The queue is read again then, since events may
    /// have arrived meanwhile.
    progress: bool,
    /// How many events stay in the queue.
    remaining: usize,
}

/// The failures of a queued event with the same origin, since the start of the server.
struct Failure {
    origin: OwnedServerName,
    first: Instant,
    /// When its origin first responded without giving what is missing.
    first_unavailable: Option<Instant>,
}

impl Failure {
    fn record(
        failures: &mut HashMap<OwnedEventId, Self>,
        id: OwnedEventId,
        origin: OwnedServerName,
        error: &Error,
    ) {
        let now = Instant::now();
        let failure = failures.entry(id).or_insert(Self {
            origin,
            first: now,
            first_unavailable: None,
        });
        match error {
            Error::Fetch(FetchError::Unreachable) => failure.first_unavailable = None,
            Error::Fetch(_) | Error::Rooms(rooms::Error::Missing | rooms::Error::Forbidden(_)) => {
                failure.first_unavailable = failure.first_unavailable.or(Some(now));
            }
            // Not the origin's fault.
            _ => {}
        }
    }

    fn is_timed_out(&self) -> bool {
        let unavailable = self.first_unavailable;
        self.first.elapsed() > UNREACHABLE_TIMEOUT
            || unavailable.is_some_and(|since| since.elapsed() > UNAVAILABLE_TIMEOUT)
    }
}

async fn attempt_all<S: EventSource>(
    receiver: &PduReceiver<S>,
    num: RoomNum,
    failures: &mut HashMap<OwnedEventId, Failure>,
) -> Result<Round, Error> {
    let store = receiver.store();
    let (room, rows) =
        store.read(|s| Ok::<_, rooms::Error>((Room::load(s, num)?, queued(s, num)?)))?;
    let mut round = Round {
        progress: false,
        remaining: 0,
    };
    let mut origins = HashMap::new();
    let mut events = Vec::new();
    for (id, row) in rows {
        match parse(&room, &id, &row) {
            Some((origin, event)) => {
                origins.insert(event.pdu.event_id().to_owned(), origin);
                events.push(event);
            }
            None => {
                log::error!(
                    "dropped event {id} of room {}: its row in the queue is corrupt",
                    room.id
                );
                dequeue(store, num, &id).await?;
                round.progress = true;
            }
        }
    }
    failures.retain(|id, failure| origins.get(id) == Some(&failure.origin));
    let mut failure_time: HashMap<OwnedServerName, Duration> = HashMap::new();
    for event in sort_topologically(events, Pdu::prev_events) {
        let id = event.pdu.event_id().to_owned();
        let Some(origin) = origins.remove(&id) else {
            continue;
        };
        let failure_time = failure_time.entry(origin.clone()).or_default();
        if *failure_time > MAX_FAILURE_TIME_PER_ORIGIN {
            round.remaining += 1;
            continue;
        }
        let start = Instant::now();
        let processed = receiver.fetch_and_process(&room, origin.clone(), event);
        let processed = AssertUnwindSafe(processed);
        let panicked = Err(store::Error::Panicked.into());
        match processed.catch_unwind().await.unwrap_or(panicked) {
            Ok(()) => {
                dequeue(store, num, id.as_str()).await?;
                round.progress = true;
            }
            Err(Error::Rooms(rooms::Error::Store(error))) => {
                if !error.is_caused_by_data() {
                    return Err(error.into());
                }
                let room = &room.id;
                log::error!(
                    "dropped event {id} of room {room}, which cannot be processed: {error}"
                );
                dequeue(store, num, id.as_str()).await?;
                round.progress = true;
            }
            Err(error @ Error::Rooms(rooms::Error::Invalid(_))) => {
                log::debug!("dropped event {id} of room {}: {error}", room.id);
                dequeue(store, num, id.as_str()).await?;
                round.progress = true;
            }
            Err(error) => {
                log::debug!("event {id} of room {} stays queued: {error}", room.id);
                *failure_time = match error {
                    Error::Fetch(FetchError::Unreachable) => Duration::MAX,
                    _ => failure_time.saturating_add(start.elapsed()),
                };
                Failure::record(failures, id, origin, &error);
                round.remaining += 1;
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
    failures: &mut HashMap<OwnedEventId, Failure>,
) -> Result<(), Error> {
    let timed_out = failures.extract_if(|_, failure| failure.is_timed_out());
    for (id, _) in timed_out.collect::<Vec<_>>() {
        log::info!("dropped event {id}: the events that it refers to cannot be had");
        dequeue(store, room, id.as_str()).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashMap,
        time::{Duration, Instant},
    };

    use ruma::{owned_event_id, owned_server_name};

    use super::{Error, Failure, FetchError, UNAVAILABLE_TIMEOUT, UNREACHABLE_TIMEOUT};

    /// Whether an event is dropped that failed with `error` now and `ago` ago.
    fn is_dropped(error: FetchError, ago: Duration) -> bool {
        let id = owned_event_id!("$event");
        let mut failures = HashMap::new();
        let record = |failures: &mut HashMap<_, _>| {
            let origin = owned_server_name!("b.example");
            Failure::record(failures, id.clone(), origin, &Error::Fetch(error));
        };
        record(&mut failures);
        let failure = failures.get_mut(&id).unwrap();
        let then = Instant::now().checked_sub(ago).unwrap();
        failure.first = then;
        failure.first_unavailable = failure.first_unavailable.map(|_| then);
        record(&mut failures);
        failures[&id].is_timed_out()
    }

    #[test]
    fn an_event_whose_origin_does_not_give_the_missing_events_is_dropped_soon() {
        let second = Duration::from_secs(1);
        assert!(is_dropped(
            FetchError::Unavailable,
            UNAVAILABLE_TIMEOUT + second
        ));
        assert!(!is_dropped(
            FetchError::Unavailable,
            UNAVAILABLE_TIMEOUT - second
        ));
        assert!(!is_dropped(
            FetchError::Unreachable,
            UNAVAILABLE_TIMEOUT + second
        ));
        assert!(is_dropped(
            FetchError::Unreachable,
            UNREACHABLE_TIMEOUT + second
        ));
    }
}
