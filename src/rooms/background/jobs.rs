//! The background jobs. Each is a row that the transaction of a change writes, so that it survives
//! a restart:
//!
//! - `pending_member_updates`: a profile or an account changed, and the user's membership events
//!   have to follow ([`member_events`]).
//! - `pending_upgrades`: a room was upgraded, and bans and the rooms of a space have to follow
//!   ([`room_data`]).
//! - `pending_deletion_backups`: a key backup was deleted, and its keys have to follow
//!   ([`key_backup`]).
//!
//! [`BackgroundJobs::run`] does one job after the other, in batches of one transaction each, so that
//! other writes get their turn.

use std::time::Duration;

use smol::{
    Timer,
    channel::{self, Receiver, Sender},
    future::FutureExt,
};

use super::member_events;
use crate::{
    clock::Clock,
    rooms::{Error, Local, room, upgrade::room_data},
    store::{self, Effect, Field, Reader, Rows, Store, Tx},
    users::{self, key_backup},
};

/// After which time a job that failed is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(60);

/// Does the background jobs.
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
    /// To be called with every effect.
    pub fn apply(&self, effect: &Effect) {
        if let Effect::BackgroundJob | Effect::Reopened = effect {
            // A full channel has woken the task already.
            let _ = self.wake.try_send(());
        }
    }

    /// Does the jobs that are pending and those that come, until the store is closed. To be spawned
    /// once.
    pub async fn run(&self, store: &Store, local: &Local, clock: &Clock) {
        loop {
            match run_pending(store, local, clock).await {
                Ok(true) => self.wait().await,
                Ok(false) => {
                    let retry = async {
                        Timer::after(RETRY_INTERVAL).await;
                    };
                    retry.or(self.wait()).await;
                }
                Err(Closed) => return,
            }
        }
    }

    async fn wait(&self) {
        // It cannot fail: `self` has the sender.
        let _ = self.woken.recv().await;
    }
}

/// The store is closed.
struct Closed;

/// Does all pending jobs; whether all succeeded. A job that failed stays pending.
async fn run_pending(store: &Store, local: &Local, clock: &Clock) -> Result<bool, Closed> {
    let mut all_done = true;
    let listing = || "reading the pending jobs".to_owned();
    let updates = store.read(|s| keys(s.pending_member_updates()?));
    for user in log_failure(updates, listing, &mut all_done)? {
        let batch = || {
            let (local, now) = (local.clone(), clock.timestamp());
            move |tx: &Tx| member_events::run_batch(tx, &local, now, user)
        };
        let describe = || match store.read(|s| users::id_of(s, user)) {
            Ok(id) => format!("updating the membership events of {id}"),
            Err(_) => "updating the membership events of an unknown user".to_owned(),
        };
        log_failure(run_batches(store, batch).await, describe, &mut all_done)?;
    }
    let upgrades = store.read(|s| keys(s.pending_upgrades()?));
    for room in log_failure(upgrades, listing, &mut all_done)? {
        let batch = || {
            let (local, now) = (local.clone(), clock.timestamp());
            move |tx: &Tx| room_data::run_batch(tx, &local, now, room)
        };
        let describe = || match store.read(|s| room::id(s, room)) {
            Ok(id) => format!("copying bans and space children into the upgraded room {id}"),
            Err(_) => "copying bans and space children into an unknown room".to_owned(),
        };
        log_failure(run_batches(store, batch).await, describe, &mut all_done)?;
    }
    let describe = || "deleting the keys of deleted key backups".to_owned();
    log_failure(delete_backups(store).await, describe, &mut all_done)?;
    Ok(all_done)
}

/// Runs batches until one says that nothing is left.
async fn run_batches<J>(store: &Store, batch: impl Fn() -> J) -> Result<(), Error>
where
    J: Fn(&Tx) -> Result<bool, Error> + Send + 'static,
{
    while store.write(batch()).await? {}
    Ok(())
}

async fn delete_backups(store: &Store) -> Result<(), Error> {
    let batch = |tx: &Tx| -> Result<bool, Error> {
        key_backup::delete_pending(tx)?;
        Ok(key_backup::has_pending_deletion(tx)?)
    };
    let mut more = store.read(|s| Ok::<_, Error>(key_backup::has_pending_deletion(s)?))?;
    while more {
        more = store.write_shrinking(batch).await?;
    }
    Ok(())
}

/// The value of a step. If the step failed, logs that, sets `all_done` to false and returns the
/// default value.
fn log_failure<T: Default>(
    result: Result<T, Error>,
    describe: impl FnOnce() -> String,
    all_done: &mut bool,
) -> Result<T, Closed> {
    match result {
        Ok(value) => Ok(value),
        Err(Error::Store(store::Error::Closed)) => Err(Closed),
        Err(error) => {
            let job = describe();
            log::error!("background job: {job} failed: {error}; retrying in {RETRY_INTERVAL:?}");
            *all_done = false;
            Ok(T::default())
        }
    }
}

fn keys<K, V>(table: impl Rows<K, V>) -> Result<Vec<K>, Error>
where
    K: for<'k> Field<View<'k> = K>,
    V: Field,
{
    table.all()?.map(|row| Ok(row?.0.value())).collect()
}
