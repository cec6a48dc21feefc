//! The files of media in a directory of backups: each is there once, as another name of the server's own file where
//! the file system allows that, else as a copy. Files of media are never changed.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use super::{
    Error,
    directory::{Directory, make_directory, open_file, sync_directory},
    manifest::MediaList,
};
use crate::{
    media::{FileId, file_path, parse_file_id},
    store::{self, hex},
};

/// What is copied at once.
const SLICE_BYTES: u64 = 1 << 20;
const BUFFER_BYTES: usize = 32 << 10;
/// A copy that is not complete.
const PART: &str = "part";

/// What [`put`] has done.
pub(super) enum Put {
    /// The file is in its place.
    Done,
    /// The server's own file is not there.
    Missing,
    /// It has to be copied.
    Copying(Box<Copy>),
}

/// Puts the file `source` with the id `id` into `media`, a directory of files. Blocks shortly.
pub(super) fn put(media: &Path, id: FileId, size: u64, source: &Path) -> Result<Put, Error> {
    let target = file_path(media, &id);
    if target.metadata().is_ok_and(|file| file.len() == size) {
        return Ok(Put::Done);
    }
    let directory = target.parent().unwrap_or(media);
    make_directory(media)?;
    make_directory(directory)?;
    let is_whole = |file: &Path| file.metadata().is_ok_and(|file| file.len() == size);
    if !is_whole(source) {
        return Ok(Put::Missing);
    }
    // Another file system, or one without links.
    if fs::hard_link(source, &target).is_ok() && is_whole(&target) {
        return Ok(Put::Done);
    }
    let copy = Copy::begin(media, id, source, target)?;
    Ok(copy.map_or(Put::Missing, |copy| Put::Copying(Box::new(copy))))
}

/// Copies the file with the id `id` from one directory of files to another; `false` if it is not there, or damaged.
pub(super) fn copy(from: &Path, id: FileId, to: &Path) -> Result<bool, Error> {
    let target = file_path(to, &id);
    make_directory(target.parent().unwrap_or(to))?;
    let Some(mut copy) = Copy::begin(to, id, &file_path(from, &id), target)? else {
        return Ok(false);
    };
    loop {
        if let Some(is_intact) = copy.step()? {
            return Ok(is_intact);
        }
    }
}

/// A copy of a file that is being made.
pub(super) struct Copy {
    id: FileId,
    source: (PathBuf, File),
    hash: Sha256,
    part: PathBuf,
    file: File,
    target: PathBuf,
}

impl Copy {
    /// `None` if the source cannot be read.
    fn begin(
        media: &Path,
        id: FileId,
        source: &Path,
        target: PathBuf,
    ) -> Result<Option<Self>, Error> {
        let file = match open_file(source) {
            Ok(file) => file,
            Err(error) => {
                warn_unreadable(source, &error);
                return Ok(None);
            }
        };
        let part = media.join(PART);
        Ok(Some(Self {
            id,
            source: (source.to_owned(), file),
            hash: Sha256::new(),
            file: store::create_anew(&part).map_err(Error::disk(&part))?,
            part,
            target,
        }))
    }

    /// Copies the next slice, and syncs it. At the end, whether the file could be read and was what its id says; only
    /// then it is in its place.
    pub(super) fn step(&mut self) -> Result<Option<bool>, Error> {
        let failed = Error::disk(&self.part);
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut left = SLICE_BYTES;
        while left > 0 {
            let length = match self.source.1.read(&mut buffer) {
                Ok(length) => length,
                Err(error) => {
                    warn_unreadable(&self.source.0, &error);
                    fs::remove_file(&self.part).map_err(&failed)?;
                    return Ok(Some(false));
                }
            };
            if length == 0 {
                self.file.sync_all().map_err(&failed)?;
                let hash: FileId = self.hash.finalize_reset().into();
                let is_intact = hash == self.id;
                match is_intact {
                    true => fs::rename(&self.part, &self.target).map_err(&failed)?,
                    false => fs::remove_file(&self.part).map_err(&failed)?,
                }
                return Ok(Some(is_intact));
            }
            self.hash.update(&buffer[..length]);
            self.file.write_all(&buffer[..length]).map_err(&failed)?;
            left = left.saturating_sub(length as u64);
        }
        self.file.sync_data().map_err(&failed)?;
        Ok(None)
    }
}

fn warn_unreadable(file: &Path, error: &io::Error) {
    if error.kind() != io::ErrorKind::NotFound {
        log::warn!("{} cannot be read: {error}", file.display());
    }
}

/// Makes the names in `media` durable that begin with these bytes.
pub(super) fn sync_names(media: &Path, first_bytes: &HashSet<u8>) -> Result<(), Error> {
    for byte in first_bytes {
        sync_directory(&media.join(hex(&[*byte])))?;
    }
    match first_bytes.is_empty() {
        true => Ok(()),
        false => sync_directory(media),
    }
}

/// Removes the files of media that are in no list of a backup. Nothing is removed if a list cannot be read.
pub(super) struct Pruning {
    media: PathBuf,
    lists: Vec<(PathBuf, MediaList)>,
    next: Option<u8>,
}

impl Pruning {
    pub(super) fn begin(directory: &Directory) -> Result<Self, Error> {
        let lists = directory.backups()?.into_iter().map(|name| {
            let backup = directory.backup(&name);
            Ok((backup.clone(), MediaList::open(&backup)?))
        });
        let media = directory.media();
        let next = media.exists().then_some(0);
        Ok(Self {
            lists: lists.collect::<Result<_, Error>>()?,
            media,
            next,
        })
    }

    /// Removes those whose ids have the next first byte; whether there are more.
    pub(super) fn step(&mut self) -> Result<bool, Error> {
        let Some(byte) = self.next else {
            return Ok(false);
        };
        let mut listed = HashSet::new();
        for (backup, list) in &mut self.lists {
            while let Some((id, _)) = list.next_if(backup, |id| id[0] == byte)? {
                listed.insert(id);
            }
        }
        let first = hex(&[byte]);
        let directory = self.media.join(&first);
        let entries = match fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            entries => Some(entries.map_err(Error::disk(&directory))?),
        };
        for entry in entries.into_iter().flatten() {
            let entry = entry.map_err(Error::disk(&directory))?;
            let rest = entry.file_name();
            let id = rest
                .to_str()
                .and_then(|rest| parse_file_id(&format!("{first}{rest}")));
            if id.is_some_and(|id| !listed.contains(&id)) {
                fs::remove_file(entry.path()).map_err(Error::disk(&entry.path()))?;
            }
        }
        self.next = byte.checked_add(1);
        Ok(self.next.is_some())
    }
}
