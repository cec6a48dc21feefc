//! Who somebody is: passwords, tokens, logins, sessions, and user-interactive authentication.

mod authenticated;
pub(super) mod login_tokens;
pub(super) mod logins;
pub(super) mod openid;
pub(super) mod passwords;
mod sessions;
pub(super) mod tokens;
mod uia;

pub(super) use self::sessions::LastSeen;
pub use self::{
    authenticated::AuthenticatedUser,
    logins::{Login, NewLogin},
    sessions::Session,
    tokens::Token,
    uia::{Operation, UiaSessions},
};
