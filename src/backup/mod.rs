//! Backups: copies of everything that cannot be had again, in a [directory] of their own.
//!
//! - The database as of one moment (`store::Copier`), the files of media that people here uploaded, and the settings.
//! - A backup is there whole or not at all. Its database is read again before it counts as one; media are checked
//!   when they are copied, and all can be [verified](verify) later. The newest few are kept.
//! - [`Backups`] makes them while the server works: everything runs in slices on the pool, one backup at a time.
//! - Media of other servers, and thumbnails, are not in them. Restoring (`server/restore.rs`) removes their rows, so
//!   that they are fetched or made again.

mod directory;
mod error;
mod making;
mod manifest;
mod media;
mod record;
mod verification;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use smol::{Timer, future};

use self::{directory::Directory, making::Maker};
pub use self::{
    directory::{CONFIG, DATABASE, open_file},
    error::Error,
    manifest::{Manifest, MediaSum},
    record::{Failure, Record, Summary},
    verification::{FoundBackup, verify, verify_database},
};
use crate::{
    clock::Clock,
    config::Config,
    executor::Executor,
    pool::{Kind, Pool},
    runs::{Progress, Runs},
    stop::Stopping,
    store::{self, Store, Tx},
};

/// How many backups are kept unless somebody says otherwise.
const DEFAULT_KEEP: usize = 7;
/// How long what is done each night after the backup waits for it: its disk may hang.
const MAX_NIGHTLY_WAIT: Duration = Duration::from_hours(6);

/// How a backup ended.
pub type Outcome = Result<Summary, Error>;

/// Makes backups.
pub struct Backups {
    config: Config,
    parts: BackupParts,
    runs: Runs<Outcome>,
    /// Where the last run puts its backup.
    path: Mutex<PathBuf>,
}

/// The parts that it works with.
pub struct BackupParts {
    pub store: Store,
    pub clock: Clock,
    pub pool: Pool,
    pub executor: Executor,
    pub stopping: Stopping,
}

impl std::fmt::Debug for Backups {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backups").finish_non_exhaustive()
    }
}

impl Backups {
    pub fn new(config: &Config, parts: BackupParts) -> Self {
        Self {
            config: config.clone(),
            parts,
            runs: Runs::default(),
            path: Mutex::default(),
        }
    }

    /// Begins a backup in `path`, or in `backup_dir`, of which `keep` are kept. Joins one to the same directory that
    /// is under way.
    ///
    /// # Errors
    /// [`Error::NoDirectory`], [`Error::KeepsNone`], or [`Error::Busy`] if there is one to another directory.
    pub fn start(
        self: &Arc<Self>,
        path: Option<PathBuf>,
        keep: Option<usize>,
    ) -> Result<(u64, Arc<Progress<Outcome>>), Error> {
        let path = path.or_else(|| self.config.backup_dir.clone());
        let path = path.ok_or(Error::NoDirectory)?;
        let keep = keep.unwrap_or(DEFAULT_KEEP);
        if keep == 0 {
            return Err(Error::KeepsNone);
        }
        let mut current = self.path.lock().unwrap_or_else(PoisonError::into_inner);
        let (run, progress) = self.runs.join_or_start(|progress| {
            current.clone_from(&path);
            let (backups, path) = (self.clone(), path.clone());
            let guard = progress.guard(|| Err(Error::Panicked));
            let run = async move {
                let _guard = guard;
                let outcome = backups.make(path, keep, &progress).await;
                backups.record(&outcome).await;
                progress.finish(outcome);
            };
            self.parts.executor.spawn(run).detach();
        });
        match *current == path {
            true => Ok((run, progress)),
            false => Err(Error::Busy(current.clone())),
        }
    }

    /// The run with this number, if it is the last one.
    pub fn run(&self, number: u64) -> Option<Arc<Progress<Outcome>>> {
        self.runs.get(number)
    }

    /// The backup of every night, if `backup_dir` is set.
    pub async fn make_nightly(self: &Arc<Self>) {
        if self.config.backup_dir.is_none() {
            return;
        }
        match self.start(None, None) {
            Ok((_, progress)) => {
                let too_long = async {
                    Timer::after(MAX_NIGHTLY_WAIT).await;
                    log::warn!(
                        "the backup of this night is not done after {MAX_NIGHTLY_WAIT:?}; it goes on"
                    );
                };
                future::or(progress.finished(), too_long).await;
            }
            Err(error) => log::warn!("there is no backup of this night: {error}"),
        }
    }

    async fn make(&self, path: PathBuf, keep: usize, progress: &Arc<Progress<Outcome>>) -> Outcome {
        let BackupParts { pool, stopping, .. } = &self.parts;
        let name = self.config.server_name.clone();
        let claim = move || Directory::claim(&path, &name);
        let directory = pool.run_in_background(Kind::File, claim).await?;
        let maker = Maker {
            config: self.config.clone(),
            store: self.parts.store.clone(),
            clock: self.parts.clock.clone(),
            pool: pool.clone(),
            directory,
            keep,
            progress: progress.clone(),
        };
        let stopped = async {
            stopping.wait().await;
            Err(Error::Stopped)
        };
        future::or(maker.make(), stopped).await
    }

    async fn record(&self, outcome: &Outcome) {
        let now = self.parts.clock.now_ms();
        let stored = match outcome {
            Ok(summary) => {
                let summary = summary.clone();
                let job = move |tx: &Tx| record::succeeded(tx, &summary);
                self.parts.store.write_shrinking(job).await
            }
            Err(error) => {
                log::warn!("a backup failed: {error}");
                let message = error.to_string();
                let failure = Failure { ts: now, message };
                let job = move |tx: &Tx| record::failed(tx, &failure);
                self.parts.store.write_shrinking(job).await
            }
        };
        if let Err(error) = stored {
            let error: store::Error = error;
            log::debug!("the result of a backup is not stored: {error}");
        }
    }
}
