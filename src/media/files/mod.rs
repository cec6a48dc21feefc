//! The files of media, each named by its id and never changed. All I/O runs on the pool.
//!
//! `media/files/ab/cdef…` are files; `media/new/` has files that are being written, and intents: empty files,
//! each named by the id of a file that is about to be committed. The steps of a commit:
//!
//! 1. Write the content to a temporary file and sync it.
//! 2. Write the intent and sync its directory.
//! 3. Rename the temporary file and sync the directory.
//! 4. Commit the rows that name the file (the caller).
//! 5. Remove the intent.
//!
//! After a crash between 2 and 5 there is an intent; [`Files::take_intents`] returns it, and the caller removes
//! the file if no row names it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    ops::Range,
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use sha2::{Digest, Sha256};
use smol::stream::{self, Stream};

use super::Error;
use crate::{
    config::Size,
    pool::{Kind, Pool},
    store::{Space, hex},
};

/// SHA-256 of the content; of a thumbnail, of its source and variant.
pub type FileId = [u8; 32];

/// In the data directory.
pub(super) const DIRECTORY: &str = "media";

/// What of a file is in memory at once.
const CHUNK_BYTES: usize = 32 * 1024;
/// After so many bytes a file is synced, so that the last sync is short, and the free space of the disk is
/// checked.
const SYNC_INTERVAL_BYTES: u64 = 8 << 20;

/// The directory with the files. Clones are the same.
#[derive(Clone, Debug)]
pub struct Files {
    directory: Arc<Path>,
    pool: Pool,
}

impl Files {
    /// `directory` is created with the first file.
    pub fn new(directory: PathBuf, pool: Pool) -> Self {
        Self {
            directory: directory.into(),
            pool,
        }
    }

    async fn on_pool<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.pool.run(Kind::File, work).await?
    }

    fn new_directory(&self) -> PathBuf {
        self.directory.join("new")
    }

    pub(super) fn path(&self, id: &FileId) -> PathBuf {
        file_path(&self.directory.join("files"), id)
    }

    /// Begins a file.
    pub async fn create(&self, max_size: Size) -> Result<FileWriter, Error> {
        let (directory, new) = (self.directory.clone(), self.new_directory());
        let name: u128 = rand::random();
        let path = new.join(format!("{name:032x}.part"));
        let (open, path) = self
            .on_pool(move || {
                make_directory(&new)?;
                let writable = writable_bytes(&directory)?;
                let mut options = OpenOptions::new();
                options.write(true).create_new(true).mode(0o600);
                let (file, path) = (options.open(&path)?, TempFile(path));
                Ok((OpenFile::new(file, directory, writable), path))
            })
            .await?;
        Ok(FileWriter {
            files: self.clone(),
            open: Some(open),
            buffer: Vec::new(),
            size: 0,
            max_size,
            path,
        })
    }

    /// Steps 2 and 3 of a commit.
    pub async fn put(&self, id: FileId, content: FinishedFile) -> Result<(), Error> {
        let (new, path) = (self.new_directory(), self.path(&id));
        self.on_pool(move || {
            write_intent(&new, &id)?;
            if let Some(directory) = path.parent() {
                make_directory(directory)?;
                fs::rename(&content.path.0, &path)?;
                File::open(directory)?.sync_all()?;
            }
            Ok(())
        })
        .await
    }

    /// Step 5 of a commit.
    pub async fn remove_intent(&self, id: FileId) -> Result<(), Error> {
        let intent = self.new_directory().join(hex(&id));
        self.on_pool(move || Ok(fs::remove_file(intent)?)).await
    }

    /// Removes the file `id`, if it is there.
    pub async fn remove(&self, id: FileId) -> Result<(), Error> {
        let path = self.path(&id);
        self.on_pool(move || match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        })
        .await
    }

    pub async fn open(&self, id: FileId, size: u64) -> Result<FileReader, Error> {
        let path = self.path(&id);
        let file = self.on_pool(move || Ok(File::open(path)?)).await?;
        Ok(FileReader {
            file: Arc::new(file),
            size,
            pool: self.pool.clone(),
        })
    }

    /// Removes and returns the intents, and removes unfinished files. Called once, before any other function.
    pub async fn take_intents(&self) -> Result<Vec<FileId>, Error> {
        let new = self.new_directory();
        self.on_pool(move || {
            let mut intents = Vec::new();
            let entries = match fs::read_dir(&new) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(intents),
                entries => entries?,
            };
            for entry in entries {
                let entry = entry?;
                intents.extend(entry.file_name().to_str().and_then(parse_file_id));
                fs::remove_file(entry.path())?;
            }
            Ok(intents)
        })
        .await
    }
}

/// A file that is being written. Dropping it removes it.
#[derive(Debug)]
pub struct FileWriter {
    files: Files,
    /// `None` during a write, and after a failed one.
    open: Option<OpenFile>,
    buffer: Vec<u8>,
    size: u64,
    max_size: Size,
    path: TempFile,
}

#[derive(Debug)]
struct OpenFile {
    file: File,
    hash: Sha256,
    since_sync: u64,
    /// What may be written before the free space is checked again.
    writable: u64,
    directory: Arc<Path>,
}

/// A temporary file that is complete and synced. Dropping it removes it.
#[derive(Debug)]
pub struct FinishedFile {
    path: TempFile,
    /// The [`FileId`]: SHA-256 of the content unless the caller changes it.
    pub hash: [u8; 32],
    /// In bytes.
    pub size: u64,
}

impl FinishedFile {
    pub(super) fn path(&self) -> PathBuf {
        self.path.0.clone()
    }
}

impl FileWriter {
    /// # Errors
    /// [`Error::TooLarge`] if a file must not have `length` bytes.
    pub fn check(&self, length: u64) -> Result<(), Error> {
        if length > self.max_size.bytes() {
            return Err(Error::TooLarge(self.max_size));
        }
        Ok(())
    }

    /// Appends `bytes`. After an error the file is of no use.
    ///
    /// # Errors
    /// [`Error::TooLarge`] or [`Error::Full`].
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.size += bytes.len() as u64;
        self.check(self.size)?;
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() < CHUNK_BYTES {
            return Ok(());
        }
        self.flush().await
    }

    /// Syncs the file.
    pub async fn finish(mut self) -> Result<FinishedFile, Error> {
        self.flush().await?;
        let (files, size) = (self.files.clone(), self.size);
        files
            .on_pool(move || {
                let open = self.open.take().ok_or_else(write_failed)?;
                open.file.sync_all()?;
                Ok(FinishedFile {
                    path: self.path,
                    hash: open.hash.finalize().into(),
                    size,
                })
            })
            .await
    }

    async fn flush(&mut self) -> Result<(), Error> {
        let mut open = self.open.take().ok_or_else(write_failed)?;
        let mut buffer = std::mem::take(&mut self.buffer);
        let written = self.files.on_pool(move || {
            open.write(&buffer)?;
            buffer.clear();
            Ok((open, buffer))
        });
        let (open, buffer) = written.await?;
        (self.open, self.buffer) = (Some(open), buffer);
        Ok(())
    }
}

impl OpenFile {
    fn new(file: File, directory: Arc<Path>, writable: u64) -> Self {
        Self {
            file,
            hash: Sha256::new(),
            since_sync: 0,
            writable,
            directory,
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let length = bytes.len() as u64;
        if self.writable < length {
            self.writable = writable_bytes(&self.directory)?;
        }
        self.writable = self.writable.checked_sub(length).ok_or(Error::Full)?;
        self.file.write_all(bytes)?;
        self.hash.update(bytes);
        self.since_sync += length;
        if self.since_sync >= SYNC_INTERVAL_BYTES {
            self.since_sync = 0;
            self.file.sync_data()?;
        }
        Ok(())
    }
}

fn write_failed() -> Error {
    io::Error::other("an earlier write to this file has failed").into()
}

/// An open file, which can be read even after it is removed. Clones are the same.
#[derive(Clone, Debug)]
pub struct FileReader {
    file: Arc<File>,
    size: u64,
    pool: Pool,
}

impl FileReader {
    /// In bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The bytes of `range` in chunks, each read when the consumer asks for it.
    pub fn chunks(self, range: Range<u64>) -> impl Stream<Item = Result<Vec<u8>, Error>> + Send {
        stream::unfold(range, move |range| {
            let this = self.clone();
            async move {
                let length = (range.end.saturating_sub(range.start)).min(CHUNK_BYTES as u64);
                if length == 0 {
                    return None;
                }
                let chunk = this.read(range.start, length as usize).await;
                let next = match chunk {
                    Ok(_) => range.start + length,
                    Err(_) => range.end,
                };
                Some((chunk, next..range.end))
            }
        })
    }

    async fn read(&self, start: u64, length: usize) -> Result<Vec<u8>, Error> {
        let file = self.file.clone();
        let read = self.pool.run(Kind::File, move || {
            let mut chunk = vec![0; length];
            file.read_exact_at(&mut chunk, start).map(|()| chunk)
        });
        Ok(read.await??)
    }
}

/// Removes the file when it is dropped, unless the file has been renamed.
#[derive(Debug)]
struct TempFile(PathBuf);

impl Drop for TempFile {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.0);
        // Removing a large file takes time, and this may run on the executor's thread.
        smol::unblock(move || fs::remove_file(path)).detach();
    }
}

/// Step 2 of a commit.
fn write_intent(new: &Path, id: &FileId) -> Result<(), Error> {
    File::create(new.join(hex(id)))?;
    Ok(File::open(new)?.sync_all()?)
}

/// Creates a directory and its parents, and syncs each.
fn make_directory(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    if let Some(parent) = directory.parent() {
        make_directory(parent)?;
        match DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => File::open(parent)?.sync_all()?,
        }
    }
    Ok(())
}

/// What may be written before this is called again. Media never take the space that is reserved for the
/// database.
fn writable_bytes(directory: &Path) -> Result<u64, Error> {
    match Space::of(directory) {
        Ok(space) if space.is_scarce() => Err(Error::Full),
        Ok(space) => Ok(SYNC_INTERVAL_BYTES.min(space.free - space.reserve())),
        // Then a write fails when the disk is full.
        Err(_) => Ok(SYNC_INTERVAL_BYTES),
    }
}

/// Where the files of media are in the data directory.
pub fn files_directory(data_dir: &Path) -> PathBuf {
    data_dir.join(DIRECTORY).join("files")
}

/// The path of the file `id` in a directory of files.
pub fn file_path(files: &Path, id: &FileId) -> PathBuf {
    let name = hex(id);
    let (directory, rest) = name.split_at(2);
    files.join(directory).join(rest)
}

/// Parses the hexadecimal name of a file.
pub fn parse_file_id(name: &str) -> Option<FileId> {
    let digits = name.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut id = [0; 32];
    for (byte, digits) in id.iter_mut().zip(digits.chunks(2)) {
        let digits = std::str::from_utf8(digits).ok()?;
        *byte = u8::from_str_radix(digits, 16).ok()?;
    }
    Some(id)
}

#[cfg(test)]
mod tests;
