//! Spaces and rooms that this server is not in, as other servers tell of them, remembered for a
//! while.
//!
//! Source: server-server API, `GET /hierarchy/{roomId}`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ruma::{
    OwnedRoomId, OwnedServerName, RoomId,
    api::federation::space::get_hierarchy,
    room::{JoinRuleSummary, RoomSummary},
};

use crate::{
    clock::Clock,
    federation::{Client, Error, Limits, remembered::Remembered},
    rooms::directory::{
        spaces::{self, Child},
        summary,
    },
};

/// How long counts what was told of a room.
const HOLDS: Duration = Duration::from_mins(5);
/// How long it counts that nobody told anything.
const NONE_HOLDS: Duration = Duration::from_mins(1);
/// Of how many rooms it is remembered, and how many bytes of it.
const REMEMBERED: usize = 500;
const BYTES: usize = 2 * 1024 * 1024;
/// How many servers are asked in turn.
const SERVERS: usize = 3;
/// Of how many rooms the members may join a room, at most.
const ALLOWED: usize = 50;
const LIMITS: Limits = Limits {
    time: Duration::from_secs(10),
    size: 1024 * 1024,
};

/// What another server tells of a room.
#[derive(Clone, Debug)]
pub struct Told {
    /// The room.
    pub room: RoomSummary,
    /// The rooms in it, if it is a space, in their order.
    pub children: Vec<Child>,
    /// What that server knows of these.
    pub known: BTreeMap<OwnedRoomId, RoomSummary>,
    /// Those that nobody of this server could come into.
    pub inaccessible: Vec<OwnedRoomId>,
}

/// Spaces of other servers.
pub struct Spaces {
    client: Client,
    known: Remembered<(OwnedRoomId, bool), Result<Arc<Told>, Error>>,
}

impl Spaces {
    /// Those that `client` can ask for.
    pub fn new(client: &Client, clock: &Clock) -> Self {
        Self {
            client: client.clone(),
            known: Remembered::new(clock, REMEMBERED, BYTES),
        }
    }

    /// What the first of `servers` tells that tells anything of `room`, and of the rooms in it, or
    /// only those that are suggested.
    ///
    /// # Errors
    /// What the last of them said, or that there is nobody to ask.
    pub async fn of(
        &self,
        room: &RoomId,
        suggested_only: bool,
        servers: &[OwnedServerName],
    ) -> Result<Arc<Told>, Error> {
        let key = (room.to_owned(), suggested_only);
        if let Some(told) = self.known.get(&key) {
            return told;
        }
        let mut told = Err(Error::NotAllowed);
        let servers = servers
            .iter()
            .filter(|server| self.client.may_contact(server));
        for server in servers.take(SERVERS) {
            told = self.ask(server, room, suggested_only).await;
            if told.is_ok() {
                break;
            }
        }
        let (bytes, holds) = match &told {
            Ok(told) => (told.size(), HOLDS),
            // Somebody else may know of servers to ask.
            Err(Error::NotAllowed) => return told,
            Err(error) => (error.to_string().len(), NONE_HOLDS),
        };
        self.known.put(key, told.clone(), bytes, holds);
        told
    }

    async fn ask(
        &self,
        server: &OwnedServerName,
        room: &RoomId,
        suggested_only: bool,
    ) -> Result<Arc<Told>, Error> {
        let mut request = get_hierarchy::v1::Request::new(room.to_owned());
        request.suggested_only = suggested_only;
        let answer = self.client.send_within(server, request, LIMITS).await?;
        if answer.room.summary.room_id != room {
            return Err(Error::Nonsense("this is another room".into()));
        }
        let children = spaces::in_order(answer.room.children_state, suggested_only);
        let of_children = |room: &RoomId| children.iter().any(|child| child.room_id == room);
        let known = answer.children.into_iter();
        let known = known.filter(|summary| of_children(&summary.room_id));
        let known = known.map(|summary| (summary.room_id.clone(), fit(summary)));
        let inaccessible = answer.inaccessible_children.into_iter();
        Ok(Arc::new(Told {
            room: fit(answer.room.summary),
            known: known.collect(),
            inaccessible: inaccessible.filter(|room| of_children(room)).collect(),
            children,
        }))
    }
}

/// The summary, fit to be told on.
fn fit(mut room: RoomSummary) -> RoomSummary {
    room.join_rule = summary::supported_join_rule(room.join_rule);
    if let JoinRuleSummary::Restricted(restricted) | JoinRuleSummary::KnockRestricted(restricted) =
        &mut room.join_rule
    {
        restricted.allowed_room_ids.truncate(ALLOWED);
    }
    room
}

impl Told {
    /// About how much there is of it, in bytes.
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
    serde_json::to_vec(room).map_or(LIMITS.size, |json| json.len())
}
