//! The file under redb, with an eye on it: redb tells only that something failed, the store must
//! know what.

use std::{io, ops::Bound, sync::Arc};

use redb::{BackendError, StorageBackend};

use super::health::{Health, Trouble};

/// How often a read is tried before the disk is said to have failed. redb refuses everything after
/// a failed read, for which a moment of a loose card is not enough.
const READ_TRIES: u32 = 3;

/// Passes everything to the backend inside, and notes what fails.
#[derive(Debug)]
pub(super) struct Watched {
    inner: Box<dyn StorageBackend>,
    health: Arc<Health>,
}

impl Watched {
    pub fn new(inner: Box<dyn StorageBackend>, health: Arc<Health>) -> Self {
        Self { inner, health }
    }

    fn io<T>(&self, result: io::Result<T>) -> io::Result<T> {
        result.map_err(|error| self.note(error, Trouble::Io))
    }

    fn note(&self, error: io::Error, trouble: fn(Arc<io::Error>) -> Trouble) -> io::Error {
        let error = Arc::new(error);
        self.health.note(trouble(error.clone()));
        io::Error::new(error.kind(), error)
    }
}

impl StorageBackend for Watched {
    fn len(&self) -> io::Result<u64> {
        self.io(self.inner.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut result = self.inner.read(offset, out);
        for _ in 1..READ_TRIES {
            if result.is_ok() {
                break;
            }
            result = self.inner.read(offset, out);
        }
        self.io(result)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.io(self.inner.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        let result = self.inner.sync_data();
        result.map_err(|error| self.note(error, Trouble::Sync))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.io(self.inner.write(offset, data))
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}
