//! Changing an account's password.

use ruma::UserId;

use super::rows::{NO_USER, load};
use crate::{
    store::{DeviceNum, Reader, records::Account},
    users::{
        Error, PasswordHash, Users,
        auth::{login_tokens, passwords},
        devices, num_of,
    },
};

impl Users {
    /// Checks that `user_id` may have `password`.
    ///
    /// # Errors
    /// [`Error::WeakPassword`], or [`Error::InvalidParam`] if it is too long.
    pub fn check_password_strength(&self, password: &str, user_id: &UserId) -> Result<(), Error> {
        passwords::check_strength(password, user_id)
    }

    /// The hash of a password that [`check_password_strength`](Self::check_password_strength) allows.
    ///
    /// # Errors
    /// [`Error::Busy`].
    pub async fn hash_password(&self, password: String) -> Result<PasswordHash, Error> {
        passwords::hash(&self.pool, password)
            .await
            .map(PasswordHash)
    }

    /// Changes the password of `user_id`. With `logout_others` every device but `keep` is removed.
    ///
    /// # Errors
    /// [`Error::Deactivated`], or those of
    /// [`check_password_strength`](Self::check_password_strength).
    pub async fn set_password(
        &self,
        user_id: &UserId,
        password: String,
        keep: Option<DeviceNum>,
        logout_others: bool,
    ) -> Result<(), Error> {
        passwords::check_strength(&password, user_id)?;
        let hash = passwords::hash(&self.pool, password).await?;
        let user_id = user_id.to_owned();
        self.store
            .write_shrinking(move |tx| {
                let user = num_of(tx, &user_id)?.ok_or(NO_USER)?;
                let account = load(tx, user)?.ok_or(NO_USER)?;
                if account.deactivated {
                    return Err(Error::Deactivated);
                }
                let account = Account {
                    password_hash: Some(hash.clone()),
                    ..account
                };
                tx.accounts()?.put(user, &account)?;
                login_tokens::remove_of(tx, user)?;
                if logout_others {
                    devices::remove_all(tx, user, keep)?;
                }
                Ok(())
            })
            .await
    }
}
