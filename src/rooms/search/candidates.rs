//! Which events a search is about to look at.

use std::cmp::Reverse;

use crate::{
    rooms::{Error, event, timeline},
    store::{EventNum, Place, Position, Reader, RoomNum, Rows},
};

use super::{
    postings,
    words::{self, Terms},
};

/// How many candidates a search has. NOTSPEC: the older ones of each room are not found.
const MAX_CANDIDATES: usize = 4000;
/// How many blocks of the index a search reads.
const MAX_BLOCKS: usize = 10_000;
/// How many events that are not indexed yet a search reads.
const MAX_UNINDEXED: usize = 2000;

/// An event that has the terms, or had them before it was redacted.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    pub score: u32,
    pub position: Position,
    pub room: RoomNum,
    pub place: Place,
    pub event: EventNum,
}

/// The order of the candidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The best matches first; of equal ones the newest.
    Rank,
    /// The newest first.
    Recent,
}

/// The events of `rooms` with the terms that were stored up to `upto`, in order.
pub fn candidates(
    r: &impl Reader,
    rooms: &[RoomNum],
    terms: &Terms,
    upto: Position,
    order: Order,
) -> Result<Vec<Candidate>, Error> {
    let mut search = Search {
        r,
        terms,
        upto,
        found: Vec::new(),
    };
    search.read_unindexed(rooms)?;
    search.read_index(rooms)?;
    let mut found = search.found;
    let by_age = |it: &Candidate| (it.position, it.place);
    match order {
        Order::Recent => found.sort_by_key(|it| Reverse(by_age(it))),
        Order::Rank => {
            let key = |it: &Candidate| (it.score, by_age(it));
            found.sort_by_key(|it| Reverse(key(it)));
        }
    }
    Ok(found)
}

struct Search<'a, R> {
    r: &'a R,
    terms: &'a Terms,
    upto: Position,
    found: Vec<Candidate>,
}

impl<R: Reader> Search<'_, R> {
    fn read_unindexed(&mut self, rooms: &[RoomNum]) -> Result<(), Error> {
        let mut left = MAX_UNINDEXED;
        for room in rooms {
            let cursor = self.r.search_cursors()?.get(*room)?.map(|row| row.value());
            let timeline = self.r.timeline()?;
            let from = cursor.map_or(Place::MIN, Place::next);
            for row in timeline.prefix_range(*room, from..)?.rev().take(left) {
                let (key, row) = row?;
                let row = row.record(&key)?;
                left -= 1;
                if row.position > self.upto {
                    continue;
                }
                let words = words::of_event(&event::load(self.r, row.event)?, None)?;
                if let Some(score) = self.terms.score(&words) {
                    self.found.push(Candidate {
                        score,
                        position: row.position,
                        room: *room,
                        place: key.value().1,
                        event: row.event,
                    });
                }
            }
        }
        Ok(())
    }

    /// Reads the newest block of each room, then the one before it.
    fn read_index(&mut self, rooms: &[RoomNum]) -> Result<(), Error> {
        let mut left = MAX_BLOCKS;
        let mut open: Vec<(RoomNum, Option<u64>)> =
            rooms.iter().map(|room| (*room, None)).collect();
        while !open.is_empty() {
            let mut older = Vec::new();
            for (room, before) in open {
                if left == 0 || self.found.len() >= MAX_CANDIDATES {
                    return Ok(());
                }
                if let Some(block) = postings::block_before(self.r, room, before)? {
                    left -= 1;
                    self.read_block(room, block)?;
                    older.push((room, Some(block)));
                }
            }
            open = older;
        }
        Ok(())
    }

    fn read_block(&mut self, room: RoomNum, block: u64) -> Result<(), Error> {
        for (place, score) in postings::matching(self.r, room, block, self.terms)? {
            // An event may have lost its place.
            let Some((_, row)) = timeline::forwards(self.r, room, place, 1)?
                .pop()
                .filter(|(at, _)| *at == place)
            else {
                continue;
            };
            if row.position <= self.upto {
                self.found.push(Candidate {
                    score,
                    position: row.position,
                    room,
                    place,
                    event: row.event,
                });
            }
        }
        Ok(())
    }
}
