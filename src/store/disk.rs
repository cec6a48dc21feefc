//! The files of the store: the database, the ballast, and the mark of a failed disk.

use std::{
    cell::Cell,
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
};

use redb::{
    Builder, Database, DatabaseError, ReadableDatabase, StorageBackend, backends::FileBackend,
};

use super::{
    Error, Snapshot,
    backend::MonitoredBackend,
    health::{DiskFailure, Health},
    migrations,
    space::{Space, is_full},
    tx::Counters,
};

pub(super) const DATABASE: &str = "hearth.redb";
const BALLAST: &str = "ballast";
const FAILURE_MARK: &str = "DISK-FAILED.txt";

const BALLAST_BYTES: u64 = 16 << 20;
/// How to open a store.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory of the database file, which must exist.
    pub directory: PathBuf,
    /// The size of redb's page cache, in bytes.
    pub cache: usize,
}

/// What the operating system does, which tests replace.
pub(super) trait FileSystem: Send {
    /// Opens a database file; creates it if it does not exist.
    fn open(&self, file: &Path) -> io::Result<Box<dyn StorageBackend>>;
    fn exists(&self, file: &Path) -> bool;
    fn remove(&self, file: &Path) -> io::Result<()>;
    /// Renames a file within its directory, durably.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn space(&self, directory: &Path) -> io::Result<Space>;
}

pub(super) struct OsFileSystem;

/// An open database.
pub(super) struct OpenDatabase {
    pub db: Database,
    pub counters: Counters,
    /// Whether the file holds the allocator's state, so that the next open needs no repair.
    pub allocator_saved: bool,
}

pub(super) struct Disk {
    directory: PathBuf,
    cache: usize,
    file_system: Box<dyn FileSystem>,
}

impl Disk {
    pub fn new(options: &Options, file_system: impl FileSystem + 'static) -> Self {
        Self {
            directory: options.directory.clone(),
            cache: options.cache,
            file_system: Box::new(file_system),
        }
    }

    /// Opens the database, repairs it if necessary, and migrates its tables. On a full disk the ballast
    /// is removed; after a failed disk every page is checked.
    pub fn open(&self, health: &Arc<Health>) -> Result<(OpenDatabase, Snapshot), Error> {
        let opened = self.try_open(health);
        match (&opened, health.take_failure()) {
            (Err(_), Some(DiskFailure::Io(error))) if is_full(&error) && self.remove_ballast() => {
                let opened = self.try_open(health);
                health.take_failure();
                opened
            }
            (Err(_), Some(DiskFailure::Sync(error))) => Err(Error::Failed(error)),
            _ => opened,
        }
    }

    fn try_open(&self, health: &Arc<Health>) -> Result<(OpenDatabase, Snapshot), Error> {
        let file = self.directory.join(DATABASE);
        if !self.file_system.exists(&file) {
            self.create(&file, health)?;
        }
        let mark = self.directory.join(FAILURE_MARK);
        let failed_before = mark.exists();
        if failed_before {
            log::warn!(
                "the disk failed when hearth last ran: checking every page of {}",
                file.display()
            );
            // It may hold pages that are not on the disk.
            if file.exists() {
                forget_cached(&File::open(&file)?)?;
            }
        }
        let repaired = Rc::new(Cell::new(false));
        let backend = self.backend(&file, health)?;
        // redb would make a new database of it.
        if backend.len()? == 0 {
            return Err(Error::Damaged("it is empty".into()));
        }
        let db = self
            .builder(repaired.clone())
            .set_check_integrity_on_open(failed_before)
            .create_with_backend(backend)?;
        migrations::run(&db)?;
        let snapshot = Snapshot::new(db.begin_read()?);
        let counters = Counters::load(&snapshot)?;
        if failed_before {
            std::fs::remove_file(mark)?;
        }
        let open = OpenDatabase {
            db,
            counters,
            allocator_saved: !repaired.get(),
        };
        Ok((open, snapshot))
    }

    /// Creates the database under another name first: redb could not tell a database that a power cut
    /// left incomplete from a corrupt one.
    fn create(&self, file: &Path, health: &Arc<Health>) -> Result<(), Error> {
        let unfinished = file.with_extension("new");
        if self.file_system.exists(&unfinished) {
            self.file_system.remove(&unfinished)?;
        }
        let db = self
            .builder(Rc::default())
            .create_with_backend(self.backend(&unfinished, health)?)?;
        migrations::run(&db)?;
        db.close()?;
        Ok(self.file_system.rename(&unfinished, file)?)
    }

    fn backend(&self, file: &Path, health: &Arc<Health>) -> io::Result<MonitoredBackend> {
        Ok(MonitoredBackend::new(
            self.file_system.open(file)?,
            health.clone(),
        ))
    }

    /// `repaired` is set if opening the database needs a repair.
    fn builder(&self, repaired: Rc<Cell<bool>>) -> Builder {
        let mut builder = Database::builder();
        builder
            .set_cache_size(self.cache)
            .set_repair_callback(move |repair| {
                if repaired.replace(true) {
                    let percent = repair.progress() * 100.0;
                    log::info!("checking the database: {percent:.0} % done");
                } else {
                    log::info!("the database was not closed: checking and repairing it");
                }
            });
        builder
    }

    /// `None` if the system does not say.
    pub fn space(&self) -> Option<Space> {
        self.file_system
            .space(&self.directory)
            .inspect_err(|error| log::debug!("the free space is not known: {error}"))
            .ok()
    }

    /// Creates the ballast if it is missing and the disk has enough space.
    pub fn make_ballast(&self) {
        let ballast = self.directory.join(BALLAST);
        let exists = ballast
            .symlink_metadata()
            .is_ok_and(|file| file.len() == BALLAST_BYTES);
        let has_space = |space: Space| space.free > space.reserve() + 2 * BALLAST_BYTES;
        if exists || !self.space().is_some_and(has_space) {
            return;
        }
        if let Err(error) = create_anew(&ballast).and_then(|file| fill(&file, BALLAST_BYTES)) {
            log::info!("the ballast for a full disk cannot be created now: {error}");
            let _ = std::fs::remove_file(ballast);
        }
    }

    /// Frees the space of the ballast. `false` if there was none.
    pub fn remove_ballast(&self) -> bool {
        let removed = std::fs::remove_file(self.directory.join(BALLAST)).is_ok();
        if removed {
            log::warn!(
                "the disk is full; hearth has freed 16 MB of its own to stay open: free some space in {}",
                self.directory.display()
            );
        }
        removed
    }

    /// Leaves a mark, so that the next open checks every page.
    pub fn mark_failed(&self, error: &Error) {
        let mark = self.directory.join(FAILURE_MARK);
        let text = format!(
            "hearth stopped: {error}\n\
             Copy this directory to another disk while it can be read.\n\
             At its next start hearth checks the whole database, and removes this file if it is \
             sound.\n"
        );
        let written = create_anew(&mark).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        });
        if let Err(error) = written {
            log::error!("{FAILURE_MARK} cannot be written: {error}");
        }
    }
}

/// Creates a file for this user alone instead of the one that is there, if any. Nothing is written through a
/// link: commands run as root, in a directory of the server's user.
pub fn create_anew(path: &Path) -> io::Result<File> {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Whether another process has the database in `directory` open.
pub fn is_in_use(directory: &Path) -> bool {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(directory.join(DATABASE));
    let opened = file.map(FileBackend::new);
    matches!(opened, Ok(Err(DatabaseError::DatabaseAlreadyOpen)))
}

/// How many bytes of the disk the database in `directory` uses.
pub fn database_size(directory: &Path) -> io::Result<u64> {
    let file = directory.join(DATABASE).metadata()?;
    Ok(std::os::unix::fs::MetadataExt::blocks(&file) * 512)
}

impl FileSystem for OsFileSystem {
    fn open(&self, file: &Path) -> io::Result<Box<dyn StorageBackend>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        // It holds the server's signing key.
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        match FileBackend::new(options.open(file)?) {
            Ok(backend) => Ok(Box::new(backend)),
            Err(DatabaseError::DatabaseAlreadyOpen) => Err(io::Error::new(
                io::ErrorKind::ResourceBusy,
                "another process has it open; is hearth running already?",
            )),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    fn exists(&self, file: &Path) -> bool {
        file.exists()
    }

    fn remove(&self, file: &Path) -> io::Result<()> {
        std::fs::remove_file(file)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)?;
        match to.parent() {
            Some(directory) => File::open(directory)?.sync_all(),
            None => Ok(()),
        }
    }

    fn space(&self, directory: &Path) -> io::Result<Space> {
        Space::of(directory)
    }
}

/// Drops the system's cache of what is on the disk of `file`.
pub(super) fn forget_cached(file: &File) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed)?;
    Ok(())
}

/// Allocates `len` bytes for `file`, also where the file system supports sparse files.
fn fill(mut file: &File, len: u64) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        let flags = rustix::fs::FallocateFlags::empty();
        if rustix::fs::fallocate(file, flags, 0, len).is_ok() {
            return Ok(());
        }
    }
    let zeros = [0; 1 << 16];
    for _ in 0..len / zeros.len() as u64 {
        file.write_all(&zeros)?;
    }
    Ok(())
}
