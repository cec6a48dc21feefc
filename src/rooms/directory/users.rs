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
    store::{Reader, RoomNum, UserNum, records::Membership},
    users,
};

/// How many members one search looks at.
const MAX_MEMBERS: usize = 2000;

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
    let mut read = 0;
    for room in rooms(r, asker)? {
        for (user, num) in current::of_type(r, room, &StateEventType::RoomMember.to_string())? {
            if found.len() >= limit || read >= MAX_MEMBERS {
                return Ok(found);
            }
            if seen.contains(&user) {
                continue;
            }
            read += 1;
            if current::membership_of(r, num)? != Membership::Join {
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

/// The rooms that `asker` has joined, then the public ones of the room directory.
fn rooms(r: &impl Reader, asker: UserNum) -> Result<Vec<RoomNum>, Error> {
    let mut rooms = current::joined_rooms(r, asker)?;
    let joined: HashSet<RoomNum> = rooms.iter().copied().collect();
    for room in published::listed(r)? {
        let is_public = matches!(summary::join_rule(r, room)?, JoinRuleSummary::Public);
        if is_public && !joined.contains(&room) {
            rooms.push(room);
        }
    }
    Ok(rooms)
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
