//! Lists for clients.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    time::Duration,
};

use ruma::{OwnedServerName, OwnedUserId, UserId};
use smol::Task;

use super::{fetch::is_old, tracker::DeviceLists};
use crate::{
    federation::{Error, transport::connect::with_timeout},
    rooms::{self, servers::shared_rooms},
    store::{Reader, Tx},
    users::remote_devices,
};

/// How many lists are marked as tracked, or removed, in one job.
const JOB_BATCH: usize = 20;

#[derive(Debug, Default)]
pub struct Found {
    /// The users whose lists are stored. An old list is used if its fetch failed.
    pub stored: BTreeSet<OwnedUserId>,
    /// The users who share no room with local users: their lists are not stored.
    pub untracked: BTreeSet<OwnedUserId>,
    /// Those of them whose lists are stored from before.
    left: Vec<OwnedUserId>,
    /// Those whose stored lists are to be refreshed.
    old: Vec<OwnedUserId>,
    /// The servers that did not answer.
    pub failures: BTreeMap<OwnedServerName, Error>,
}

/// The users whose lists must be fetched, by server.
pub type Missing = BTreeMap<OwnedServerName, Vec<OwnedUserId>>;

impl DeviceLists {
    /// The stored lists of `users` of other servers, and those that must be
    /// [fetched](Self::fetch_missing).
    pub async fn look_up(&self, users: Vec<OwnedUserId>) -> Result<(Found, Missing), rooms::Error> {
        let now = self.0.clock.now_ms();
        let scan = move |r: &_| look_up(r, users, now);
        let (mut found, missing) = self.0.store.scan("device lists", scan).await?;
        self.remove(mem::take(&mut found.left)).await?;
        for user in mem::take(&mut found.old) {
            if self.0.backoffs.check(user.server_name()).is_ok() {
                self.fetch_in_background(&user);
            }
        }
        Ok((found, missing))
    }

    /// Adds the `missing` lists to those that were `found`. All servers get requests at once, and are waited for
    /// until the timeout. The fetches go on after it, and note themselves which servers do not answer.
    pub async fn fetch_missing(
        &self,
        mut found: Found,
        missing: Missing,
        timeout: Duration,
    ) -> Result<Found, rooms::Error> {
        let tasks: Vec<(_, _, Task<_>)> = missing
            .into_iter()
            .map(|(server, users)| {
                let (lists, name, wanted) = (self.clone(), server.clone(), users.clone());
                let fetch = with_timeout(timeout, async move {
                    lists.0.backoffs.check(&name)?;
                    lists.fetch_all(&wanted).await
                });
                (server, users, self.0.executor.spawn(fetch))
            })
            .collect();
        for (server, users, task) in tasks {
            if let Err(error) = task.await.flatten() {
                found.failures.insert(server, error);
                self.retry_later(&users).await;
            }
            let find = move |s: &_| -> Result<_, rooms::Error> {
                let mut stored = Vec::new();
                for user in users {
                    let list = remote_devices::load(s, &user)?;
                    stored.extend(list.filter(|list| list.fetched_ts > 0).map(|_| user));
                }
                Ok(stored)
            };
            found
                .stored
                .extend(self.0.store.scan("device lists", find).await?);
        }
        Ok(found)
    }

    /// The lists of `users` that are missing or stale are fetched when their server sends a request, also
    /// after a restart.
    async fn retry_later(&self, users: &[OwnedUserId]) {
        let is_stale = |user: &UserId| self.0.store.read(|s| remote_devices::is_stale(s, user));
        let mut new = Vec::new();
        for user in users {
            match is_stale(user) {
                Ok(Some(false)) => {}
                Ok(Some(true)) => self.0.retries.put(user),
                Ok(None) | Err(_) => {
                    self.0.retries.put(user);
                    new.push(user.clone());
                }
            }
        }
        for users in new.chunks(JOB_BATCH) {
            let tracked = users.to_vec();
            let job = move |tx: &Tx| {
                for user in &tracked {
                    if shared_rooms::any_local_user_shares(tx, user)? {
                        remote_devices::track(tx, user)?;
                    }
                }
                Ok::<_, rooms::Error>(())
            };
            if let Err(error) = self.0.store.write(job).await {
                log::debug!("after a restart, {users:?} are not fetched again: {error}");
            }
        }
    }

    async fn remove(&self, users: Vec<OwnedUserId>) -> Result<(), rooms::Error> {
        for users in users.chunks(JOB_BATCH) {
            let users = users.to_vec();
            let job = move |tx: &Tx| {
                let mut users = users.iter();
                Ok(users.try_for_each(|user| remote_devices::remove(tx, user))?)
            };
            self.0.store.write::<_, rooms::Error, _>(job).await?;
        }
        Ok(())
    }
}

fn look_up(
    r: &impl Reader,
    users: Vec<OwnedUserId>,
    now_ms: u64,
) -> Result<(Found, Missing), rooms::Error> {
    let (mut found, mut missing) = (Found::default(), Missing::new());
    for user in users {
        if !shared_rooms::any_local_user_shares(r, &user)? {
            if remote_devices::is_tracked(r, &user)? {
                found.left.push(user.clone());
            }
            found.untracked.insert(user);
            continue;
        }
        let list = remote_devices::load(r, &user)?;
        if let Some(list) = list.filter(|list| !list.is_stale) {
            if is_old(&list, now_ms) {
                found.old.push(user.clone());
            }
            found.stored.insert(user);
        } else {
            let server = user.server_name().to_owned();
            missing.entry(server).or_default().push(user);
        }
    }
    Ok((found, missing))
}
