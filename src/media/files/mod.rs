//! The files: each under the id that the database knows it by, never changed once it is there.
//!
//! `media/files/ab/cdef…` is a file, `media/new/` holds what is not one yet. A file comes to be in
//! this order: written and made durable under a name of its own, [`Files::announce`]d, renamed, the
//! directory made durable; then the database is told, and the announcement is taken back. Whatever
//! an announcement speaks of and the database does not, a crash left: [`Files::left_over`] has it.
//!
//! All of it runs on the pool.

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
    store::Space,
};

/// What a file is known by.
pub type FileId = [u8; 32];

/// How much of a file is in memory at once, in bytes.
const PIECE: usize = 32 * 1024;
/// After how many bytes what was written is made durable, so that the end does not take long, and
/// the room on the disk is looked at, if there was so much.
const STRETCH: u64 = 8 << 20;

/// The directory with the files. Clones are the same.
#[derive(Clone, Debug)]
pub struct Files {
    directory: Arc<Path>,
    pool: Pool,
}

impl Files {
    /// Files in `directory`, which is made when the first one comes.
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

    fn new_files(&self) -> PathBuf {
        self.directory.join("new")
    }

    /// Where the file `id` is.
    pub(super) fn path(&self, id: &FileId) -> PathBuf {
        let name = hex(id);
        let (directory, rest) = name.split_at(2);
        self.directory.join("files").join(directory).join(rest)
    }

    /// Begins a file of at most `most` bytes.
    pub async fn draft(&self, most: Size) -> Result<FileWriter, Error> {
        let (directory, new) = (self.directory.clone(), self.new_files());
        let name: u128 = rand::random();
        let path = new.join(format!("{name:032x}.part"));
        let (writing, path) = self
            .on_pool(move || {
                make_directory(&new)?;
                let room = room(&directory)?;
                let mut options = OpenOptions::new();
                options.write(true).create_new(true).mode(0o600);
                let (file, path) = (options.open(&path)?, Temporary(path));
                Ok((Writing::new(file, directory, room), path))
            })
            .await?;
        Ok(FileWriter {
            files: self.clone(),
            writing: Some(writing),
            buffer: Vec::new(),
            size: 0,
            most,
            path,
        })
    }

    /// Puts a whole draft where the file `id` belongs, unless it is there. To be followed by
    /// [`forget`](Self::forget) when the database has been told.
    pub async fn keep(&self, id: FileId, draft: FinishedFile) -> Result<(), Error> {
        let (new, path) = (self.new_files(), self.path(&id));
        self.on_pool(move || {
            announce(&new, &id)?;
            if let Some(directory) = path.parent() {
                make_directory(directory)?;
                fs::rename(&draft.path.0, &path)?;
                File::open(directory)?.sync_all()?;
            }
            Ok(())
        })
        .await
    }

    /// Takes back the announcement of `id`, of which the database knows now.
    pub async fn forget(&self, id: FileId) -> Result<(), Error> {
        let announced = self.new_files().join(hex(&id));
        self.on_pool(move || Ok(fs::remove_file(announced)?)).await
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

    /// Opens the file `id` of `size` bytes.
    pub async fn open(&self, id: FileId, size: u64) -> Result<FileReader, Error> {
        let path = self.path(&id);
        let file = self.on_pool(move || Ok(File::open(path)?)).await?;
        Ok(FileReader {
            file: Arc::new(file),
            size,
            pool: self.pool.clone(),
        })
    }

    /// What was announced when the server ended, and is gone from there now. What was not finished
    /// is removed. To be called before anything else.
    pub async fn left_over(&self) -> Result<Vec<FileId>, Error> {
        let new = self.new_files();
        self.on_pool(move || {
            let mut announced = Vec::new();
            let entries = match fs::read_dir(&new) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(announced),
                entries => entries?,
            };
            for entry in entries {
                let entry = entry?;
                announced.extend(entry.file_name().to_str().and_then(unhex));
                fs::remove_file(entry.path())?;
            }
            Ok(announced)
        })
        .await
    }
}

/// A file that is being written. Dropped before its end it leaves nothing.
#[derive(Debug)]
pub struct FileWriter {
    files: Files,
    /// Away while something is being written, and for good if that failed.
    writing: Option<Writing>,
    buffer: Vec<u8>,
    size: u64,
    most: Size,
    path: Temporary,
}

#[derive(Debug)]
struct Writing {
    file: File,
    hash: Sha256,
    since_sync: u64,
    /// How much may be written until the disk is looked at again.
    room: u64,
    directory: Arc<Path>,
}

/// A file that is written and durable, under a name of its own. Dropped it leaves nothing.
#[derive(Debug)]
pub struct FinishedFile {
    path: Temporary,
    /// What it is to be known by: the SHA-256 of what is in it, unless somebody says otherwise.
    pub hash: [u8; 32],
    /// In bytes.
    pub size: u64,
}

impl FinishedFile {
    /// Where it is.
    pub(super) fn path(&self) -> PathBuf {
        self.path.0.clone()
    }
}

impl FileWriter {
    /// Whether so many bytes may be written in all.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if not.
    pub fn check(&self, length: u64) -> Result<(), Error> {
        if length > self.most.bytes() {
            return Err(Error::TooLarge(self.most));
        }
        Ok(())
    }

    /// Writes `piece` behind what was written.
    ///
    /// # Errors
    /// [`Error::TooLarge`], or what the disk says. The draft is of no use then.
    pub async fn write(&mut self, piece: &[u8]) -> Result<(), Error> {
        self.size += piece.len() as u64;
        self.check(self.size)?;
        self.buffer.extend_from_slice(piece);
        if self.buffer.len() < PIECE {
            return Ok(());
        }
        self.flush().await
    }

    /// Makes everything durable.
    ///
    /// # Errors
    /// What the disk says.
    pub async fn finish(mut self) -> Result<FinishedFile, Error> {
        self.flush().await?;
        let (files, size) = (self.files.clone(), self.size);
        files
            .on_pool(move || {
                let writing = self.writing.take().ok_or_else(broken)?;
                writing.file.sync_all()?;
                Ok(FinishedFile {
                    path: self.path,
                    hash: writing.hash.finalize().into(),
                    size,
                })
            })
            .await
    }

    async fn flush(&mut self) -> Result<(), Error> {
        let mut writing = self.writing.take().ok_or_else(broken)?;
        let mut buffer = std::mem::take(&mut self.buffer);
        let written = self.files.on_pool(move || {
            writing.write(&buffer)?;
            buffer.clear();
            Ok((writing, buffer))
        });
        let (writing, buffer) = written.await?;
        (self.writing, self.buffer) = (Some(writing), buffer);
        Ok(())
    }
}

impl Writing {
    fn new(file: File, directory: Arc<Path>, room: u64) -> Self {
        Self {
            file,
            hash: Sha256::new(),
            since_sync: 0,
            room,
            directory,
        }
    }

    fn write(&mut self, piece: &[u8]) -> Result<(), Error> {
        let length = piece.len() as u64;
        if self.room < length {
            self.room = room(&self.directory)?;
        }
        self.room = self.room.checked_sub(length).ok_or(Error::Full)?;
        self.file.write_all(piece)?;
        self.hash.update(piece);
        self.since_sync += length;
        if self.since_sync >= STRETCH {
            self.since_sync = 0;
            self.file.sync_data()?;
        }
        Ok(())
    }
}

/// A write failed before.
fn broken() -> Error {
    io::Error::other("a write to this file has failed before").into()
}

/// A file that is open to be read, also when it is removed meanwhile. Clones are the same.
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

    /// The bytes of `range`, in pieces, each read when the one before has been taken.
    pub fn pieces(self, range: Range<u64>) -> impl Stream<Item = Result<Vec<u8>, Error>> + Send {
        stream::unfold(range, move |range| {
            let this = self.clone();
            async move {
                let length = (range.end.saturating_sub(range.start)).min(PIECE as u64);
                if length == 0 {
                    return None;
                }
                let piece = this.piece(range.start, length as usize).await;
                let rest = if piece.is_ok() {
                    range.start + length..range.end
                } else {
                    range.end..range.end
                };
                Some((piece, rest))
            }
        })
    }

    async fn piece(&self, start: u64, length: usize) -> Result<Vec<u8>, Error> {
        let file = self.file.clone();
        let read = self.pool.run(Kind::File, move || {
            let mut piece = vec![0; length];
            file.read_exact_at(&mut piece, start).map(|()| piece)
        });
        Ok(read.await??)
    }
}

/// A file that is removed when this is dropped, unless it has another name by then.
#[derive(Debug)]
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.0);
        // It may be large, and be dropped on the one thread.
        smol::unblock(move || fs::remove_file(path)).detach();
    }
}

/// Says that the file `id` comes to be, for good.
fn announce(new: &Path, id: &FileId) -> Result<(), Error> {
    File::create(new.join(hex(id)))?;
    Ok(File::open(new)?.sync_all()?)
}

/// Makes a directory and those that it is in, for good.
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

/// How much may be written until this is asked again: media never take what the database needs to go
/// on.
fn room(directory: &Path) -> Result<u64, Error> {
    match Space::of(directory) {
        Ok(space) if space.is_scarce() => Err(Error::Full),
        Ok(space) => Ok(STRETCH.min(space.free - space.reserve())),
        // If the system does not tell, it says so when it is full.
        Err(_) => Ok(STRETCH),
    }
}

fn hex(id: &FileId) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What is known by this name.
pub(super) fn unhex(name: &str) -> Option<FileId> {
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
