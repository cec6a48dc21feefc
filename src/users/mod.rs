//! Accounts of this server: authentication, profiles, devices, keys, account data, messages to devices;
//! and the device lists of other servers' users.
//!
//! - Owns the tables under "Users" in the README of `store/`, and `outbound_to_device`, `messages_seen`
//!   and `messages_seen_order`.
//! - Handlers call [`Users`]. Functions that take a reader or a transaction are for jobs of other modules.
//! - Rooms are above this module. The caller of [`profiles::apply`] and [`accounts::deactivate`] changes the
//!   user's rooms in the same transaction.

pub mod account_data;
pub mod accounts;
mod auth;
pub mod dehydrated_devices;
pub mod device_lists;
pub mod devices;
mod error;
pub mod filters;
mod ids;
pub mod key_backup;
pub mod keys;
pub mod presence;
pub mod profiles;
pub mod pushers;
pub mod remote_devices;
mod service;
pub mod to_device;

pub use self::{
    accounts::{NewAccount, SharedSecretRequest},
    auth::{
        AuthenticatedUser, Claimant, Login, NewLogin, NewPassword, Operation, PasswordClient,
        PasswordHash, RegistrationFields, Session, Token, UiaSessions, session_user,
    },
    error::Error,
    ids::{id_for_log, id_of, num_of},
    service::{Options, Users},
};

#[cfg(test)]
mod testing;
