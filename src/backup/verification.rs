//! Reading a backup again.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use super::{
    Error,
    directory::{DATABASE, Directory, open_file},
    manifest::{Manifest, MediaList},
    media,
};
use crate::{
    config::Size,
    media::{FileId, file_path},
    store::CopyReader,
};

const BUFFER_BYTES: usize = 64 << 10;
/// Files that are named when they are damaged.
const MAX_NAMES: usize = 100;

/// A backup that was read.
#[derive(Debug)]
pub struct FoundBackup {
    /// Its own path.
    pub path: PathBuf,
    /// Where the files of media are.
    pub media: PathBuf,
    pub manifest: Manifest,
}

impl FoundBackup {
    /// The backup at `path`, or the last one of the directory of backups at `path`.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let (directory, name) = Directory::of_backup(path)?;
        let path = directory.backup(&name);
        Ok(Self {
            manifest: Manifest::read(&path)?,
            media: directory.media(),
            path,
        })
    }

    /// Copies a file of its media into `files`, a directory of files; `false` if it is missing or damaged.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn copy_file(&self, id: FileId, files: &Path) -> Result<bool, Error> {
        media::copy(&self.media, id, files)
    }

    /// The files of its media, with their sizes; at the end, the list is whole.
    pub fn each_file(
        &self,
        mut each: impl FnMut(FileId, u64) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut list = MediaList::open(&self.path)?;
        let mut files = 0;
        while let Some((id, size)) = list.next_if(&self.path, |_| true)? {
            each(id, size)?;
            files += 1;
        }
        let sum = &self.manifest.media;
        match (files, list.sha256()) == (sum.files, sum.list_sha256.clone()) {
            true => Ok(()),
            false => Err(Error::damaged(
                &self.path,
                "its list of media is another one",
            )),
        }
    }
}

/// Reads the whole backup at `path`, or the last one there, and compares it with what was written. Blocks; `progress`
/// gets what is being done.
///
/// # Errors
/// [`Error::NoBackup`], [`Error::Damaged`] with what is wrong, or [`Error::DamagedMedia`] with all files that are.
pub fn verify(path: &Path, mut progress: impl FnMut(String)) -> Result<FoundBackup, Error> {
    let backup = verify_database(path, &mut progress)?;
    let (mut done, mut buffer) = (0, vec![0; BUFFER_BYTES]);
    let (mut files, mut names) = (0, Vec::new());
    backup.each_file(|id, _| {
        let file = file_path(&backup.media, &id);
        if let Err(problem) = check_file(&file, &id, &mut buffer) {
            files += 1;
            if names.len() < MAX_NAMES {
                names.push(format!("{} ({problem})", file.display()));
            }
        }
        done += 1;
        if done % 256 == 0 {
            progress(format!("media ({done} files)"));
        }
        Ok(())
    })?;
    let path = backup.path.clone();
    match files {
        0 => Ok(backup),
        _ => Err(Error::DamagedMedia { path, files, names }),
    }
}

/// Like [`verify`], without the content of the media: a file that is damaged is no reason not to restore the others.
pub fn verify_database(
    path: &Path,
    mut progress: impl FnMut(String),
) -> Result<FoundBackup, Error> {
    let backup = FoundBackup::open(path)?;
    let unreadable =
        |error: crate::store::Error| Error::damaged(&backup.path, format!("{DATABASE}: {error}"));
    let mut copy = CopyReader::open(&backup.path.join(DATABASE)).map_err(unreadable)?;
    while let Some(read) = copy.step().map_err(unreadable)? {
        progress(format!("the database ({})", Size::from(read)));
    }
    let expected = &backup.manifest.tables;
    let is_other = |name: &&String| copy.sums().get(*name) != expected.get(*name);
    let mut names = expected.keys().chain(copy.sums().keys());
    if let Some(name) = names.find(is_other) {
        let problem = format!("{DATABASE}: the table `{name}` has other rows");
        return Err(Error::damaged(&backup.path, problem));
    }
    backup.each_file(|_, _| Ok(()))?;
    Ok(backup)
}

/// What is wrong with the file, if anything.
fn check_file(path: &Path, id: &FileId, buffer: &mut [u8]) -> io::Result<()> {
    let mut hash = Sha256::new();
    let mut file = open_file(path)?;
    loop {
        match file.read(buffer)? {
            0 => break,
            length => hash.update(&buffer[..length]),
        }
    }
    let hash: FileId = hash.finalize().into();
    match hash == *id {
        true => Ok(()),
        false => Err(io::Error::other("its content has changed")),
    }
}
