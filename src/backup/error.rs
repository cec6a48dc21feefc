use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{
    config::Size,
    media,
    store::{self, CopyError, Space},
};

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "it is not known where backups go: name a directory, or set `backup_dir` in the settings"
    )]
    NoDirectory,
    #[error("a backup to {} is being made; wait until it is done", .0.display())]
    Busy(PathBuf),
    #[error("`--keep` is at least 1")]
    KeepsNone,
    #[error("{} cannot be made, as the directory above it is not there; is its disk mounted?", .0.display())]
    NoParent(PathBuf),
    #[error(
        "{} has other files in it, which are left alone: name a new or an empty directory", .0.display()
    )]
    NotOurs(PathBuf),
    #[error("{} has the backups of {name}: name another directory", path.display())]
    OfOtherServer { path: PathBuf, name: String },
    #[error("{} has no backup", .0.display())]
    NoBackup(PathBuf),
    #[error(
        "the disk of {} has too little space for another backup: {} are free. Free some space there, or keep fewer \
         backups (`--keep`)",
        path.display(),
        Size::from(*free)
    )]
    Full { path: PathBuf, free: u64 },
    #[error(
        "hearth may not write to {}: {error}. The directory has to belong to the user whom hearth runs as, and its \
         unit allows /var/lib/hearth-backup; for another one, set `ReadWritePaths=` with `systemctl edit hearth`",
        path.display()
    )]
    Forbidden { path: PathBuf, error: io::Error },
    #[error("{}: {error}", path.display())]
    Disk { path: PathBuf, error: io::Error },
    #[error(
        "{} is not a whole backup: {problem}. Use another backup, and check the disk that it is on",
        path.display()
    )]
    Damaged { path: PathBuf, problem: String },
    #[error(
        "{} is whole but for {files} files of media, which are missing or damaged: {}{}. It can be restored without \
         them. Remove those that are damaged, and the next backup has them again if the server still has them; check \
         the disk that they are on",
        path.display(),
        names.join(", "),
        if names.len() as u64 == *files { "" } else { " and others" }
    )]
    DamagedMedia {
        path: PathBuf,
        files: u64,
        /// The first of them, with what is wrong.
        names: Vec<String>,
    },
    #[error("a newer hearth has made the backup {}: use that hearth", .0.display())]
    TooNew(PathBuf),
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Media(#[from] media::Error),
    #[error("the server stopped before the backup was done")]
    Stopped,
    #[error("the backup has failed before it was done; the log of the server says more")]
    Panicked,
}

impl Error {
    /// What failed at `path`.
    pub(super) fn disk(path: &Path) -> impl Fn(io::Error) -> Self + '_ {
        move |error| {
            let path = path.to_owned();
            match error.kind() {
                _ if store::is_full(&error) => {
                    let directory = path.parent().unwrap_or(&path);
                    let free = Space::of(directory).map_or(0, |space| space.free);
                    Self::Full { path, free }
                }
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                    Self::Forbidden { path, error }
                }
                _ => Self::Disk { path, error },
            }
        }
    }

    /// What failed while the database was copied to `path`.
    pub(super) fn copying(path: &Path) -> impl Fn(CopyError) -> Self + '_ {
        move |error| match error {
            CopyError::Read(error) => Self::Store(error),
            CopyError::Write(error) => Self::disk(path)(error),
        }
    }

    pub(super) fn damaged(path: &Path, problem: impl Into<String>) -> Self {
        Self::Damaged {
            path: path.to_owned(),
            problem: problem.into(),
        }
    }
}
