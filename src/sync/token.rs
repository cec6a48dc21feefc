//! The token of `/sync`: `s1_<position>_<to-device>_<instance>_<ephemeral>`.
//!
//! Typing and presence are not stored; their counter is valid for one start of the server (the instance).
//! A token of another instance counts as 0, so the client gets all current typing and presence again.

use std::{fmt, str::FromStr};

use crate::{
    rooms::timeline::pagination_token::{BadToken, SYNC},
    store::Position,
};

/// Where a client's last `/sync` ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncToken {
    pub position: Position,
    /// The device has received its to-device messages up to here.
    pub to_device: Position,
    /// The start of the server that counted `ephemeral`.
    pub instance: u64,
    pub ephemeral: u64,
}

impl fmt::Display for SyncToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            position,
            to_device,
            instance,
            ephemeral,
        } = self;
        write!(
            f,
            "{SYNC}{}_{}_{instance:x}_{ephemeral}",
            position.0, to_device.0
        )
    }
}

impl FromStr for SyncToken {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<Self, BadToken> {
        let parts: Vec<&str> = text
            .strip_prefix(SYNC)
            .ok_or(BadToken)?
            .split('_')
            .collect();
        let [position, to_device, instance, ephemeral] = parts[..] else {
            return Err(BadToken);
        };
        let number = |text: &str| text.parse::<u64>().map_err(|_| BadToken);
        Ok(Self {
            position: Position(number(position)?),
            to_device: Position(number(to_device)?),
            instance: u64::from_str_radix(instance, 16).map_err(|_| BadToken)?,
            ephemeral: number(ephemeral)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::SyncToken;
    use crate::{
        rooms::timeline::pagination_token::{BadToken, PaginationToken},
        store::Position,
    };

    const TOKEN: SyncToken = SyncToken {
        position: Position(9),
        to_device: Position(4),
        instance: 0xbeef,
        ephemeral: 2,
    };

    #[test]
    fn a_token_parses_as_a_sync_token_and_as_a_pagination_token() {
        assert_eq!(TOKEN.to_string().parse(), Ok(TOKEN));
        assert_eq!(
            TOKEN.to_string().parse(),
            Ok(PaginationToken::Position(Position(9)))
        );
    }

    #[test]
    fn malformed_tokens_are_rejected() {
        for text in [
            "",
            "s1_",
            "s1_1_2_3",
            "s1_1_2_x_4",
            "s1_1_2_3_4_5",
            "s1_-1_2_3_4",
            "p1_9",
        ] {
            assert_eq!(text.parse::<SyncToken>(), Err(BadToken), "{text}");
        }
    }
}
