//! The cache of media that can be fetched or made again: media of other servers, pictures of previews, and
//! thumbnails. The least recently used are evicted first.

use std::time::Duration;

use super::{
    error::Error,
    files::{FileId, FileWriter},
    rows,
    service::Media,
};
use crate::{
    config::Size,
    pool::Kind,
    store::{self, Space, Tx},
};

/// Between two writes of the time of last use, to spare the SD card.
const LAST_USED_INTERVAL: Duration = Duration::from_hours(1);
/// Files of one transaction.
const BATCH_FILES: usize = 50;
/// One part of so many of the disk stays free of cached files.
const FREE_DISK_PARTS: u64 = 10;

/// What takes up the disk, in bytes.
#[derive(Clone, Copy, Debug)]
struct DiskUsage {
    database: u64,
    uploads: u64,
    cached: u64,
}

impl DiskUsage {
    /// How large the cache may be, within the setting `disk` and the free space of the disk.
    fn max_cached(self, setting: Option<Size>, space: Option<Space>) -> u64 {
        let others = self.database.saturating_add(self.uploads);
        let by_setting = setting.map(|setting| setting.bytes().saturating_sub(others));
        let by_space = space.map(|space| {
            let free = self.cached.saturating_add(space.free);
            free.saturating_sub(space.total / FREE_DISK_PARTS)
        });
        by_setting
            .unwrap_or(u64::MAX)
            .min(by_space.unwrap_or(u64::MAX))
    }
}

impl Media {
    /// Updates the time of last use of a cached file. `last_used` is the stored one; `None` if the file is not
    /// cached.
    pub(super) fn touch(&self, file: FileId, last_used: Option<u64>, now: u64) {
        let interval = LAST_USED_INTERVAL.as_millis() as u64;
        if last_used.is_some_and(|last_used| last_used + interval < now) {
            let store = self.0.store.clone();
            let touch = self.0.executor.spawn(async move {
                let touched = store.write_deferred(move |tx| rows::touch(tx, file, now));
                if let Err(error) = touched.await {
                    log::debug!("cannot update the time of last use of a cached file: {error}");
                }
            });
            touch.detach();
        }
    }

    /// Begins a file. If the disk is full, cached files are evicted.
    pub(super) async fn create_file(&self) -> Result<FileWriter, Error> {
        let max_size = self.0.max_upload;
        match self.0.files.create(max_size).await {
            Err(Error::Full) => {
                self.evict(None).await?;
                self.0.files.create(max_size).await
            }
            file => file,
        }
    }

    /// Evicts cached files other than `keep` until the cache is within its limit.
    pub(super) async fn evict(&self, keep: Option<FileId>) -> Result<(), Error> {
        loop {
            let excess = self.excess_bytes().await?;
            if excess == 0 {
                return Ok(());
            }
            let evict = move |tx: &Tx| rows::evict(tx, excess, BATCH_FILES, keep);
            if self.0.store.write_shrinking(evict).await? == 0 {
                return Ok(());
            }
            self.sweep().await?;
        }
    }

    /// By how much the cache exceeds its limit.
    async fn excess_bytes(&self) -> Result<u64, Error> {
        let usage = self.0.store.read(rows::disk_usage)?;
        let (directory, setting) = (self.0.data_dir.clone(), self.0.disk);
        let leaves_free = self.0.cache_leaves_disk_free;
        let max_cached = self.0.pool.run(Kind::File, move || {
            let usage = DiskUsage {
                database: store::database_size(&directory).unwrap_or(0),
                uploads: usage.uploads,
                cached: usage.cached,
            };
            let space = leaves_free.then(|| Space::of(&directory).ok());
            usage.max_cached(setting, space.flatten())
        });
        Ok(usage.cached.saturating_sub(max_cached.await?))
    }
}

#[cfg(test)]
mod tests {
    use super::DiskUsage;
    use crate::{config::Size, store::Space};

    #[test]
    fn the_cache_may_use_the_rest_of_the_disk_setting_and_leaves_a_tenth_of_the_disk_free() {
        let usage = DiskUsage {
            database: 10 << 20,
            uploads: 20 << 20,
            cached: 30 << 20,
        };
        let space = |total: u64, free: u64| {
            Some(Space {
                total: total << 20,
                free: free << 20,
            })
        };
        for (setting, space, max_cached) in [
            (None, None, u64::MAX),
            (Some(100), None, 70 << 20),
            (Some(25), None, 0),
            (None, space(1000, 100), 30 << 20),
            (None, space(1000, 90), 20 << 20),
            (None, space(1000, 10), 0),
            (Some(100), space(1000, 500), 70 << 20),
        ] {
            assert_eq!(usage.max_cached(setting.map(Size::mebi), space), max_cached);
        }
    }
}
