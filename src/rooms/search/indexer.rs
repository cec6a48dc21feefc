//! Indexing in the background.

use std::{
    collections::BTreeSet,
    mem,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use smol::{
    Timer,
    channel::{self, Receiver, Sender},
    future::FutureExt,
};

use crate::{
    rooms::Error,
    store::{self, Effect, Reader, RoomNum, Rows, Snapshot, Store, Tx},
};

use super::index;

/// After how many changes in rooms these are indexed. A search reads as many events that are not.
const MAX_CHANGES: usize = 256;
/// After which time it is tried again to index what failed.
const RETRY_INTERVAL: Duration = Duration::from_secs(60);
/// How often the log says how far the index is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// Keeps the index up to date.
#[derive(Debug)]
pub struct Indexer {
    changed: Mutex<Changed>,
    wake: Sender<()>,
    woken: Receiver<()>,
}

/// The rooms that may have events that are not indexed.
#[derive(Debug)]
enum Changed {
    Rooms {
        rooms: BTreeSet<RoomNum>,
        changes: usize,
    },
    /// Any of them.
    All,
}

impl Changed {
    fn rooms_behind(self, r: &impl Reader) -> Result<Vec<RoomNum>, Error> {
        let rooms: Vec<RoomNum> = match self {
            Self::Rooms { rooms, .. } => rooms.into_iter().collect(),
            Self::All => {
                let rooms = r.rooms()?;
                let rooms = rooms.all()?.map(|row| Ok(row?.0.value()));
                rooms.collect::<Result<_, Error>>()?
            }
        };
        let mut behind = Vec::new();
        for room in rooms {
            if index::is_behind(r, room)? {
                behind.push(room);
            }
        }
        Ok(behind)
    }
}

impl Default for Changed {
    fn default() -> Self {
        Self::Rooms {
            rooms: BTreeSet::new(),
            changes: 0,
        }
    }
}

impl Default for Indexer {
    fn default() -> Self {
        let (wake, woken) = channel::bounded(1);
        Self {
            changed: Mutex::new(Changed::All),
            wake,
            woken,
        }
    }
}

impl Indexer {
    /// To be called with every effect.
    pub fn apply(&self, effect: &Effect) {
        let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = match (effect, &mut *changed) {
            (Effect::RoomChanged(room, _), Changed::Rooms { rooms, changes }) => {
                rooms.insert(*room);
                *changes += 1;
                *changes >= MAX_CHANGES
            }
            (Effect::Reopened, _) => {
                *changed = Changed::All;
                true
            }
            _ => false,
        };
        if is_due {
            // A full channel has woken the task already.
            let _ = self.wake.try_send(());
        }
    }

    /// Indexes everything, then in batches what comes, until the store is closed. To be spawned once.
    pub async fn run(&self, store: &Store) {
        loop {
            let changed = self.replace_changed(Changed::default());
            match index_rooms(store, changed).await {
                Ok(()) => drop(self.woken.recv().await),
                Err(Error::Store(store::Error::Closed)) => return,
                Err(error) => {
                    log::error!(
                        "indexing messages for the search failed: {error}; retrying in {RETRY_INTERVAL:?}"
                    );
                    self.replace_changed(Changed::All);
                    let retry = async {
                        Timer::after(RETRY_INTERVAL).await;
                        Ok(())
                    };
                    let _ = retry.or(self.woken.recv()).await;
                }
            }
        }
    }

    fn replace_changed(&self, new: Changed) -> Changed {
        let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        mem::replace(&mut *changed, new)
    }

    /// Deletes the index, if there is one: the search is switched off.
    pub async fn delete(store: &Store) {
        let exists = store.read(index::exists);
        let deleted = async {
            if !exists? {
                return Ok(());
            }
            log::info!("the search is switched off: deleting its index");
            while store.write_shrinking(index::delete_batch).await? {}
            Ok(())
        };
        match deleted.await {
            Ok(()) | Err(Error::Store(store::Error::Closed)) => {}
            Err(error) => {
                log::error!(
                    "deleting the index of the search failed: {error}; it is tried again at the next start"
                );
            }
        }
    }
}

async fn index_rooms(store: &Store, changed: Changed) -> Result<(), Error> {
    let list = move |s: &Snapshot| changed.rooms_behind(s);
    let rooms = store.scan_in_background("rooms to index", list).await?;
    let (mut events, mut is_logged) = (0, false);
    let mut since = Instant::now();
    for (done, room) in rooms.iter().copied().enumerate() {
        loop {
            let indexed = store
                .write(move |tx: &Tx| index::index_batch(tx, room))
                .await?;
            events += indexed;
            if since.elapsed() >= PROGRESS_INTERVAL {
                log::info!(
                    "indexing for the search: {events} events so far, {done} of {} rooms are done",
                    rooms.len()
                );
                (since, is_logged) = (Instant::now(), true);
            }
            if indexed == 0 {
                break;
            }
        }
    }
    if is_logged {
        log::info!("indexing for the search: done, {events} events");
    }
    Ok(())
}
