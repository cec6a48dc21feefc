//! The rows of `search_postings`: (room, block, word) → postings.
//!
//! A block is 1,024 places of a timeline. A posting is two bytes, big-endian: the place within the block
//! (10 bits), and how often the word stands there (6 bits). The postings of a row ascend.

use crate::{
    rooms::Error,
    store::{Place, Reader, RoomNum, Rows, Tx},
};

use super::words::{Terms, matches, score_of};

const BLOCK_BITS: u32 = 10;
const BLOCK_PLACES: usize = 1 << BLOCK_BITS;
const COUNT_BITS: u32 = 6;
const MAX_COUNT: u16 = (1 << COUNT_BITS) - 1;
/// How many words of a block are looked at that begin with a term.
const MAX_WORDS_OF_TERM: usize = 64;

/// The word is at `place`, `count` times.
#[derive(Clone, Copy, Debug)]
pub(super) struct Posting {
    pub(super) place: Place,
    pub(super) count: u8,
}

impl Posting {
    fn encode(self) -> u16 {
        let offset = self.place.0 & (BLOCK_PLACES as u64 - 1);
        (offset as u16) << COUNT_BITS | u16::from(self.count).min(MAX_COUNT)
    }
}

pub(super) fn block_of(place: Place) -> u64 {
    place.0 >> BLOCK_BITS
}

fn decode(row: &[u8]) -> impl Iterator<Item = u16> {
    let (postings, _) = row.as_chunks::<2>();
    postings.iter().map(|bytes| u16::from_be_bytes(*bytes))
}

/// Adds postings of `word`, which are of one block.
pub(super) fn add(tx: &Tx, room: RoomNum, word: &str, new: &[Posting]) -> Result<(), Error> {
    let Some(first) = new.first() else {
        return Ok(());
    };
    let mut rows = tx.search_postings()?;
    let key = (room, block_of(first.place), word);
    let mut postings: Vec<u16> = match rows.get(key)? {
        Some(row) => decode(row.value()).collect(),
        None => Vec::new(),
    };
    for posting in new.iter().map(|posting| posting.encode()) {
        let offset = |posting: &u16| posting >> COUNT_BITS;
        match postings.binary_search_by_key(&offset(&posting), offset) {
            Ok(at) => postings[at] = posting,
            Err(at) => postings.insert(at, posting),
        }
    }
    let bytes: Vec<u8> = postings.iter().flat_map(|it| it.to_be_bytes()).collect();
    Ok(rows.insert(key, bytes.as_slice())?)
}

/// The newest block of the room before `before` that has postings.
pub(super) fn block_before(
    r: &impl Reader,
    room: RoomNum,
    before: Option<u64>,
) -> Result<Option<u64>, Error> {
    let rows = r.search_postings()?;
    let last = match before {
        Some(before) => rows.prefix_range(room, ..before)?.next_back(),
        None => rows.prefix(room)?.next_back(),
    };
    Ok(last.transpose()?.map(|(key, _)| key.value().1))
}

/// The places of a block with all of `terms` and their scores, newest first.
pub(super) fn matching(
    r: &impl Reader,
    room: RoomNum,
    block: u64,
    terms: &Terms,
) -> Result<Vec<(Place, u32)>, Error> {
    // Per place: how many terms it has, and their scores.
    let mut found = vec![(0_usize, 0_u32); BLOCK_PLACES];
    for (index, term) in terms.as_slice().iter().enumerate() {
        let mut best: Vec<Option<u32>> = vec![None; BLOCK_PLACES];
        let mut is_found = false;
        let rows = r.search_postings()?;
        let start = std::ops::Bound::Included((room, block, term.as_str()));
        for row in rows
            .prefix_from((room, block), start)?
            .take(MAX_WORDS_OF_TERM)
        {
            let (key, postings) = row?;
            let (_, _, word) = key.value();
            if !matches(term, word) {
                break;
            }
            for posting in decode(postings.value()) {
                let place = usize::from(posting >> COUNT_BITS);
                let count = u8::try_from(posting & MAX_COUNT).unwrap_or(u8::MAX);
                let score = score_of(word == term, count);
                best[place] = best[place].max(Some(score));
                is_found = true;
            }
        }
        if !is_found {
            return Ok(Vec::new());
        }
        for (place, score) in best.into_iter().enumerate() {
            if let Some(score) = score
                && found[place].0 == index
            {
                found[place] = (index + 1, found[place].1 + score);
            }
        }
    }
    let all = terms.as_slice().len();
    let places = found.into_iter().enumerate().rev();
    let places = places.filter(|(_, (terms, _))| *terms == all);
    let first = block << BLOCK_BITS;
    Ok(places
        .map(|(place, (_, score))| (Place(first | place as u64), score))
        .collect())
}
