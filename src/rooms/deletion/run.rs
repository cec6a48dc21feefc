//! Carrying out the deletions, one after the other, in batches of one transaction each.

use std::time::Duration;

use ruma::{OwnedRoomId, RoomId};
use smol::{
    Timer,
    channel::{self, Receiver, Sender},
    future::{self, FutureExt},
};

use super::{erase, pending};
use crate::{
    clock::Clock,
    rooms::{Error, Local, background::member_events, servers, state::current},
    store::{
        self, Effect, Position, Reader, RoomNum, Rows, ServerNum, Snapshot, Store, Tx, UserNum,
        records::{DeletionPhase, RoomDeletion},
    },
};

/// After which time a deletion that failed is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(60);
/// Other servers may take much at once: whether they have everything is asked no more often.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long other servers that answer have to take what is queued for them.
const MAX_SEND_DURATION: Duration = Duration::from_hours(1);

/// What other servers have got.
pub trait OutgoingQueue: Sync {
    /// Whether the server answers, as far as is known.
    fn is_reachable(&self, server: ServerNum) -> bool;

    /// Whether the server has got what `outgoing` has for it up to `position`.
    fn has_sent(&self, server: ServerNum, position: Position) -> bool;

    /// Waits until either may have changed.
    fn changed(&self) -> impl Future<Output = ()> + Send;

    /// Whether nothing is sent at all for now.
    fn is_paused(&self) -> bool {
        false
    }
}

/// While nothing is sent to other servers.
pub struct Paused;

impl OutgoingQueue for Paused {
    fn is_reachable(&self, _: ServerNum) -> bool {
        true
    }

    fn has_sent(&self, _: ServerNum, _: Position) -> bool {
        false
    }

    fn changed(&self) -> impl Future<Output = ()> + Send {
        future::pending()
    }

    fn is_paused(&self) -> bool {
        true
    }
}

/// Deletes rooms.
#[derive(Debug)]
pub struct RoomDeletions {
    wake: Sender<()>,
    woken: Receiver<()>,
}

impl Default for RoomDeletions {
    fn default() -> Self {
        let (wake, woken) = channel::bounded(1);
        Self { wake, woken }
    }
}

/// The store is closed.
struct Closed;

/// Whether deletions are left, and what they need to go on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Left {
    Nothing,
    /// Other servers have not got everything.
    Waiting,
    Failed,
}

impl RoomDeletions {
    /// To be called with every effect.
    pub fn apply(&self, effect: &Effect) {
        if let Effect::BackgroundJob | Effect::Reopened = effect {
            // A full channel has woken the task already.
            let _ = self.wake.try_send(());
        }
    }

    /// Carries out the deletions that are pending and those that come, until the store is closed. To be spawned once.
    pub async fn run(
        &self,
        store: &Store,
        local: &Local,
        clock: &Clock,
        outgoing: &impl OutgoingQueue,
    ) {
        let worker = Worker {
            store,
            local,
            clock,
            outgoing,
            started_ms: clock.now_ms(),
        };
        while let Ok(left) = worker.run_pending().await {
            let woken = async {
                // It cannot fail: `self` has the sender.
                let _ = self.woken.recv().await;
            };
            let retry = async {
                Timer::after(RETRY_INTERVAL).await;
            };
            let changed = async {
                outgoing.changed().await;
                Timer::after(LOOK_INTERVAL).await;
            };
            match left {
                Left::Nothing => woken.await,
                Left::Waiting => woken.or(changed).or(retry).await,
                Left::Failed => woken.or(retry).await,
            }
        }
    }
}

/// Whether other servers are to get something before the room is deleted.
pub fn has_destinations(r: &impl Reader, room: RoomNum) -> Result<bool, Error> {
    Ok(servers::is_shared(r, room)? || !invited_by(r, room)?.is_empty())
}

/// The servers to which leaves of users are to be sent who were only invited.
fn invited_by(r: &impl Reader, room: RoomNum) -> Result<Vec<ServerNum>, Error> {
    let mut servers = Vec::new();
    for row in r.pending_leaves()?.all()? {
        let (server, _, of) = row?.0.value();
        servers.extend((of == room).then_some(server));
    }
    Ok(servers)
}

/// The last position at which there is something of the room for other servers.
fn last_outgoing(r: &impl Reader, room: RoomNum) -> Result<Position, Error> {
    for row in r.outgoing()?.all()?.rev() {
        let (position, outgoing) = row?;
        if outgoing.record(&position).is_ok_and(|it| it.room == room) {
            return Ok(position.value());
        }
    }
    Ok(Position::MIN)
}

struct Worker<'a, Q> {
    store: &'a Store,
    local: &'a Local,
    clock: &'a Clock,
    outgoing: &'a Q,
    /// What other servers did not take before, this server may not have offered them: it did not run.
    started_ms: u64,
}

impl<Q: OutgoingQueue> Worker<'_, Q> {
    async fn run_pending(&self) -> Result<Left, Closed> {
        let deletions = match self.store.read(pending::all) {
            Err(Error::Store(store::Error::Closed)) => return Err(Closed),
            Err(error) => {
                log::error!("rooms are not deleted: {error}; retrying in {RETRY_INTERVAL:?}");
                return Ok(Left::Failed);
            }
            Ok(deletions) => deletions,
        };
        let mut left = Left::Nothing;
        for (id, deletion) in deletions {
            left = left.max(match self.run_one(&id, deletion).await {
                Ok(of_room) => of_room,
                Err(Error::Store(store::Error::Closed)) => return Err(Closed),
                Err(error) => {
                    log::error!("{id} is not deleted: {error}; retrying in {RETRY_INTERVAL:?}");
                    Left::Failed
                }
            });
        }
        Ok(left)
    }

    async fn run_one(&self, id: &OwnedRoomId, mut deletion: RoomDeletion) -> Result<Left, Error> {
        loop {
            match deletion.phase {
                DeletionPhase::Leave => self.leave(&mut deletion, id).await?,
                DeletionPhase::Send { upto, since_ts } => {
                    if self.is_sending(&deletion, upto, since_ts)? {
                        return Ok(Left::Waiting);
                    }
                    deletion.phase = self.hide(id, &deletion).await?;
                }
                DeletionPhase::Users { next } => {
                    deletion.phase = self.erase_users(id, &deletion, next).await?;
                }
                DeletionPhase::Events { next, last } => {
                    let room = deletion.room;
                    let find = move |s: &Snapshot| erase::find_events(s, room, next, last);
                    let scan = self.store.scan_in_background("events to delete", find);
                    let found = scan.await?;
                    deletion.events += found.events.len() as u64;
                    deletion.phase = match found.next {
                        Some(next) => DeletionPhase::Events { next, last },
                        None => DeletionPhase::Rows,
                    };
                    let delete = move |tx: &Tx| erase::erase_events(tx, &found.events);
                    self.step(id, &deletion, delete).await?;
                }
                DeletionPhase::Rows => {
                    let (job_id, room) = (id.clone(), deletion.room);
                    let job = move |tx: &Tx| {
                        let has_more = erase::erase_rows(tx, room)?;
                        if !has_more {
                            pending::finish(tx, &job_id)?;
                        }
                        Ok::<_, Error>(has_more)
                    };
                    if !self.store.write_shrinking(job).await? {
                        let RoomDeletion { left, events, .. } = deletion;
                        log::info!("{id} is deleted: {left} users left, {events} events");
                        return Ok(Left::Nothing);
                    }
                }
            }
        }
    }

    /// Some more users leave.
    async fn leave(&self, deletion: &mut RoomDeletion, id: &OwnedRoomId) -> Result<(), Error> {
        let (id, before) = (id.clone(), deletion.clone());
        let (local, now, now_ms) = (
            self.local.clone(),
            self.clock.timestamp(),
            self.clock.now_ms(),
        );
        let job = move |tx: &Tx| {
            let left = member_events::leave_batch(tx, &local, now, before.room)?;
            let mut after = before.clone();
            after.left += left;
            if left == 0 {
                after.phase = DeletionPhase::Send {
                    upto: last_outgoing(tx, before.room)?,
                    since_ts: now_ms,
                };
            }
            pending::put(tx, &id, &after)?;
            Ok::<_, Error>(after)
        };
        // Also on a disk that is almost full: more goes than comes.
        *deletion = self.store.write_shrinking(job).await?;
        Ok(())
    }

    /// Whether other servers have not got what they are to get yet: leaves in the room, and leaves of users who were
    /// only invited.
    fn is_sending(
        &self,
        deletion: &RoomDeletion,
        upto: Position,
        since_ts: u64,
    ) -> Result<bool, Error> {
        let offered_ms = since_ts.max(self.started_ms);
        let waited_ms = self.clock.now_ms().saturating_sub(offered_ms);
        let is_over = u128::from(waited_ms) > MAX_SEND_DURATION.as_millis();
        if is_over && !self.outgoing.is_paused() {
            return Ok(false);
        }
        let (in_room, invited_by) = self.store.read(|s| {
            let in_room = servers::of_room(s, deletion.room)?;
            Ok::<_, Error>((in_room, invited_by(s, deletion.room)?))
        })?;
        let is_reachable = |server: &ServerNum| self.outgoing.is_reachable(*server);
        Ok(invited_by.iter().any(is_reachable)
            || in_room
                .iter()
                .any(|server| !self.outgoing.has_sent(*server, upto) && is_reachable(server)))
    }

    async fn hide(&self, id: &RoomId, deletion: &RoomDeletion) -> Result<DeletionPhase, Error> {
        let (id, before) = (id.to_owned(), deletion.clone());
        let job = move |tx: &Tx| {
            // Another server may have let a user in meanwhile.
            let is_left = current::local_members(tx, before.room)?.is_empty();
            let phase = match is_left {
                true => DeletionPhase::Users { next: UserNum::MIN },
                false => DeletionPhase::Leave,
            };
            if is_left {
                erase::hide(tx, before.room)?;
            }
            pending::put_phase(tx, &id, &before, phase)
        };
        self.store.write_shrinking(job).await
    }

    async fn erase_users(
        &self,
        id: &RoomId,
        deletion: &RoomDeletion,
        next: UserNum,
    ) -> Result<DeletionPhase, Error> {
        let (id, before) = (id.to_owned(), deletion.clone());
        let job = move |tx: &Tx| {
            let phase = match erase::erase_users(tx, before.room, next)? {
                Some(next) => DeletionPhase::Users { next },
                None => {
                    let (next, last) = erase::event_range(tx, before.room)?;
                    DeletionPhase::Events { next, last }
                }
            };
            pending::put_phase(tx, &id, &before, phase)
        };
        self.store.write_shrinking(job).await
    }

    /// Does a part of the work, after which the deletion is at `after`.
    async fn step(
        &self,
        id: &RoomId,
        after: &RoomDeletion,
        work: impl Fn(&Tx) -> Result<(), Error> + Send + 'static,
    ) -> Result<(), Error> {
        let (id, after) = (id.to_owned(), after.clone());
        let job = move |tx: &Tx| {
            work(tx)?;
            pending::put(tx, &id, &after)
        };
        self.store.write_shrinking(job).await
    }
}
