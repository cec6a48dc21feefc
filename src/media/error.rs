//! Why media cannot be had, or cannot be taken.

use std::{io, sync::Arc};

use crate::{config::Size, pool, store};

/// Why media cannot be had, or cannot be taken.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// There is no such media.
    #[error("there is no such media")]
    NotFound,
    /// The media id was given out, and nothing has been uploaded to it yet.
    #[error("this has not been uploaded yet")]
    NotYetUploaded,
    /// Something has been uploaded to the media id already.
    #[error("something has been uploaded here already")]
    CannotOverwrite,
    /// The media id was given to somebody else.
    #[error("this media id was given to somebody else")]
    NotYours,
    /// It is larger than media may be here.
    #[error("files of more than {0} are not taken here")]
    TooLarge(Size),
    /// It is larger than what is fetched from other servers.
    #[error("files of more than {0} are not fetched from other servers")]
    RemoteTooLarge(Size),
    /// It is no picture of a kind that is known here.
    #[error("no thumbnail can be made of this")]
    NoPicture,
    /// It has too many pixels.
    #[error("this picture is too large for a thumbnail")]
    TooManyPixels,
    /// The same, of another server.
    #[error("this picture of another server is too large for a thumbnail")]
    RemoteTooManyPixels,
    /// The owner of the server does not want it here.
    #[error("this file is not taken here")]
    Quarantined,
    /// The user has uploaded as much as one user may.
    #[error("you may upload {0} in all, and this would be more")]
    OverQuota(Size),
    /// The user has left.
    #[error("this account has been deactivated")]
    Deactivated,
    /// Too many media ids wait for something to be uploaded.
    #[error("you have too many uploads that were announced and did not come")]
    TooManyPending,
    /// What describes the upload is not what it should be.
    #[error("{0}")]
    Invalid(&'static str),
    /// The disk has no room for it.
    #[error("the server's disk is almost full")]
    Full,
    /// The disk failed.
    #[error("a file with media cannot be read or written: {0}")]
    Disk(Arc<io::Error>),
    /// Too much is going on.
    #[error(transparent)]
    Busy(#[from] pool::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            _ if store::is_full(&error) => Self::Full,
            io::ErrorKind::NotFound => Self::NotFound,
            _ => Self::Disk(Arc::new(error)),
        }
    }
}
