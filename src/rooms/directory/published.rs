//! The directory of published rooms.
//!
//! Source: [Published room directory](https://spec.matrix.org/v1.19/client-server-api/#published-room-directory).

use std::{cmp::Reverse, fmt, str::FromStr};

use ruma::directory::{Filter, PublicRoomsChunk, RoomTypeFilter};

use super::{aliases, summary};
use crate::{
    rooms::{Actor, Error, room},
    store::{Reader, RoomNum, Rows, Tx},
};

/// The most rooms on a page, and how many there are if the client does not say.
pub const MAX_PAGE_SIZE: u8 = 100;

/// Whether the directory lists the room.
pub fn is_listed(r: &impl Reader, room: RoomNum) -> Result<bool, Error> {
    Ok(r.public_rooms()?.has(room)?)
}

/// Lists the room, or takes it off the list, at the wish of `actor`.
///
/// # Errors
/// [`Error::Forbidden`] unless `actor` may decide on the room's addresses, or administers the
/// server.
pub fn set_listed(tx: &Tx, actor: &Actor, room: RoomNum, listed: bool) -> Result<(), Error> {
    if !aliases::may_publish(tx, room, actor)? && !aliases::administers(tx, actor)? {
        return Err(Error::forbidden(
            "you may not change whether this room is published",
        ));
    }
    if listed {
        list(tx, room)
    } else {
        unlist(tx, room)
    }
}

pub(in crate::rooms) fn list(tx: &Tx, room: RoomNum) -> Result<(), Error> {
    Ok(tx.public_rooms()?.insert(room, ())?)
}

pub(in crate::rooms) fn unlist(tx: &Tx, room: RoomNum) -> Result<(), Error> {
    tx.public_rooms()?.remove(room)?;
    Ok(())
}

/// Where a room stands in the directory: those with the most members come first, and of those
/// with as many the oldest.
type Rank = (Reverse<u32>, RoomNum);

/// A place between the rooms of the directory, as text `n<members>_<room>` or `p<members>_<room>`:
/// the page after that room, or the one before it. It holds although rooms come and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// What comes after it.
    After(Rank),
    /// What comes before it.
    Before(Rank),
}

impl fmt::Display for Since {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (letter, (Reverse(members), room)) = match self {
            Self::After(rank) => ('n', rank),
            Self::Before(rank) => ('p', rank),
        };
        write!(f, "{letter}{members}_{}", room.0)
    }
}

impl FromStr for Since {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let rank = |text: &str| -> Option<Rank> {
            let (members, room) = text.split_once('_')?;
            Some((Reverse(members.parse().ok()?), RoomNum(room.parse().ok()?)))
        };
        let since = match (text.strip_prefix('n'), text.strip_prefix('p')) {
            (Some(text), _) => rank(text).map(Self::After),
            (_, Some(text)) => rank(text).map(Self::Before),
            _ => None,
        };
        since.ok_or_else(|| Error::invalid("since is no token of this directory"))
    }
}

/// Some of the directory's rooms.
#[derive(Debug)]
pub struct Page {
    /// The rooms.
    pub rooms: Vec<PublicRoomsChunk>,
    /// Where more follow, if more follow.
    pub next: Option<Since>,
    /// Where more came before, if more came before.
    pub previous: Option<Since>,
    /// How many rooms the directory lists.
    pub total: usize,
}

/// Who reads the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Users of this server.
    Users,
    /// Other servers, for theirs.
    OtherServers,
}

/// What is wanted of the directory.
#[derive(Clone, Debug)]
pub struct DirectoryQuery {
    /// What the rooms must be like.
    pub filter: Filter,
    /// Where the page begins; at the top if nowhere.
    pub since: Option<Since>,
    /// How many rooms it has at most.
    pub limit: Option<usize>,
    /// For whom it is.
    pub audience: Audience,
}

/// A page of the directory. Grows with the directory: not for the thread.
pub fn page(r: &impl Reader, wanted: &DirectoryQuery) -> Result<Page, Error> {
    let most = usize::from(MAX_PAGE_SIZE);
    let limit = wanted.limit.map_or(most, |limit| limit.clamp(1, most));
    let ranks = ranks(r)?;
    let total = ranks.len();
    let (mut found, more) = match wanted.since {
        Some(Since::Before(rank)) => {
            let end = ranks.partition_point(|other| *other < rank);
            take(r, wanted, ranks[..end].iter().rev(), limit)?
        }
        Some(Since::After(rank)) => {
            let start = ranks.partition_point(|other| *other <= rank);
            take(r, wanted, ranks[start..].iter(), limit)?
        }
        None => take(r, wanted, ranks.iter(), limit)?,
    };
    let backwards = matches!(wanted.since, Some(Since::Before(_)));
    if backwards {
        found.reverse();
    }
    let next = (backwards || more).then(|| found.last().map(|(rank, _)| Since::After(*rank)));
    let previous = if backwards {
        more
    } else {
        wanted.since.is_some()
    };
    let previous = previous.then(|| found.first().map(|(rank, _)| Since::Before(*rank)));
    Ok(Page {
        next: next.flatten(),
        previous: previous.flatten(),
        rooms: found.into_iter().map(|(_, room)| room).collect(),
        total,
    })
}

/// The listed rooms in their order. Those that nobody is in any more are not shown.
fn ranks(r: &impl Reader) -> Result<Vec<Rank>, Error> {
    let mut ranks = Vec::new();
    for row in r.public_rooms()?.range::<RoomNum>(..)? {
        let room = row?.0.value();
        let joined = room::heads(r, room)?.joined;
        if joined > 0 {
            ranks.push((Reverse(joined), room));
        }
    }
    ranks.sort_unstable();
    Ok(ranks)
}

/// The first `limit` rooms of `ranks` that fit, and whether another one does.
fn take<'a>(
    r: &impl Reader,
    wanted: &DirectoryQuery,
    ranks: impl Iterator<Item = &'a Rank>,
    limit: usize,
) -> Result<(Vec<(Rank, PublicRoomsChunk)>, bool), Error> {
    let filter = &wanted.filter;
    let term = filter
        .generic_search_term
        .as_ref()
        .map(|term| term.to_lowercase());
    let mut found = Vec::new();
    for rank in ranks {
        if wanted.audience == Audience::OtherServers && !summary::is_for_all_servers(r, rank.1)? {
            continue;
        }
        let room = PublicRoomsChunk::from(summary::of(r, rank.1)?);
        if !fits(&room, &filter.room_types, term.as_deref()) {
            continue;
        }
        if found.len() == limit {
            return Ok((found, true));
        }
        found.push((*rank, room));
    }
    Ok((found, false))
}

fn fits(room: &PublicRoomsChunk, types: &[RoomTypeFilter], term: Option<&str>) -> bool {
    let of_type = RoomTypeFilter::from(room.room_type.as_ref().map(|kind| kind.as_str()));
    if !types.is_empty() && !types.contains(&of_type) {
        return false;
    }
    let Some(term) = term else { return true };
    let alias = room.canonical_alias.as_ref().map(|alias| alias.as_str());
    [room.name.as_deref(), room.topic.as_deref(), alias]
        .into_iter()
        .flatten()
        .any(|text| text.to_lowercase().contains(term))
}
