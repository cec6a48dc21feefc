//! Whom a user does not want to hear of ([client-server API, "Ignoring Users"]).
//!
//! [client-server API, "Ignoring Users"]: https://spec.matrix.org/v1.19/client-server-api/#ignoring-users

use std::collections::BTreeSet;

use ruma::{OwnedUserId, events::ignored_user_list::IgnoredUserListEventContent};

use super::{GLOBAL, load as load_account_data};
use crate::store::{self, Reader, UserNum};

const KIND: &str = "m.ignored_user_list";

/// The users whom `user` ignores. A list that is none ignores nobody.
///
/// # Errors
/// If the table cannot be read.
pub fn load(r: &impl Reader, user: UserNum) -> Result<BTreeSet<OwnedUserId>, store::Error> {
    let data = load_account_data(r, user, GLOBAL, KIND)?;
    let list = data
        .and_then(|data| serde_json::from_str::<IgnoredUserListEventContent>(&data.content).ok());
    Ok(list.map_or_else(BTreeSet::new, |list| {
        list.ignored_users.into_keys().collect()
    }))
}
