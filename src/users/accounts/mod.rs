//! Accounts: registration, usernames, passwords, deactivation.

mod deactivation;
mod password;
mod registration;
mod rows;
mod shared_secret;
pub(super) mod usernames;

pub use self::{
    deactivation::deactivate,
    registration::NewAccount,
    rows::{is_deactivated, is_erased, load},
    shared_secret::SharedSecretRequest,
};

#[cfg(test)]
mod tests;
