//! User ids and the numbers that stand for them in the tables.

use ruma::{OwnedUserId, UserId};

use crate::store::{self, Reader, Rows, Store, UserNum};

/// The number of `user_id`, if any row mentions this user.
pub fn num_of(reader: &impl Reader, user_id: &UserId) -> Result<Option<UserNum>, store::Error> {
    let row = reader.user_nums()?;
    let row = row.get(user_id.as_str())?;
    Ok(row.map(|row| row.value()))
}

/// The user id that has the number `user`.
pub fn id_of(reader: &impl Reader, user: UserNum) -> Result<OwnedUserId, store::Error> {
    let row = reader.users()?;
    let row = row.get(user)?;
    row.and_then(|row| UserId::parse(row.value()).ok())
        .ok_or_else(|| store::Error::corrupt("users", user, "missing, or not a user ID"))
}

pub fn id_for_log(store: &Store, user: UserNum) -> String {
    let id = store.read(|s| id_of(s, user));
    id.map_or_else(|_| "a user with an unreadable id".to_owned(), Into::into)
}
