//! The queue of a room: verified events whose prev_events or auth events are missing. It is stored,
//! so an acknowledged event survives a restart. One task for each server that sent some of them works
//! these off.
//!
//! No server can fill it or hold it up for the others:
//!
//! - Only events of servers in the room are queued.
//! - When the queue is full, the server with the most events in it loses one.
//! - An event that its origin does not supply is dropped soon. It stays longer if its origin cannot be
//!   reached.
//! - An event waits only for its own origin: each has a task, and a share of those that work at once.
//! - One round spends limited time on failures, and makes one attempt at an origin that cannot be
//!   reached: connections to other servers are limited, and honest ones need them too.
//! - An event that cannot be processed because of a corrupt row or a panic is dropped.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
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
    federation::transport::connect::with_timeout,
    protocol::{Pdu, receive::Received},
    rooms::{self, room},
    store::{
        self, Bytes, Reader, RoomNum, Rows, Store, Tx,
        records::{Waiting, WaitingOrigin},
    },
};

/// An event that does not fit is fetched again when a later event refers to it.
const MAX_QUEUED_PER_ROOM: usize = 200;
const MAX_QUEUED_PER_ORIGIN: usize = 100;
/// How many tasks work at once, for all servers and for one.
const MAX_ACTIVE: usize = 8;
const MAX_ACTIVE_PER_ORIGIN: usize = 3;
/// The backoff after a round without progress. It doubles up to [`MAX_BACKOFF_DOUBLINGS`] times.
const MIN_BACKOFF: Duration = Duration::from_secs(15);
const MAX_BACKOFF_DOUBLINGS: u32 = 6;
/// The pause after a round without progress even if new events arrive.
const MIN_ROUND_INTERVAL: Duration = Duration::from_millis(200);
/// How long an event stays in the queue after the first failure, if its origin cannot be reached.
const UNREACHABLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// The same if its origin responds, but does not give what is missing.
const UNAVAILABLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long one attempt at an event may take. What was fetched until then is stored.
const MAX_ATTEMPT_TIME: Duration = Duration::from_mins(5);
/// After failures that took so long, the other events wait for the next round.
const MAX_FAILURE_TIME: Duration = Duration::from_secs(30);

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
            // The room may have been deleted meanwhile.
            rooms::room::record(tx, num)?;
            let id = event.pdu.event_id().as_str();
            let is_senders = event.pdu.sender().server_name().as_str() == origin;
            let origins = origins(tx, num)?;
            let dropped = match origins.get(id) {
                Some(_) if !is_senders || is_share_full(&origins, &origin) => return Ok(None),
                Some(_) => None,
                None => make_space(tx, num, &origins, &origin)?,
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

/// The origin of each queued event of a room, by event id.
type Origins = BTreeMap<String, String>;

/// The origin of a corrupt row is the empty text. Its task drops it.
fn origins(r: &impl Reader, room: RoomNum) -> Result<Origins, rooms::Error> {
    let mut origins = Origins::new();
    for row in r.waiting()?.prefix(room)? {
        let (key, waiting) = row?;
        origins.insert(key.value().1.to_owned(), origin_of(&waiting.value()));
    }
    Ok(origins)
}

fn origin_of(waiting: &Bytes<'_, Waiting>) -> String {
    let origin = waiting.first_fields::<WaitingOrigin>();
    origin.map_or_else(|_| String::new(), |of| of.origin)
}

fn is_share_full(origins: &Origins, origin: &str) -> bool {
    count_of(origins, origin) >= MAX_QUEUED_PER_ORIGIN
}

fn count_of(origins: &Origins, origin: &str) -> usize {
    origins.values().filter(|of| *of == origin).count()
}

/// Drops an event of the origin with the most events if the queue is full. Returns its id.
///
/// # Errors
/// [`rooms::Error::Forbidden`] if `origin` would have the most, or has its share.
fn make_space(
    tx: &Tx,
    room: RoomNum,
    origins: &Origins,
    origin: &str,
) -> Result<Option<String>, rooms::Error> {
    let own = count_of(origins, origin);
    let full = || rooms::Error::forbidden(format!("{own} events of {origin} are queued"));
    if is_share_full(origins, origin) {
        return Err(full());
    }
    if origins.len() < MAX_QUEUED_PER_ROOM {
        return Ok(None);
    }
    let mut by_origin: HashMap<&str, Vec<&String>> = HashMap::new();
    for (id, origin) in origins {
        by_origin.entry(origin).or_default().push(id);
    }
    let largest = by_origin.into_values().max_by_key(Vec::len);
    let largest = largest.filter(|ids| ids.len() > own + 1).ok_or_else(full)?;
    let last = largest.last().copied().cloned();
    if let Some(id) = &last {
        tx.waiting()?.remove((room, id.as_str()))?;
    }
    Ok(last)
}

/// A queued event with its id; `None` if its row is corrupt.
type Queued = (String, Option<Received>);

/// The queued events of a room that `origin` sent.
fn queued_by(r: &impl Reader, room: &Room, origin: &str) -> Result<Vec<Queued>, rooms::Error> {
    let mut queued = Vec::new();
    for row in r.waiting()?.prefix(room.num)? {
        let (key, waiting) = row?;
        if origin_of(&waiting.value()) == origin {
            let id = key.value().1;
            let row = waiting.record(&key).ok();
            let event = row.and_then(|row| parse(room, id, row));
            queued.push((id.to_owned(), event));
        }
    }
    Ok(queued)
}

fn parse(room: &Room, id: &str, row: Waiting) -> Option<Received> {
    let id = <&EventId>::try_from(id).ok()?.to_owned();
    Some(Received {
        pdu: Pdu::parse(id, &row.json, room.rules, false).ok()?,
        json: row.json,
        redacted: false,
    })
}

/// The rooms with queued events, and who sent them. Reads all queues.
fn all_origins(r: &impl Reader) -> Result<BTreeSet<(RoomNum, String)>, rooms::Error> {
    let mut all = BTreeSet::new();
    for row in r.waiting()?.all()? {
        let (key, waiting) = row?;
        all.insert((key.value().0, origin_of(&waiting.value())));
    }
    Ok(all)
}

/// The tasks that work off the queues. Clones are the same.
pub struct RoomQueues<S>(Arc<Inner<S>>);

struct Inner<S> {
    executor: Executor,
    receiver: PduReceiver<S>,
    workers: Arc<Mutex<Workers>>,
    permits: FairSemaphore<String>,
}

/// The tasks by room and origin.
type Workers = HashMap<RoomNum, HashMap<String, Worker>>;

struct Worker {
    wake: Sender<()>,
    _task: Task<()>,
}

impl<S> Clone for RoomQueues<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: EventSource> RoomQueues<S> {
    pub fn new(executor: &Executor, receiver: PduReceiver<S>) -> Self {
        Self(Arc::new(Inner {
            executor: executor.clone(),
            receiver,
            workers: Arc::default(),
            permits: FairSemaphore::new(MAX_ACTIVE, MAX_ACTIVE_PER_ORIGIN),
        }))
    }

    /// Starts tasks for what is queued since the last run of the server.
    pub fn resume(&self) {
        let starting = self.clone();
        let start = async move {
            let store = starting.0.receiver.store();
            match store.scan_in_background("event queues", all_origins).await {
                Ok(all) => all
                    .into_iter()
                    .for_each(|(room, origin)| starting.wake(room, &origin)),
                Err(error) => log::error!(
                    "queued events wait until their servers send others: the queues cannot be read: {error}"
                ),
            }
        };
        self.0.executor.spawn(start).detach();
    }

    /// Starts or wakes the task for what `origin` has sent to the room's queue.
    pub fn wake(&self, room: RoomNum, origin: &str) {
        let mut workers = lock(&self.0.workers);
        let of_room = workers.entry(room).or_default();
        if let Some(worker) = of_room.get(origin) {
            worker.wake();
            return;
        }
        let (wake, woken) = channel::bounded(1);
        let receiver = self.0.receiver.clone();
        let permits = self.0.permits.clone();
        let (workers, name) = (self.0.workers.clone(), origin.to_owned());
        let task = self.0.executor.spawn(async move {
            // The events of others in the room may wait for what was processed.
            let wake_others = || {
                let workers = lock(&workers);
                let of_room = workers.get(&room).into_iter().flatten();
                let others = of_room.filter(|(origin, _)| **origin != name);
                others.for_each(|(_, worker)| worker.wake());
            };
            process_queue(&receiver, &permits, room, &name, &woken, wake_others).await;
            let mut workers = lock(&workers);
            if let Some(of_room) = workers.get_mut(&room) {
                of_room.remove(&name);
                if of_room.is_empty() {
                    workers.remove(&room);
                }
            }
        });
        of_room.insert(origin.to_owned(), Worker { wake, _task: task });
    }
}

impl Worker {
    fn wake(&self) {
        // If the channel is full, the task is about to look at the whole queue anyway.
        let _ = self.wake.try_send(());
    }
}

fn lock(workers: &Mutex<Workers>) -> MutexGuard<'_, Workers> {
    workers.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Works off what `origin` has sent to the queue of `room` until nothing is left. Calls `wake_others` after
/// each round with progress.
async fn process_queue<S: EventSource>(
    receiver: &PduReceiver<S>,
    permits: &FairSemaphore<String>,
    room: RoomNum,
    origin: &str,
    woken: &Receiver<()>,
    wake_others: impl Fn(),
) {
    let mut failures: HashMap<OwnedEventId, Failure> = HashMap::new();
    let mut doublings = 0;
    loop {
        let permit = permits.acquire(origin.to_owned()).await;
        let round = attempt_all(receiver, room, origin, &mut failures).await;
        drop(permit);
        let result = match round {
            Ok(Round { progress: true, .. }) => {
                doublings = 0;
                wake_others();
                continue;
            }
            Ok(Round { remaining: 0, .. }) => match woken.try_recv() {
                // More was queued while the queue was read.
                Ok(()) => continue,
                Err(_) => return,
            },
            Ok(_) => drop_timed_out(receiver.store(), room, &mut failures).await,
            Err(error) => Err(error),
        };
        match result {
            Ok(()) => {}
            Err(Error::Rooms(rooms::Error::Store(store::Error::Closed))) => return,
            // It has been deleted, and its queue with it.
            Err(Error::Rooms(rooms::Error::UnknownRoom)) => return,
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

/// The failures of a queued event, since the start of the server.
struct Failure {
    first: Instant,
    /// When its origin first responded without giving what is missing.
    first_unavailable: Option<Instant>,
}

impl Failure {
    fn record(failures: &mut HashMap<OwnedEventId, Self>, id: OwnedEventId, error: &Error) {
        let now = Instant::now();
        let failure = failures.entry(id).or_insert(Self {
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
    origin: &str,
    failures: &mut HashMap<OwnedEventId, Failure>,
) -> Result<Round, Error> {
    let store = receiver.store();
    let of_origin = origin.to_owned();
    let scan = store.scan_in_background("queued events", move |s| {
        let room = Room::load(s, num)?;
        let queued = queued_by(s, &room, &of_origin)?;
        Ok::<_, rooms::Error>((room, queued))
    });
    let (room, queued) = scan.await?;
    let server = OwnedServerName::try_from(origin);
    let mut round = Round {
        progress: false,
        remaining: 0,
    };
    let mut events = Vec::new();
    for (id, event) in queued {
        match event.filter(|_| server.is_ok()) {
            Some(event) => events.push(event),
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
    let Ok(server) = server else {
        return Ok(round);
    };
    let queued: HashSet<_> = events.iter().map(|event| event.pdu.event_id()).collect();
    failures.retain(|id, _| queued.contains(&**id));
    let mut failure_time = Duration::ZERO;
    for event in sort_topologically(events, Pdu::prev_events) {
        let id = event.pdu.event_id().to_owned();
        if failure_time > MAX_FAILURE_TIME {
            round.remaining += 1;
            continue;
        }
        let start = Instant::now();
        let processed = receiver.fetch_and_process(&room, server.clone(), event);
        let processed = AssertUnwindSafe(processed).catch_unwind();
        let processed = match with_timeout(MAX_ATTEMPT_TIME, processed).await {
            Ok(processed) => processed.unwrap_or(Err(store::Error::Panicked.into())),
            Err(_) => Err(FetchError::Unavailable.into()),
        };
        match processed {
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
                failure_time = match error {
                    Error::Fetch(FetchError::Unreachable) => Duration::MAX,
                    _ => failure_time.saturating_add(start.elapsed()),
                };
                Failure::record(failures, id, &error);
                round.remaining += 1;
            }
        }
    }
    Ok(round)
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

    use ruma::owned_event_id;

    use super::{Error, Failure, FetchError, UNAVAILABLE_TIMEOUT, UNREACHABLE_TIMEOUT};

    /// Whether an event is dropped that failed with `error` now and `ago` ago.
    fn is_dropped(error: FetchError, ago: Duration) -> bool {
        let id = owned_event_id!("$event");
        let mut failures = HashMap::new();
        let record = |failures: &mut HashMap<_, _>| {
            Failure::record(failures, id.clone(), &Error::Fetch(error));
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
