//! What can go wrong with the store.

use std::sync::Arc;

/// An error of the store. Cloned to every job of a batch that failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// redb or the disk under it failed.
    #[error("the database cannot be read or written: {0}")]
    Storage(Arc<redb::Error>),
    /// A row does not decode.
    #[error("the database holds something that this version cannot read: {0}")]
    Corrupt(&'static str),
    /// The disk has too little space left for anything that grows the database.
    #[error("the disk is almost full; free some space and try again")]
    Full,
    /// The store has been closed, or is being closed.
    #[error("the database is closed")]
    Closed,
    /// The job panicked; nothing of it was stored.
    #[error("a write ended in a panic")]
    Panicked,
}

macro_rules! from_redb {
    ($($error:ty),+) => {
        $(impl From<$error> for Error {
            fn from(error: $error) -> Self {
                Self::Storage(Arc::new(error.into()))
            }
        })+
    };
}

from_redb!(
    redb::StorageError,
    redb::TableError,
    redb::TransactionError,
    redb::CommitError,
    redb::DatabaseError,
    redb::SetDurabilityError
);
