//! What can go wrong with accounts.

use crate::{pool, store};

/// An error of this module.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// Too many passwords are being checked already.
    #[error(transparent)]
    Busy(#[from] pool::Error),
    /// The access or refresh token opens nothing.
    #[error("this token is not known")]
    UnknownToken {
        /// Whether it did, so that the client may keep what it has and log in again.
        soft_logout: bool,
    },
    /// The name or the password is wrong, and which of them is nobody's business.
    #[error("the user name or the password is wrong")]
    WrongPassword,
    /// The login token is used up, too old, or never was.
    #[error("this login token is not valid")]
    InvalidLoginToken,
    /// The owner left for good.
    #[error("this account has been deactivated")]
    Deactivated,
    /// The server takes no registrations, or not of this kind.
    #[error("{0}")]
    RegistrationClosed(&'static str),
    /// The request is not signed with the server's shared secret.
    #[error("the HMAC is not the one that belongs to this request")]
    WrongSignature,
    /// The name breaks the grammar of user ids.
    #[error("{0}")]
    InvalidUsername(&'static str),
    /// The name is kept for bridges or for the server itself.
    #[error("this user name is reserved")]
    ReservedUsername,
    /// Somebody has the name, or had it.
    #[error("this user name is taken")]
    UsernameInUse,
    /// The password is too easy to guess.
    #[error("{0}")]
    WeakPassword(&'static str),
    /// A value that the client chose breaks a rule.
    #[error("{0}")]
    InvalidParam(&'static str),
    /// Something has to be there that is not.
    #[error("{0}")]
    MissingParam(&'static str),
    /// A cross-signing key is a device's, or another one's.
    #[error("a device or another key of yours has this public key as its name")]
    KeyInUse,
    /// A key is not signed as it must be.
    #[error("{0}")]
    InvalidSignature(&'static str),
    /// The content has the wrong shape.
    #[error("{0}")]
    BadJson(&'static str),
    /// The client asked for something that only the server sets.
    #[error("the server manages this type of account data")]
    ServerManaged,
    /// A value is larger than the server keeps.
    #[error("{0}")]
    TooLarge(&'static str),
    /// The name of a profile field is longer than 255 bytes.
    #[error("the name of a profile field may have at most 255 bytes")]
    KeyTooLarge,
    /// The profile would exceed 64 KiB.
    #[error("a profile may have at most 64 KiB")]
    ProfileTooLarge,
    /// The user has as many of something as the server keeps.
    #[error("{0}")]
    TooMany(&'static str),
    /// The backup of keys is not the latest, which is this one.
    #[error("that is not the latest backup")]
    WrongBackup(u32),
    /// What was asked for is not there.
    #[error("{0}")]
    NotFound(&'static str),
}
