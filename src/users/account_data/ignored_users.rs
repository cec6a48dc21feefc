//! Ignored users ([client-server API, "Ignoring Users"]).
//!
//! [client-server API, "Ignoring Users"]: https://spec.matrix.org/v1.19/client-server-api/#ignoring-users

use std::{collections::BTreeSet, sync::Arc};

use ruma::{OwnedUserId, events::ignored_user_list::IgnoredUserListEventContent};

use super::rows::{self, GLOBAL};
use crate::store::{self, Reader, UserNum};

const EVENT_TYPE: &str = "m.ignored_user_list";

/// Shared, as readers of many rooms have the list of their user each.
pub type IgnoredUsers = Arc<BTreeSet<OwnedUserId>>;

/// How many bytes [`load`] parses.
pub fn size(r: &impl Reader, user: UserNum) -> Result<usize, store::Error> {
    let data = rows::load(r, user, GLOBAL, EVENT_TYPE)?;
    Ok(data.map_or(0, |data| data.content.len()))
}

/// The users whom `user` ignores; none if the content is invalid.
pub fn load(r: &impl Reader, user: UserNum) -> Result<IgnoredUsers, store::Error> {
    let data = rows::load(r, user, GLOBAL, EVENT_TYPE)?;
    let list = data
        .and_then(|data| serde_json::from_str::<IgnoredUserListEventContent>(&data.content).ok());
    let users = list.map(|list| list.ignored_users.into_keys().collect());
    Ok(Arc::new(users.unwrap_or_default()))
}
