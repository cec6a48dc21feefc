//! Accounts as clients see them.

mod devices;
mod login;
mod openid;
mod own_account;
mod refresh;
mod registration;
mod shared_secret;
