//! A disk in memory that can be cut off from its power, fail, be slow, and be full.

use std::{
    collections::BTreeMap,
    io,
    ops::Bound,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rand::{Rng, RngExt};
use redb::{BackendError, StorageBackend};

use crate::store::{Space, disk::FileSystem};

/// What a disk writes at once or not at all.
const SECTOR: usize = 512;
/// The size of the ballast that [`FakeDisk::fill_up`] counts.
const BALLAST: usize = 16 << 20;

/// The disk. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct FakeDisk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// What a reader sees.
    current: Vec<u8>,
    /// What was synced.
    durable: Vec<u8>,
    /// What was not, in order.
    unsynced: Vec<Change>,
    /// Whether the file has got its final name.
    is_made: bool,
    fault: Option<Fault>,
    capacity: Option<Capacity>,
    space: Option<Space>,
    delay: Duration,
    locked: bool,
    openings: u64,
    count: Count,
}

#[derive(Debug)]
enum Change {
    Write(usize, Vec<u8>),
    SetLen(usize),
}

/// How the disk fails.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// How many more calls of that kind succeed before it.
    pub after: u64,
    pub on: Call,
    pub error: io::ErrorKind,
    /// Whether all calls fail from then on, or only this one.
    pub lasting: bool,
}

/// A kind of call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Any,
    Read,
    Write,
    Sync,
}

#[derive(Debug)]
struct Capacity {
    len: usize,
    ballast: PathBuf,
}

/// Calls of the disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct Count {
    pub calls: u64,
    pub syncs: u64,
    pub written: u64,
}

impl FakeDisk {
    pub fn fail(&self, fault: Fault) {
        self.state().fault = Some(fault);
    }

    pub fn heal(&self) {
        self.state().fault = None;
    }

    /// Whether no call fails any more.
    pub fn is_healed(&self) -> bool {
        self.state().fault.is_none()
    }

    pub fn delay(&self, delay: Duration) {
        self.state().delay = delay;
    }

    /// From now on nothing more fits on the disk until the file `ballast` is gone.
    pub fn fill_up(&self, ballast: PathBuf) {
        let mut state = self.state();
        let len = state.current.len();
        state.capacity = Some(Capacity { len, ballast });
    }

    pub fn free_space(&self) {
        self.state().capacity = None;
    }

    pub fn set_space(&self, total: u64, free: u64) {
        self.state().space = Some(Space { total, free });
    }

    pub fn openings(&self) -> u64 {
        self.state().openings
    }

    pub fn count(&self) -> Count {
        self.state().count
    }

    /// The disk as another process finds it after this one was killed.
    pub fn after_kill(&self) -> Self {
        let state = self.state();
        Self::holding(state.current.clone(), state.is_made)
    }

    /// The disk after a power cut. It holds what was synced, and of each sector written since any
    /// of the states that it went through.
    pub fn after_power_cut(&self, random: &mut impl Rng) -> Self {
        let state = self.state();
        let mut image = state.durable.clone();
        let mut replayed = image.clone();
        let mut lengths = vec![image.len()];
        let mut sectors: BTreeMap<usize, Vec<Vec<u8>>> = BTreeMap::new();
        for change in &state.unsynced {
            match change {
                Change::SetLen(len) => replayed.resize(*len, 0),
                Change::Write(at, data) => {
                    put(&mut replayed, *at, data);
                    for sector in at / SECTOR..(at + data.len()).div_ceil(SECTOR) {
                        let end = replayed.len().min((sector + 1) * SECTOR);
                        let bytes = replayed[sector * SECTOR..end].to_vec();
                        sectors.entry(sector).or_default().push(bytes);
                    }
                }
            }
            lengths.push(replayed.len());
        }
        // Some disks lose much, some little.
        let kept = *pick(&[0.0, 0.5, 0.9, 1.0], random);
        for (sector, versions) in sectors {
            if random.random_bool(kept) {
                let bytes: &Vec<u8> = pick(&versions, random);
                put(&mut image, sector * SECTOR, bytes);
            }
        }
        image.resize(*pick(&lengths, random), 0);
        Self::holding(image, state.is_made)
    }

    fn holding(image: Vec<u8>, is_made: bool) -> Self {
        Self(Arc::new(Mutex::new(State {
            current: image.clone(),
            durable: image,
            is_made,
            ..State::default()
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a call: takes its time, fails if it is to fail.
    fn call(&self, call: Call) -> io::Result<MutexGuard<'_, State>> {
        let delay = self.state().delay;
        std::thread::sleep(delay);
        let mut state = self.state();
        state.count.calls += 1;
        if let Some(fault) = &mut state.fault
            && (fault.on == call || fault.on == Call::Any)
        {
            if fault.after == 0 {
                let error = fault.error.into();
                if !fault.lasting {
                    state.fault = None;
                }
                return Err(error);
            }
            fault.after -= 1;
        }
        Ok(state)
    }
}

fn pick<'a, T>(from: &'a [T], random: &mut impl Rng) -> &'a T {
    &from[random.random_range(0..from.len())]
}

fn put(image: &mut Vec<u8>, at: usize, data: &[u8]) {
    let end = at + data.len();
    if image.len() < end {
        image.resize(end, 0);
    }
    image[at..end].copy_from_slice(data);
}

impl State {
    /// Whether a file of `len` bytes fits on the disk.
    fn fits(&self, len: usize) -> bool {
        self.capacity.as_ref().is_none_or(|capacity| {
            let given_up = if capacity.ballast.exists() {
                0
            } else {
                BALLAST
            };
            len <= capacity.len + given_up
        })
    }
}

fn place(offset: u64) -> usize {
    usize::try_from(offset).expect("the disk is small")
}

fn is_whole(start: Bound<u64>, end: Bound<u64>) -> bool {
    matches!(start, Bound::Unbounded | Bound::Included(0)) && end == Bound::Unbounded
}

/// The disk holds one file, of which only the name changes.
impl FileSystem for FakeDisk {
    fn open(&self, _file: &Path) -> io::Result<Box<dyn StorageBackend>> {
        self.state().openings += 1;
        Ok(Box::new(self.clone()))
    }

    fn exists(&self, file: &Path) -> bool {
        let state = self.state();
        state.is_made == (file.extension() == Some("redb".as_ref())) && !state.current.is_empty()
    }

    fn remove(&self, _file: &Path) -> io::Result<()> {
        let mut state = self.call(Call::Write)?;
        state.current.clear();
        state.durable.clear();
        state.unsynced.clear();
        Ok(())
    }

    fn rename(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        self.call(Call::Write)?.is_made = true;
        Ok(())
    }

    fn space(&self, _directory: &Path) -> io::Result<Space> {
        self.state().space.ok_or(io::ErrorKind::Unsupported.into())
    }
}

impl StorageBackend for FakeDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.call(Call::Read)?.current.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.call(Call::Read)?;
        let start = place(offset);
        let bytes = state.current.get(start..start + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.call(Call::Write)?;
        if !state.fits(place(len)) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.current.resize(place(len), 0);
        state.unsynced.push(Change::SetLen(place(len)));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.call(Call::Sync)?;
        state.count.syncs += 1;
        let state = &mut *state;
        for change in state.unsynced.drain(..) {
            match change {
                Change::Write(at, data) => put(&mut state.durable, at, &data),
                Change::SetLen(len) => state.durable.resize(len, 0),
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.call(Call::Write)?;
        state.count.written += data.len() as u64;
        put(&mut state.current, place(offset), data);
        state
            .unsynced
            .push(Change::Write(place(offset), data.to_vec()));
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.state().locked = false;
        Ok(())
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        if !is_whole(start, end) {
            return Err(BackendError::Unsupported);
        }
        let mut state = self.state();
        Ok(!std::mem::replace(&mut state.locked, true))
    }

    fn unlock_range(&self, _start: Bound<u64>, _end: Bound<u64>) -> Result<(), BackendError> {
        self.state().locked = false;
        Ok(())
    }
}
