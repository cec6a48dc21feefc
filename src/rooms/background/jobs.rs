//! What follows from one change in many rooms, or in a large one: a new name shown everywhere,
//! every room left when an account ends, a replaced room's bans. And the keys that go with a
//! [backup] of keys.
//!
//! Such an errand is a row, written in the transaction of the change, so it outlives the request
//! and a restart: `pending_member_updates`, `pending_upgrades` and `pending_deletion_backups`. One [`BackgroundJobs::work`] does them
//! one after the other, each in slices that leave other jobs their turn.

use std::time::Duration;

use smol::{
    Timer,
    channel::{self, Receiver, Sender},
    future::FutureExt,
};

use super::member_events;
use crate::{
    clock::Clock,
    rooms::{Error, Local, upgrade::room_data},
    store::{self, Effect, Field, Reader, RoomNum, Rows, Store, Tx, UserNum},
    users::key_backup,
};

/// How long what failed rests.
const REST: Duration = Duration::from_secs(60);

/// The one who does the errands.
#[derive(Debug)]
pub struct BackgroundJobs {
    wake: Sender<()>,
    woken: Receiver<()>,
}

impl Default for BackgroundJobs {
    fn default() -> Self {
        let (wake, woken) = channel::bounded(1);
        Self { wake, woken }
    }
}

impl BackgroundJobs {
    /// To be told of every effect.
    pub fn apply(&self, effect: &Effect) {
        if let Effect::BackgroundJob | Effect::Reopened = effect {
            // Who is woken already looks at every errand.
            let _ = self.wake.try_send(());
        }
    }

    /// Does the errands that there are and those that come, until the store is closed. To be
    /// spawned once.
    pub async fn run(&self, store: &Store, local: &Local, clock: &Clock) {
        loop {
            match run_all(store, local, clock).await {
                Ok(true) => self.sleep().await,
                Ok(false) => {
                    let rest = async {
                        Timer::after(REST).await;
                    };
                    rest.or(self.sleep()).await;
                }
                Err(_) => return,
            }
        }
    }

    /// Waits until there is something to do.
    async fn sleep(&self) {
        // It cannot fail: the other end is here too.
        let _ = self.woken.recv().await;
    }
}

/// The store is closed.
struct Closed;

/// Does every errand; whether none failed. One that did stays, and keeps no other from being done.
async fn run_all(store: &Store, local: &Local, clock: &Clock) -> Result<bool, Closed> {
    let mut well = true;
    let mut from = UserNum::MIN;
    while let Some(user) = known(
        store.read(|s| first(s.pending_member_updates()?, from)),
        &mut well,
    )? {
        from = UserNum(user.0 + 1);
        let slice =
            |local: Local, now| move |tx: &Tx| member_events::run_batch(tx, &local, now, user);
        while known(
            store.write(slice(local.clone(), clock.timestamp())).await,
            &mut well,
        )? {}
    }
    let mut from = RoomNum::MIN;
    while let Some(room) = known(
        store.read(|s| first(s.pending_upgrades()?, from)),
        &mut well,
    )? {
        from = RoomNum(room.0 + 1);
        let slice = |local: Local, now| move |tx: &Tx| room_data::run_batch(tx, &local, now, room);
        while known(
            store.write(slice(local.clone(), clock.timestamp())).await,
            &mut well,
        )? {}
    }
    remove_backups(store, &mut well).await?;
    Ok(well)
}

/// Removes the keys of the backups that were deleted.
async fn remove_backups(store: &Store, well: &mut bool) -> Result<(), Closed> {
    let remove = |tx: &Tx| -> Result<bool, Error> {
        key_backup::delete_pending(tx)?;
        Ok(key_backup::has_pending_deletion(tx)?)
    };
    let is_any = store.read(|s| Ok(key_backup::has_pending_deletion(s)?));
    let mut more = known(is_any, well)?;
    while more {
        more = known(store.write_shrinking(remove).await, well)?;
    }
    Ok(())
}

/// What came of a step; nothing if it failed, which is logged and makes things not `well`.
fn known<T: Default>(result: Result<T, Error>, well: &mut bool) -> Result<T, Closed> {
    match result {
        Ok(value) => Ok(value),
        Err(Error::Store(store::Error::Closed)) => Err(Closed),
        Err(error) => {
            log::error!("errands: {error}; trying again in {REST:?}");
            *well = false;
            Ok(T::default())
        }
    }
}

/// The first key of `table` from `from` on.
fn first<K, V>(table: impl Rows<K, V>, from: K) -> Result<Option<K>, Error>
where
    K: for<'k> Field<View<'k> = K>,
    V: Field,
{
    let row = table.range(from..)?.next().transpose()?;
    Ok(row.map(|(key, _)| key.value()))
}
