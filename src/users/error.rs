use crate::{pool, store};

#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Busy(#[from] pool::Error),
    #[error("this token is not known")]
    UnknownToken {
        /// Whether it has expired, so that the client may keep its data and log in again.
        soft_logout: bool,
    },
    /// Does not say which of them, so that nobody can probe for user names.
    #[error("the user name or the password is wrong")]
    WrongPassword,
    #[error("this login token has been used, has expired, or is unknown")]
    InvalidLoginToken,
    #[error("this account has been deactivated")]
    Deactivated,
    #[error("this account has been locked by an administrator of the server")]
    Locked,
    #[error("{0}")]
    Forbidden(&'static str),
    #[error("{0}")]
    RegistrationClosed(&'static str),
    #[error("the registration token has been used up or revoked, or has expired")]
    InvalidRegistrationToken,
    #[error("`mac` is not the HMAC of this request with the server's shared secret")]
    WrongSignature,
    #[error("{0}")]
    InvalidUsername(&'static str),
    /// For bridges or for the server itself.
    #[error("this user name is reserved")]
    ReservedUsername,
    /// By an account, which may be deactivated.
    #[error("this user name is taken")]
    UsernameInUse,
    #[error("{0}")]
    WeakPassword(&'static str),
    #[error("{0}")]
    InvalidParam(&'static str),
    #[error("{0}")]
    MissingParam(&'static str),
    #[error("a device or another cross-signing key of yours has this public key as its id")]
    KeyInUse,
    #[error("{0}")]
    InvalidSignature(&'static str),
    #[error("{0}")]
    BadJson(&'static str),
    #[error("only the server sets account data of this type")]
    ServerManaged,
    #[error("{0}")]
    TooLarge(&'static str),
    #[error("the name of a profile field may have at most 255 bytes")]
    KeyTooLarge,
    #[error("a profile may have at most 64 KiB")]
    ProfileTooLarge,
    /// Of to-device messages.
    #[error(
        "nothing was sent: too many to-device messages wait for the recipient, who has not fetched them; try again later"
    )]
    QueueFull,
    #[error("{0}")]
    TooMany(&'static str),
    /// The latest version.
    #[error("version {0} is the latest backup, and keys are added to the latest only")]
    WrongBackup(u32),
    #[error("{0}")]
    NotFound(&'static str),
}
