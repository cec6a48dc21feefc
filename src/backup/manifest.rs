//! What a backup says of itself: `backup.json`, and `media.txt` with a line for each file of its media in the order
//! of their ids.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Read, Write},
    path::Path,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    Error,
    directory::{MANIFEST, MEDIA_LIST, open_file, write_file},
};
use crate::{
    media::{FileId, parse_file_id},
    store::{self, TableSums, hex},
};

/// Raised when an older hearth could not restore the backup.
const FORMAT: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    /// Of hearth.
    pub version: String,
    pub server_name: String,
    /// The database is as of then, in milliseconds since the epoch.
    pub started_ts: u64,
    pub finished_ts: u64,
    /// The size of the file.
    pub database_bytes: u64,
    pub tables: TableSums,
    /// The permissions of the file with the settings, if that is in the backup.
    pub config_mode: Option<u32>,
    pub media: MediaSum,
}

/// The files of media.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MediaSum {
    pub files: u64,
    pub bytes: u64,
    /// Files that are in the database but were not on the disk, or were damaged.
    pub missing: u64,
    /// SHA-256 of the list, as hexadecimal digits.
    pub list_sha256: String,
}

impl Manifest {
    pub(super) const FORMAT: u32 = FORMAT;

    pub(super) fn write(&self, backup: &Path) -> Result<(), Error> {
        let path = backup.join(MANIFEST);
        let json = serde_json::to_vec_pretty(self)
            .map_err(|_| store::Error::NotSerializable("the manifest of a backup"))?;
        write_file(&path, &json)
    }

    pub(super) fn read(backup: &Path) -> Result<Self, Error> {
        let path = backup.join(MANIFEST);
        let mut json = Vec::new();
        let read = open_file(&path).and_then(|mut file| file.read_to_end(&mut json));
        read.map_err(Error::disk(&path))?;
        let manifest: Self = serde_json::from_slice(&json)
            .map_err(|error| Error::damaged(backup, format!("{MANIFEST}: {error}")))?;
        match manifest.format <= FORMAT {
            true => Ok(manifest),
            false => Err(Error::TooNew(backup.to_owned())),
        }
    }
}

/// Writes the list of files.
pub(super) struct MediaListWriter {
    file: BufWriter<File>,
    hash: Sha256,
    pub sum: MediaSum,
}

impl MediaListWriter {
    pub(super) fn new(backup: &Path) -> Result<Self, Error> {
        let path = backup.join(MEDIA_LIST);
        let file = store::create_anew(&path).map_err(Error::disk(&path))?;
        Ok(Self {
            file: BufWriter::new(file),
            hash: Sha256::new(),
            sum: MediaSum::default(),
        })
    }

    pub(super) fn add(&mut self, id: &FileId, size: u64) -> io::Result<()> {
        let line = format!("{} {size}\n", hex(id));
        self.hash.update(&line);
        self.sum.files += 1;
        self.sum.bytes += size;
        self.file.write_all(line.as_bytes())
    }

    pub(super) fn finish(mut self) -> io::Result<MediaSum> {
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        self.sum.list_sha256 = hex(&self.hash.finalize());
        Ok(self.sum)
    }
}

/// Reads the list of files of a backup, in the order of their ids.
pub(super) struct MediaList {
    lines: io::Lines<BufReader<File>>,
    hash: Sha256,
    next: Option<(FileId, u64)>,
}

impl MediaList {
    pub(super) fn open(backup: &Path) -> Result<Self, Error> {
        let path = backup.join(MEDIA_LIST);
        let file = open_file(&path).map_err(Error::disk(&path))?;
        let mut list = Self {
            lines: BufReader::new(file).lines(),
            hash: Sha256::new(),
            next: None,
        };
        list.next = list.read(backup)?;
        Ok(list)
    }

    /// The next file and its size, if `wants` it.
    pub(super) fn next_if(
        &mut self,
        backup: &Path,
        wants: impl FnOnce(&FileId) -> bool,
    ) -> Result<Option<(FileId, u64)>, Error> {
        match self.next {
            Some((id, size)) if wants(&id) => {
                self.next = self.read(backup)?;
                Ok(Some((id, size)))
            }
            _ => Ok(None),
        }
    }

    /// Of what was read.
    pub(super) fn sha256(&self) -> String {
        hex(&self.hash.clone().finalize())
    }

    fn read(&mut self, backup: &Path) -> Result<Option<(FileId, u64)>, Error> {
        let damaged = || Error::damaged(backup, format!("{MEDIA_LIST} cannot be read"));
        let Some(line) = self.lines.next() else {
            return Ok(None);
        };
        let line = line.map_err(|_| damaged())?;
        self.hash.update(&line);
        self.hash.update("\n");
        let parsed = line.split_once(' ').and_then(|(id, size)| {
            let (id, size) = (parse_file_id(id)?, size.parse().ok()?);
            Some((id, size))
        });
        let file = parsed.ok_or_else(damaged)?;
        let is_in_order = self.next.is_none_or(|(before, _)| before < file.0);
        match is_in_order {
            true => Ok(Some(file)),
            false => Err(damaged()),
        }
    }
}
