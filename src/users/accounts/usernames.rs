//! Usernames: which can be registered, and whom one names at login.

use ruma::{OwnedUserId, ServerName, UserId, user_id::localpart_is_fully_conforming};

use crate::users::Error;

/// These look like names of the server itself.
const RESERVED: [&str; 4] = ["hearth", "server", "system", "notices"];

/// The user id of a new account. Capitals become lowercase (appendices, "User Identifiers"). Names that begin
/// with `_` are reserved for application services.
///
/// # Errors
/// [`Error::InvalidUsername`] or [`Error::ReservedUsername`].
pub(in crate::users) fn new_user_id(
    username: &str,
    server: &ServerName,
) -> Result<OwnedUserId, Error> {
    let localpart = username.to_ascii_lowercase();
    if !localpart_is_fully_conforming(&localpart).is_ok_and(|conforms| conforms) {
        return Err(Error::InvalidUsername(
            "a user name has only the characters a-z, 0-9, and . _ = - / +",
        ));
    }
    if localpart.starts_with('_') || RESERVED.contains(&&*localpart) {
        return Err(Error::ReservedUsername);
    }
    let user_id = UserId::parse(format!("@{localpart}:{server}"));
    user_id
        .ok()
        .filter(|user_id| user_id.validate_strict().is_ok())
        .ok_or(Error::InvalidUsername(
            "the user id has more than 255 bytes",
        ))
}

/// The local user ids that `user`, a user id or a localpart, may stand for: first as written, then in
/// lowercase (appendices, "User Identifiers").
pub(in crate::users) fn candidates(user: &str, server: &ServerName) -> Vec<OwnedUserId> {
    let as_is = UserId::parse_with_server_name(user, server).ok();
    let small = UserId::parse_with_server_name(user.to_ascii_lowercase(), server).ok();
    let mut candidates: Vec<_> = as_is.into_iter().chain(small).collect();
    candidates.retain(|user_id| user_id.server_name() == server);
    candidates.dedup();
    candidates
}

#[cfg(test)]
mod tests {
    use ruma::{server_name, user_id};

    use super::*;

    fn name(username: &str) -> Result<OwnedUserId, Error> {
        new_user_id(username, server_name!("example.org"))
    }

    #[test]
    fn a_new_username_has_only_the_characters_of_the_grammar() {
        assert_eq!(
            name("az09._=-/+").unwrap(),
            user_id!("@az09._=-/+:example.org")
        );
        for bad in ["", "ä", "a b", "a:b", "@a", "@a:example.org", "a\0", "a*"] {
            assert!(
                matches!(name(bad), Err(Error::InvalidUsername(_))),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn capitals_become_lowercase() {
        assert_eq!(name("Alice").unwrap(), user_id!("@alice:example.org"));
    }

    #[test]
    fn a_user_id_has_at_most_255_bytes() {
        let longest = 255 - "@:example.org".len();
        assert!(name(&"a".repeat(longest)).is_ok());
        assert!(matches!(
            name(&"a".repeat(longest + 1)),
            Err(Error::InvalidUsername(_))
        ));
    }

    #[test]
    fn usernames_of_bridges_and_of_the_server_are_reserved() {
        for reserved in ["_irc_alice", "_", "hearth", "Server"] {
            assert!(
                matches!(name(reserved), Err(Error::ReservedUsername)),
                "{reserved}"
            );
        }
    }

    #[test]
    fn candidates_are_users_of_this_server_only() {
        let server = server_name!("example.org");
        let alice = user_id!("@alice:example.org");
        assert_eq!(candidates("alice", server), [alice.to_owned()]);
        assert_eq!(candidates("@alice:example.org", server), [alice.to_owned()]);
        assert_eq!(
            candidates("ALICE", server),
            [user_id!("@ALICE:example.org").to_owned(), alice.to_owned()]
        );
        assert!(candidates("@alice:elsewhere.org", server).is_empty());
    }
}
