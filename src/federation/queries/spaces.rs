//! Space hierarchies of rooms that this server is not in, with a cache.
//!
//! Source: server-server API, `GET /hierarchy/{roomId}`.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ruma::{
    OwnedRoomId, OwnedServerName, RoomId,
    api::federation::space::get_hierarchy,
    room::{JoinRuleSummary, RoomSummary},
};

use crate::{
    cache::Cache,
    clock::Clock,
    federation::{Client, Error, Limits},
    rooms::directory::{
        spaces::{self, Child},
        summary,
    },
};

const TTL: Duration = Duration::from_mins(5);
const FAILURE_TTL: Duration = Duration::from_mins(1);
const MAX_CACHED: usize = 500;
const MAX_CACHED_BYTES: usize = 2 * 1024 * 1024;
/// How many servers are tried in turn.
const MAX_SERVERS: usize = 3;
/// How many rooms a restricted join rule may name in a summary.
const MAX_ALLOWED_ROOMS: usize = 50;
const LIMITS: Limits = Limits {
    timeout: Duration::from_secs(10),
    max_bytes: 1024 * 1024,
};

/// The hierarchy of a room, one level deep.
#[derive(Clone, Debug)]
pub struct RemoteHierarchy {
    pub room: RoomSummary,
    /// The rooms of the space in their order.
    pub children: Vec<Child>,
    /// The summaries of the children that the server knows.
    pub known: BTreeMap<OwnedRoomId, RoomSummary>,
    /// The children that users of this server cannot access.
    pub inaccessible: Vec<OwnedRoomId>,
}

pub struct Spaces {
    client: Client,
    cached: Cache<(OwnedRoomId, bool), Cached>,
    /// How many memberships of local users changed since the start.
    membership_changes: AtomicU64,
}

#[derive(Clone)]
struct Cached {
    outcome: Result<Arc<RemoteHierarchy>, Error>,
    /// [`Spaces::membership_changes`] before the request.
    membership_changes: u64,
}

impl Cached {
    /// Whether the server would answer otherwise if users of this server were in other rooms.
    fn has_refusals(&self) -> bool {
        match &self.outcome {
            Ok(hierarchy) => !hierarchy.inaccessible.is_empty(),
            Err(error) => matches!(error, Error::Status(..)),
        }
    }
}

impl Spaces {
    pub fn new(client: &Client, clock: &Clock) -> Self {
        Self {
            client: client.clone(),
            cached: Cache::with_max_bytes(clock, MAX_CACHED, MAX_CACHED_BYTES),
            membership_changes: AtomicU64::new(0),
        }
    }

    /// Servers that refused something may give it now.
    pub fn membership_changed(&self) {
        self.membership_changes.fetch_add(1, Ordering::Relaxed);
    }

    /// The hierarchy of `room` from the first of `servers` that answers, with all children or only the
    /// suggested ones.
    pub async fn hierarchy(
        &self,
        room: &RoomId,
        suggested_only: bool,
        servers: &[OwnedServerName],
    ) -> Result<Arc<RemoteHierarchy>, Error> {
        let key = (room.to_owned(), suggested_only);
        let membership_changes = self.membership_changes.load(Ordering::Relaxed);
        let is_current = |cached: &Cached| {
            cached.membership_changes == membership_changes || !cached.has_refusals()
        };
        if let Some(cached) = self.cached.get(&key).filter(is_current) {
            return cached.outcome;
        }
        let mut outcome = Err(Error::NotAllowed);
        let servers = servers
            .iter()
            .filter(|server| self.client.may_contact(server));
        for server in servers.take(MAX_SERVERS) {
            outcome = self.fetch(server, room, suggested_only).await;
            if outcome.is_ok() {
                break;
            }
        }
        let (bytes, ttl) = match &outcome {
            Ok(hierarchy) => (hierarchy.size(), TTL),
            // Another request may name other servers.
            Err(Error::NotAllowed) => return outcome,
            Err(error) => (error.to_string().len(), FAILURE_TTL),
        };
        let cached = Cached {
            outcome: outcome.clone(),
            membership_changes,
        };
        self.cached.insert_sized(key, cached, bytes, ttl);
        outcome
    }

    async fn fetch(
        &self,
        server: &OwnedServerName,
        room: &RoomId,
        suggested_only: bool,
    ) -> Result<Arc<RemoteHierarchy>, Error> {
        let mut request = get_hierarchy::v1::Request::new(room.to_owned());
        request.suggested_only = suggested_only;
        let response = self
            .client
            .send_with_limits(server, request, LIMITS)
            .await?;
        if response.room.summary.room_id != room {
            return Err(Error::InvalidResponse(
                "the hierarchy is of another room".into(),
            ));
        }
        let children = spaces::in_order(response.room.children_state, suggested_only);
        let of_children = |room: &RoomId| children.iter().any(|child| child.room_id == room);
        let known = response.children.into_iter();
        let known = known.filter(|summary| of_children(&summary.room_id));
        let known = known.map(|summary| (summary.room_id.clone(), sanitize(summary)));
        let inaccessible = response.inaccessible_children.into_iter();
        Ok(Arc::new(RemoteHierarchy {
            room: sanitize(response.room.summary),
            known: known.collect(),
            inaccessible: inaccessible.filter(|room| of_children(room)).collect(),
            children,
        }))
    }
}

/// The summary for clients and other servers: with a known join rule of limited size.
fn sanitize(mut room: RoomSummary) -> RoomSummary {
    room.join_rule = summary::supported_join_rule(room.join_rule);
    if let JoinRuleSummary::Restricted(restricted) | JoinRuleSummary::KnockRestricted(restricted) =
        &mut room.join_rule
    {
        restricted.allowed_room_ids.truncate(MAX_ALLOWED_ROOMS);
    }
    room
}

impl RemoteHierarchy {
    /// About its size in bytes.
    fn size(&self) -> usize {
        let summaries = self.known.values().chain([&self.room]);
        let children = self.children.iter();
        let ids = self.inaccessible.iter();
        summaries.map(size).sum::<usize>()
            + children
                .map(|child| 2 * child.event.json().get().len())
                .sum::<usize>()
            + ids.map(|room| room.as_str().len()).sum::<usize>()
    }
}

fn size(room: &RoomSummary) -> usize {
    serde_json::to_vec(room).map_or(LIMITS.max_bytes, |json| json.len())
}
