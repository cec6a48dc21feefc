//! Reading a backup again.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use super::{
    Error,
    directory::{DATABASE, Directory},
    manifest::{Manifest, MediaList},
};
use crate::{
    config::Size,
    media::{FileId, file_path},
    store::CopyReader,
};

const BUFFER_BYTES: usize = 64 << 10;

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
/// [`Error::NoBackup`], or [`Error::Damaged`] with what is wrong.
pub fn verify(path: &Path, mut progress: impl FnMut(String)) -> Result<FoundBackup, Error> {
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
    let (mut done, mut buffer) = (0, vec![0; BUFFER_BYTES]);
    backup.each_file(|id, _| {
        let file = file_path(&backup.media, &id);
        check_file(&file, &id, &mut buffer)?;
        done += 1;
        if done % 256 == 0 {
            progress(format!("media ({done} files)"));
        }
        Ok(())
    })?;
    Ok(backup)
}

fn check_file(path: &Path, id: &FileId, buffer: &mut [u8]) -> Result<(), Error> {
    let mut hash = Sha256::new();
    let mut read = || {
        let mut file = File::open(path)?;
        loop {
            match file.read(buffer)? {
                0 => return Ok(()),
                length => hash.update(&buffer[..length]),
            }
        }
    };
    read().map_err(|error: std::io::Error| Error::damaged(path, error.to_string()))?;
    let hash: FileId = hash.finalize().into();
    match hash == *id {
        true => Ok(()),
        false => Err(Error::damaged(path, "its content has changed")),
    }
}
