//! [`AuthenticatedUser`]: the result of an authentication.

use std::fmt;

use ruma::{OwnedUserId, UserId};

use super::{
    login_tokens, passwords,
    tokens::{self, TokenHash},
};
use crate::{
    store::{Tx, UserNum},
    users::{
        Error, Users,
        accounts::{self, usernames},
        id_of,
    },
};

/// A user who has authenticated, as a login or a change of password needs. The transaction that uses it
/// checks it again, since the password may have changed meanwhile.
#[derive(Clone)]
pub struct AuthenticatedUser {
    user: UserNum,
    user_id: OwnedUserId,
    method: Method,
}

#[derive(Clone)]
enum Method {
    Password { hash: String },
    LoginToken(TokenHash),
    Registration,
}

impl AuthenticatedUser {
    pub fn user(&self) -> UserNum {
        self.user
    }

    pub fn user_id(&self) -> &UserId {
        &self.user_id
    }

    /// The user whose account the same request has just registered.
    pub(in crate::users) fn by_registration(user: UserNum, user_id: OwnedUserId) -> Self {
        Self {
            user,
            user_id,
            method: Method::Registration,
        }
    }

    /// Checks that the authentication still holds; removes a login token.
    pub(in crate::users) fn redeem(&self, tx: &Tx, now_ms: u64) -> Result<(), Error> {
        let account = accounts::load(tx, self.user)?.ok_or(Error::WrongPassword)?;
        if account.deactivated {
            return Err(Error::Deactivated);
        }
        if accounts::moderation(tx, self.user)?.locked {
            return Err(Error::Locked);
        }
        match &self.method {
            Method::Registration => Ok(()),
            Method::LoginToken(hash) => login_tokens::redeem(tx, hash, now_ms),
            Method::Password { hash } if account.password_hash.as_ref() == Some(hash) => Ok(()),
            Method::Password { .. } => Err(Error::WrongPassword),
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
    /// Authenticates a repetition of the request that registered `user`, in the same session of
    /// user-interactive authentication.
    pub fn authenticate_by_registration(&self, user: UserNum) -> Result<AuthenticatedUser, Error> {
        let user_id = self.store.read(|s| id_of(s, user))?;
        Ok(AuthenticatedUser::by_registration(user, user_id))
    }

    /// Authenticates `user`, a user id or a localpart.
    ///
    /// # Errors
    /// [`Error::WrongPassword`], after the same work whether or not the user exists.
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
                method: Method::Password { hash },
            }),
            _ => Err(Error::WrongPassword),
        }
    }

    /// Authenticates by a login token, which the login itself removes.
    ///
    /// # Errors
    /// [`Error::InvalidLoginToken`].
    pub fn authenticate_by_login_token(&self, token: &str) -> Result<AuthenticatedUser, Error> {
        let hash = tokens::hash(token);
        self.store.read(|s| {
            let user = login_tokens::user(s, &hash)?;
            Ok(AuthenticatedUser {
                user,
                user_id: id_of(s, user)?,
                method: Method::LoginToken(hash),
            })
        })
    }
}
