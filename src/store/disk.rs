//! What the store stands on: the directory with the database file, the ballast beside it and the
//! mark that a failed disk leaves.

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
    Error, Options, Snapshot,
    backend::Watched,
    health::{Health, Trouble},
    migrations,
    tx::Counters,
};

pub(super) const DATABASE: &str = "hearth.redb";
const BALLAST: &str = "ballast";
const MARK: &str = "DISK-FAILED.txt";

/// The size of the ballast, in bytes.
const BALLAST_LEN: u64 = 16 << 20;
/// Below this part of the disk nothing may grow any more …
const RESERVE_PART: u64 = 50;
/// … or below so many bytes, on a disk so large that its part would be more.
const RESERVE_MAX: u64 = 1 << 30;

/// The room on a disk, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Space {
    /// All of it.
    pub total: u64,
    /// What a process without privileges may still use.
    pub free: u64,
}

impl Space {
    /// The room on the disk that holds `directory`.
    ///
    /// # Errors
    /// If the system does not tell.
    pub fn of(directory: &Path) -> io::Result<Self> {
        let stat = rustix::fs::statvfs(directory)?;
        Ok(Self {
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }

    /// Whether so little is free that only what frees space may be written.
    pub fn is_scarce(self) -> bool {
        self.free < self.reserve()
    }

    fn has_room_for_ballast(self) -> bool {
        self.free > self.reserve() + 2 * BALLAST_LEN
    }

    /// What is to stay free.
    pub fn reserve(self) -> u64 {
        (self.total / RESERVE_PART).min(RESERVE_MAX)
    }
}

/// The machine's part in the disk, which tests replace.
pub(super) trait Machine: Send {
    /// Opens a file for a database; makes it if it does not exist.
    fn open(&self, file: &Path) -> io::Result<Box<dyn StorageBackend>>;
    /// Whether there is such a file.
    fn exists(&self, file: &Path) -> bool;
    /// Removes a file.
    fn remove(&self, file: &Path) -> io::Result<()>;
    /// Gives a file another name in the same directory, for good.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// The room on the disk that holds the directory.
    fn space(&self, directory: &Path) -> io::Result<Space>;
}

/// The machine that hearth runs on.
pub(super) struct ThisMachine;

/// The database, while it is open.
pub(super) struct Open {
    pub db: Database,
    pub counters: Counters,
    /// Whether the file holds the allocator's state, so that the next open needs no repair.
    pub settled: bool,
}

/// The disk of one store.
pub(super) struct Disk {
    directory: PathBuf,
    cache: usize,
    machine: Box<dyn Machine>,
}

impl Disk {
    pub fn new(options: &Options, machine: impl Machine + 'static) -> Self {
        Self {
            directory: options.directory.clone(),
            cache: options.cache,
            machine: Box::new(machine),
        }
    }

    /// Opens the database, repairs it if need be, and brings its tables to the versions of this
    /// program. A full disk costs the ballast; after a failed disk everything is checked.
    pub fn open(&self, health: &Arc<Health>) -> Result<(Open, Snapshot), Error> {
        let opened = self.try_open(health);
        match (&opened, health.take_trouble()) {
            (Err(_), Some(Trouble::Io(error))) if is_full(&error) && self.give_up_ballast() => {
                let opened = self.try_open(health);
                health.take_trouble();
                opened
            }
            (Err(_), Some(Trouble::Sync(error))) => Err(Error::Failed(error)),
            _ => opened,
        }
    }

    fn try_open(&self, health: &Arc<Health>) -> Result<(Open, Snapshot), Error> {
        let file = self.directory.join(DATABASE);
        if !self.machine.exists(&file) {
            self.create(&file, health)?;
        }
        let mark = self.directory.join(MARK);
        let failed_before = mark.exists();
        if failed_before {
            log::warn!("the disk failed when hearth last ran: checking the whole database");
            forget_cached(&file)?;
        }
        let repaired = Rc::new(Cell::new(false));
        let db = self
            .builder(repaired.clone())
            .set_check_integrity_on_open(failed_before)
            .create_with_backend(self.backend(&file, health)?)?;
        migrations::run(&db)?;
        let snapshot = Snapshot::new(db.begin_read()?);
        let counters = Counters::load(&snapshot)?;
        if failed_before {
            std::fs::remove_file(mark)?;
        }
        let open = Open {
            db,
            counters,
            settled: !repaired.get(),
        };
        Ok((open, snapshot))
    }

    /// Makes a database under another name first: of one that a power cut left half made, redb
    /// could not tell that it never held anything.
    fn create(&self, file: &Path, health: &Arc<Health>) -> Result<(), Error> {
        let unfinished = file.with_extension("new");
        if self.machine.exists(&unfinished) {
            self.machine.remove(&unfinished)?;
        }
        let db = self
            .builder(Rc::default())
            .create_with_backend(self.backend(&unfinished, health)?)?;
        migrations::run(&db)?;
        db.close()?;
        Ok(self.machine.rename(&unfinished, file)?)
    }

    fn backend(&self, file: &Path, health: &Arc<Health>) -> io::Result<Watched> {
        Ok(Watched::new(self.machine.open(file)?, health.clone()))
    }

    /// What opens a database; `repaired` tells afterwards whether that took a repair.
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

    /// The room on the disk, if the system tells.
    pub fn space(&self) -> Option<Space> {
        self.machine
            .space(&self.directory)
            .inspect_err(|error| log::debug!("the free space is not known: {error}"))
            .ok()
    }

    /// Makes the ballast if it is not there and the disk has room for it.
    pub fn make_ballast(&self) {
        let ballast = self.directory.join(BALLAST);
        let there = ballast
            .metadata()
            .is_ok_and(|file| file.len() == BALLAST_LEN);
        if there || !self.space().is_some_and(Space::has_room_for_ballast) {
            return;
        }
        if let Err(error) = File::create(&ballast).and_then(|file| fill(&file, BALLAST_LEN)) {
            log::warn!("no ballast could be laid up for a full disk: {error}");
            let _ = std::fs::remove_file(ballast);
        }
    }

    /// Frees what the ballast takes up; whether there was any.
    pub fn give_up_ballast(&self) -> bool {
        let given_up = std::fs::remove_file(self.directory.join(BALLAST)).is_ok();
        if given_up {
            log::warn!("the disk is full: the ballast of 16 MB is given up");
        }
        given_up
    }

    /// Leaves a mark, so that the next open trusts nothing.
    pub fn mark_failed(&self, error: &Error) {
        let mark = self.directory.join(MARK);
        let text = format!(
            "hearth stopped: {error}\n\
             Copy this directory to another disk while it can be read.\n\
             At its next start hearth checks the whole database, and removes this file if it is \
             sound.\n"
        );
        let written = File::create(mark).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        });
        if let Err(error) = written {
            log::error!("the failure of the disk could not be noted: {error}");
        }
    }
}

/// How many bytes of the disk the database in `directory` takes up.
///
/// # Errors
/// If there is none.
pub fn database_size(directory: &Path) -> io::Result<u64> {
    let file = directory.join(DATABASE).metadata()?;
    Ok(std::os::unix::fs::MetadataExt::blocks(&file) * 512)
}

/// Whether `error` says that the disk, or the user's part of it, is full.
pub fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

impl Machine for ThisMachine {
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

/// Makes the system read `file` from the disk again: after a failed sync it may hold pages that
/// never reached it.
fn forget_cached(file: &Path) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    if file.exists() {
        let file = File::open(file)?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    }
    Ok(())
}

/// Gives `file` blocks for `len` bytes, which a file system that leaves holes would not.
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
