//! The devices of other servers' users, kept for as long as one of them is in a room with somebody
//! here (server-server API, "Device Management").
//!
//! - A list is fetched when it is first asked for, and then follows the updates that the user's server
//!   sends. Each names the one before it; where the list has not got that, one was lost: the list is
//!   stale, and fetched before it is used again.
//! - A list that is older than a week is used, and fetched anew in the background. One that nobody could
//!   follow for a while, as no room was shared, is stale (`rooms::strangers`).
//! - That something changed is told to those who share a room with the user, whether a list is kept or
//!   not.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ruma::{
    OwnedServerName, OwnedUserId, UserId,
    api::{
        error::ErrorKind,
        federation::{
            device::get_devices,
            transactions::edu::{DeviceListUpdateContent, SigningKeyUpdateContent},
        },
    },
};
use smol::{Executor, Task};

use super::{Client, Error, Limits, connect::in_time, locks::Locks};
use crate::{
    clock::Clock,
    rooms::{self, current},
    store::{Reader, Store, Tx},
    users::{
        device_lists,
        remote_devices::{self, Devices, Followed},
    },
};

/// For how long a list is used before it is fetched anew, in milliseconds.
const OLD_MS: u64 = 7 * 24 * 60 * 60 * 1000;
/// How long a server has to answer, and how much it may say of one user.
const LIMITS: Limits = Limits {
    time: Duration::from_secs(10),
    size: 1024 * 1024,
};
/// How many lists one server is asked for at once.
const SIDE_BY_SIDE: usize = 8;
/// How many lists are fetched in the background at once; the others stay stale until they are used.
const IN_BACKGROUND: usize = 20;

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
}

/// What there is of the devices of some users.
#[derive(Debug, Default)]
pub struct Found {
    /// The lists that are kept, fetched before if need be.
    pub lists: BTreeMap<OwnedUserId, Devices>,
    /// Who is in no room with anybody here: nothing is kept of their devices.
    pub strangers: BTreeSet<OwnedUserId>,
    /// Which servers did not tell what was not kept.
    pub failures: BTreeMap<OwnedServerName, Error>,
}

/// Keeps them. Clones are the same.
#[derive(Clone)]
pub struct DeviceLists(Arc<Parts>);

struct Parts {
    store: Store,
    client: Client,
    clock: Clock,
    executor: Arc<Executor<'static>>,
    /// Who fetches the list of a user: the others wait for it.
    fetching: Locks<32>,
    in_background: AtomicUsize,
}

impl DeviceLists {
    /// Keeps them in `store`.
    pub fn new(
        store: &Store,
        (client, clock): (&Client, &Clock),
        executor: &Arc<Executor<'static>>,
    ) -> Self {
        Self(Arc::new(Parts {
            store: store.clone(),
            client: client.clone(),
            clock: clock.clone(),
            executor: executor.clone(),
            fetching: Locks::default(),
            in_background: AtomicUsize::new(0),
        }))
    }

    /// The devices of `users` of other servers. Those that are not kept are fetched, from each server by
    /// a task of its own, for at most `time`.
    ///
    /// # Errors
    /// If the store cannot be read or written.
    pub async fn of(&self, users: Vec<OwnedUserId>, time: Duration) -> Result<Found, rooms::Error> {
        let scan = move |r: &_| look_up(r, users);
        let (mut found, lacking) = self.0.store.scan("devices of others", scan).await?;
        self.forget(found.strangers.clone()).await?;
        let now = self.0.clock.now_ms();
        for (user, _) in found.lists.iter().filter(|(_, kept)| is_old(kept, now)) {
            self.fetch_in_background(user.clone());
        }
        let tasks: Vec<(_, _, Task<_>)> = lacking
            .into_iter()
            .map(|(server, users)| {
                let fetch = self.clone().fetch_all(users.clone());
                let task = self.0.executor.spawn(in_time(time, fetch));
                (server, users, task)
            })
            .collect();
        for (server, users, task) in tasks {
            let fetched = match task.await {
                Ok(fetched) => fetched?,
                Err(late) => Err(late),
            };
            if let Err(error) = fetched {
                found.failures.insert(server, error);
            }
            for user in users {
                if let Some(kept) = self.kept(&user)? {
                    found.lists.insert(user, kept);
                }
            }
        }
        Ok(found)
    }

    /// Fetches lists of users of one server, up to the first that it does not tell.
    async fn fetch_all(self, users: Vec<OwnedUserId>) -> Result<Result<(), Error>, rooms::Error> {
        for users in users.chunks(SIDE_BY_SIDE) {
            let spawn = |user: &OwnedUserId| {
                let (lists, user) = (self.clone(), user.clone());
                let fetch = async move { lists.fetch(&user).await };
                self.0.executor.spawn(fetch)
            };
            let tasks: Vec<Task<_>> = users.iter().map(spawn).collect();
            for task in tasks {
                if let Err(error) = task.await? {
                    return Ok(Err(error));
                }
            }
        }
        Ok(Ok(()))
    }

    /// Takes in what a server says of its users, in the order in which it says it.
    ///
    /// # Errors
    /// If the store cannot be read or written.
    pub async fn follow(&self, updates: Vec<Update>) -> Result<(), rooms::Error> {
        let mut known = Vec::new();
        for update in updates {
            if self.is_known(update.user())? {
                known.push(update);
            }
        }
        if known.is_empty() {
            return Ok(());
        }
        let job = move |tx: &Tx| {
            let mut stale = BTreeSet::new();
            for update in &known {
                let followed = match update {
                    Update::Device(update) => remote_devices::follow(tx, update)?,
                    Update::Keys(update) => remote_devices::follow_keys(tx, update)?,
                };
                if followed != Followed::No {
                    let user = tx.user_num(update.user().as_str())?;
                    device_lists::remote_changed(tx, user)?;
                }
                if followed == Followed::Stale {
                    stale.insert(update.user().to_owned());
                }
            }
            Ok::<_, rooms::Error>(stale)
        };
        for user in self.0.store.write(job).await? {
            self.fetch_in_background(user);
        }
        Ok(())
    }

    /// Whether somebody here is in a room with `user`.
    fn is_known(&self, user: &UserId) -> Result<bool, rooms::Error> {
        let sharing = |s: &_| current::sharing_rooms_with(s, user);
        Ok(!self.0.store.read(sharing)?.is_empty())
    }

    fn kept(&self, user: &UserId) -> Result<Option<Devices>, rooms::Error> {
        self.0.store.read(|s| kept(s, user))
    }

    async fn forget(&self, users: BTreeSet<OwnedUserId>) -> Result<(), rooms::Error> {
        let mut is_kept = Vec::new();
        for user in users {
            if self.0.store.read(|s| remote_devices::has(s, &user))? {
                is_kept.push(user);
            }
        }
        if is_kept.is_empty() {
            return Ok(());
        }
        let job = move |tx: &Tx| {
            let mut users = is_kept.iter();
            Ok(users.try_for_each(|user| remote_devices::forget(tx, user))?)
        };
        self.0.store.write::<_, rooms::Error, _>(job).await
    }

    /// Fetches the list of `user`, unless somebody else has done so just now.
    async fn fetch(&self, user: &UserId) -> Result<Result<(), Error>, rooms::Error> {
        let _turn = self.0.fetching.of(user).await;
        let now = self.0.clock.now_ms();
        if self.kept(user)?.is_some_and(|kept| !is_old(&kept, now)) {
            return Ok(Ok(()));
        }
        let request = get_devices::v1::Request::new(user.to_owned());
        let client = &self.0.client;
        let told = client
            .send_within(user.server_name(), request, LIMITS)
            .await;
        let told = match told {
            Ok(told) if told.user_id == user => told,
            Ok(_) => return Ok(Err(Error::Nonsense("devices of another user".into()))),
            // The others of its users have theirs.
            Err(error) if matches!(error.kind(), Some(ErrorKind::NotFound)) => return Ok(Ok(())),
            Err(error) => return Ok(Err(error)),
        };
        let user = user.to_owned();
        let job = move |tx: &Tx| {
            // Whoever shared a room with the user may have left meanwhile.
            if current::sharing_rooms_with(tx, &user)?.is_empty() {
                return Ok(());
            }
            let was_kept = remote_devices::load(tx, &user)?.is_some();
            remote_devices::replace(tx, &user, &told, now)?;
            if was_kept {
                let user = tx.user_num(user.as_str())?;
                device_lists::remote_changed(tx, user)?;
            }
            Ok::<_, rooms::Error>(())
        };
        self.0.store.write(job).await.map(Ok)
    }

    fn fetch_in_background(&self, user: OwnedUserId) {
        let lists = self.clone();
        if self.0.in_background.fetch_add(1, Ordering::Relaxed) >= IN_BACKGROUND {
            self.0.in_background.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let fetch = async move {
            match lists.fetch(&user).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => log::debug!("the devices of {user} cannot be fetched: {error}"),
                Err(error) => log::error!("the devices of {user} cannot be kept: {error}"),
            }
            lists.0.in_background.fetch_sub(1, Ordering::Relaxed);
        };
        self.0.executor.spawn(fetch).detach();
    }
}

/// Which lists are kept, who is a stranger, and whose lists each server is to be asked for.
fn look_up(
    r: &impl Reader,
    users: Vec<OwnedUserId>,
) -> Result<(Found, BTreeMap<OwnedServerName, Vec<OwnedUserId>>), rooms::Error> {
    let mut found = Found::default();
    let mut lacking: BTreeMap<OwnedServerName, Vec<OwnedUserId>> = BTreeMap::new();
    for user in users {
        if current::sharing_rooms_with(r, &user)?.is_empty() {
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

fn kept(r: &impl Reader, user: &UserId) -> Result<Option<Devices>, rooms::Error> {
    let kept = remote_devices::load(r, user)?;
    Ok(kept.filter(|kept| !kept.is_stale))
}

fn is_old(kept: &Devices, now: u64) -> bool {
    kept.fetched_ts.saturating_add(OLD_MS) < now
}
