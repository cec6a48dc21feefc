//! Free space on the disk.

use std::{io, path::Path};

/// With less than this part of the disk free, only writes that shrink the database are accepted …
const RESERVE_DIVISOR: u64 = 50;
/// … but a reserve of so many bytes is enough on any disk.
const MAX_RESERVE_BYTES: u64 = 1 << 30;

/// The space of a disk, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Space {
    pub total: u64,
    /// What a process without privileges can use.
    pub free: u64,
}

impl Space {
    /// The space of the disk with `directory`.
    pub fn of(directory: &Path) -> io::Result<Self> {
        let stat = rustix::fs::statvfs(directory)?;
        Ok(Self {
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }

    /// Whether less than the reserve is free.
    pub fn is_scarce(self) -> bool {
        self.free < self.reserve()
    }

    /// How much should stay free.
    pub fn reserve(self) -> u64 {
        (self.total / RESERVE_DIVISOR).min(MAX_RESERVE_BYTES)
    }
}

/// Whether the disk, or the user's quota, is full.
pub fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
