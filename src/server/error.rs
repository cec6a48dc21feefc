use std::{io, path::PathBuf};

use crate::{
    acme, backup, federation,
    http::{CertificateError, ListenError},
    media, rooms, store,
};

/// Why the server cannot start, or has to stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    #[error(transparent)]
    Acme(#[from] acme::Error),
    #[error("cannot create the directory {}: {error}", path.display())]
    Directory { path: PathBuf, error: io::Error },
    #[error("cannot open the database in {}: {error}", path.display())]
    Open { path: PathBuf, error: store::Error },
    #[error(
        "there is no database in {} (`data_dir`): start the server once with `hearth serve`, or name the file \
         with its settings with `--config`",
        .0.display()
    )]
    NoData(PathBuf),
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Rooms(#[from] rooms::Error),
    #[error(transparent)]
    Media(#[from] media::Error),
    #[error(transparent)]
    Tls(#[from] federation::TlsError),
    /// An essential task has ended, most likely in a panic.
    #[error("{0} has ended unexpectedly; the log has the reason")]
    Ended(&'static str),
    #[error(
        "the start ended in a panic, which the log has; if it is about the database in {}, restore a \
         backup with `hearth restore DIR --force`",
        .0.display()
    )]
    StartPanicked(PathBuf),
    #[error(transparent)]
    Backup(#[from] backup::Error),
    #[error(
        "there is a database in {} already: with `--force` it is moved aside, and what is in it is not in the \
         restored one",
        .0.display()
    )]
    HasData(PathBuf),
    #[error(
        "restoring a backup was not finished: run `hearth restore` again, or remove {} to begin with no data",
        .0.display()
    )]
    HalfRestored(PathBuf),
    #[error("the backup is of {backup}, and the settings are for {settings} (`server_name`)")]
    OtherServer { backup: String, settings: String },
    #[error("cannot write to {}: {error}", path.display())]
    Write { path: PathBuf, error: io::Error },
    #[error("cannot wait for signals: {0}")]
    Signals(io::Error),
}

impl Error {
    /// Whether the server cannot start before its owner has done something.
    pub fn needs_owner(&self) -> bool {
        match self {
            Self::Open { error, .. } => error.is_corruption(),
            Self::StartPanicked(_) | Self::HalfRestored(_) => true,
            _ => false,
        }
    }
}
