//! Making a backup, in this order:
//!
//! 1. A copy of the database, as of one moment.
//! 2. The copy is read again from the disk: it has the rows that were read.
//! 3. The files of media that the copy names, except those that can be fetched or made again.
//! 4. The settings, and the manifest.
//! 5. Everything is on the disk: the backup gets its name.
//! 6. Older backups are removed, and the files of media that only they had.

use std::{collections::HashSet, fs, io, os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use super::{
    Error,
    directory::{CONFIG, DATABASE, Directory, write_file},
    manifest::{Manifest, MediaListWriter, MediaSum},
    media::{Pruning, Put, put, sync_names},
    record::Summary,
};
use crate::{
    clock::Clock,
    config::{Config, Size},
    media::{self, FileId, file_path},
    pool::{Kind, Pool},
    runs::Progress,
    store::{Copier, CopyReader, Space, Store, TableSums},
};

/// Files of media that are looked up at once.
const BATCH_FILES: usize = 256;

/// What a backup is made of, and where.
pub(super) struct Maker<R> {
    pub config: Config,
    pub store: Store,
    pub clock: Clock,
    pub pool: Pool,
    pub directory: Directory,
    pub keep: usize,
    pub progress: Arc<Progress<R>>,
}

impl<R: Send + Sync + 'static> Maker<R> {
    pub(super) async fn make(&self) -> Result<Summary, Error> {
        let made = self.make_unfinished().await;
        let (started_ts, manifest) = match made {
            Ok(made) => made,
            Err(error) => {
                if let Err(error) = self.remove_unfinished().await {
                    log::debug!(
                        "what there is of a failed backup stays until the next one: {error}"
                    );
                }
                return Err(error);
            }
        };
        let (directory, keep) = (self.directory.clone(), self.keep);
        self.progress.set_step("older backups");
        let name = self
            .on_pool(move || {
                let name = directory.complete(started_ts)?;
                directory.remove_old(keep)?;
                Ok(name)
            })
            .await?;
        self.prune_media().await?;
        Ok(Summary {
            path: self.directory.backup(&name).display().to_string(),
            started_ts,
            finished_ts: manifest.finished_ts,
            database_bytes: manifest.database_bytes,
            media_files: manifest.media.files,
            media_bytes: manifest.media.bytes,
            missing_media: manifest.media.missing,
        })
    }

    /// The files that were copied for it go too: if each backup fails as the disk is full, they would fill it.
    async fn remove_unfinished(&self) -> Result<(), Error> {
        let directory = self.directory.clone();
        self.on_pool(move || directory.remove_unfinished()).await?;
        self.prune_media().await
    }

    /// Removes the files of media that no backup has.
    async fn prune_media(&self) -> Result<(), Error> {
        let directory = self.directory.clone();
        let mut pruning = self.on_pool(move || Pruning::begin(&directory)).await?;
        loop {
            let (rest, more) = self
                .on_pool(move || {
                    let more = pruning.step()?;
                    Ok((pruning, more))
                })
                .await?;
            pruning = rest;
            if !more {
                return Ok(());
            }
        }
    }

    /// Steps 1 to 4.
    async fn make_unfinished(&self) -> Result<(u64, Manifest), Error> {
        let directory = self.directory.clone();
        let unfinished = self.on_pool(move || directory.begin()).await?;
        let started_ts = self.clock.now_ms();
        let file = unfinished.join(DATABASE);
        let tables = self.copy_database(&file).await?;
        let copy = self.check_copy(&file, &tables).await?;
        let media = self.copy_media(&unfinished, copy).await?;
        let (settings, clock) = (self.config.file.clone(), self.clock.clone());
        let server_name = self.config.server_name.to_string();
        self.on_pool(move || {
            // They are left out if they cannot be read any more.
            let settings = settings.and_then(|file| read_settings(&file).ok());
            if let Some((text, _)) = &settings {
                write_file(&unfinished.join(CONFIG), text)?;
            }
            let database = file.metadata().map_err(Error::disk(&file))?;
            let manifest = Manifest {
                format: Manifest::FORMAT,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                server_name,
                started_ts,
                finished_ts: clock.now_ms(),
                database_bytes: database.len(),
                tables,
                config_mode: settings.map(|(_, mode)| mode),
                media,
            };
            manifest.write(&unfinished)?;
            Ok((started_ts, manifest))
        })
        .await
    }

    /// Step 1. The snapshot ends with it.
    async fn copy_database(&self, file: &Path) -> Result<TableSums, Error> {
        self.progress.set_step("the database");
        let snapshot = self.store.snapshot();
        let path = file.to_owned();
        let begin = move || Copier::begin(snapshot, &path).map_err(Error::copying(&path));
        let mut copier = self.pool.run_in_background(Kind::Scan, begin).await?;
        loop {
            let path = file.to_owned();
            let step = move || {
                check_space(&path)?;
                let copied = copier.step().map_err(Error::copying(&path))?;
                Ok::<_, Error>((copier, copied))
            };
            let (rest, copied) = self.pool.run_in_background(Kind::Scan, step).await?;
            copier = rest;
            let Some(copied) = copied else {
                break;
            };
            let copied = Size::from(copied);
            self.progress.set_step(format!("the database ({copied})"));
        }
        let path = file.to_owned();
        let finish = move || copier.finish().map_err(Error::copying(&path));
        self.pool.run_in_background(Kind::Scan, finish).await
    }

    /// Step 2.
    async fn check_copy(&self, file: &Path, tables: &TableSums) -> Result<CopyReader, Error> {
        self.progress.set_step("reading the copy");
        let path = file.to_owned();
        let open = move || CopyReader::open(&path);
        let mut copy = self.pool.run_in_background(Kind::Scan, open).await?;
        loop {
            let step = move || {
                let read = copy.step()?;
                Ok::<_, Error>((copy, read))
            };
            let (rest, read) = self.pool.run_in_background(Kind::Scan, step).await?;
            copy = rest;
            let Some(read) = read else {
                break;
            };
            let read = Size::from(read);
            self.progress.set_step(format!("reading the copy ({read})"));
        }
        match copy.sums() == tables {
            true => Ok(copy),
            false => Err(Error::damaged(
                file,
                "other rows are read than were written",
            )),
        }
    }

    /// Step 3.
    async fn copy_media(&self, unfinished: &Path, copy: CopyReader) -> Result<MediaSum, Error> {
        self.progress.set_step("media");
        let path = unfinished.to_owned();
        let mut list = self.on_pool(move || MediaListWriter::new(&path)).await?;
        let copy = Arc::new(copy);
        let (mut after, mut done, mut first_bytes) = (None, 0, HashSet::new());
        let missing = loop {
            let copy = copy.clone();
            let next = move || media::kept_files(copy.snapshot(), after, BATCH_FILES);
            let files = self.pool.run_in_background(Kind::Scan, next).await?;
            let Some((last, _)) = files.last() else {
                break list.sum.missing;
            };
            after = Some(*last);
            let mut copied = Vec::new();
            for (id, size) in files {
                if self.copy_file(id, size).await? {
                    first_bytes.insert(id[0]);
                    copied.push((id, size));
                } else if self.store.read(|s| media::is_known(s, id))? {
                    list.sum.missing += 1;
                }
                done += 1;
            }
            let path = unfinished.to_owned();
            let add = move || {
                let added = copied.iter().try_for_each(|(id, size)| list.add(id, *size));
                added.map(|()| list).map_err(Error::disk(&path))
            };
            list = self.on_pool(add).await?;
            self.progress.set_step(format!("media ({done} files)"));
        };
        if missing > 0 {
            log::warn!(
                "{missing} files of media are not on the disk, or damaged, and so not in the backup; see \
                 `hearth doctor` for the disk"
            );
        }
        let (media, path) = (self.directory.media(), unfinished.to_owned());
        self.on_pool(move || {
            sync_names(&media, &first_bytes)?;
            list.finish().map_err(Error::disk(&path))
        })
        .await
    }

    /// Whether the file is in its place now.
    async fn copy_file(&self, id: FileId, size: u64) -> Result<bool, Error> {
        let media = self.directory.media();
        let source = file_path(&media::files_directory(&self.config.data_dir), &id);
        let begin = move || {
            let put = put(&media, id, size, &source)?;
            if matches!(put, Put::Copying(_)) {
                check_space(&media)?;
            }
            Ok(put)
        };
        let mut copy = match self.on_pool(begin).await? {
            Put::Done => return Ok(true),
            Put::Missing => return Ok(false),
            Put::Copying(copy) => copy,
        };
        loop {
            let media = self.directory.media();
            let step = move || {
                check_space(&media)?;
                let end = copy.step()?;
                Ok((copy, end))
            };
            let (rest, end) = self.on_pool(step).await?;
            copy = rest;
            if let Some(is_intact) = end {
                return Ok(is_intact);
            }
        }
    }

    async fn on_pool<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.pool.run_in_background(Kind::File, work).await
    }
}

/// The file with the settings, and its permissions.
fn read_settings(file: &Path) -> io::Result<(Vec<u8>, u32)> {
    let mode = file.metadata()?.permissions().mode() & 0o777;
    Ok((fs::read(file)?, mode))
}

/// A backup leaves on each disk what the server needs there to accept anything.
fn check_space(path: &Path) -> Result<(), Error> {
    let directory = path.parent().unwrap_or(path);
    // If the system does not say, a write fails when the disk is full.
    match Space::of(directory) {
        Ok(space) if space.is_scarce() => Err(Error::Full {
            path: path.to_owned(),
            free: space.free,
        }),
        _ => Ok(()),
    }
}
