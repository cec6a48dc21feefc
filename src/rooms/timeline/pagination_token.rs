//! Tokens that clients page by.
//!
//! A place in one room's timeline is `p1_<place>`: what is after it when paging forwards starts
//! behind that place, what is before it when paging backwards ends with that place. A token of
//! `/sync` serves as well, and means the room's last place at its position.

use std::{fmt, str::FromStr};

use crate::{
    rooms::{Error, timeline},
    store::{Place, Position, Reader, RoomNum},
};

const PLACE: &str = "p1_";
/// What a token of `/sync` begins with; its position follows. The rest is `/sync`'s own.
pub const SYNC: &str = "s1_";

/// A point between two events of a room's timeline: behind a place, before the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PagingToken {
    /// Behind this place.
    Place(Place),
    /// Behind the room's last place at this position.
    Position(Position),
}

/// A token that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("that is not a token of this server")]
pub struct BadToken;

impl PagingToken {
    /// The place behind which it stands in `room`; before the first place if nothing was there.
    pub fn place(self, r: &impl Reader, room: RoomNum) -> Result<Place, Error> {
        match self {
            Self::Place(place) => Ok(place),
            Self::Position(position) => {
                Ok(timeline::place_at(r, room, position)?.unwrap_or(Place::MIN))
            }
        }
    }
}

impl FromStr for PagingToken {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<Self, BadToken> {
        if let Some(place) = text.strip_prefix(PLACE) {
            return place
                .parse()
                .map(|place| Self::Place(Place(place)))
                .map_err(|_| BadToken);
        }
        let position = text.strip_prefix(SYNC).ok_or(BadToken)?;
        let position = position.split('_').next().unwrap_or_default();
        position
            .parse()
            .map(|position| Self::Position(Position(position)))
            .map_err(|_| BadToken)
    }
}

impl fmt::Display for PagingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Place(place) => write!(f, "{PLACE}{}", place.0),
            Self::Position(position) => write!(f, "{SYNC}{}", position.0),
        }
    }
}

impl From<BadToken> for Error {
    fn from(bad: BadToken) -> Self {
        Self::invalid(bad.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::{BadToken, PagingToken};
    use crate::store::{Place, Position};

    #[test]
    fn tokens_are_read_as_they_were_written() {
        for token in [
            PagingToken::Place(Place(1 << 63)),
            PagingToken::Position(Position(7)),
        ] {
            assert_eq!(token.to_string().parse(), Ok(token));
        }
        assert_eq!(
            "s1_7_0_abc_3".parse(),
            Ok(PagingToken::Position(Position(7)))
        );
    }

    #[test]
    fn what_is_no_token_is_refused() {
        for text in [
            "",
            "p1_",
            "p1_-1",
            "p1_x",
            "s1_",
            "s2_7",
            "t7",
            "p1_99999999999999999999",
        ] {
            assert_eq!(text.parse::<PagingToken>(), Err(BadToken), "{text}");
        }
    }
}
