//! From whom a user accepts invites: the specification's `m.invite_permission_config`, which blocks all or none,
//! and MSC4155, with which Element Web blocks and ignores users and servers.
//!
//! Source: client-server API, "Invite permission"; MSC4155.

use ruma::UserId;
use serde::Deserialize;

use super::rows::{self, GLOBAL};
use crate::{
    protocol::glob::GlobText,
    store::{self, Reader, UserNum},
};

const EVENT_TYPE: &str = "m.invite_permission_config";
const MSC4155_EVENT_TYPE: &str = "org.matrix.msc4155.invite_permission_config";

/// Of all globs together: each invite is compared with all. A configuration with more is invalid.
const MAX_GLOB_BYTES: usize = 32 * 1024;

/// What happens to an invite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InviteRule {
    Allow,
    /// The user does not see it, and the inviter does not learn of that.
    Ignore,
    /// It is refused.
    Block,
}

#[derive(Deserialize)]
struct Config {
    default_action: Option<String>,
}

/// A list that is malformed makes all of it invalid.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
struct Msc4155Config {
    enabled: bool,
    allowed_users: Vec<String>,
    ignored_users: Vec<String>,
    blocked_users: Vec<String>,
    allowed_servers: Vec<String>,
    ignored_servers: Vec<String>,
    blocked_servers: Vec<String>,
}

impl Default for Msc4155Config {
    fn default() -> Self {
        Self {
            enabled: true,
            allowed_users: Vec::new(),
            ignored_users: Vec::new(),
            blocked_users: Vec::new(),
            allowed_servers: Vec::new(),
            ignored_servers: Vec::new(),
            blocked_servers: Vec::new(),
        }
    }
}

impl Msc4155Config {
    /// The lists of users, then those of servers, in the order in which they count.
    fn lists(&self) -> [(&[String], InviteRule); 6] {
        use InviteRule::{Allow, Block, Ignore};

        [
            (&self.allowed_users, Allow),
            (&self.ignored_users, Ignore),
            (&self.blocked_users, Block),
            (&self.allowed_servers, Allow),
            (&self.ignored_servers, Ignore),
            (&self.blocked_servers, Block),
        ]
    }

    /// The first list that matches decides.
    fn rule(&self, inviter: &UserId) -> InviteRule {
        if !self.enabled || self.bytes() == 0 {
            return InviteRule::Allow;
        }
        let user = GlobText::new(inviter.as_str());
        let server = GlobText::new(inviter.server_name().as_str());
        let (Some(user), Some(server)) = (user, server) else {
            // No user id is so long.
            return InviteRule::Block;
        };
        let texts = [&user, &user, &user, &server, &server, &server];
        let found = self
            .lists()
            .into_iter()
            .zip(texts)
            .find(|((globs, _), text)| globs.iter().any(|glob| text.matches(glob)));
        found.map_or(InviteRule::Allow, |((_, rule), _)| rule)
    }

    /// How many bytes all globs have.
    fn bytes(&self) -> usize {
        let globs = self.lists().into_iter().flat_map(|(globs, _)| globs);
        globs.map(String::len).sum()
    }
}

/// From whom a user accepts invites.
#[derive(Clone, Debug, Default)]
pub struct InvitePermissions {
    blocks_all: bool,
    msc4155: Msc4155Config,
}

impl InvitePermissions {
    /// What happens to an invite by `inviter`.
    pub fn rule(&self, inviter: &UserId) -> InviteRule {
        if self.blocks_all {
            return InviteRule::Block;
        }
        self.msc4155.rule(inviter)
    }

    /// By how many globs a rule is found.
    pub fn globs(&self) -> usize {
        self.msc4155
            .lists()
            .map(|(globs, _)| globs.len())
            .iter()
            .sum()
    }

    /// Whether invites by `inviter` are not shown.
    pub fn ignores(&self, inviter: &UserId) -> bool {
        self.rule(inviter) == InviteRule::Ignore
    }
}

/// The permissions of the local user `user`. What is invalid allows all.
pub fn load(r: &impl Reader, user: UserNum) -> Result<InvitePermissions, store::Error> {
    let config = rows::load(r, user, GLOBAL, EVENT_TYPE)?;
    let config = config.and_then(|row| serde_json::from_str::<Config>(&row.content).ok());
    let default_action = config.and_then(|config| config.default_action);
    let config = rows::load(r, user, GLOBAL, MSC4155_EVENT_TYPE)?;
    let config = config.and_then(|row| serde_json::from_str::<Msc4155Config>(&row.content).ok());
    let config = config.filter(|config| config.bytes() <= MAX_GLOB_BYTES);
    Ok(InvitePermissions {
        blocks_all: default_action.as_deref() == Some("block"),
        msc4155: config.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::{InviteRule, Msc4155Config};

    fn rule(config: &str) -> InviteRule {
        let config: Msc4155Config = serde_json::from_str(config).unwrap();
        config.rule(user_id!("@eve:evil.example"))
    }

    #[test]
    fn the_first_list_that_matches_decides_those_of_users_before_those_of_servers() {
        use InviteRule::{Allow, Block, Ignore};

        for (config, expected) in [
            ("{}", Allow),
            (r#"{"blocked_users":["@eve:evil.example"]}"#, Block),
            (r#"{"blocked_users":["@eve:*"],"enabled":false}"#, Allow),
            (r#"{"blocked_users":["*"],"enabled":true}"#, Block),
            (r#"{"ignored_users":["@e?e:*"]}"#, Ignore),
            (r#"{"blocked_users":["@Eve:*"]}"#, Allow),
            (r#"{"blocked_servers":["*.example"]}"#, Block),
            (
                r#"{"ignored_servers":["evil.example"],"blocked_servers":["*"]}"#,
                Ignore,
            ),
            (
                r#"{"allowed_servers":["evil.*"],"blocked_servers":["*"]}"#,
                Allow,
            ),
            (
                r#"{"allowed_users":["@eve:*"],"blocked_users":["*"]}"#,
                Allow,
            ),
            (r#"{"allowed_servers":["*"],"blocked_users":["*"]}"#, Block),
            (r#"{"ignored_users":["*"],"blocked_users":["*"]}"#, Ignore),
        ] {
            assert_eq!(rule(config), expected, "{config}");
        }
    }
}
