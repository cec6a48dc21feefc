use serde::Deserialize;

/// Whom a user finds in the user directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UserDirectory {
    /// Users who share a room with the user or are in a public room.
    Shared,
    /// Those, and all users of this server.
    Local,
}
