//! Locked and suspended accounts (client-server API, "Account moderation"). Both can be reversed, and neither
//! ends a session.

use ruma::UserId;

use super::rows::{NO_USER, load};
use crate::{
    store::{self, Effect, Reader, Records, Tx, UserNum, records::AccountModeration},
    users::{Error, Users, num_of},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restriction {
    /// The user can do nothing but log out.
    Locked,
    /// The user can read, but not act in rooms.
    Suspended,
}

/// The restrictions of `user`.
pub fn moderation(r: &impl Reader, user: UserNum) -> Result<AccountModeration, store::Error> {
    Ok(r.account_moderation()?.load(user)?.unwrap_or_default())
}

/// Removes all restrictions of `user`, whose account is deactivated.
pub(super) fn remove_all(tx: &Tx, user: UserNum) -> Result<(), store::Error> {
    tx.account_moderation()?.remove(user)?;
    Ok(())
}

fn check_admin(r: &impl Reader, user: UserNum) -> Result<(), Error> {
    match load(r, user)? {
        Some(account) if account.admin => Ok(()),
        _ => Err(Error::Forbidden(
            "you are not an administrator of this server",
        )),
    }
}

impl Users {
    pub fn is_admin(&self, user: UserNum) -> Result<bool, Error> {
        let account = self.store.read(|s| load(s, user))?;
        Ok(account.is_some_and(|account| account.admin))
    }

    /// # Errors
    /// [`Error::Forbidden`] unless `user` is an administrator.
    pub fn check_admin(&self, user: UserNum) -> Result<(), Error> {
        self.store.read(|s| check_admin(s, user))
    }

    /// The account of `user_id`, for an administrator who asks for its restrictions.
    ///
    /// # Errors
    /// [`Error::Forbidden`], before anything is looked up, unless `admin` is one, and if the user is another;
    /// [`Error::InvalidParam`] for a user of another server; [`Error::NotFound`] if there is no such account,
    /// or no longer.
    fn moderated(
        &self,
        r: &impl Reader,
        admin: UserNum,
        user_id: &UserId,
    ) -> Result<UserNum, Error> {
        check_admin(r, admin)?;
        if user_id.server_name() != self.options.server_name {
            return Err(Error::InvalidParam("the user is not of this server"));
        }
        let user = num_of(r, user_id)?.ok_or(NO_USER)?;
        let account = load(r, user)?.filter(|account| !account.deactivated);
        if account.ok_or(NO_USER)?.admin && user != admin {
            return Err(Error::Forbidden("the user is an administrator too"));
        }
        Ok(user)
    }

    /// The restrictions of `user_id`, for an administrator.
    ///
    /// # Errors
    /// [`Error::Forbidden`], [`Error::InvalidParam`], [`Error::NotFound`].
    pub fn moderation(&self, admin: UserNum, user_id: &UserId) -> Result<AccountModeration, Error> {
        self.store
            .read(|s| Ok(moderation(s, self.moderated(s, admin, user_id)?)?))
    }

    /// Sets or lifts a restriction of `user_id` in the name of an administrator.
    ///
    /// # Errors
    /// As [`moderation`](Self::moderation); [`Error::Forbidden`] for the administrator's own account.
    pub async fn restrict(
        &self,
        admin: UserNum,
        user_id: &UserId,
        restriction: Restriction,
        is_set: bool,
    ) -> Result<(), Error> {
        let user = self.store.read(|s| self.moderated(s, admin, user_id))?;
        if user == admin {
            return Err(Error::Forbidden("you cannot do this to your own account"));
        }
        let job = move |tx: &Tx| {
            if load(tx, user)?.is_none_or(|account| account.admin) {
                return Err(NO_USER);
            }
            set(tx, user, restriction, is_set)
        };
        self.store.write(job).await
    }

    /// Sets or lifts a restriction in the name of the server's owner, also of an administrator.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the account is deactivated.
    pub async fn restrict_as_owner(
        &self,
        user: UserNum,
        restriction: Restriction,
        is_set: bool,
    ) -> Result<(), Error> {
        let job = move |tx: &Tx| set(tx, user, restriction, is_set);
        self.store.write_shrinking(job).await
    }
}

fn set(tx: &Tx, user: UserNum, restriction: Restriction, is_set: bool) -> Result<(), Error> {
    if load(tx, user)?.is_none_or(|account| account.deactivated) {
        return Err(NO_USER);
    }
    let mut moderation = moderation(tx, user)?;
    if restriction == Restriction::Locked && is_set {
        tx.effect(Effect::AccountLocked(user));
    }
    match restriction {
        Restriction::Locked => moderation.locked = is_set,
        Restriction::Suspended => moderation.suspended = is_set,
    }
    if moderation == AccountModeration::default() {
        return Ok(remove_all(tx, user)?);
    }
    Ok(tx.account_moderation()?.put(user, &moderation)?)
}
