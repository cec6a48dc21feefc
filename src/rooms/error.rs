//! The error of the rooms. Most messages are for clients.

use std::fmt;

use super::unsigned_event::UnsignedEvent;
use crate::{pool, protocol::FormatError, store};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Pool(#[from] pool::Error),
    #[error("this server does not know the room")]
    UnknownRoom,
    /// It does not exist, or the user may not know that it does.
    #[error("{0}")]
    NotFound(&'static str),
    /// The authorization rules, or this server, forbid it.
    #[error("{0}")]
    Forbidden(Box<str>),
    #[error("this server is not in all rooms whose members may join without an invite")]
    UnableToAuthorizeJoin,
    #[error("no user of this server in the room has the power to invite you")]
    UnableToGrantJoin,
    /// A field or parameter is invalid.
    #[error("{0}")]
    Invalid(Box<str>),
    /// An event or its content is not canonical JSON, or malformed.
    #[error("{0}")]
    BadContent(Box<str>),
    #[error("{0}")]
    TooLarge(Box<str>),
    #[error("the room alias is taken")]
    AliasTaken,
    /// [`Error::AliasTaken`] when a room is created.
    #[error("the room alias is taken")]
    RoomInUse,
    #[error("a room with this id exists")]
    RoomExists,
    #[error("the alias {0} does not point to this room")]
    BadAlias(Box<str>),
    /// The requested initial state of a room forbids a part of itself.
    #[error("{0}")]
    InvalidRoomState(Box<str>),
    /// The current state does not allow the change, as when unbanning a user who is not banned.
    #[error("{0}")]
    BadState(Box<str>),
    /// The invite is to the user's room of server notices.
    #[error("the invite to the room of server notices cannot be rejected")]
    CannotRejectServerNotices,
    #[error("this user does not accept invites")]
    InviteBlocked,
    #[error("this server does not support invites by e-mail address or phone number")]
    ThirdPartyInvite,
    #[error("a room must be left before it is forgotten")]
    StillInRoom,
    #[error("this server does not support room version {0}")]
    UnsupportedVersion(Box<str>),
    #[error(
        "rooms of version {0} can be joined, but not created: a server can forge their event ids"
    )]
    NotCreatedVersion(Box<str>),
    #[error(
        "this database belongs to the server {0}; a server name cannot change: set server_name \
         back, or set another data_dir"
    )]
    OtherServer(Box<str>),
    /// The room has changed since the decision was made on a snapshot: decide again.
    #[error("the room has changed meanwhile")]
    Stale,
    /// The policy server of the room has to sign the event first.
    #[error("the policy server of the room has not signed the event")]
    Unsigned(Box<UnsignedEvent>),
    /// State resolution fails on the room's history.
    #[error("{0}")]
    Unresolvable(Box<str>),
    #[error("an event refers to events that this server does not have")]
    Missing,
    /// A user's second annotation of the same type and key.
    #[error("you have reacted with this to the event already")]
    DuplicateAnnotation,
    /// A thread whose root relates to another event itself.
    #[error("a thread cannot start from an event that relates to another one")]
    NestedThread,
}

impl Error {
    /// See [`store::Error::corrupt`].
    pub fn corrupt(table: &'static str, key: impl fmt::Debug, problem: &'static str) -> Self {
        Self::Store(store::Error::corrupt(table, key, problem))
    }

    pub fn not_serializable(what: &'static str) -> Self {
        Self::Store(store::Error::NotSerializable(what))
    }

    pub fn forbidden(reason: impl Into<Box<str>>) -> Self {
        Self::Forbidden(reason.into())
    }

    pub fn invalid(reason: impl Into<Box<str>>) -> Self {
        Self::Invalid(reason.into())
    }
}

impl From<FormatError> for Error {
    fn from(error: FormatError) -> Self {
        match error {
            FormatError::TooLarge { .. } => Self::TooLarge(error.to_string().into()),
            FormatError::TooDeep | FormatError::NotCanonical(_) | FormatError::Malformed(_) => {
                Self::BadContent(error.to_string().into())
            }
        }
    }
}
