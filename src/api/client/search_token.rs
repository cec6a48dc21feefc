//! The tokens by which the results of a search are paged.

use std::{fmt, str::FromStr};

use ruma::{OwnedRoomId, OwnedUserId};

use crate::{rooms, store::Position};

/// Where a page of results begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchToken {
    /// The position of the newest event that the first page found: what came later is not found.
    pub upto: Position,
    /// How many candidates come before.
    pub offset: usize,
    /// How many results were on the pages before.
    pub found: usize,
    /// Within which group the results are paged.
    pub group: Option<Group>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Group {
    Room(OwnedRoomId),
    Sender(OwnedUserId),
}

impl SearchToken {
    /// Of the first page.
    pub const FIRST: Self = Self {
        upto: Position::MAX,
        offset: 0,
        found: 0,
        group: None,
    };
}

impl fmt::Display for SearchToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}_{}", self.upto.0, self.offset, self.found)?;
        match &self.group {
            None => Ok(()),
            Some(Group::Room(id)) => write!(f, "_{id}"),
            Some(Group::Sender(id)) => write!(f, "_{id}"),
        }
    }
}

impl FromStr for SearchToken {
    type Err = rooms::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| {
            rooms::Error::invalid("`next_batch` has to be one of an earlier response to a search")
        })
    }
}

fn parse(text: &str) -> Option<SearchToken> {
    let mut parts = text.splitn(4, '_');
    let upto = Position(parts.next()?.parse().ok()?);
    let offset = parts.next()?.parse::<u32>().ok()?;
    let found = parts.next()?.parse::<u32>().ok()?;
    let group = match parts.next() {
        None => None,
        Some(id) if id.starts_with('!') => Some(Group::Room(id.try_into().ok()?)),
        Some(id) => Some(Group::Sender(id.try_into().ok()?)),
    };
    Some(SearchToken {
        upto,
        offset: usize::try_from(offset).ok()?,
        found: usize::try_from(found).ok()?,
        group,
    })
}

#[cfg(test)]
mod tests {
    use super::SearchToken;

    #[test]
    fn a_token_is_read_as_it_was_written() {
        for text in [
            "7_10_3",
            "7_10_3_!a_b:example.org",
            "7_10_3_@a_b:example.org",
        ] {
            let token: SearchToken = text.parse().expect("a token");
            assert_eq!(token.to_string(), text);
        }
        for text in ["", "7", "7_10", "7_10_3_x", "7_-1_3", "7_10_99999999999"] {
            assert!(text.parse::<SearchToken>().is_err(), "{text}");
        }
    }
}
