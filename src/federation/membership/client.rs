//! What joining, knocking and leaving over federation have in common: a `make_*` request for a
//! template, then a `send_*` request with the signed event, to one server after another.

use std::{
    collections::HashSet,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use ruma::{
    OwnedRoomId, OwnedServerName, RoomId,
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
    room_version_rules::RoomVersionRules,
};
use serde_json::value::{RawValue, to_raw_value};

use super::error::Error;
use crate::{
    clock::Clock,
    executor::Executor,
    federation::{
        Client,
        inbound::{PduReceiver, RemoteEventSource},
        striped_locks::StripedLocks,
    },
    protocol::build::{BuiltEvent, EventDraft, build_from_template, canonical_content},
    rooms::{
        self, Actor, Local, membership::change::MembershipChange, room, servers, state::current,
    },
    store::{Store, Tx},
};

/// How many servers are tried.
pub(super) const MAX_SERVERS: usize = 5;
/// How many locks all rooms share.
const ROOM_LOCKS: usize = 16;

/// Changes memberships of local users in rooms that this server is not in. Clones share one state.
#[derive(Clone)]
pub struct MembershipClient(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) store: Store,
    pub(super) local: Local,
    pub(super) clock: Clock,
    /// Where large responses are written.
    pub(super) data_dir: PathBuf,
    pub(super) client: Client,
    pub(super) source: RemoteEventSource,
    pub(super) receiver: PduReceiver<RemoteEventSource>,
    executor: Executor,
    room_locks: StripedLocks<ROOM_LOCKS>,
}

/// A membership change that a local user requests.
#[derive(Clone)]
pub(super) struct MembershipRequest {
    pub(super) actor: Actor,
    pub(super) room: OwnedRoomId,
    pub(super) reason: Option<String>,
    pub(super) membership: MembershipState,
}

impl fmt::Display for MembershipRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (user, room, membership) = (&self.actor.id, &self.room, &self.membership);
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
        data_dir: &Path,
    ) -> Self {
        let source = receiver.source().clone();
        Self(Arc::new(Inner {
            data_dir: data_dir.to_owned(),
            store: store.clone(),
            local: local.clone(),
            clock: clock.clone(),
            client: source.client.clone(),
            source,
            receiver: receiver.clone(),
            executor: executor.clone(),
            room_locks: StripedLocks::default(),
        }))
    }

    /// Whether this server has the room's current state: a local user is joined, or no user of any
    /// server is.
    pub fn is_resident(&self, room: &RoomId) -> Result<bool, rooms::Error> {
        self.0.store.read(|s| {
            let num = match room::num(s, room) {
                Err(rooms::Error::UnknownRoom) => return Ok(false),
                num => num?,
            };
            if room::heads(s, num)?.extremities.is_empty() {
                return Ok(false);
            }
            Ok(current::has_joined(s, num)? || !servers::is_shared(s, num)?)
        })
    }

    /// Runs `task` to its end even if the caller stops waiting.
    pub(super) async fn run_to_completion(
        &self,
        task: impl Future<Output = Result<(), Error>> + Send + 'static,
    ) -> Result<(), Error> {
        let result = self.0.executor.spawn_and_wait(task).await;
        result.unwrap_or(Err(Error::Rooms(rooms::Error::Stale)))
    }

    /// Calls `attempt` with one of `servers` after the other until it succeeds. Returns the most
    /// informative error.
    pub(super) async fn try_servers<F>(
        &self,
        request: &MembershipRequest,
        servers: Vec<OwnedServerName>,
        attempt: impl Fn(OwnedServerName) -> F,
    ) -> Result<(), Error>
    where
        F: Future<Output = Result<(), Error>>,
    {
        let _room_lock = self.0.room_locks.of(&request.room).await;
        let mut failure = Error::Rooms(rooms::Error::UnknownRoom);
        let mut seen = HashSet::new();
        let others = servers
            .into_iter()
            .filter(|server| self.0.client.may_contact(server) && seen.insert(server.clone()));
        for server in others.take(MAX_SERVERS) {
            match attempt(server.clone()).await {
                Ok(()) => return Ok(()),
                Err(error @ Error::Rooms(rooms::Error::Store(_))) => return Err(error),
                Err(error) => {
                    log::info!("{request}: {server} failed, the next server is tried: {error}");
                    // A Matrix error code tells more than a failed connection.
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
    pub(super) async fn draft(&self, request: &MembershipRequest) -> Result<EventDraft, Error> {
        let actor = &request.actor;
        let membership = request.membership.clone();
        let needs_profile = membership != MembershipState::Leave;
        let mut change = MembershipChange::new(&actor.id, membership, request.reason.as_deref());
        if needs_profile {
            let local = self.0.local.clone();
            let job = move |tx: &Tx| change.clone().with_profile(tx, &local);
            change = self.0.store.write(job).await?;
        }
        Ok(EventDraft {
            room_id: Some(request.room.clone()),
            sender: actor.id.clone(),
            event_type: TimelineEventType::from(StateEventType::RoomMember),
            state_key: Some(actor.id.to_string()),
            content: canonical_content(&change.content).map_err(rooms::Error::from)?,
            redacts: None,
        })
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
