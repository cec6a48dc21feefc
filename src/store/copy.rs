//! Copies of the database: all rows of one snapshot, table by table, in a file of their own, which has no free
//! pages; and reading such a copy.
//!
//! A copy is made in slices of [`SLICE_BYTES`], each a commit of the file: so little of it is in memory, and the
//! commits of the store never wait long for the disk. Meanwhile redb keeps the pages of the snapshot: the database
//! grows by what is written until the copy is done, and uses that space again afterwards.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io,
    ops::Bound,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
};

use redb::{Database, ReadOnlyDatabase, ReadableDatabase, TableHandle, backends::FileBackend};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Error, Snapshot, disk::forget_cached, table::raw, writer::guarded};

const SLICE_BYTES: usize = 1 << 20;
/// The page cache of a copy.
const CACHE_BYTES: usize = 4 << 20;

/// All rows of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableSum {
    pub rows: u64,
    /// SHA-256 of keys and values in their order, each behind its length as eight big-endian bytes; as
    /// hexadecimal digits.
    pub sha256: String,
}

/// By the names of the tables.
pub type TableSums = BTreeMap<String, TableSum>;

/// What reading a database and writing a copy can fail with.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error(transparent)]
    Read(#[from] Error),
    /// The copy cannot be written.
    #[error(transparent)]
    Write(#[from] io::Error),
}

impl CopyError {
    fn write(error: impl Into<redb::Error>) -> Self {
        Self::Write(match error.into() {
            redb::Error::Io(error) => error,
            error => io::Error::other(error),
        })
    }
}

/// A copy that is being made. Every function blocks.
pub struct Copier {
    walk: Walk,
    target: Database,
    file: File,
}

impl Copier {
    /// Begins a copy of `snapshot` in a new file.
    ///
    /// # Errors
    /// [`CopyError`].
    pub fn begin(snapshot: Arc<Snapshot>, path: &Path) -> Result<Self, CopyError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        let file = options.open(path)?;
        let backend = FileBackend::new(file.try_clone()?).map_err(CopyError::write)?;
        let target = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create_with_backend(backend);
        Ok(Self {
            walk: Walk::new(snapshot)?,
            target: target.map_err(CopyError::write)?,
            file,
        })
    }

    /// Copies the next slice; how many bytes of keys and values are copied so far, `None` if that is all.
    ///
    /// # Errors
    /// [`CopyError`].
    pub fn step(&mut self) -> Result<Option<u64>, CopyError> {
        let txn = self.target.begin_write().map_err(CopyError::write)?;
        let mut left = SLICE_BYTES;
        let mut is_done = false;
        while left > 0 && !is_done {
            let Some(name) = self.walk.table() else {
                is_done = true;
                break;
            };
            let mut table = txn.open_table(raw(&name)).map_err(CopyError::write)?;
            // redb fills the pages of rows that are inserted in their order in this way.
            let cursor = table.upper_bound_mut(Bound::<&[u8]>::Unbounded);
            let mut cursor = cursor.map_err(CopyError::write)?;
            self.walk.rows(&mut left, |key, value| {
                cursor.insert_before(key, value).map_err(CopyError::write)
            })?;
            cursor.close().map_err(CopyError::write)?;
        }
        txn.commit().map_err(CopyError::write)?;
        // What is on the disk need not be in memory too.
        forget_cached(&self.file)?;
        Ok((!is_done).then_some(self.walk.bytes))
    }

    /// Closes the file; what was copied.
    ///
    /// # Errors
    /// [`CopyError`].
    pub fn finish(mut self) -> Result<TableSums, CopyError> {
        self.target.compact().map_err(CopyError::write)?;
        self.target.close().map_err(CopyError::write)?;
        self.file.sync_all()?;
        forget_cached(&self.file)?;
        Ok(self.walk.sums)
    }
}

/// A copy that is read. Every function blocks.
pub struct CopyReader {
    walk: Walk,
    /// Keeps the file open.
    _database: ReadOnlyDatabase,
}

impl CopyReader {
    /// # Errors
    /// If the file is no whole copy.
    pub fn open(path: &Path) -> Result<Self, Error> {
        guarded(|| {
            let database = Database::builder()
                .set_cache_size(CACHE_BYTES)
                .open_read_only(path)?;
            let snapshot = Arc::new(Snapshot::new(database.begin_read()?));
            Ok(Self {
                walk: Walk::new(snapshot)?,
                _database: database,
            })
        })
    }

    /// Reads the next slice; how many bytes of keys and values are read so far, `None` if that is all.
    ///
    /// # Errors
    /// If the file is damaged.
    pub fn step(&mut self) -> Result<Option<u64>, Error> {
        guarded(|| {
            let mut left = SLICE_BYTES;
            while left > 0 {
                if self.walk.table().is_none() {
                    return Ok(None);
                }
                self.walk.rows(&mut left, |_, _| Ok::<_, Error>(()))?;
            }
            Ok(Some(self.walk.bytes))
        })
    }

    /// What was read.
    pub fn sums(&self) -> &TableSums {
        &self.walk.sums
    }

    pub fn snapshot(&self) -> &Snapshot {
        &self.walk.snapshot
    }
}

/// A walk through all rows of a snapshot.
struct Walk {
    snapshot: Arc<Snapshot>,
    /// The names of the tables that are not done, the next one last.
    tables: Vec<String>,
    /// The last key of the next table that is done.
    after: Option<Vec<u8>>,
    rows: u64,
    hash: Sha256,
    sums: TableSums,
    bytes: u64,
}

impl Walk {
    fn new(snapshot: Arc<Snapshot>) -> Result<Self, Error> {
        let tables = snapshot.txn.list_tables()?;
        let mut tables: Vec<_> = tables.map(|table| table.name().to_owned()).collect();
        tables.sort_unstable_by(|one, other| other.cmp(one));
        Ok(Self {
            snapshot,
            tables,
            after: None,
            rows: 0,
            hash: Sha256::new(),
            sums: TableSums::new(),
            bytes: 0,
        })
    }

    /// The table that [`rows`](Self::rows) reads next.
    fn table(&self) -> Option<String> {
        self.tables.last().cloned()
    }

    /// Passes rows of the next table to `each`: all that it has left, or as many as `left` bytes allow.
    fn rows<E: From<Error>>(
        &mut self,
        left: &mut usize,
        mut each: impl FnMut(&[u8], &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(name) = self.tables.last() else {
            return Ok(());
        };
        let table = self.snapshot.txn.open_table(raw(name));
        let table = table.map_err(Error::from)?;
        let start = match &self.after {
            Some(after) => Bound::Excluded(after.as_slice()),
            None => Bound::Unbounded,
        };
        let rows = table.range::<&[u8]>((start, Bound::Unbounded));
        for row in rows.map_err(Error::from)? {
            let (key, value) = row.map_err(Error::from)?;
            let (key, value) = (key.value(), value.value());
            each(key, value)?;
            for part in [key, value] {
                self.hash.update((part.len() as u64).to_be_bytes());
                self.hash.update(part);
            }
            let bytes = key.len() + value.len();
            self.rows += 1;
            self.bytes += bytes as u64;
            *left = left.saturating_sub(bytes.max(1));
            if *left == 0 {
                self.after = Some(key.to_owned());
                return Ok(());
            }
        }
        self.after = None;
        let sum = TableSum {
            rows: std::mem::take(&mut self.rows),
            sha256: hex(&self.hash.finalize_reset()),
        };
        self.sums.extend(self.tables.pop().map(|name| (name, sum)));
        Ok(())
    }
}

/// Hexadecimal digits in lower case.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
