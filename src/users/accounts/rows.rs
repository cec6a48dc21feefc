use ruma::UserId;

use crate::{
    store::{self, Reader, Records, UserNum, records::Account},
    users::{Error, Users, num_of},
};

pub(super) const NO_USER: Error = Error::NotFound("there is no such user");

/// The account of `user`; `None` for users of other servers, and for ids that nobody has registered.
pub fn load(reader: &impl Reader, user: UserNum) -> Result<Option<Account>, store::Error> {
    reader.accounts()?.load(user)
}

pub fn is_deactivated(reader: &impl Reader, user: UserNum) -> Result<bool, store::Error> {
    Ok(load(reader, user)?.is_some_and(|account| account.deactivated))
}

/// Whether `user_id` had an account here that was deactivated with `erase`.
pub fn is_erased(reader: &impl Reader, user_id: &UserId) -> Result<bool, store::Error> {
    let Some(user) = num_of(reader, user_id)? else {
        return Ok(false);
    };
    Ok(load(reader, user)?.is_some_and(|account| account.erased))
}

impl Users {
    /// The account of `user_id`, if this server has one.
    pub fn account(&self, user_id: &UserId) -> Result<Option<(UserNum, Account)>, store::Error> {
        self.store.read(|s| {
            let Some(user) = num_of(s, user_id)? else {
                return Ok(None);
            };
            Ok(load(s, user)?.map(|account| (user, account)))
        })
    }
}
