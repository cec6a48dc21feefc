//! The users whom a user may find: those with whom they share a room, and those in public rooms.
//!
//! Source: client-server API, "User Directory".

use std::collections::HashSet;

use ruma::{
    OwnedMxcUri, OwnedUserId, api::client::user_directory::search_users::v3::User,
    events::StateEventType, room::JoinRuleSummary,
};
use serde::Deserialize;

use super::{published, summary};
use crate::{
    rooms::{
        Error,
        event::{self, StoredEvent},
        state::current,
    },
    store::{Reader, UserNum, records::Membership},
    users,
};

/// How many members and rooms one search looks at.
const MAX_READ: usize = 4000;

/// At most `limit` other users whose name or id has `term` in it, whatever the case. Reads the members of
/// rooms: to be called on the pool.
pub fn search(
    r: &impl Reader,
    asker: UserNum,
    term: &str,
    limit: usize,
) -> Result<Vec<User>, Error> {
    let term = term.trim().trim_start_matches('@').to_lowercase();
    let (mut seen, mut found) = (HashSet::from([users::id_of(r, asker)?.into()]), Vec::new());
    // In order.
    let joined = current::joined_rooms(r, asker)?;
    let listed = published::listed(r)?.into_iter();
    let listed = listed.filter(|room| joined.binary_search(room).is_err());
    let mut left = MAX_READ;
    for room in joined.iter().copied().chain(listed) {
        if left == 0 || found.len() >= limit {
            break;
        }
        left -= 1;
        let is_joined = joined.binary_search(&room).is_ok();
        if !is_joined && !matches!(summary::join_rule(r, room)?, JoinRuleSummary::Public) {
            continue;
        }
        let kind = StateEventType::RoomMember.to_string();
        for (user, num) in current::some_of_type(r, room, &kind, left)? {
            if found.len() >= limit {
                break;
            }
            left -= 1;
            if seen.contains(&user) || current::membership_of(r, num)? != Membership::Join {
                continue;
            }
            seen.insert(user.clone());
            if let Ok(id) = OwnedUserId::try_from(user) {
                let user = member(id, &event::load(r, num)?);
                if matches(&user, &term) {
                    found.push(user);
                }
            }
        }
    }
    Ok(found)
}

/// The user as their membership in a room shows them.
fn member(id: OwnedUserId, event: &StoredEvent) -> User {
    #[derive(Default, Deserialize)]
    struct Member {
        content: Content,
    }
    #[derive(Default, Deserialize)]
    struct Content {
        displayname: Option<String>,
        avatar_url: Option<OwnedMxcUri>,
    }
    // A malformed name or avatar does not hide the user.
    let content = event.parse::<Member>().unwrap_or_default().content;
    let mut user = User::new(id);
    user.display_name = content.displayname;
    user.avatar_url = content.avatar_url;
    user
}

fn matches(user: &User, term: &str) -> bool {
    let name = user.display_name.as_deref().unwrap_or_default();
    user.user_id.as_str().to_lowercase().contains(term) || name.to_lowercase().contains(term)
}
