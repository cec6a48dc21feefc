//! Accounts: who somebody is, on which devices, and what belongs to the user alone.
//!
//! - [`keys`] has what encryption needs, in tables of its own.
//! - Owns the tables `accounts`, `profiles`, `devices`, `device_ids`, `dehydrated_devices`,
//!   `device_lists`, `device_list_log`, `to_device`, `outbound_to_device`, `messages_seen`, `messages_seen_order`,
//!   `remote_device_list_log`, `remote_device_lists`, `remote_devices`, `device_list_cursors`, `access_tokens`, `refresh_tokens`,
//!   `device_tokens`, `login_tokens`, `openid_tokens`, `account_data`, `account_data_log` and `filters`.
//! - [`Users`] is what handlers call. The functions in [`account_data`], [`profiles`] and
//!   [`filters`] take a snapshot or a transaction, for other modules that read or write these in
//!   their own jobs.
//! - [`backup`] and [`keys`] have tables of their own.
//! - A device ends in one place, [`devices::remove`], with everything that hangs on it.
//! - Rooms are above this module. What a change here means for them is up to the caller:
//!   [`profiles::apply`] and [`accounts::deactivate`] run in a transaction of `api/`, which notes the
//!   rooms' part in the same one.

pub mod account_data;
pub mod accounts;
mod auth;
pub mod dehydrated_devices;
pub mod device_lists;
pub mod devices;
mod error;
mod expiring;
pub mod filters;
pub mod key_backup;
pub mod keys;
pub mod presence;
pub mod profiles;
pub mod remote_devices;
pub mod to_device;

use std::fmt;

use ruma::{OwnedServerName, OwnedUserId, UserId};

use self::{accounts::Nonces, auth::LastSeen};
pub use self::{
    accounts::{NewAccount, SharedSecretRequest},
    auth::{AuthenticatedUser, Login, NewLogin, Operation, Session, Token, UiaSessions},
    error::Error,
};
use crate::{
    clock::Clock,
    config::{Registration, Secret},
    pool::Pool,
    store::{self, Reader, Rows, Store, UserNum},
};

/// What the configuration says about accounts.
#[derive(Clone, Debug)]
pub struct Options {
    /// The name of this server.
    pub server_name: OwnedServerName,
    /// Who may make an account.
    pub registration: Registration,
    /// The secret with which tools register accounts; without it they cannot.
    pub registration_shared_secret: Option<Secret>,
}

/// The accounts of this server.
pub struct Users {
    options: Options,
    store: Store,
    pool: Pool,
    clock: Clock,
    last_seen: LastSeen,
    nonces: Nonces,
    /// The sessions of user-interactive authentication.
    pub uia: UiaSessions,
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Users")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Users {
    /// Accounts over `store`.
    pub fn new(options: Options, store: Store, pool: Pool, clock: Clock) -> Self {
        Self {
            options,
            store,
            pool,
            uia: UiaSessions::new(clock.clone()),
            nonces: Nonces::new(clock.clone()),
            clock,
            last_seen: LastSeen::default(),
        }
    }

    /// Who may make an account.
    pub fn registration(&self) -> &Registration {
        &self.options.registration
    }
}

/// The number of `user_id`, if any row mentions this user.
///
/// # Errors
/// If the tables cannot be read.
pub fn num_of(reader: &impl Reader, user_id: &UserId) -> Result<Option<UserNum>, store::Error> {
    let row = reader.user_nums()?;
    let row = row.get(user_id.as_str())?;
    Ok(row.map(|row| row.value()))
}

/// The user id that has the number `user`.
///
/// # Errors
/// If the tables cannot be read, or hold no such number.
pub fn id_of(reader: &impl Reader, user: UserNum) -> Result<OwnedUserId, store::Error> {
    let row = reader.users()?;
    let row = row.get(user)?;
    row.and_then(|row| UserId::parse(row.value()).ok())
        .ok_or_else(|| store::Error::corrupt("users", user, "missing, or not a user ID"))
}

#[cfg(test)]
mod testing;
