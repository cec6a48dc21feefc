//! Registration.
//!
//! The first account of a server is its admin: every configuration that starts either has a secret that
//! only the owner gave away, or is reachable from the machine itself only. An account that is registered
//! with the shared secret is admin if the request says so.

use std::fmt;

use ruma::{OwnedUserId, UserId, profile::ProfileFieldValue::DisplayName};

use super::{registration_tokens, rows::load, usernames};
use crate::{
    store::{
        Reader, Rows, Tx, UserNum,
        records::{Account, RegistrationToken},
    },
    users::{
        AuthenticatedUser, Error, Login, NewLogin, NewPassword, Users,
        auth::{logins, passwords},
        num_of, profiles,
    },
};

pub struct NewAccount {
    /// From [`Users::check_username`] or [`Users::generate_user_id`].
    pub user_id: OwnedUserId,
    /// Without one nobody can log in by password.
    pub password: Option<NewPassword>,
    /// `None`: the first account is admin.
    pub admin: Option<bool>,
    pub display_name: Option<String>,
    /// The login to make in the same transaction.
    pub login: Option<NewLogin>,
    /// The registration token with which it is made.
    pub registration_token: Option<String>,
}

/// An account that was just made.
#[derive(Debug)]
pub struct Registered {
    pub user: UserNum,
    pub login: Option<Login>,
    /// The token, unless it is that of the settings.
    pub token: Option<RegistrationToken>,
}

impl fmt::Debug for NewAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewAccount")
            .field("user_id", &self.user_id)
            .field("admin", &self.admin)
            .finish_non_exhaustive()
    }
}

impl Users {
    /// The user id that an account named `username` would have.
    ///
    /// # Errors
    /// [`Error::InvalidUsername`], [`Error::ReservedUsername`] or [`Error::UsernameInUse`].
    pub fn check_username(&self, username: &str) -> Result<OwnedUserId, Error> {
        let user_id = usernames::new_user_id(username, &self.options.server_name)?;
        if user_id == self.options.notices_user {
            return Err(Error::ReservedUsername);
        }
        match self.account(&user_id)? {
            Some(_) => Err(Error::UsernameInUse),
            None => Ok(user_id),
        }
    }

    pub fn generate_user_id(&self) -> OwnedUserId {
        UserId::new(&self.options.server_name)
    }

    /// Registers an account and makes the requested login.
    ///
    /// # Errors
    /// [`Error::UsernameInUse`], [`Error::InvalidRegistrationToken`], or those of
    /// [`check_password_strength`](Self::check_password_strength).
    pub async fn register(&self, new: NewAccount) -> Result<Registered, Error> {
        let NewAccount {
            user_id,
            password,
            admin,
            display_name,
            login,
            registration_token,
        } = new;
        let password_hash = match password {
            Some(NewPassword::Hashed(hash)) => Some(hash.0),
            Some(NewPassword::Clear(password)) => {
                passwords::check_strength(&password, &user_id)?;
                Some(passwords::hash(&self.pool, password).await?)
            }
            None => None,
        };
        let name = display_name.unwrap_or_else(|| user_id.localpart().to_owned());
        let name = profiles::Change::set(&DisplayName(name))?;
        let login = login.map(|login| self.prepare(login)).transpose()?;
        let now_ms = self.clock.now_ms();
        let token = registration_token.filter(|token| !self.is_token_of_settings(token));
        self.store
            .write(move |tx| {
                let token = token.as_ref();
                let token = token.map(|token| registration_tokens::redeem(tx, token, now_ms));
                let token = token.transpose()?;
                let user = create(tx, &user_id, password_hash.as_ref(), admin, now_ms)?;
                profiles::apply(tx, user, &name)?;
                let authenticated = AuthenticatedUser::by_registration(user, user_id.clone());
                let login = login
                    .as_ref()
                    .map(|login| logins::make(tx, &authenticated, login));
                Ok(Registered {
                    user,
                    login: login.transpose()?,
                    token,
                })
            })
            .await
    }
}

fn create(
    tx: &Tx,
    user_id: &UserId,
    password_hash: Option<&String>,
    admin: Option<bool>,
    now_ms: u64,
) -> Result<UserNum, Error> {
    if let Some(user) = num_of(tx, user_id)?
        && load(tx, user)?.is_some()
    {
        return Err(Error::UsernameInUse);
    }
    let is_first = tx.accounts()?.is_empty()?;
    let user = tx.user_num(user_id.as_str())?;
    let account = Account {
        password_hash: password_hash.cloned(),
        created_ts: now_ms,
        deactivated: false,
        erased: false,
        admin: admin.unwrap_or(is_first),
    };
    tx.accounts()?.put(user, &account)?;
    Ok(user)
}
