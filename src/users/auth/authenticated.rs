//! AuthenticatedUser that somebody is who they say.

use std::fmt;

use ruma::{OwnedUserId, UserId};

use super::{login_tokens, passwords, tokens::TokenHash};
use crate::{
    store::{Tx, UserNum},
    users::{
        Error, Users,
        accounts::{self, usernames},
        id_of,
    },
};

/// That somebody is who they say: what a login or a change of password rests on. It is checked
/// once more where the change is made, since the password may have changed meanwhile.
#[derive(Clone)]
pub struct AuthenticatedUser {
    user: UserNum,
    user_id: OwnedUserId,
    by: By,
}

#[derive(Clone)]
enum By {
    Password { hash: String },
    LoginToken(TokenHash),
    Registration,
}

impl AuthenticatedUser {
    /// Whose identity is proven.
    pub fn user(&self) -> UserNum {
        self.user
    }

    /// The user id of the same.
    pub fn user_id(&self) -> &UserId {
        &self.user_id
    }

    /// AuthenticatedUser by having just registered `user_id` in the same authenticated request.
    pub(in crate::users) fn by_registration(user: UserNum, user_id: OwnedUserId) -> Self {
        Self {
            user,
            user_id,
            by: By::Registration,
        }
    }

    /// AuthenticatedUser by the login token of which `hash` is the SHA-256.
    pub(in crate::users) fn by_login_token(
        user: UserNum,
        user_id: OwnedUserId,
        hash: TokenHash,
    ) -> Self {
        Self {
            user,
            user_id,
            by: By::LoginToken(hash),
        }
    }

    /// Checks in the transaction that uses the proof that it still holds, and uses up what can be
    /// used only once.
    pub(in crate::users) fn redeem(&self, tx: &Tx, now_ms: u64) -> Result<(), Error> {
        let account = accounts::load(tx, self.user)?.ok_or(Error::WrongPassword)?;
        if account.deactivated {
            return Err(Error::Deactivated);
        }
        match &self.by {
            By::Registration => Ok(()),
            By::LoginToken(hash) => login_tokens::redeem(tx, hash, now_ms),
            By::Password { hash } if account.password_hash.as_ref() == Some(hash) => Ok(()),
            By::Password { .. } => Err(Error::WrongPassword),
        }
    }
}

impl fmt::Debug for AuthenticatedUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthenticatedUser")
            .field("user_id", &self.user_id)
            .finish_non_exhaustive()
    }
}

impl Users {
    /// AuthenticatedUser by the authenticated request that made the account `user`, which came once more.
    ///
    /// # Errors
    /// If the store fails.
    pub fn authenticate_by_registration(&self, user: UserNum) -> Result<AuthenticatedUser, Error> {
        let user_id = self.store.read(|s| id_of(s, user))?;
        Ok(AuthenticatedUser::by_registration(user, user_id))
    }

    /// AuthenticatedUser that whoever knows `password` is `user`, a user id or a localpart.
    ///
    /// # Errors
    /// [`Error::WrongPassword`], after the same work whether or not there is such a user.
    pub async fn authenticate_by_password(
        &self,
        user: &str,
        password: String,
    ) -> Result<AuthenticatedUser, Error> {
        let mut found = None;
        for user_id in usernames::candidates(user, &self.options.server_name) {
            if let Some((user, account)) = self.account(&user_id)? {
                found = Some((user, user_id, account.password_hash));
                break;
            }
        }
        let stored = found.as_ref().and_then(|(.., hash)| hash.clone());
        if !passwords::verify(&self.pool, password, stored).await? {
            return Err(Error::WrongPassword);
        }
        match found {
            Some((user, user_id, Some(hash))) => Ok(AuthenticatedUser {
                user,
                user_id,
                by: By::Password { hash },
            }),
            _ => Err(Error::WrongPassword),
        }
    }
}
