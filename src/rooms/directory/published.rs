//! The published room directory.
//!
//! Source: [Published room directory](https://spec.matrix.org/v1.19/client-server-api/#published-room-directory).

use std::{cmp::Reverse, fmt, str::FromStr};

use ruma::directory::{Filter, PublicRoomsChunk, RoomTypeFilter};

use super::{aliases, summary};
use crate::{
    rooms::{Actor, Error, room},
    store::{Reader, RoomNum, Rows, Tx},
};

/// The most rooms of a page; also the default.
pub const MAX_PAGE_SIZE: u8 = 100;

pub fn is_listed(r: &impl Reader, room: RoomNum) -> Result<bool, Error> {
    Ok(r.public_rooms()?.has(room)?)
}

/// Adds the room to the directory, or removes it.
///
/// # Errors
/// [`Error::Forbidden`] unless `actor` may send the room's canonical alias, or is a server
/// administrator.
pub fn set_listed(tx: &Tx, actor: &Actor, room: RoomNum, listed: bool) -> Result<(), Error> {
    if !aliases::may_publish(tx, room, actor)? && !aliases::is_server_admin(tx, actor)? {
        return Err(Error::forbidden(
            "you may not change the visibility of this room in the directory",
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

/// The sort key of a room in the directory: the number of members, descending, then the age.
type Rank = (Reverse<u32>, RoomNum);

/// A pagination token of the directory: `n<members>_<room>` for the page after that room,
/// `p<members>_<room>` for the page before it. It stays valid when rooms are added or removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    After(Rank),
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
        since.ok_or_else(|| {
            Error::invalid(format!("since: {text} is not a token of this directory"))
        })
    }
}

#[derive(Debug)]
pub struct Page {
    pub rooms: Vec<PublicRoomsChunk>,
    pub next: Option<Since>,
    pub previous: Option<Since>,
    /// The number of rooms in the directory.
    pub total: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    Users,
    OtherServers,
}

#[derive(Clone, Debug)]
pub struct DirectoryQuery {
    pub filter: Filter,
    pub since: Option<Since>,
    /// The most rooms of the page.
    pub limit: Option<usize>,
    pub audience: Audience,
}

/// A page of the directory. Reads the whole directory: to be called on the pool.
pub fn page(r: &impl Reader, query: &DirectoryQuery) -> Result<Page, Error> {
    let max = usize::from(MAX_PAGE_SIZE);
    let limit = query.limit.map_or(max, |limit| limit.clamp(1, max));
    let ranks = ranks(r)?;
    let total = ranks.len();
    let (mut found, more) = match query.since {
        Some(Since::Before(rank)) => {
            let end = ranks.partition_point(|other| *other < rank);
            take(r, query, ranks[..end].iter().rev(), limit)?
        }
        Some(Since::After(rank)) => {
            let start = ranks.partition_point(|other| *other <= rank);
            take(r, query, ranks[start..].iter(), limit)?
        }
        None => take(r, query, ranks.iter(), limit)?,
    };
    let backwards = matches!(query.since, Some(Since::Before(_)));
    if backwards {
        found.reverse();
    }
    let next = (backwards || more).then(|| found.last().map(|(rank, _)| Since::After(*rank)));
    let previous = if backwards {
        more
    } else {
        query.since.is_some()
    };
    let previous = previous.then(|| found.first().map(|(rank, _)| Since::Before(*rank)));
    Ok(Page {
        next: next.flatten(),
        previous: previous.flatten(),
        rooms: found.into_iter().map(|(_, room)| room).collect(),
        total,
    })
}

/// The listed rooms in their order, without those that have no members.
fn ranks(r: &impl Reader) -> Result<Vec<Rank>, Error> {
    let mut ranks = Vec::new();
    for row in r.public_rooms()?.all()? {
        let room = row?.0.value();
        let joined = room::heads(r, room)?.joined;
        if joined > 0 {
            ranks.push((Reverse(joined), room));
        }
    }
    ranks.sort_unstable();
    Ok(ranks)
}

/// The first `limit` rooms of `ranks` that match, or fewer if they are large, and whether more do.
fn take<'a>(
    r: &impl Reader,
    query: &DirectoryQuery,
    ranks: impl Iterator<Item = &'a Rank>,
    limit: usize,
) -> Result<(Vec<(Rank, PublicRoomsChunk)>, bool), Error> {
    let filter = &query.filter;
    let term = filter
        .generic_search_term
        .as_ref()
        .map(|term| term.to_lowercase());
    let (mut found, mut bytes) = (Vec::new(), 0);
    for rank in ranks {
        if query.audience == Audience::OtherServers && !summary::is_federated(r, rank.1)? {
            continue;
        }
        let room = PublicRoomsChunk::from(summary::of(r, rank.1)?);
        if !matches_filter(&room, &filter.room_types, term.as_deref()) {
            continue;
        }
        if found.len() == limit || bytes > summary::MAX_PAGE_BYTES {
            return Ok((found, true));
        }
        bytes += summary::size(&room);
        found.push((*rank, room));
    }
    Ok((found, false))
}

fn matches_filter(room: &PublicRoomsChunk, types: &[RoomTypeFilter], term: Option<&str>) -> bool {
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
