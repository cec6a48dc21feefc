//! The background jobs. Each is a row that the transaction of a change writes, so that it survives
//! a restart:
//!
//! - `pending_member_updates`: a profile or an account changed, and the user's membership events
//!   have to follow ([`member_events`]).
//! - `pending_upgrades`: a room was upgraded, and bans and the rooms of a space have to follow
//!   ([`room_data`]).
//! - `pending_deletion_backups`: a key backup was deleted, and its keys have to follow
//!   ([`key_backup`]).
//! - `announcements`: every user is to get a server notice ([`server_notices`]).
//!
//! [`BackgroundJobs::run`] does one job after the other, in batches of one transaction each, so that
//! other writes get their turn.

use std::{collections::HashSet, sync::Arc, time::Duration};

use smol::{
    Timer,
    channel::{self, Receiver, Sender},
    future::FutureExt,
};

use super::{batch::MAX_EVENTS_SENT, member_events};
use crate::{
    clock::Clock,
    rooms::{Error, Local, policy_server::PolicySigner, room, server_notices, upgrade::room_data},
    store::{self, Effect, Field, Reader, RoomNum, Rows, Store, Tx, UserNum},
    users::{self, key_backup},
};

/// After which time a job that failed is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(60);

/// For one batch: a request for each of its events, and some more if the rooms change meanwhile.
const MAX_SIGNATURE_REQUESTS: usize = 4 * MAX_EVENTS_SENT;

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
    pub async fn run(
        &self,
        store: &Store,
        local: &Local,
        clock: &Clock,
        signer: &impl PolicySigner,
    ) {
        let mut set_aside = HashSet::new();
        loop {
            match run_pending((store, local, clock, signer), &mut set_aside).await {
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

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Job {
    List,
    UpdateMembers(UserNum),
    UpgradeRoom(RoomNum),
    Announce,
    DeleteBackups,
}

/// Does all pending jobs but those that are `set_aside`; whether all succeeded. A job that failed stays
/// pending. It is set aside until the next start if it would fail again.
async fn run_pending(
    (store, local, clock, signer): (&Store, &Local, &Clock, &impl PolicySigner),
    set_aside: &mut HashSet<Job>,
) -> Result<bool, Closed> {
    let mut failures = Failures {
        set_aside,
        all_done: true,
    };
    let listing = || "reading the pending jobs".to_owned();
    let updates = store.read(|s| keys(s.pending_member_updates()?));
    for user in failures.log(updates, Job::List, listing)? {
        let job = Job::UpdateMembers(user);
        if failures.set_aside.contains(&job) {
            continue;
        }
        let batch = || {
            let (local, now) = (local.clone(), clock.timestamp());
            move |tx: &Tx| member_events::run_batch(tx, &local, now, user)
        };
        let describe = || {
            let id = users::id_for_log(store, user);
            format!("updating the membership events of {id}")
        };
        failures.log(run_batches(store, signer, batch).await, job, describe)?;
    }
    let upgrades = store.read(|s| keys(s.pending_upgrades()?));
    for room in failures.log(upgrades, Job::List, listing)? {
        let job = Job::UpgradeRoom(room);
        if failures.set_aside.contains(&job) {
            continue;
        }
        let batch = || {
            let (local, now) = (local.clone(), clock.timestamp());
            move |tx: &Tx| room_data::run_batch(tx, &local, now, room)
        };
        let describe = || {
            let id = room::id_for_log(store, room);
            format!("copying bans and space children into {id}, which replaces a room")
        };
        failures.log(run_batches(store, signer, batch).await, job, describe)?;
    }
    if !failures.set_aside.contains(&Job::Announce) {
        let describe = || "sending a server notice to all users".to_owned();
        failures.log(
            announce(store, local, clock, signer).await,
            Job::Announce,
            describe,
        )?;
    }
    if !failures.set_aside.contains(&Job::DeleteBackups) {
        let describe = || "deleting the keys of deleted key backups".to_owned();
        failures.log(delete_backups(store).await, Job::DeleteBackups, describe)?;
    }
    Ok(failures.all_done)
}

/// Runs batches until one says that nothing is left. A batch whose events policy servers have to sign first is run
/// again when they were asked.
async fn run_batches<J>(
    store: &Store,
    signer: &impl PolicySigner,
    batch: impl Fn() -> J,
) -> Result<(), Error>
where
    J: Fn(&Tx) -> Result<bool, Error> + Send + Sync + 'static,
{
    loop {
        // With the same time, so that the same events are made again.
        let job = Arc::new(batch());
        let mut requests = 0;
        let has_more = loop {
            let run = job.clone();
            match store.write(move |tx: &Tx| run(tx)).await {
                Err(Error::Unsigned(event)) if requests < MAX_SIGNATURE_REQUESTS => {
                    signer.request_signature(&event).await;
                }
                result => break result?,
            }
            requests += 1;
        };
        if !has_more {
            return Ok(());
        }
    }
}

async fn announce(
    store: &Store,
    local: &Local,
    clock: &Clock,
    signer: &impl PolicySigner,
) -> Result<(), Error> {
    if !store.read(server_notices::has_pending)? {
        return Ok(());
    }
    let batch = || {
        let (local, now) = (local.clone(), clock.timestamp());
        move |tx: &Tx| server_notices::run_batch(tx, &local, now)
    };
    run_batches(store, signer, batch).await
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

struct Failures<'a> {
    set_aside: &'a mut HashSet<Job>,
    all_done: bool,
}

impl Failures<'_> {
    /// The value of a step, or the default value after logging that the step failed.
    fn log<T: Default>(
        &mut self,
        result: Result<T, Error>,
        job: Job,
        describe: impl FnOnce() -> String,
    ) -> Result<T, Closed> {
        match result {
            Ok(value) => return Ok(value),
            Err(Error::Store(store::Error::Closed)) => return Err(Closed),
            Err(Error::Store(error)) if error.is_caused_by_data() => {
                let job_name = describe();
                log::error!(
                    "background job: {job_name} failed: {error}; it is tried again after a restart"
                );
                self.set_aside.insert(job);
            }
            Err(error) => {
                let job_name = describe();
                log::error!(
                    "background job: {job_name} failed: {error}; retrying in {RETRY_INTERVAL:?}"
                );
                self.all_done = false;
            }
        }
        Ok(T::default())
    }
}

fn keys<K, V>(table: impl Rows<K, V>) -> Result<Vec<K>, Error>
where
    K: for<'k> Field<View<'k> = K>,
    V: Field,
{
    table.all()?.map(|row| Ok(row?.0.value())).collect()
}
