//! What joining, knocking and leaving over federation have in common: a `make_*` request for a
//! template, then a `send_*` request with the signed event, to one server after another.

use std::{collections::HashSet, fmt, path::PathBuf, sync::Arc};

use ruma::{OwnedRoomId, OwnedServerName, RoomId, room_version_rules::RoomVersionRules};
use serde_json::value::{RawValue, to_raw_value};
use smol::lock::MutexGuardArc;

use super::error::Error;
use crate::{
    clock::Clock,
    config::Config,
    executor::Executor,
    fair_semaphore::{FairPermit, FairSemaphore},
    federation::{
        Client,
        event_graph::IdBudget,
        inbound::{PduReceiver, RemoteEventSource},
        keyed_locks::KeyedLocks,
    },
    protocol::build::{BuiltEvent, EventDraft, build_from_template},
    rooms::{
        self, Actor, Local,
        membership::{change::MembershipChange, out_of_band},
    },
    shares::Shares,
    store::{Store, UserNum},
};

/// How many memberships are changed at once, of all users and of one: each waits for other servers.
const MAX_CHANGES: usize = 24;
const MAX_CHANGES_PER_USER: usize = 6;
/// How many changes of a user wait or are under way: whoever joins a space joins its rooms at once.
const MAX_QUEUED_PER_USER: usize = 100;
/// How many servers are tried.
pub(super) const MAX_SERVERS: usize = 5;

/// Changes memberships of local users in rooms that this server is not in. Clones share one state.
#[derive(Clone)]
pub struct MembershipClient(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) store: Store,
    pub(super) local: Local,
    pub(super) clock: Clock,
    /// Where large responses are written.
    pub(super) data_dir: PathBuf,
    pub(super) joined_ids: IdBudget,
    pub(super) client: Client,
    pub(super) source: RemoteEventSource,
    pub(super) receiver: PduReceiver<RemoteEventSource>,
    executor: Executor,
    room_locks: KeyedLocks<OwnedRoomId>,
    permits: FairSemaphore<UserNum>,
    /// Of those that wait for a permit or have one.
    shares: Shares<UserNum>,
}

/// A membership change that a local user requests.
#[derive(Clone)]
pub(super) struct MembershipRequest {
    pub(super) actor: Actor,
    pub(super) room: OwnedRoomId,
    /// Of the actor's own membership.
    pub(super) change: MembershipChange,
}

impl MembershipRequest {
    pub(super) fn new(actor: &Actor, room: &RoomId, change: &MembershipChange) -> Self {
        Self {
            actor: actor.clone(),
            room: room.to_owned(),
            change: change.clone(),
        }
    }
}

impl fmt::Display for MembershipRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (user, room, membership) = (&self.actor.id, &self.room, &self.change.membership);
        write!(f, "membership {membership} of {user} in room {room}")
    }
}

impl MembershipClient {
    pub(in crate::federation) fn new(
        store: &Store,
        local: &Local,
        clock: &Clock,
        receiver: &PduReceiver<RemoteEventSource>,
        executor: &Executor,
        config: &Config,
    ) -> Self {
        let source = receiver.source().clone();
        Self(Arc::new(Inner {
            data_dir: config.data_dir.clone(),
            joined_ids: IdBudget::new(config.memory.joined_ids()),
            store: store.clone(),
            local: local.clone(),
            clock: clock.clone(),
            client: source.client.clone(),
            source,
            receiver: receiver.clone(),
            executor: executor.clone(),
            room_locks: KeyedLocks::default(),
            permits: FairSemaphore::new(MAX_CHANGES, MAX_CHANGES_PER_USER),
            shares: Shares::new(MAX_QUEUED_PER_USER),
        }))
    }

    /// See [`out_of_band::is_resident`].
    pub fn is_resident(&self, room: &RoomId, user: UserNum) -> Result<bool, rooms::Error> {
        let is_resident = |s: &_| out_of_band::is_resident(s, room, user);
        self.0.store.read(is_resident)
    }

    /// Memberships in a room are changed one at a time: by the holder of this lock.
    pub(super) async fn lock_room(&self, room: &RoomId) -> MutexGuardArc<()> {
        self.0.room_locks.of(room.to_owned()).await
    }

    /// Each user changes a few memberships at once. The permit is acquired before the lock of the room, so
    /// that whoever waits for it keeps nobody out of the room.
    pub(super) async fn permit(&self, actor: &Actor) -> FairPermit<UserNum> {
        self.0.permits.acquire(actor.num).await
    }

    /// Runs `task` of `actor` to its end even if the caller stops waiting.
    ///
    /// # Errors
    /// [`Error::Busy`] if too many of the actor's tasks are under way.
    pub(super) async fn run_to_completion(
        &self,
        actor: &Actor,
        task: impl Future<Output = Result<(), Error>> + Send + 'static,
    ) -> Result<(), Error> {
        let share = self.0.shares.take(actor.num).ok_or(Error::Busy)?;
        let task = async move {
            let _share = share;
            task.await
        };
        let result = self.0.executor.spawn_and_wait(task).await;
        result.unwrap_or(Err(Error::Rooms(rooms::Error::Stale)))
    }

    /// Calls `attempt` with one of `servers` after the other until it succeeds. Returns the most
    /// informative error. The caller holds the lock of the room.
    pub(super) async fn try_servers<F>(
        &self,
        request: &MembershipRequest,
        servers: Vec<OwnedServerName>,
        attempt: impl Fn(OwnedServerName) -> F,
    ) -> Result<(), Error>
    where
        F: Future<Output = Result<(), Error>>,
    {
        let mut failure = Error::Rooms(rooms::Error::UnknownRoom);
        let mut seen = HashSet::new();
        let others = servers
            .into_iter()
            .filter(|server| self.0.client.may_contact(server) && seen.insert(server.clone()));
        for server in others.take(MAX_SERVERS) {
            match attempt(server.clone()).await {
                Ok(()) => return Ok(()),
                Err(error @ (Error::Rooms(rooms::Error::Store(_)) | Error::Memory(_))) => {
                    return Err(error);
                }
                Err(error) => {
                    log::info!("{request}: {server} failed, the next server is tried: {error}");
                    // A Matrix error code is more informative than a failed connection.
                    let has_code = matches!(&failure, Error::Peer(error) if error.kind().is_some());
                    if !has_code {
                        failure = error;
                    }
                }
            }
        }
        Err(failure)
    }

    /// The requested event without the fields that the template gives.
    pub(super) fn draft(&self, request: &MembershipRequest) -> Result<EventDraft, Error> {
        let (actor, store) = (&request.actor, &self.0.store);
        let change = request.change.clone();
        let change = store.read(|s| change.with_profile(s, &self.0.local))?;
        Ok(change.event().draft(request.room.clone(), &actor.id))
    }

    pub(super) fn sign(
        &self,
        template: &RawValue,
        draft: &EventDraft,
        rules: &RoomVersionRules,
    ) -> Result<BuiltEvent, Error> {
        let now = self.0.clock.timestamp();
        let built = build_from_template(template.get(), draft, now, rules, self.0.local.key());
        built.map_err(Error::invalid_response)
    }
}

pub(super) fn raw_json(json: &[u8]) -> Result<Box<RawValue>, Error> {
    let event: &RawValue = serde_json::from_slice(json).map_err(Error::invalid_response)?;
    to_raw_value(event).map_err(Error::invalid_response)
}
