//! Ignored users ([client-server API, "Ignoring Users"]).
//!
//! [client-server API, "Ignoring Users"]: https://spec.matrix.org/v1.19/client-server-api/#ignoring-users

use std::{collections::BTreeSet, sync::Arc};

use ruma::{OwnedUserId, events::ignored_user_list::IgnoredUserListEventContent};

use super::rows::{self, GLOBAL};
use crate::{
    store::{self, Reader, UserNum},
    users,
};

const EVENT_TYPE: &str = "m.ignored_user_list";

/// Shared, as readers of many rooms have the list of their user each.
pub type IgnoredUsers = Arc<BTreeSet<OwnedUserId>>;

/// How many bytes [`load`] parses.
pub fn size(r: &impl Reader, user: UserNum) -> Result<usize, store::Error> {
    let data = rows::load(r, user, GLOBAL, EVENT_TYPE)?;
    Ok(data.map_or(0, |data| data.content.len()))
}

/// The users whom `user` ignores; none if the content is invalid. NOTSPEC: users cannot ignore themselves,
/// as in Synapse.
pub fn load(r: &impl Reader, user: UserNum) -> Result<IgnoredUsers, store::Error> {
    let data = rows::load(r, user, GLOBAL, EVENT_TYPE)?;
    let list = data
        .and_then(|data| serde_json::from_str::<IgnoredUserListEventContent>(&data.content).ok());
    let Some(list) = list else {
        return Ok(IgnoredUsers::default());
    };
    let mut users: BTreeSet<_> = list.ignored_users.into_keys().collect();
    if !users.is_empty() {
        users.remove(&users::id_of(r, user)?);
    }
    Ok(Arc::new(users))
}
