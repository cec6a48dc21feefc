//! The directory with the backups of one server:
//!
//! - `hearth-backups`: the name of the server. Another directory is not touched.
//! - `2026-12-31T02-10-00Z/`: a backup, by its time. It is made as `unfinished/` and renamed when it is complete
//!   and on the disk. Without a manifest it is the rest of one that was being removed.
//! - `media/ab/cdef…`: the files of all backups, each once, named by their ids.
//!
//! Only one process works here: the one that has the database open.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use ruma::ServerName;
use rustix::fs::OFlags;

use super::Error;
use crate::store;

pub const DATABASE: &str = "hearth.redb";
pub const CONFIG: &str = "hearth.toml";
pub(super) const MANIFEST: &str = "backup.json";
pub(super) const MEDIA_LIST: &str = "media.txt";
/// The files of a backup. The manifest is removed first.
const FILES: [&str; 4] = [MANIFEST, DATABASE, CONFIG, MEDIA_LIST];

const MARK: &str = "hearth-backups";
const UNFINISHED: &str = "unfinished";
const MEDIA: &str = "media";
/// A new file system is not empty.
const LOST_AND_FOUND: &str = "lost+found";

/// A directory with backups. Every function blocks.
#[derive(Clone, Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// The directory `path`, which is made, or taken if it is empty, for the backups of `server`.
    pub(super) fn claim(path: &Path, server: &ServerName) -> Result<Self, Error> {
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::NoParent(path.to_owned()));
            }
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::disk(path)(error));
            }
            _ => {}
        }
        let mark = path.join(MARK);
        match fs::read_to_string(&mark) {
            Ok(name) if name.trim_end() == server.as_str() => Ok(Self(path.to_owned())),
            Ok(name) => Err(Error::OfOtherServer {
                path: path.to_owned(),
                name: name.trim_end().to_owned(),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                for entry in fs::read_dir(path).map_err(Error::disk(path))? {
                    if entry.map_err(Error::disk(path))?.file_name() != LOST_AND_FOUND {
                        return Err(Error::NotOurs(path.to_owned()));
                    }
                }
                write_file(&mark, format!("{server}\n").as_bytes())?;
                sync_directory(path)?;
                Ok(Self(path.to_owned()))
            }
            Err(error) => Err(Error::disk(&mark)(error)),
        }
    }

    /// The directory of an existing backup, and the name of the backup: `path` itself is one, or has some, of which
    /// it is the last.
    pub(super) fn of_backup(path: &Path) -> Result<(Self, String), Error> {
        let path = fs::canonicalize(path).map_err(Error::disk(path))?;
        let none = || Error::NoBackup(path.clone());
        if path.join(MANIFEST).exists() {
            let name = path.file_name().and_then(|name| name.to_str());
            let parts = path.parent().zip(name).ok_or_else(none)?;
            return Ok((Self(parts.0.to_owned()), parts.1.to_owned()));
        }
        let directory = Self(path.clone());
        let name = directory.backups()?.pop().ok_or_else(none)?;
        Ok((directory, name))
    }

    pub(super) fn backup(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(super) fn media(&self) -> PathBuf {
        self.0.join(MEDIA)
    }

    /// The names of the backups, the oldest first.
    pub(super) fn backups(&self) -> Result<Vec<String>, Error> {
        let mut names = self.names()?;
        names.retain(|name| self.0.join(name).join(MANIFEST).exists());
        Ok(names)
    }

    fn names(&self) -> Result<Vec<String>, Error> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.0).map_err(Error::disk(&self.0))? {
            let name = entry.map_err(Error::disk(&self.0))?.file_name();
            names.extend(name.into_string().ok().filter(|name| is_name(name)));
        }
        names.sort_unstable();
        Ok(names)
    }

    /// An empty directory for a backup. Removes what an earlier one has left.
    pub(super) fn begin(&self) -> Result<PathBuf, Error> {
        self.remove_unfinished()?;
        let unfinished = self.0.join(UNFINISHED);
        make_directory(&unfinished)?;
        Ok(unfinished)
    }

    /// Gives the unfinished backup its name, when all its files are on the disk. It comes after all others, also if
    /// the clock was set back since.
    pub(super) fn complete(&self, started_ts: u64) -> Result<String, Error> {
        let unfinished = self.0.join(UNFINISHED);
        sync_directory(&unfinished)?;
        let newest = self.names()?.pop().and_then(|name| time_of(&name));
        let name = name_at(newest.map_or(started_ts, |newest| started_ts.max(newest + 1000)));
        let path = self.0.join(&name);
        fs::rename(unfinished, &path).map_err(Error::disk(&path))?;
        sync_directory(&self.0)?;
        Ok(name)
    }

    pub(super) fn remove_unfinished(&self) -> Result<(), Error> {
        remove_backup(&self.0.join(UNFINISHED))
    }

    /// Removes all but the newest `keep` backups.
    pub(super) fn remove_old(&self, keep: usize) -> Result<(), Error> {
        let complete = self.backups()?;
        let kept = &complete[complete.len().saturating_sub(keep)..];
        let names = self.names()?;
        for name in names.iter().filter(|name| !kept.contains(name)) {
            remove_backup(&self.0.join(name))?;
        }
        Ok(())
    }
}

/// Removes the files of a backup, and its directory unless there are others in it. What is no directory, such as a
/// link to one, stays.
fn remove_backup(path: &Path) -> Result<(), Error> {
    if !path.symlink_metadata().is_ok_and(|it| it.is_dir()) {
        return Ok(());
    }
    for file in FILES {
        let file = path.join(file);
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::disk(&file)(error));
            }
            _ => {}
        }
    }
    match fs::remove_dir(path).map_err(|error| (error.kind(), error)) {
        Ok(()) | Err((io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty, _)) => Ok(()),
        Err((_, error)) => Err(Error::disk(path)(error)),
    }
}

fn name_at(ts: u64) -> String {
    let time = UNIX_EPOCH + Duration::from_millis(ts);
    // Some file systems allow no colon.
    let time = humantime::format_rfc3339_seconds(time).to_string();
    time.replace(':', "-")
}

/// The time in a name, in milliseconds since the epoch.
fn time_of(name: &str) -> Option<u64> {
    let (day, time) = name.split_once('T')?;
    let time = humantime::parse_rfc3339(&format!("{day}T{}", time.replace('-', ":"))).ok()?;
    time.duration_since(UNIX_EPOCH)
        .ok()?
        .as_millis()
        .try_into()
        .ok()
}

fn is_name(name: &str) -> bool {
    let shape: String = name
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    shape == "0000-00-00T00-00-00Z"
}

/// Writes a new file for this user alone, durably.
pub(super) fn write_file(path: &Path, content: &[u8]) -> Result<(), Error> {
    let written = store::create_anew(path).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()
    });
    written.map_err(Error::disk(path))
}

/// Makes a directory for this user alone, if it is not there.
pub(super) fn make_directory(path: &Path) -> Result<(), Error> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            // A link leads elsewhere.
            match path.symlink_metadata().is_ok_and(|it| it.is_dir()) {
                true => Ok(()),
                false => Err(Error::disk(path)(error)),
            }
        }
        made => made.map_err(Error::disk(path)),
    }
}

/// Opens a file of a backup. Root restores what somebody else may change meanwhile: no link is followed, and nothing
/// waits for a named pipe.
pub fn open_file(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let mut options = File::options();
    let file = options.read(true).custom_flags(flags).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is no file")),
    }
}

pub(super) fn sync_directory(path: &Path) -> Result<(), Error> {
    let synced = File::open(path).and_then(|directory| directory.sync_all());
    synced.map_err(Error::disk(path))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use ruma::server_name;
    use tempfile::TempDir;

    use super::{super::Error, DATABASE, Directory, MANIFEST, UNFINISHED, is_name, name_at};

    #[test]
    fn a_backup_is_named_by_its_time() {
        let name = name_at(1_798_682_400_000);
        assert_eq!(name, "2026-12-31T02-00-00Z");
        assert!(is_name(&name));
        assert!(!is_name("2026-12-31") && !is_name("photos"));
    }

    #[test]
    fn a_directory_with_other_files_or_of_another_server_is_not_touched() {
        let directory = TempDir::new().unwrap();
        let path = directory.path();
        fs::write(path.join("photo.jpg"), "dear").unwrap();
        let claim = |name| Directory::claim(path, name);
        let error = claim(server_name!("a.example")).unwrap_err();
        assert!(matches!(error, Error::NotOurs(_)), "{error}");
        assert_eq!(fs::read_dir(path).unwrap().count(), 1);
        fs::remove_file(path.join("photo.jpg")).unwrap();
        fs::create_dir(path.join("lost+found")).unwrap();
        claim(server_name!("a.example")).unwrap();
        claim(server_name!("a.example")).unwrap();
        let error = claim(server_name!("b.example")).unwrap_err();
        assert!(matches!(error, Error::OfOtherServer { .. }), "{error}");
    }

    #[test]
    fn the_newest_backups_are_kept_and_other_files_stay() {
        let directory = TempDir::new().unwrap();
        let path = directory.path();
        let backups = Directory::claim(path, server_name!("a.example")).unwrap();
        for day in 0..4 {
            let unfinished = backups.begin().unwrap();
            fs::write(unfinished.join(MANIFEST), "{}").unwrap();
            backups.complete(day * 24 * 60 * 60 * 1000).unwrap();
        }
        // One that was being removed, and what is nobody's.
        fs::create_dir(path.join("1970-01-09T00-00-00Z")).unwrap();
        fs::create_dir(path.join("photos")).unwrap();
        backups.remove_old(2).unwrap();
        let kept = ["1970-01-03T00-00-00Z", "1970-01-04T00-00-00Z"];
        assert_eq!(backups.names().unwrap(), kept);
        assert!(path.join("photos").exists());
    }

    #[test]
    fn a_backup_comes_after_all_others_when_the_clock_was_set_back() {
        let directory = TempDir::new().unwrap();
        let backups = Directory::claim(directory.path(), server_name!("a.example")).unwrap();
        let names = [5000, 5000, 1000].map(|started_ts| {
            let unfinished = backups.begin().unwrap();
            fs::write(unfinished.join(MANIFEST), "{}").unwrap();
            let name = backups.complete(started_ts).unwrap();
            backups.remove_old(1).unwrap();
            name
        });
        assert!(names.is_sorted(), "{names:?}");
        assert_eq!(backups.names().unwrap(), [&*names[2]]);
    }

    #[test]
    fn what_others_have_put_into_a_backup_stays_and_no_link_is_followed() {
        let (directory, data) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let path = directory.path();
        let database = data.path().join(DATABASE);
        fs::write(&database, "data").unwrap();
        let backups = Directory::claim(path, server_name!("a.example")).unwrap();
        for name in ["1970-01-01T00-00-00Z", UNFINISHED] {
            symlink(data.path(), path.join(name)).unwrap();
        }
        let noted = path.join("1970-01-02T00-00-00Z");
        fs::create_dir(&noted).unwrap();
        fs::write(noted.join("note.txt"), "").unwrap();
        backups.remove_old(0).unwrap();
        assert!(noted.join("note.txt").exists());
        backups.begin().unwrap_err();
        assert_eq!(fs::read_to_string(database).unwrap(), "data");
    }
}
