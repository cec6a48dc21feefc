//! Putting a backup in the place of the data of a server that is not running.
//!
//! What happened after the backup is lost here, but clients and other servers know of it. So the restored database
//! is marked before it gets its place:
//!
//! - Positions continue far behind those of the lost time, and tokens of `/sync` from before the restore count as
//!   none: each client gets everything anew. The same of versions of key backups.
//! - One-time keys may have been claimed, so they go.
//! - Device lists of users of other servers are fetched again, those of local users announced again.
//! - Cached media and thumbnails, which are not in the backup, are forgotten, and fetched or made again.
//!
//! Rooms need nothing: the next event of another server refers to what is missing, which is fetched as after any
//! outage, the lost events of this server among it.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use super::{error::Error, offline::with_store, owner::FilesOfRoot, services::RESTORING};
use crate::{
    backup::{self, FoundBackup},
    clock::Clock,
    config::Config,
    http,
    media::{self, FileId, file_path},
    store::{self, Store, Tx},
    users::{device_lists, key_backup, keys::one_time_keys, remote_devices},
};

/// The directory with all files of media, in the data directory.
const MEDIA: &str = "media";
/// Files that are named when they are missing.
const MAX_NAMES: usize = 100;
/// Rows of cached media that are removed in one transaction.
const BATCH_FILES: usize = 500;

/// What was restored.
#[derive(Debug)]
pub struct Restored {
    pub backup: FoundBackup,
    /// Files of media that should be in the backup and are not, or are damaged.
    pub missing_media: u64,
    /// The ids of the first of them, as far as the backup knows them.
    pub missing_files: Vec<FileId>,
    /// Where the data are that were here before.
    pub moved_to: Option<PathBuf>,
}

/// Restores the backup at `path`, or the last one there. With `force`, a database that is there is moved aside.
pub fn restore(
    config: &Config,
    path: &Path,
    force: bool,
    mut progress: impl FnMut(String),
) -> Result<Restored, Error> {
    let data_dir = &config.data_dir;
    let has_data = Store::exists(data_dir);
    if has_data && !force {
        return Err(Error::HasData(data_dir.clone()));
    }
    if http::is_server_running(data_dir) || store::is_in_use(data_dir) {
        let (path, error) = (data_dir.clone(), store::Error::InUse);
        return Err(Error::Open { path, error });
    }
    let backup = backup::verify_database(path, &mut progress)?;
    if backup.manifest.server_name != config.server_name.as_str() {
        return Err(Error::OtherServer {
            backup: backup.manifest.server_name,
            settings: config.server_name.to_string(),
        });
    }
    make_directory(data_dir)?;
    let _files = FilesOfRoot(data_dir);
    let restoring = data_dir.join(RESTORING);
    make_directory(&restoring)?;
    // Only what is whole takes the place of data that are there.
    let files_in = if has_data { &restoring } else { data_dir };
    let mut prepare = || {
        progress("the database".to_owned());
        copy(
            &backup.path.join(backup::DATABASE),
            &restoring.join(backup::DATABASE),
        )?;
        mark(config, &restoring)?;
        copy_media(&backup, files_in, &mut progress)
    };
    let prepared = prepare();
    if prepared.is_err() && has_data {
        // The server goes on with the data that are there, and needs the space.
        let _ = fs::remove_dir_all(&restoring);
    }
    let (missing, missing_files) = prepared?;
    // From here on until the new database has its place, the server does not start.
    let moved_to = has_data.then(|| move_aside(data_dir)).transpose()?;
    if has_data {
        rename_if_there(&restoring.join(MEDIA), &data_dir.join(MEDIA))?;
        sync(data_dir)?;
    }
    let database = data_dir.join(backup::DATABASE);
    fs::rename(restoring.join(backup::DATABASE), &database).map_err(write_error(&database))?;
    sync(data_dir)?;
    // Files beside the database that it had while it was open.
    let _ = fs::remove_dir_all(&restoring);
    Ok(Restored {
        missing_media: missing + backup.manifest.media.missing,
        missing_files,
        backup,
        moved_to,
    })
}

/// Marks the database in `directory` as restored.
fn mark(config: &Config, directory: &Path) -> Result<(), Error> {
    let config = Config {
        data_dir: directory.to_owned(),
        ..config.clone()
    };
    let now_ms = Clock::default().now_ms();
    with_store(&config, async |store| {
        store.write(move |tx| mark_restored(tx, now_ms)).await?;
        let remove = |tx: &Tx| media::remove_cached(tx, BATCH_FILES);
        while store.write(remove).await? > 0 {}
        Ok(())
    })
}

fn mark_restored(tx: &Tx, now_ms: u64) -> Result<(), store::Error> {
    // First: what follows is news to clients and other servers.
    tx.skip_positions(now_ms)?;
    one_time_keys::expire_all(tx)?;
    key_backup::skip_versions(tx, now_ms)?;
    remote_devices::mark_all_stale(tx)?;
    device_lists::reannounce_all(tx)
}

/// Moves the data that are here into a directory beside them; its path.
fn move_aside(data_dir: &Path) -> Result<PathBuf, Error> {
    let now = UNIX_EPOCH + Duration::from_millis(Clock::default().now_ms());
    let now = humantime::format_rfc3339_millis(now).to_string();
    let directory = data_dir.join(format!("before-restore-{}", now.replace(':', "-")));
    make_directory(&directory)?;
    // Synced first: a database without a name is lost.
    sync(data_dir)?;
    for name in [backup::DATABASE, MEDIA] {
        rename_if_there(&data_dir.join(name), &directory.join(name))?;
    }
    sync(&directory)?;
    sync(data_dir)?;
    Ok(directory)
}

fn rename_if_there(path: &Path, target: &Path) -> Result<(), Error> {
    match fs::rename(path, target) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(write_error(target)(error)),
        _ => Ok(()),
    }
}

/// Copies the files of media; how many are missing or damaged, and the first of them.
fn copy_media(
    backup: &FoundBackup,
    data_dir: &Path,
    progress: &mut impl FnMut(String),
) -> Result<(u64, Vec<FileId>), Error> {
    let files = media::files_directory(data_dir);
    make_directory(&files)?;
    let (mut done, mut missing, mut names) = (0, 0, Vec::new());
    let mut directories = HashSet::new();
    backup.each_file(|id, _| {
        if backup.copy_file(id, &files)? {
            directories.extend(file_path(&files, &id).parent().map(Path::to_owned));
        } else {
            missing += 1;
            if names.len() < MAX_NAMES {
                names.push(id);
            }
        }
        done += 1;
        progress(format!("media ({done} files)"));
        Ok(())
    })?;
    for directory in &directories {
        sync(directory)?;
    }
    sync(&files)?;
    Ok((missing, names))
}

/// Copies a file durably, for this user alone. Nothing has the name `target` before it is whole.
fn copy(source: &Path, target: &Path) -> Result<(), Error> {
    let part = target.with_extension("part");
    let copied = store::create_anew(&part).and_then(|mut file| {
        io::copy(&mut backup::open_file(source)?, &mut file)?;
        file.sync_all()?;
        fs::rename(&part, target)
    });
    copied.map_err(write_error(target))?;
    sync(target.parent().unwrap_or(target))
}

fn make_directory(path: &Path) -> Result<(), Error> {
    let mut builder = fs::DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(path);
    made.map_err(write_error(path))
}

fn sync(directory: &Path) -> Result<(), Error> {
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(write_error(directory))
}

fn write_error(path: &Path) -> impl Fn(io::Error) -> Error + '_ {
    move |error| Error::Write {
        path: path.to_owned(),
        error,
    }
}
