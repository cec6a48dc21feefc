//! The database file as redb uses it. It records failures in [`Health`]: redb does not say which call
//! failed.

use std::{io, ops::Bound, sync::Arc};

use redb::{BackendError, StorageBackend};

use super::health::{DiskFailure, Health};

/// redb refuses everything after a failed read, so a card with a loose contact gets another chance.
const MAX_READ_ATTEMPTS: u32 = 3;

#[derive(Debug)]
pub(super) struct MonitoredBackend {
    inner: Box<dyn StorageBackend>,
    health: Arc<Health>,
}

impl MonitoredBackend {
    pub fn new(inner: Box<dyn StorageBackend>, health: Arc<Health>) -> Self {
        Self { inner, health }
    }

    fn io<T>(&self, result: io::Result<T>) -> io::Result<T> {
        result.map_err(|error| self.record(error, DiskFailure::Io))
    }

    fn record(&self, error: io::Error, failure: fn(Arc<io::Error>) -> DiskFailure) -> io::Error {
        let error = Arc::new(error);
        self.health.record(failure(error.clone()));
        io::Error::new(error.kind(), error)
    }
}

impl StorageBackend for MonitoredBackend {
    fn len(&self) -> io::Result<u64> {
        self.io(self.inner.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut result = self.inner.read(offset, out);
        for _ in 1..MAX_READ_ATTEMPTS {
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
        result.map_err(|error| self.record(error, DiskFailure::Sync))
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
