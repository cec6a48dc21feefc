//! Pagination tokens of a room's timeline.
//!
//! A token is a point between two events: `p1_<place>` is the point after that place. A `/sync` token
//! is one too; it means the room's last place at its position.

use std::{fmt, str::FromStr};

use crate::{
    rooms::{Error, timeline},
    store::{Place, Position, Reader, RoomNum},
};

const PLACE: &str = "p1_";
/// The prefix of a `/sync` token, before its position. The rest is parsed by `sync`.
pub const SYNC: &str = "s1_";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PaginationToken {
    /// The point after this place.
    Place(Place),
    /// The point after the room's last place at this position.
    Position(Position),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a pagination token of this server")]
pub struct BadToken;

impl PaginationToken {
    /// The place before the point, in `room`; [`Place::MIN`] if no event is before it.
    pub fn place(self, r: &impl Reader, room: RoomNum) -> Result<Place, Error> {
        match self {
            Self::Place(place) => Ok(place),
            Self::Position(position) => {
                Ok(timeline::place_at(r, room, position)?.unwrap_or(Place::MIN))
            }
        }
    }
}

impl FromStr for PaginationToken {
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

impl fmt::Display for PaginationToken {
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
    use super::{BadToken, PaginationToken};
    use crate::store::{Place, Position};

    #[test]
    fn tokens_round_trip() {
        for token in [
            PaginationToken::Place(Place(1 << 63)),
            PaginationToken::Position(Position(7)),
        ] {
            assert_eq!(token.to_string().parse(), Ok(token));
        }
        assert_eq!(
            "s1_7_0_abc_3".parse(),
            Ok(PaginationToken::Position(Position(7)))
        );
    }

    #[test]
    fn an_invalid_token_is_refused() {
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
            assert_eq!(text.parse::<PaginationToken>(), Err(BadToken), "{text}");
        }
    }
}
