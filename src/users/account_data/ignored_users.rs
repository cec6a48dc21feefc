//! Ignored users ([client-server API, "Ignoring Users"]).
//!
//! [client-server API, "Ignoring Users"]: https://spec.matrix.org/v1.19/client-server-api/#ignoring-users

use std::collections::BTreeSet;

use ruma::{OwnedUserId, events::ignored_user_list::IgnoredUserListEventContent};

use super::rows::{self, GLOBAL};
use crate::store::{self, Reader, UserNum};

const EVENT_TYPE: &str = "m.ignored_user_list";

/// How many bytes [`load`] parses.
pub fn size(r: &impl Reader, user: UserNum) -> Result<usize, store::Error> {
    let data = rows::load(r, user, GLOBAL, EVENT_TYPE)?;
    Ok(data.map_or(0, |data| data.content.len()))
}

/// The users whom `user` ignores; none if the content is invalid.
pub fn load(r: &impl Reader, user: UserNum) -> Result<BTreeSet<OwnedUserId>, store::Error> {
    let data = rows::load(r, user, GLOBAL, EVENT_TYPE)?;
    let list = data
        .and_then(|data| serde_json::from_str::<IgnoredUserListEventContent>(&data.content).ok());
    Ok(list.map_or_else(BTreeSet::new, |list| {
        list.ignored_users.into_keys().collect()
    }))
}
