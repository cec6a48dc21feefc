use std::{io, sync::Arc};

use crate::{config::Size, pool, store};

#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error("there is no such media")]
    NotFound,
    #[error("nothing has been uploaded to this media id yet")]
    NotYetUploaded,
    #[error("something has been uploaded to this media id already")]
    CannotOverwrite,
    #[error("another user has created this media id")]
    NotYours,
    #[error("files of more than {0} are not accepted here")]
    TooLarge(Size),
    #[error("files of more than {0} are not fetched from other servers")]
    RemoteTooLarge(Size),
    #[error("no thumbnail can be made of this")]
    NoPicture,
    #[error("this picture is too large for a thumbnail")]
    TooManyPixels,
    #[error("this picture of another server is too large for a thumbnail")]
    RemoteTooManyPixels,
    #[error("this file is not accepted here")]
    Quarantined,
    #[error("you may upload {0} in all, and this would exceed it")]
    OverQuota(Size),
    #[error("this account has been deactivated")]
    Deactivated,
    #[error("you have 50 media ids without content; upload to them or wait until they expire")]
    TooManyPending,
    #[error("this file is protected")]
    Protected,
    #[error("{0}")]
    Invalid(&'static str),
    #[error("the server's disk is almost full")]
    Full,
    #[error("a media file cannot be read or written: {0}")]
    Disk(Arc<io::Error>),
    #[error(transparent)]
    Busy(#[from] pool::Error),
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
