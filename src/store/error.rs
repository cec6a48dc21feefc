//! What can go wrong with the store.

use std::{fmt, io::ErrorKind, sync::Arc};

/// An error of the store. Cloned to every job of a batch that failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// redb or the disk under it failed.
    #[error("the database cannot be read or written: {0}")]
    Storage(Arc<redb::Error>),
    /// The file is not a whole database.
    #[error(
        "the file hearth.redb is damaged: {0}. Restore a backup with `hearth restore DIR --force`; \
         for a new and empty server, move the files in `data_dir` away"
    )]
    Damaged(Box<str>),
    /// A row is missing or does not decode ([`Error::corrupt`]).
    #[error("the database is corrupt: {0}")]
    Corrupt(Box<str>),
    /// Something that cannot be written as JSON.
    #[error("{0} cannot be serialized")]
    NotSerializable(&'static str),
    /// A table is not known to this version of hearth, or not so new a version of it.
    #[error(
        "a newer hearth has written this database (its table `{table}` has version {stored}): \
         start that hearth again"
    )]
    TooNew { table: Box<str>, stored: u32 },
    /// The file is of a format from before hearth's first release, or no step leads from a table's
    /// version to this one's.
    #[error(
        "this database was written by a pre-release version of hearth and cannot be converted: move \
         the files in `data_dir` away, or set `data_dir` to an empty directory"
    )]
    TooOld,
    /// Another process has the database open.
    #[error("hearth is running with this database, or one of its commands is; stop it first")]
    InUse,
    /// The disk has too little space left for anything that grows the database.
    #[error("the disk is almost full; free some space and try again")]
    Full,
    /// The disk failed a moment ago and the database is being opened again. A write may have been
    /// stored all the same.
    #[error("the database is being opened again after a disk error; try again in a moment")]
    Unavailable,
    /// The disk did not make a write durable, and the store has ended for good: the server stops,
    /// and checks the database when it is started again.
    #[error("the disk does not keep what is written to it, it is probably failing: {0}")]
    Failed(Arc<std::io::Error>),
    /// The store has been closed, or is being closed.
    #[error("the database is closed")]
    Closed,
    /// The job panicked; nothing of it was stored.
    #[error("a write ended in a panic")]
    Panicked,
}

impl Error {
    /// The row of `table` at `key` has `problem`, such as "missing" or "not a user ID".
    pub fn corrupt(table: &str, key: impl fmt::Debug, problem: &'static str) -> Self {
        Self::Corrupt(format!("row {key:?} of table `{table}`: {problem}").into())
    }

    /// Whether the data cause this error, so that a retry would fail too. A queue sets the item aside.
    pub fn is_caused_by_data(&self) -> bool {
        matches!(
            self,
            Self::Corrupt(_) | Self::NotSerializable(_) | Self::Panicked
        )
    }

    /// What opening the database failed with, as far as its content is the reason.
    pub(super) fn while_opening(self) -> Self {
        match &self {
            Self::Panicked => Self::Damaged("it cannot be read".into()),
            Self::Storage(error) => match &**error {
                redb::Error::Corrupted(reason) => Self::Damaged(reason.as_str().into()),
                redb::Error::Io(error) => match error.kind() {
                    ErrorKind::InvalidData => {
                        Self::Damaged("it does not begin as a database of redb does".into())
                    }
                    ErrorKind::UnexpectedEof => Self::Damaged("its end is missing".into()),
                    _ => self,
                },
                _ => self,
            },
            _ => self,
        }
    }

    /// Whether the database will never open as it is.
    pub fn is_corruption(&self) -> bool {
        match self {
            Self::Damaged(_) | Self::Corrupt(_) | Self::TooNew { .. } | Self::TooOld => true,
            Self::Storage(error) => matches!(**error, redb::Error::Corrupted(_)),
            _ => false,
        }
    }
}

impl From<redb::Error> for Error {
    fn from(error: redb::Error) -> Self {
        match error {
            // The cause was reported when it happened.
            redb::Error::PreviousIo | redb::Error::DatabaseClosed => Self::Unavailable,
            redb::Error::DatabaseAlreadyOpen => Self::InUse,
            error => Self::Storage(Arc::new(error)),
        }
    }
}

macro_rules! from_redb {
    ($($error:ty),+) => {
        $(impl From<$error> for Error {
            fn from(error: $error) -> Self {
                redb::Error::from(error).into()
            }
        })+
    };
}

from_redb!(
    std::io::Error,
    redb::StorageError,
    redb::TableError,
    redb::TransactionError,
    redb::CommitError,
    redb::DatabaseError
);
