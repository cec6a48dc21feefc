//! Registration, login, devices and account management.

mod account_management;
mod devices;
mod login;
mod moderation;
mod openid;
mod refresh_tokens;
mod registration;
mod shared_secret_registration;
