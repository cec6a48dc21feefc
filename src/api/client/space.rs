//! Space hierarchies (client-server API, "Discovering rooms within spaces").

use std::{
    collections::HashSet,
    fmt,
    str::FromStr,
    time::{Duration, Instant},
};

use ruma::{
    OwnedRoomId, OwnedServerName,
    api::client::space::{
        SpaceHierarchyRoomsChunk,
        get_hierarchy::v1::{Request, Response},
    },
    room::{RoomSummary, RoomType},
};

use crate::{
    api::{Api, Error, Session, Streamed, directory::with_join_rules},
    rooms::{
        self,
        directory::{
            spaces::{self, Child},
            summary,
        },
    },
    store::UserNum,
};

const DEFAULT_PAGE_SIZE: usize = 50;
const MAX_PAGE_SIZE: usize = 100;
const MAX_DEPTH: u64 = 20;
/// The most rooms of a hierarchy.
const MAX_ROOMS: usize = 2000;
/// The most requests to other servers per page, and the time for them.
const MAX_REMOTE_REQUESTS: usize = 50;
const REMOTE_TIMEOUT: Duration = Duration::from_secs(20);

/// `GET /_matrix/client/v1/rooms/{roomId}/hierarchy`
pub async fn get_hierarchy(
    api: Api,
    session: Session,
    request: Request,
) -> Result<Streamed, Error> {
    let limit = request.limit.map_or(DEFAULT_PAGE_SIZE, |limit| {
        usize::try_from(limit).map_or(MAX_PAGE_SIZE, |limit| limit.clamp(1, MAX_PAGE_SIZE))
    });
    let start = PageToken {
        rooms: 0,
        max_depth: request
            .max_depth
            .map_or(MAX_DEPTH, u64::from)
            .min(MAX_DEPTH),
        suggested_only: request.suggested_only,
    };
    let from = match request.from {
        Some(from) => from.parse::<PageToken>()?,
        None => start,
    };
    if from
        != (PageToken {
            rooms: from.rooms,
            ..start
        })
    {
        return Err(Error::invalid_param(
            "max_depth and suggested_only must be the same for all pages",
        ));
    }
    let mut walk = Walk::new(&api, session.user, from, request.room_id);
    let mut response = Response::new();
    let mut bytes = 0;
    let mut passed = 0;
    while let Some(room) = walk.next().await? {
        if passed == from.rooms + limit || bytes > summary::MAX_PAGE_BYTES {
            let next = PageToken {
                rooms: passed,
                ..from
            };
            response.next_batch = Some(next.to_string());
            break;
        }
        passed += 1;
        if passed > from.rooms {
            bytes += summary::size(&room);
            response.rooms.push(room);
        }
    }
    if passed == 0 {
        return Err(Error::forbidden(
            "the room does not exist, or you may not see it",
        ));
    }
    with_join_rules(response, "rooms")
}

/// The pagination token, as text `<rooms>_<max_depth>_<suggested_only>`. The server keeps nothing between
/// pages: each page walks the hierarchy from its root and skips the rooms of the pages before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PageToken {
    /// The number of rooms of the pages so far.
    rooms: usize,
    max_depth: u64,
    suggested_only: bool,
}

impl fmt::Display for PageToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suggested_only = u8::from(self.suggested_only);
        write!(f, "{}_{}_{suggested_only}", self.rooms, self.max_depth)
    }
}

impl FromStr for PageToken {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parse = || {
            let (rooms, rest) = text.split_once('_')?;
            let (max_depth, suggested_only) = rest.split_once('_')?;
            Some(Self {
                rooms: rooms.parse().ok().filter(|rooms| *rooms <= MAX_ROOMS)?,
                max_depth: max_depth.parse().ok()?,
                suggested_only: suggested_only.parse::<u8>().ok()? == 1,
            })
        };
        parse().ok_or_else(|| Error::invalid_param("from must be a token of this endpoint"))
    }
}

/// A depth-first walk through a hierarchy.
struct Walk<'a> {
    api: &'a Api,
    user: UserNum,
    max_depth: u64,
    suggested_only: bool,
    /// The next room is the last.
    stack: Vec<Step>,
    visited: HashSet<OwnedRoomId>,
    remote_requests_left: usize,
    deadline: Instant,
}

struct Step {
    room: OwnedRoomId,
    depth: u64,
    /// Servers that are likely to be in the room.
    via: Vec<OwnedServerName>,
    hint: Hint,
}

/// What the server that gave the parent said about a room.
#[derive(Clone)]
enum Hint {
    None,
    Summary(Box<RoomSummary>),
    /// No user of this server can access it.
    Inaccessible,
}

struct Found {
    summary: RoomSummary,
    children: Vec<(Child, Hint)>,
}

impl<'a> Walk<'a> {
    fn new(api: &'a Api, user: UserNum, token: PageToken, room: OwnedRoomId) -> Self {
        let root = Step {
            room,
            depth: 0,
            via: Vec::new(),
            hint: Hint::None,
        };
        Self {
            api,
            user,
            max_depth: token.max_depth,
            suggested_only: token.suggested_only,
            stack: vec![root],
            visited: HashSet::new(),
            // Responses for earlier pages are cached.
            remote_requests_left: token.rooms + MAX_REMOTE_REQUESTS,
            deadline: Instant::now() + REMOTE_TIMEOUT,
        }
    }

    /// The next room that the user can access.
    async fn next(&mut self) -> Result<Option<SpaceHierarchyRoomsChunk>, Error> {
        while let Some(step) = self.stack.pop() {
            if self.visited.len() >= MAX_ROOMS || !self.visited.insert(step.room.clone()) {
                continue;
            }
            let Some(found) = self.find(&step).await? else {
                continue;
            };
            let depth = step.depth + 1;
            let children = found.children.iter().rev();
            if depth <= self.max_depth {
                let steps = children.map(|(child, hint)| Step {
                    room: child.room_id.clone(),
                    depth,
                    via: child.via.clone(),
                    hint: hint.clone(),
                });
                self.stack.extend(steps);
            }
            let events = found.children.into_iter().map(|(child, _)| child.event);
            let chunk = SpaceHierarchyRoomsChunk::new(found.summary, events.collect());
            return Ok(Some(chunk));
        }
        Ok(None)
    }

    /// The room of a step, if the user can access it.
    async fn find(&mut self, step: &Step) -> Result<Option<Found>, Error> {
        let (id, suggested_only) = (step.room.clone(), self.suggested_only);
        let local = self.api.store.scan("a space", move |s| {
            let Some(room) = spaces::joined_room(s, &id)? else {
                return Ok::<_, rooms::Error>(None);
            };
            let children = spaces::children(s, room, suggested_only)?;
            Ok(Some(Found {
                summary: summary::of(s, room)?,
                children: children
                    .into_iter()
                    .map(|child| (child, Hint::None))
                    .collect(),
            }))
        });
        let found = match local.await? {
            Some(found) => Some(found),
            None => self.find_remote(step).await,
        };
        let Some(found) = found else {
            return Ok(None);
        };
        let user = Some(self.user);
        let is_accessible = |s: &_| spaces::is_accessible(s, &found.summary, user);
        Ok(self.api.store.read(is_accessible)?.then_some(found))
    }

    async fn find_remote(&mut self, step: &Step) -> Option<Found> {
        let known = match &step.hint {
            Hint::Inaccessible => return None,
            Hint::Summary(summary) => Some(Found {
                summary: RoomSummary::clone(summary),
                children: Vec::new(),
            }),
            Hint::None => None,
        };
        let is_space = |found: &Found| found.summary.room_type == Some(RoomType::Space);
        if known.as_ref().is_some_and(|found| !is_space(found)) {
            return known;
        }
        if self.remote_requests_left == 0 || Instant::now() >= self.deadline {
            log::debug!(
                "{} is not fetched: too many requests for one page of a space",
                step.room
            );
            return known;
        }
        let Ok(_permit) = self.api.user_lookup_permit(self.user).await else {
            return known;
        };
        self.remote_requests_left -= 1;
        let own = step.room.server_name().map(ToOwned::to_owned);
        let servers: Vec<_> = step.via.iter().cloned().chain(own).collect();
        let spaces = self.api.federation.spaces();
        let hierarchy = spaces.hierarchy(&step.room, self.suggested_only, &servers);
        let Ok(hierarchy) = hierarchy.await else {
            return known;
        };
        let children = hierarchy.children.iter().map(|child| {
            let hint = if hierarchy.inaccessible.contains(&child.room_id) {
                Hint::Inaccessible
            } else {
                let summary = hierarchy.known.get(&child.room_id).cloned();
                summary.map_or(Hint::None, |summary| Hint::Summary(Box::new(summary)))
            };
            (child.clone(), hint)
        });
        Some(Found {
            summary: hierarchy.room.clone(),
            children: children.collect(),
        })
    }
}
