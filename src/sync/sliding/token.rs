//! The `pos` of simplified sliding sync: `s1_<position>_c<state>_<instance>_<ephemeral>`. It begins like a token
//! of `/sync`, so that it is a pagination token too, but is none.

use std::{fmt, str::FromStr};

use crate::{
    rooms::timeline::pagination_token::{BadToken, SYNC},
    store::Position,
    sync::{StreamPosition, lazy_members::Progress, request::Since},
};

/// Where the last response on a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pos {
    pub position: Position,
    /// The number of the connection's stored state.
    pub state: u64,
    /// The start of the server that counted `ephemeral`.
    pub instance: u64,
    pub ephemeral: u64,
}

impl Pos {
    pub fn new(end: StreamPosition, state: u64) -> Self {
        Self {
            position: end.stored,
            state,
            instance: end.instance,
            ephemeral: end.ephemeral,
        }
    }

    /// For lazily loaded members.
    pub fn progress(self) -> Progress {
        (self.state, self.position)
    }

    pub fn since(self, end: StreamPosition) -> Since {
        let is_same_start = self.instance == end.instance;
        Since {
            position: self.position,
            ephemeral: if is_same_start { self.ephemeral } else { 0 },
        }
    }
}

impl fmt::Display for Pos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            position,
            state,
            instance,
            ephemeral,
        } = self;
        write!(f, "{SYNC}{}_c{state}_{instance:x}_{ephemeral}", position.0)
    }
}

impl FromStr for Pos {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<Self, BadToken> {
        let text = text.strip_prefix(SYNC).ok_or(BadToken)?;
        let parts: Vec<&str> = text.split('_').collect();
        let [position, state, instance, ephemeral] = parts[..] else {
            return Err(BadToken);
        };
        let number = |text: &str| text.parse::<u64>().map_err(|_| BadToken);
        Ok(Self {
            position: Position(number(position)?),
            state: number(state.strip_prefix('c').ok_or(BadToken)?)?,
            instance: u64::from_str_radix(instance, 16).map_err(|_| BadToken)?,
            ephemeral: number(ephemeral)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Pos;
    use crate::{
        rooms::timeline::pagination_token::{BadToken, PaginationToken},
        store::Position,
        sync::SyncToken,
    };

    #[test]
    fn a_pos_is_a_pagination_token_and_no_token_of_sync() {
        let pos = Pos {
            position: Position(9),
            state: 1_790_000_000_000,
            instance: 0xbeef,
            ephemeral: 2,
        };
        let text = pos.to_string();
        assert_eq!(text.parse(), Ok(pos));
        let pagination = text.parse::<PaginationToken>();
        assert_eq!(pagination, Ok(PaginationToken::Position(Position(9))));
        assert_eq!(text.parse::<SyncToken>(), Err(BadToken));
        for text in ["", "s1_", "s1_9_4_beef_2", "s1_9_c_beef_2", "s1_9_c4_x_2"] {
            assert_eq!(text.parse::<Pos>(), Err(BadToken), "{text}");
        }
    }
}
