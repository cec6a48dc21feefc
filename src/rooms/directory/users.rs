//! The users whom a user may find: those with whom they share a room, those in public rooms, and, if the
//! settings say so, all of this server.
//!
//! Source: client-server API, "User Directory".

use std::collections::HashSet;

use ruma::{
    OwnedMxcUri, OwnedUserId, UserId, api::client::user_directory::search_users::v3::User,
    events::StateEventType, room::JoinRuleSummary,
};
use serde::Deserialize;

use super::summary;
use crate::{
    rooms::{
        Error, Local,
        event::{self, StoredEvent},
        state::current,
        timeline::history_visibility,
    },
    store::{Reader, RoomNum, Rows, UserNum, records::Membership},
    users::{self, accounts, profiles},
};

/// How many members and rooms one search looks at, and how many accounts.
const MAX_READ: usize = 4000;

/// How well a user matches; the least is the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Match {
    /// The whole name or localpart.
    Whole,
    /// Its beginning.
    Beginning,
    /// The beginning of a word of the name.
    Word,
    Anywhere,
}

pub struct Search<'a> {
    pub local: &'a Local,
    pub asker: UserNum,
    /// Part of a name or an id, in any case.
    pub term: &'a str,
    /// Whether all users of this server are found.
    pub finds_all_local: bool,
    pub limit: usize,
}

/// The best matches, those in rooms of the asker before others, and whether there may be more. Reads the
/// members of rooms: to be called on the pool.
pub fn search(r: &impl Reader, search: &Search<'_>) -> Result<(Vec<User>, bool), Error> {
    let term = search.term.trim().trim_start_matches('@').to_lowercase();
    // NOTSPEC: as in Synapse. Everybody would match.
    if term.is_empty() {
        return Ok((Vec::new(), false));
    }
    let asker = search.asker;
    let mut seen = HashSet::from([users::id_of(r, asker)?]);
    let mut found = Vec::new();
    // In order.
    let joined = current::joined_rooms(r, asker)?;
    let is_joined = |room: &RoomNum| joined.binary_search(room).is_ok();
    let rooms = r.rooms()?;
    let others = rooms.all()?.map(|row| Ok::<_, Error>(row?.0.value()));
    let others = others.filter(|room| !room.as_ref().is_ok_and(is_joined));
    let mut left = MAX_READ;
    for room in joined.iter().copied().map(Ok).chain(others) {
        if left == 0 {
            break;
        }
        left -= 1;
        let room = room?;
        let is_joined = is_joined(&room);
        if !is_joined && !is_public(r, room)? {
            continue;
        }
        let kind = StateEventType::RoomMember.to_string();
        for (user, num) in current::some_of_type(r, room, &kind, left)? {
            left -= 1;
            let Ok(id) = OwnedUserId::try_from(user) else {
                continue;
            };
            if seen.contains(&id) || current::membership_of(r, num)? != Membership::Join {
                continue;
            }
            seen.insert(id.clone());
            let user = member(id, &event::load(r, num)?);
            if let Some(quality) = quality(&user, &term)
                && !is_locked(r, search.local, &user.user_id)?
            {
                found.push((quality, !is_joined, user));
            }
        }
    }
    let mut is_limited = left == 0;
    if search.finds_all_local {
        let accounts = r.accounts()?;
        for (read, row) in accounts.all()?.enumerate() {
            if read == MAX_READ {
                is_limited = true;
                break;
            }
            let (num, account) = row?;
            if account.record(&num)?.deactivated {
                continue;
            }
            let user = local_user(r, num.value())?;
            if let Some(quality) = quality(&user, &term)
                && !seen.contains(&user.user_id)
                && !accounts::moderation(r, num.value())?.locked
            {
                found.push((quality, true, user));
            }
        }
    }
    found.sort_by(|(a_match, a_far, a), (b_match, b_far, b)| {
        (a_match, a_far, &a.user_id).cmp(&(b_match, b_far, &b.user_id))
    });
    is_limited |= found.len() > search.limit;
    found.truncate(search.limit);
    let found = found.into_iter().map(|(.., user)| user);
    Ok((found.collect(), is_limited))
}

/// Whether the members of a room may be found by everybody: it is here, and everybody may join or read it.
/// NOTSPEC: which rooms are public is not said; as in Synapse.
fn is_public(r: &impl Reader, room: RoomNum) -> Result<bool, Error> {
    let is_public = matches!(summary::join_rule(r, room)?, JoinRuleSummary::Public)
        || history_visibility::is_world_readable(r, room)?;
    Ok(is_public && current::has_joined(r, room)?)
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

/// The user as their profile shows them.
fn local_user(r: &impl Reader, num: UserNum) -> Result<User, Error> {
    let profile = profiles::member_profile(r, num)?;
    let mut user = User::new(users::id_of(r, num)?);
    user.display_name = profile.display_name;
    user.avatar_url = profile.avatar_url;
    Ok(user)
}

fn is_locked(r: &impl Reader, local: &Local, id: &UserId) -> Result<bool, Error> {
    if !local.has(id) {
        return Ok(false);
    }
    match users::num_of(r, id)? {
        Some(num) => Ok(accounts::moderation(r, num)?.locked),
        None => Ok(false),
    }
}

/// How well `user` matches `term`, which is in lower case.
fn quality(user: &User, term: &str) -> Option<Match> {
    let name = user.display_name.as_deref().unwrap_or_default();
    let (name, id) = (name.to_lowercase(), user.user_id.as_str().to_lowercase());
    let id = id.trim_start_matches('@');
    let localpart = id.split_once(':').map_or(id, |(localpart, _)| localpart);
    if name == term || localpart == term || id == term {
        Some(Match::Whole)
    } else if name.starts_with(term) || id.starts_with(term) {
        Some(Match::Beginning)
    } else if name.split_whitespace().any(|word| word.starts_with(term)) {
        Some(Match::Word)
    } else if name.contains(term) || id.contains(term) {
        Some(Match::Anywhere)
    } else {
        None
    }
}
