//! Accounts from their registration to their end.
//!
//! The first account of a server administers it: every configuration that starts either has a
//! secret that only the owner gave away, or can be reached from the machine itself only. An account
//! that a tool registers says for itself what it is.

use std::fmt;

use ruma::{OwnedUserId, UserId, profile::ProfileFieldValue::DisplayName};

pub(super) mod shared_secret;
pub(super) mod usernames;

pub(super) use self::shared_secret::Nonces;
pub use self::shared_secret::SharedSecretRequest;
use super::{
    AuthenticatedUser, Error, Login, NewLogin, Users, account_data,
    auth::{login_tokens, logins, openid, passwords, tokens},
    devices, filters, key_backup, keys, num_of, profiles,
};
use crate::{
    config::Registration,
    store::{self, DeviceNum, Reader, Records, Rows, Tx, UserNum, records::Account},
};

/// An account to be made.
pub struct NewAccount {
    /// Its user id, from [`Users::check_username`] or [`Users::generate_user_id`].
    pub user_id: OwnedUserId,
    /// Its password; without one nobody can log in by password.
    pub password: Option<String>,
    /// Whether it administers the server; `None` leaves it to whether it is the first.
    pub admin: Option<bool>,
    /// Its display name.
    pub display_name: Option<String>,
    /// The login to make with it.
    pub login: Option<NewLogin>,
}

impl fmt::Debug for NewAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewAccount")
            .field("user_id", &self.user_id)
            .field("admin", &self.admin)
            .finish_non_exhaustive()
    }
}

/// The account of `user`.
///
/// # Errors
/// If the table cannot be read.
pub fn load(reader: &impl Reader, user: UserNum) -> Result<Option<Account>, store::Error> {
    reader.accounts()?.load(user)
}

impl Users {
    /// The user id that `username` would give a new account, if it can have it now.
    ///
    /// # Errors
    /// [`Error::InvalidUsername`], [`Error::ReservedUsername`] or [`Error::UsernameInUse`].
    pub fn check_username(&self, username: &str) -> Result<OwnedUserId, Error> {
        let user_id = usernames::new_user_id(username, &self.options.server_name)?;
        match self.account(&user_id)? {
            Some(_) => Err(Error::UsernameInUse),
            None => Ok(user_id),
        }
    }

    /// A user id for somebody who did not ask for a name.
    pub fn generate_user_id(&self) -> OwnedUserId {
        UserId::new(&self.options.server_name)
    }

    /// The account of `user_id`, if it is one of this server.
    ///
    /// # Errors
    /// If the tables cannot be read.
    pub fn account(&self, user_id: &UserId) -> Result<Option<(UserNum, Account)>, store::Error> {
        self.store.read(|s| {
            let Some(user) = num_of(s, user_id)? else {
                return Ok(None);
            };
            Ok(load(s, user)?.map(|account| (user, account)))
        })
    }

    /// Whether `password` will do for `user_id`.
    ///
    /// # Errors
    /// [`Error::WeakPassword`], or [`Error::InvalidParam`] if it is too long.
    pub fn check_password_strength(&self, password: &str, user_id: &UserId) -> Result<(), Error> {
        passwords::check_strength(password, user_id)
    }

    /// Whether `token` is the one with which accounts can be made.
    pub fn is_registration_token(&self, token: &str) -> bool {
        match &self.options.registration {
            // Compared as hashes, so that the time taken tells nothing.
            Registration::Token(right) => tokens::hash(right.expose()) == tokens::hash(token),
            Registration::Closed | Registration::Open => false,
        }
    }

    /// Makes an account, and the login asked for with it.
    ///
    /// # Errors
    /// [`Error::UsernameInUse`] if somebody was faster; the errors of
    /// [`check_password_strength`](Self::check_password_strength).
    pub async fn register(&self, new: NewAccount) -> Result<(UserNum, Option<Login>), Error> {
        let NewAccount {
            user_id,
            password,
            admin,
            display_name,
            login,
        } = new;
        let password_hash = match password {
            Some(password) => {
                passwords::check_strength(&password, &user_id)?;
                Some(passwords::hash(&self.pool, password).await?)
            }
            None => None,
        };
        let name = display_name.map(|name| profiles::Change::set(&DisplayName(name)));
        let name = name.transpose()?;
        let login = login.map(|login| self.prepare(login)).transpose()?;
        let now_ms = self.clock.now_ms();
        self.store
            .write(move |tx| {
                let user = create(tx, &user_id, password_hash.as_ref(), admin, now_ms)?;
                if let Some(name) = &name {
                    profiles::apply(tx, user, name)?;
                }
                let proof = AuthenticatedUser::by_registration(user, user_id.clone());
                let login = login.as_ref().map(|login| logins::make(tx, &proof, login));
                Ok((user, login.transpose()?))
            })
            .await
    }

    /// Gives `user` a new password. `keep` is the device that asks; with `logout_others` all others
    /// end.
    ///
    /// # Errors
    /// The errors of [`check_password_strength`](Self::check_password_strength), or
    /// [`Error::Deactivated`].
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
            .write(move |tx| {
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

/// Ends the account of `user` for good: it can never log in again and its name is never given
/// again. With `erase` its profile, account data and filters go too.
///
/// The caller lets it leave its rooms, in the same transaction.
///
/// # Errors
/// [`Error::NotFound`] if there is no such account.
pub fn deactivate(tx: &Tx, user: UserNum, erase: bool) -> Result<(), Error> {
    let account = load(tx, user)?.ok_or(NO_USER)?;
    let account = Account {
        password_hash: None,
        deactivated: true,
        admin: false,
        ..account
    };
    tx.accounts()?.put(user, &account)?;
    login_tokens::remove_of(tx, user)?;
    openid::remove_of(tx, user)?;
    devices::remove_all(tx, user, None)?;
    keys::remove_all(tx, user)?;
    key_backup::delete_all(tx, user)?;
    if erase {
        profiles::remove_all(tx, user)?;
        account_data::remove_all(tx, user)?;
        filters::remove_all(tx, user)?;
    }
    Ok(())
}

/// Whether the account of `user` has been [`deactivate`]ed.
///
/// # Errors
/// If the table cannot be read.
pub fn is_deactivated(reader: &impl Reader, user: UserNum) -> Result<bool, store::Error> {
    Ok(load(reader, user)?.is_some_and(|account| account.deactivated))
}

const NO_USER: Error = Error::NotFound("there is no such user");

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
    let first = tx.accounts()?.is_empty()?;
    let user = tx.user_num(user_id.as_str())?;
    let account = Account {
        password_hash: password_hash.cloned(),
        created_ts: now_ms,
        deactivated: false,
        admin: admin.unwrap_or(first),
    };
    tx.accounts()?.put(user, &account)?;
    Ok(user)
}

#[cfg(test)]
mod tests {
    use ruma::{api::client::filter::FilterDefinition, user_id};

    use super::*;
    use crate::users::testing::{PASSWORD, Server, with_server};

    async fn prove(
        server: &Server,
        user: &str,
        password: &str,
    ) -> Result<AuthenticatedUser, Error> {
        server
            .users
            .authenticate_by_password(user, password.into())
            .await
    }

    #[test]
    fn the_first_account_administers_the_server() {
        with_server(async |server| {
            server.register("alice").await;
            server.register("bob").await;
            let admin = |user_id| server.users.account(user_id).unwrap().unwrap().1.admin;
            assert!(admin(user_id!("@alice:example.org")));
            assert!(!admin(user_id!("@bob:example.org")));
        });
    }

    #[test]
    fn an_account_that_a_tool_makes_is_what_the_tool_says() {
        with_server(async |server| {
            for (name, admin) in [("alice", false), ("bob", true)] {
                let mut account = server.account(name, None);
                account.admin = Some(admin);
                let user_id = account.user_id.clone();
                server.users.register(account).await.unwrap();
                assert_eq!(
                    server.users.account(&user_id).unwrap().unwrap().1.admin,
                    admin
                );
            }
        });
    }

    #[test]
    fn a_name_is_given_once() {
        with_server(async |server| {
            let (one, two) = (server.account("alice", None), server.account("alice", None));
            let (one, two) =
                smol::future::zip(server.users.register(one), server.users.register(two)).await;
            assert!(one.is_ok() != two.is_ok());
            assert!(matches!(one.and(two), Err(Error::UsernameInUse)));
            for taken in ["alice", "Alice"] {
                assert!(matches!(
                    server.users.check_username(taken),
                    Err(Error::UsernameInUse)
                ));
            }
        });
    }

    #[test]
    fn a_user_whom_others_know_can_still_register() {
        with_server(async |server| {
            let known = server.store.write(|tx| tx.user_num("@alice:example.org"));
            let known = known.await.unwrap();
            let login = server.register("alice").await;
            assert_eq!(server.session(&login).await.user, known);
        });
    }

    #[test]
    fn a_user_is_found_by_id_or_localpart_in_any_case() {
        with_server(async |server| {
            server.register("alice").await;
            for user in ["alice", "ALICE", "@alice:example.org", "@Alice:example.org"] {
                let proof = prove(&server, user, PASSWORD).await.unwrap();
                assert_eq!(proof.user_id(), user_id!("@alice:example.org"));
            }
            for user in ["alic", "@alice:elsewhere.org", "", "@"] {
                assert!(matches!(
                    prove(&server, user, PASSWORD).await,
                    Err(Error::WrongPassword)
                ));
            }
        });
    }

    #[test]
    fn a_proof_by_password_ends_with_the_password() {
        with_server(async |server| {
            let login = server.register("alice").await;
            let proof = prove(&server, "alice", PASSWORD).await.unwrap();
            let change =
                server
                    .users
                    .set_password(&login.user_id, "another password".into(), None, false);
            change.await.unwrap();
            assert!(matches!(
                server.users.log_in(proof, NewLogin::default()).await,
                Err(Error::WrongPassword)
            ));
            assert!(prove(&server, "alice", PASSWORD).await.is_err());
            assert!(prove(&server, "alice", "another password").await.is_ok());
        });
    }

    #[test]
    fn a_new_password_can_log_out_every_other_device() {
        with_server(async |server| {
            let here = server.register("alice").await;
            let there = server.log_in("alice", NewLogin::default()).await;
            let bob = server.register("bob").await;
            let keep = server.session(&here).await.device;
            for (logout, stays) in [(false, true), (true, false)] {
                let password = "another password".into();
                let change = server
                    .users
                    .set_password(&here.user_id, password, Some(keep), logout);
                change.await.unwrap();
                assert!(server.lets_in(&here).await);
                assert_eq!(server.lets_in(&there).await, stays);
            }
            assert!(server.lets_in(&bob).await);
        });
    }

    #[test]
    fn a_deactivated_account_is_over_for_good() {
        with_server(async |server| {
            let login = server.register_with("alice", refreshable()).await;
            let user = server.session(&login).await.user;
            let (token, _) = server.users.login_token(user).await.unwrap();
            let by_token = server
                .users
                .authenticate_by_login_token(&token.clone().into_string());
            server.end(user, false).await;

            assert!(!server.lets_in(&login).await);
            let refresh = login.refresh_token.unwrap().into_string();
            assert!(server.users.refresh(&refresh).await.is_err());
            assert!(prove(&server, "alice", PASSWORD).await.is_err());
            assert!(matches!(
                server
                    .users
                    .log_in(by_token.unwrap(), NewLogin::default())
                    .await,
                Err(Error::Deactivated)
            ));
            assert!(matches!(
                server.users.check_username("alice"),
                Err(Error::UsernameInUse)
            ));
            assert!(matches!(
                server
                    .users
                    .set_password(&login.user_id, "another password".into(), None, false)
                    .await,
                Err(Error::Deactivated)
            ));
        });
    }

    #[test]
    fn erasure_takes_what_belongs_to_the_user_alone() {
        with_server(async |server| {
            for (name, erase) in [("alice", false), ("bob", true)] {
                let login = server.register(name).await;
                let user = server.session(&login).await.user;
                let name = profiles::Change::set(&DisplayName(name.into())).unwrap();
                server.change_profile(user, name).await.unwrap();
                let content = serde_json::value::to_raw_value(&serde_json::json!({})).unwrap();
                let set = server
                    .users
                    .set_account_data(user, None, "org.example".into(), content);
                set.await.unwrap();
                let filter = FilterDefinition::empty();
                let filter = server.users.add_filter(user, &filter).await.unwrap();
                server.end(user, erase).await;
                let empty = server.users.profile(&login.user_id).unwrap().iter().len() == 0;
                assert_eq!(empty, erase);
                let data = server.users.account_data(user, None, "org.example");
                assert_eq!(data.is_err(), erase);
                assert_eq!(server.users.filter(user, &filter).is_err(), erase);
            }
        });
    }

    #[test]
    fn neither_passwords_nor_tokens_are_stored_or_shown() {
        with_server(async |server| {
            let login = server.register_with("alice", refreshable()).await;
            let user = server.session(&login).await.user;
            let (login_token, _) = server.users.login_token(user).await.unwrap();
            let proof = prove(&server, "alice", PASSWORD).await.unwrap();
            let account = server.account("bob", None);
            let shown = format!("{:?} {login:?} {proof:?} {account:?}", server.users);
            let secrets = [
                PASSWORD.to_owned(),
                login.access_token.into_string(),
                login.refresh_token.unwrap().into_string(),
                login_token.into_string(),
                "$argon2id$".to_owned(),
            ];
            for secret in &secrets {
                assert!(!shown.contains(secret), "{shown}");
            }
            for secret in &secrets[..4] {
                assert!(!server.database_contains(secret), "{secret}");
            }
            assert!(server.database_contains("$argon2id$"));
        });
    }

    fn refreshable() -> NewLogin {
        NewLogin {
            refreshable: true,
            ..NewLogin::default()
        }
    }
}
