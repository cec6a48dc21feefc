//! What can go wrong with rooms.

use std::fmt;

use crate::{pool, protocol::FormatError, store};

/// An error of the rooms.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The pool is full.
    #[error(transparent)]
    Pool(#[from] pool::Error),
    /// The server does not know the room.
    #[error("this server does not know the room")]
    UnknownRoom,
    /// There is no such thing, or the user may not know of it.
    #[error("{0}")]
    NotFound(&'static str),
    /// The room's rules, or the server's, forbid it.
    #[error("{0}")]
    Forbidden(Box<str>),
    /// The room lets in members of rooms that this server does not have.
    #[error("this server does not have the rooms whose members may join without an invite")]
    UnableToAuthorizeJoin,
    /// The room lets in whom this server cannot vouch for: none of its users there may invite.
    #[error("nobody of this server who is in the room may invite you")]
    UnableToGrantJoin,
    /// What was asked for makes no sense.
    #[error("{0}")]
    Invalid(Box<str>),
    /// The content is not what an event may hold.
    #[error("{0}")]
    BadContent(Box<str>),
    /// The event would be larger than events may be.
    #[error("{0}")]
    TooLarge(Box<str>),
    /// The alias is taken.
    #[error("that room alias is taken")]
    AliasTaken,
    /// The alias that a new room was to have is taken.
    #[error("that room alias is taken")]
    RoomInUse,
    /// There is a room of that id already.
    #[error("there is a room of that id already")]
    RoomExists,
    /// A canonical alias event names an alias that does not name the room.
    #[error("the alias {0} does not point to this room")]
    BadAlias(Box<str>),
    /// What a new room was to hold makes a room that forbids it.
    #[error("{0}")]
    InvalidRoomState(Box<str>),
    /// A change that does not fit the state it is to change.
    #[error("{0}")]
    BadState(Box<str>),
    /// Who was to be invited wants no invites.
    #[error("this user does not accept invites")]
    InviteBlocked,
    /// An invite by e-mail address or phone number.
    #[error("this server does not invite by e-mail address or phone number")]
    ThirdPartyInvite,
    /// A room that is to be forgotten must be left first.
    #[error("leave the room before you forget it")]
    StillInRoom,
    /// The server does not know the room version.
    #[error("this server does not support room version {0}")]
    UnsupportedVersion(Box<str>),
    /// The database belongs to another server.
    #[error(
        "this database belongs to the server {0}; a server name cannot change: set server_name \
         back, or name another data_dir"
    )]
    OtherServer(Box<str>),
    /// The room has moved since the decision was made; decide again.
    #[error("the room has changed meanwhile")]
    Stale,
    /// The room's history is not one that state resolution can work with.
    #[error("{0}")]
    Unresolvable(Box<str>),
    /// An event names others that the server does not have.
    #[error("an event refers to events that are not here")]
    Missing,
}

impl Error {
    /// See [`store::Error::corrupt`].
    pub fn corrupt(table: &'static str, key: impl fmt::Debug, problem: &'static str) -> Self {
        Self::Store(store::Error::corrupt(table, key, problem))
    }

    pub fn not_serializable(what: &'static str) -> Self {
        Self::Store(store::Error::NotSerializable(what))
    }

    /// Something that the rules forbid, with the reason.
    pub fn forbidden(reason: impl Into<Box<str>>) -> Self {
        Self::Forbidden(reason.into())
    }

    /// Something that makes no sense, with the reason.
    pub fn invalid(reason: impl Into<Box<str>>) -> Self {
        Self::Invalid(reason.into())
    }
}

impl From<FormatError> for Error {
    fn from(error: FormatError) -> Self {
        match error {
            FormatError::TooLarge { .. } => Self::TooLarge(error.to_string().into()),
            FormatError::NotCanonical(_) | FormatError::Malformed(_) => {
                Self::BadContent(error.to_string().into())
            }
        }
    }
}
