//! Authentication: passwords, tokens, logins, sessions, and user-interactive authentication (uia).

mod authenticated;
pub(super) mod login_networks;
pub(super) mod login_tokens;
pub(super) mod logins;
pub(super) mod openid;
pub(super) mod passwords;
mod session_user;
mod sessions;
pub(super) mod tokens;
mod uia;

pub use self::{
    authenticated::AuthenticatedUser,
    logins::{Login, NewLogin},
    passwords::{NewPassword, PasswordClient, PasswordHash},
    session_user::session_user,
    sessions::Session,
    tokens::Token,
    uia::{Claimant, Operation, RegistrationFields, UiaSessions},
};
