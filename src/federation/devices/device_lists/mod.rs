//! The devices of other servers' users, kept for as long as one of them is in a room with somebody
//! here (server-server API, "Device Management").
//!
//! - A list is fetched when it is first asked for, and then follows the updates that the user's server
//!   sends. Each names the one before it; where the list has not got that, one was lost: the list is
//!   stale, and fetched anew. While it is fetched everybody waits for the same answer, and one that an
//!   update has overtaken is asked for again.
//! - A list that is older than a week is used, and fetched anew in the background. One that nobody could
//!   follow for a while, as no room was shared, is stale (`rooms::strangers`).
//! - A list that could not be fetched waits until its server shows life. Meanwhile it is shown as it was.
//! - That something changed is told to those who share a room with the user, whether a list is kept or
//!   not; also when a list comes that somebody asked for in vain.

mod fetches;
mod waiting;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use ruma::{
    OwnedServerName, OwnedUserId, ServerName, UserId,
    api::federation::transactions::edu::{DeviceListUpdateContent, SigningKeyUpdateContent},
};
use smol::{Task, lock::Semaphore};

use self::{fetches::Fetches, waiting::Waiting};
use crate::{
    clock::Clock,
    executor::Executor,
    federation::{Client, Error, outbound::backoff::Backoffs, transport::connect::in_time},
    rooms::{self, state::current},
    store::{self, Reader, Store, Tx},
    users::{
        self, device_lists,
        remote_devices::{self, DeviceList, UpdateOutcome},
    },
};

/// For how long a list is used before it is fetched anew, in milliseconds.
const OLD_MS: u64 = 7 * 24 * 60 * 60 * 1000;
/// How many lists one server is asked for at once.
const SIDE_BY_SIDE: usize = 8;
/// How many lists are fetched in the background at once; the others stay stale until they are used, or
/// until their server shows life again.
const IN_BACKGROUND: usize = 20;
/// How many updates are followed, or how many lists noted as wanted, in one job.
const IN_A_JOB: usize = 20;
/// How many stale lists are found at a start.
const STALE: usize = 10_000;

/// What a server says of one of its users.
#[derive(Debug)]
pub enum Update {
    /// A device came, changed, or went.
    Device(DeviceListUpdateContent),
    /// The cross-signing keys changed.
    Keys(SigningKeyUpdateContent),
}

impl Update {
    /// Of whom.
    pub fn user(&self) -> &UserId {
        match self {
            Self::Device(update) => &update.user_id,
            Self::Keys(update) => &update.user_id,
        }
    }

    fn is_proper(&self) -> bool {
        match self {
            Self::Device(update) => remote_devices::is_valid_update(update),
            Self::Keys(update) => remote_devices::is_valid_signing_key_update(update),
        }
    }
}

/// What there is of the devices of some users.
#[derive(Debug, Default)]
pub struct Found {
    /// The lists that are kept, fetched before if need be: as they were, where that failed.
    pub lists: BTreeMap<OwnedUserId, DeviceList>,
    /// Who is in no room with anybody here: nothing is kept of their devices.
    pub strangers: BTreeSet<OwnedUserId>,
    /// Which servers did not tell what was not kept.
    pub failures: BTreeMap<OwnedServerName, Error>,
}

/// Whose lists are to be fetched before they can be shown, by server.
pub type Lacking = BTreeMap<OwnedServerName, Vec<OwnedUserId>>;

/// Keeps them. Clones are the same.
#[derive(Clone)]
pub struct DeviceLists(Arc<Parts>);

struct Parts {
    store: Store,
    client: Client,
    clock: Clock,
    executor: Executor,
    backoffs: Backoffs,
    fetches: Fetches,
    waiting: Waiting,
    in_background: Arc<Semaphore>,
}

impl DeviceLists {
    /// Keeps them in `store`.
    pub fn new(
        store: &Store,
        (client, clock): (&Client, &Clock),
        backoffs: &Backoffs,
        executor: &Executor,
    ) -> Self {
        let lists = Self(Arc::new(Parts {
            store: store.clone(),
            client: client.clone(),
            clock: clock.clone(),
            executor: executor.clone(),
            backoffs: backoffs.clone(),
            fetches: Fetches::default(),
            waiting: Waiting::default(),
            in_background: Arc::new(Semaphore::new(IN_BACKGROUND)),
        }));
        let waits = lists.clone().find_stale();
        executor.spawn(waits).detach();
        lists
    }

    /// Lets the lists wait that were stale when the server stopped.
    async fn find_stale(self) {
        let scan = |s: &_| {
            let stale = remote_devices::stale_users(s, STALE)?.into_iter();
            let stale = stale.map(|user| users::id_of(s, user));
            stale.collect::<Result<Vec<_>, _>>().map_err(Into::into)
        };
        match self.0.store.scan("stale lists of devices", scan).await {
            Ok(stale) => stale.iter().for_each(|user| self.0.waiting.put(user)),
            Err(rooms::Error::Store(store::Error::Closed)) => {}
            Err(error) => log::error!("which lists of devices are stale is not known: {error}"),
        }
    }

    /// What there is of the devices of `users` of other servers, and what is to be
    /// [fetched](Self::fetch_lacking) first.
    ///
    /// # Errors
    /// If the store cannot be read or written.
    pub async fn look_up(&self, users: Vec<OwnedUserId>) -> Result<(Found, Lacking), rooms::Error> {
        let scan = move |r: &_| look_up(r, users);
        let (found, lacking) = self.0.store.scan("devices of others", scan).await?;
        self.forget(found.strangers.clone()).await?;
        let now = self.0.clock.now_ms();
        for (user, _) in found.lists.iter().filter(|(_, kept)| is_old(kept, now)) {
            if self.0.backoffs.check(user.server_name()).is_ok() {
                self.fetch_in_background(user);
            }
        }
        Ok((found, lacking))
    }

    /// Adds the lists of those who are `lacking` to what was `found`. They are fetched from each server by
    /// a task of its own, which is waited for for at most `time`.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn fetch_lacking(
        &self,
        (mut found, lacking): (Found, Lacking),
        time: Duration,
    ) -> Result<Found, rooms::Error> {
        let tasks: Vec<(_, _, Task<_>)> = lacking
            .into_iter()
            .map(|(server, users)| {
                let (lists, name, wanted) = (self.clone(), server.clone(), users.clone());
                let fetch = in_time(time, async move {
                    lists.0.backoffs.check(&name)?;
                    lists.fetch_all(&wanted).await
                });
                (server, users, self.0.executor.spawn(fetch))
            })
            .collect();
        for (server, users, task) in tasks {
            if let Err(error) = task.await.unwrap_or_else(Err) {
                found.failures.insert(server, error);
                self.miss(&users).await;
            }
            for user in users {
                let kept = self.0.store.read(|s| remote_devices::load(s, &user))?;
                if let Some(kept) = kept.filter(|kept| kept.fetched_ts > 0) {
                    found.lists.insert(user, kept);
                }
            }
        }
        Ok(found)
    }

    /// Fetches lists of users of one server: all that it tells. The first is asked for alone: if the
    /// server is away it is not asked for the others.
    ///
    /// # Errors
    /// The first of the server's errors; the last, if it is away.
    async fn fetch_all(&self, users: &[OwnedUserId]) -> Result<(), Error> {
        let mut outcome = Ok(());
        let (first, others) = users.split_at(users.len().min(1));
        for users in std::iter::once(first).chain(others.chunks(SIDE_BY_SIDE)) {
            let fetches: Vec<_> = users.iter().map(|user| self.start(user)).collect();
            for fetch in fetches {
                match fetch?.wait().await {
                    Err(error) if error.is_away() => return Err(error.clone()),
                    fetched => outcome = outcome.and(fetched.clone()),
                }
            }
        }
        outcome
    }

    /// Notes that somebody has asked for the devices of `users` in vain: those whose list is still lacking
    /// wait, also over a restart.
    async fn miss(&self, users: &[OwnedUserId]) {
        let is_stale = |user: &UserId| self.0.store.read(|s| remote_devices::is_stale(s, user));
        let mut new = Vec::new();
        for user in users {
            match is_stale(user) {
                Ok(Some(false)) => {}
                Ok(Some(true)) => self.0.waiting.put(user),
                Ok(None) | Err(_) => {
                    self.0.waiting.put(user);
                    new.push(user.clone());
                }
            }
        }
        for users in new.chunks(IN_A_JOB) {
            let users = users.to_vec();
            let job = move |tx: &Tx| {
                for user in &users {
                    if current::shares_any_room(tx, user)? {
                        remote_devices::track(tx, user)?;
                    }
                }
                Ok::<_, rooms::Error>(())
            };
            if let Err(error) = self.0.store.write(job).await {
                log::debug!("it is not noted that lists of devices are wanted: {error}");
            }
        }
    }

    /// `server` has shown that it is there: it is asked for what it did not tell before.
    pub fn alive(&self, server: &ServerName) {
        let users = self.0.waiting.turn(server, self.0.clock.now_ms());
        if users.is_empty() {
            return;
        }
        let lists = self.clone();
        let fetch = async move {
            // What fails waits on.
            let _ = lists.fetch_all(&users).await;
        };
        self.0.executor.spawn(fetch).detach();
    }

    /// Takes in what a server says of its users, in the order in which it says it.
    ///
    /// # Errors
    /// If the store cannot be read or written.
    pub async fn follow(&self, updates: Vec<Update>) -> Result<(), rooms::Error> {
        let mut known = Vec::new();
        for update in updates {
            if update.is_proper() && self.is_known(update.user())? {
                known.push(update);
            }
        }
        let mut known = known.into_iter().peekable();
        while known.peek().is_some() {
            let some: Vec<_> = known.by_ref().take(IN_A_JOB).collect();
            let stale = self.0.store.write(move |tx: &Tx| follow(tx, &some)).await?;
            for user in stale {
                self.0.waiting.put(&user);
                self.0.fetches.want_again(&user);
                self.fetch_in_background(&user);
            }
        }
        Ok(())
    }

    /// Whether somebody here is in a room with `user`.
    fn is_known(&self, user: &UserId) -> Result<bool, rooms::Error> {
        self.0.store.read(|s| current::shares_any_room(s, user))
    }

    async fn forget(&self, users: BTreeSet<OwnedUserId>) -> Result<(), rooms::Error> {
        let mut is_kept = Vec::new();
        for user in users {
            if self
                .0
                .store
                .read(|s| remote_devices::is_tracked(s, &user))?
            {
                is_kept.push(user);
            }
        }
        if is_kept.is_empty() {
            return Ok(());
        }
        let job = move |tx: &Tx| {
            let mut users = is_kept.iter();
            Ok(users.try_for_each(|user| remote_devices::remove(tx, user))?)
        };
        self.0.store.write::<_, rooms::Error, _>(job).await
    }

    fn fetch_in_background(&self, user: &UserId) {
        let Some(slot) = self.0.in_background.try_acquire_arc() else {
            return;
        };
        if let Ok(fetch) = self.start(user) {
            let wait = async move {
                fetch.wait().await;
                drop(slot);
            };
            self.0.executor.spawn(wait).detach();
        }
    }
}

/// Takes in `updates`; whose lists are stale then.
fn follow(tx: &Tx, updates: &[Update]) -> Result<BTreeSet<OwnedUserId>, rooms::Error> {
    let mut stale = BTreeSet::new();
    for update in updates {
        let followed = match update {
            Update::Device(update) => remote_devices::apply_update(tx, update)?,
            Update::Keys(update) => remote_devices::apply_signing_key_update(tx, update)?,
        };
        if followed != UpdateOutcome::Duplicate {
            let user = tx.user_num(update.user().as_str())?;
            device_lists::remote_changed(tx, user)?;
        }
        if followed == UpdateOutcome::Stale {
            stale.insert(update.user().to_owned());
        }
    }
    Ok(stale)
}

/// Which lists are kept, who is a stranger, and whose lists each server is to be asked for.
fn look_up(r: &impl Reader, users: Vec<OwnedUserId>) -> Result<(Found, Lacking), rooms::Error> {
    let (mut found, mut lacking) = (Found::default(), Lacking::new());
    for user in users {
        if !current::shares_any_room(r, &user)? {
            found.strangers.insert(user);
        } else if let Some(kept) = kept(r, &user)? {
            found.lists.insert(user, kept);
        } else {
            let server = user.server_name().to_owned();
            lacking.entry(server).or_default().push(user);
        }
    }
    Ok((found, lacking))
}

fn kept(r: &impl Reader, user: &UserId) -> Result<Option<DeviceList>, rooms::Error> {
    let kept = remote_devices::load(r, user)?;
    Ok(kept.filter(|kept| !kept.is_stale))
}

fn is_old(kept: &DeviceList, now: u64) -> bool {
    kept.fetched_ts.saturating_add(OLD_MS) < now
}
