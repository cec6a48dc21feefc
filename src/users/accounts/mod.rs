//! Accounts: registration, usernames, passwords, deactivation, locking and suspension.

mod administration;
mod deactivation;
mod moderation;
mod password;
mod registration;
mod registration_tokens;
mod rows;
mod shared_secret;
pub(super) mod usernames;

pub use self::{
    administration::{AccountSummary, generate_password, summaries, summary},
    deactivation::deactivate,
    moderation::{Restriction, moderation},
    registration::{NewAccount, Registered},
    registration_tokens::{NewRegistrationToken, TokenState, registration_tokens},
    rows::{is_deactivated, is_erased, load},
    shared_secret::SharedSecretRequest,
};

#[cfg(test)]
mod tests;
