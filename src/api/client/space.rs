//! Walking through a space (client-server API, "Discovering rooms within spaces").

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
    api::{Api, Error, Session},
    rooms::{
        self,
        directory::{
            spaces::{self, Child},
            summary,
        },
    },
    store::UserNum,
};

/// How many rooms are on a page if the client does not say, and at most.
const PAGE: usize = 50;
const LARGEST_PAGE: usize = 100;
/// After how many bytes of events a page ends in any case.
const PAGE_BYTES: usize = 1024 * 1024;
/// How deep one goes into spaces within spaces at most.
const DEPTH: u64 = 20;
/// How many rooms one walks through in all.
const ROOMS: usize = 2000;
/// About how many rooms of a page other servers are asked, and until when.
const ASKED: usize = 50;
const PATIENCE: Duration = Duration::from_secs(20);

/// `GET /_matrix/client/v1/rooms/{roomId}/hierarchy`
pub async fn get_hierarchy(api: Api, who: Session, request: Request) -> Result<Response, Error> {
    let limit = request.limit.map_or(PAGE, |limit| {
        usize::try_from(limit).map_or(LARGEST_PAGE, |limit| limit.clamp(1, LARGEST_PAGE))
    });
    let start = Progress {
        rooms: 0,
        max_depth: request.max_depth.map_or(DEPTH, u64::from).min(DEPTH),
        suggested_only: request.suggested_only,
    };
    let from = match request.from {
        Some(from) => from.parse::<Progress>()?,
        None => start,
    };
    if from
        != (Progress {
            rooms: from.rooms,
            ..start
        })
    {
        return Err(Error::invalid_param(
            "max_depth and suggested_only stay the same from page to page",
        ));
    }
    let mut walk = Walk::new(&api, who.user, from, request.room_id);
    let mut response = Response::new();
    let mut bytes = 0;
    let mut passed = 0;
    while let Some(room) = walk.next().await? {
        if passed == from.rooms + limit || bytes > PAGE_BYTES {
            let next = Progress {
                rooms: passed,
                ..from
            };
            response.next_batch = Some(next.to_string());
            break;
        }
        passed += 1;
        if passed > from.rooms {
            let events = room.children_state.iter();
            bytes += events.map(|event| event.json().get().len()).sum::<usize>();
            response.rooms.push(room);
        }
    }
    if passed == 0 {
        return Err(Error::forbidden(
            "there is no such room, or it is not shown to you",
        ));
    }
    Ok(response)
}

/// How far somebody has come: as text `<rooms>_<max_depth>_<suggested_only>`. Each page walks anew
/// and passes by what was shown before, so nothing need be kept for those who may never go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Progress {
    /// How many rooms were shown.
    rooms: usize,
    max_depth: u64,
    suggested_only: bool,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suggested_only = u8::from(self.suggested_only);
        write!(f, "{}_{}_{suggested_only}", self.rooms, self.max_depth)
    }
}

impl FromStr for Progress {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parse = || {
            let (rooms, rest) = text.split_once('_')?;
            let (max_depth, suggested_only) = rest.split_once('_')?;
            Some(Self {
                rooms: rooms.parse().ok().filter(|rooms| *rooms <= ROOMS)?,
                max_depth: max_depth.parse().ok()?,
                suggested_only: suggested_only.parse::<u8>().ok()? == 1,
            })
        };
        parse().ok_or_else(|| Error::invalid_param("from is no token of a space"))
    }
}

/// A walk through a space, deep before wide.
struct Walk<'a> {
    api: &'a Api,
    user: UserNum,
    max_depth: u64,
    suggested_only: bool,
    /// What comes next, the last first.
    ahead: Vec<Step>,
    seen: HashSet<OwnedRoomId>,
    /// How many rooms others may still be asked of.
    asks: usize,
    until: Instant,
}

/// A room on the way.
struct Step {
    room: OwnedRoomId,
    depth: u64,
    /// Servers that are likely to be in it.
    via: Vec<OwnedServerName>,
    /// What the server that told of its space told of it.
    told: Told,
}

#[derive(Clone)]
enum Told {
    Nothing,
    Of(Box<RoomSummary>),
    /// That nobody here could come into it.
    Inaccessible,
}

/// A room, and the rooms in it.
struct Found {
    summary: RoomSummary,
    children: Vec<(Child, Told)>,
}

impl<'a> Walk<'a> {
    fn new(api: &'a Api, user: UserNum, progress: Progress, room: OwnedRoomId) -> Self {
        let root = Step {
            room,
            depth: 0,
            via: Vec::new(),
            told: Told::Nothing,
        };
        Self {
            api,
            user,
            max_depth: progress.max_depth,
            suggested_only: progress.suggested_only,
            ahead: vec![root],
            seen: HashSet::new(),
            // What was asked for the pages before is remembered.
            asks: progress.rooms + ASKED,
            until: Instant::now() + PATIENCE,
        }
    }

    /// The next room that the user may be shown.
    async fn next(&mut self) -> Result<Option<SpaceHierarchyRoomsChunk>, Error> {
        while let Some(step) = self.ahead.pop() {
            if self.seen.len() >= ROOMS || !self.seen.insert(step.room.clone()) {
                continue;
            }
            let Some(found) = self.look(&step).await? else {
                continue;
            };
            let depth = step.depth + 1;
            let children = found.children.iter().rev();
            if depth <= self.max_depth {
                let steps = children.map(|(child, told)| Step {
                    room: child.room_id.clone(),
                    depth,
                    via: child.via.clone(),
                    told: told.clone(),
                });
                self.ahead.extend(steps);
            }
            let events = found.children.into_iter().map(|(child, _)| child.event);
            let chunk = SpaceHierarchyRoomsChunk::new(found.summary, events.collect());
            return Ok(Some(chunk));
        }
        Ok(None)
    }

    /// The room of a step, if the user may be shown it.
    async fn look(&mut self, step: &Step) -> Result<Option<Found>, Error> {
        let (id, suggested_only) = (step.room.clone(), self.suggested_only);
        let here = self.api.store.scan("a space", move |s| {
            let Some(room) = spaces::joined_room(s, &id)? else {
                return Ok::<_, rooms::Error>(None);
            };
            let children = spaces::children(s, room, suggested_only)?;
            Ok(Some(Found {
                summary: summary::of(s, room)?,
                children: children
                    .into_iter()
                    .map(|child| (child, Told::Nothing))
                    .collect(),
            }))
        });
        let found = match here.await? {
            Some(found) => Some(found),
            None => self.look_elsewhere(step).await,
        };
        let Some(found) = found else {
            return Ok(None);
        };
        let user = Some(self.user);
        let shown = |s: &_| spaces::is_accessible(s, &found.summary, user);
        Ok(self.api.store.read(shown)?.then_some(found))
    }

    /// The room of a step, as others know it.
    async fn look_elsewhere(&mut self, step: &Step) -> Option<Found> {
        let known = match &step.told {
            Told::Inaccessible => return None,
            Told::Of(summary) => Some(Found {
                summary: RoomSummary::clone(summary),
                children: Vec::new(),
            }),
            Told::Nothing => None,
        };
        let is_space = |found: &Found| found.summary.room_type == Some(RoomType::Space);
        if known.as_ref().is_some_and(|found| !is_space(found)) {
            return known;
        }
        if self.asks == 0 || Instant::now() >= self.until {
            log::debug!("a space is larger than what others can be asked at once");
            return known;
        }
        self.asks -= 1;
        let own = step.room.server_name().map(ToOwned::to_owned);
        let servers: Vec<_> = step.via.iter().cloned().chain(own).collect();
        let spaces = self.api.federation.spaces();
        let told = spaces.hierarchy(&step.room, self.suggested_only, &servers);
        let Ok(told) = told.await else {
            return known;
        };
        let children = told.children.iter().map(|child| {
            let of_child = if told.inaccessible.contains(&child.room_id) {
                Told::Inaccessible
            } else {
                let known = told.known.get(&child.room_id).cloned();
                known.map_or(Told::Nothing, |summary| Told::Of(Box::new(summary)))
            };
            (child.clone(), of_child)
        });
        Some(Found {
            summary: told.room.clone(),
            children: children.collect(),
        })
    }
}
