//! Fetching of lists.

use std::{
    collections::HashSet,
    sync::{MutexGuard, PoisonError},
    time::Duration,
};

use ruma::{
    OwnedUserId, ServerName, UserId,
    api::{error::ErrorKind, federation::device::get_devices},
};

use super::tracker::DeviceLists;
use crate::{
    federation::{Error, Limits, transport::connect::with_timeout},
    rooms::{self, servers::shared_rooms},
    single_flight::Flight,
    store::{self, Position, Tx, records::RemoteDeviceList},
    users::{
        self, device_lists,
        remote_devices::{self, DeviceListResponse},
    },
};

const LIMITS: Limits = Limits {
    timeout: Duration::from_secs(10),
    max_bytes: 4 * 1024 * 1024,
};
/// How long a fetch may take, with server discovery.
const FETCH_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a list is fetched that changes meanwhile.
const MAX_ROUNDS: usize = 4;
/// How many lists of one server are fetched at once.
const MAX_CONCURRENT_PER_SERVER: usize = 8;
/// A list is refreshed when it is older.
const MAX_AGE_MS: u64 = 7 * 24 * 60 * 60 * 1000;
/// How many stale lists are looked for at a start.
const MAX_STALE: usize = 10_000;

type Outcome = Result<(), Error>;

/// The result of one request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Round {
    /// The list is current.
    Current,
    /// An update came after the request.
    Outdated,
}

impl DeviceLists {
    /// Lists that were stale when the server stopped are fetched when their servers send requests.
    pub async fn find_stale(self) {
        let scan = |s: &_| {
            let mut stale = Vec::new();
            for user in remote_devices::stale_users(s, MAX_STALE)? {
                match users::id_of(s, user) {
                    Ok(user) => stale.push(user),
                    Err(error @ store::Error::Corrupt(_)) => {
                        log::error!(
                            "a stale device list is not fetched again, as its user is unknown: {error}"
                        );
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(stale)
        };
        match self.0.store.scan("stale device lists", scan).await {
            Ok(stale) => stale.iter().for_each(|user| self.0.retries.put(user)),
            Err(rooms::Error::Store(store::Error::Closed)) => {}
            Err(error) => log::error!(
                "stale device lists of other servers' users are fetched only when they are used: {error}"
            ),
        }
    }

    /// `server` has sent a request, so it is up: failed fetches are tried again.
    pub fn alive(&self, server: &ServerName) {
        let users = self.0.retries.next_batch(server, self.0.clock.now_ms());
        if users.is_empty() {
            return;
        }
        let lists = self.clone();
        let fetch = async move {
            // Failed fetches are tried again later.
            let _ = lists.fetch_all(&users).await;
        };
        self.0.executor.spawn(fetch).detach();
    }

    /// Fetches the lists of users of one server. The first one is fetched alone: if the server cannot be
    /// reached, the others are not requested.
    pub(super) async fn fetch_all(&self, users: &[OwnedUserId]) -> Outcome {
        let mut outcome = Ok(());
        let (first, others) = users.split_at(users.len().min(1));
        let batches = std::iter::once(first).chain(others.chunks(MAX_CONCURRENT_PER_SERVER));
        for users in batches {
            let flights: Vec<_> = users.iter().map(|user| self.start(user)).collect();
            for flight in flights {
                match flight?.wait().await.unwrap_or(Err(Error::TimedOut)) {
                    Err(error) if error.is_unreachable() => return Err(error),
                    fetched => outcome = outcome.and(fetched),
                }
            }
        }
        outcome
    }

    pub(super) fn fetch_in_background(&self, user: &UserId) {
        let Some(permit) = self.0.background_permits.try_acquire_arc() else {
            return;
        };
        if let Ok(flight) = self.start(user) {
            let wait = async move {
                flight.wait().await;
                drop(permit);
            };
            self.0.executor.spawn(wait).detach();
        }
    }

    /// The list of `user` has changed: if it is being fetched, it is fetched once more.
    pub(super) fn set_outdated(&self, user: &UserId) {
        let user = user.to_owned();
        if self.0.fetches.is_under_way(&user) {
            self.outdated().insert(user);
        }
    }

    fn outdated(&self) -> MutexGuard<'_, HashSet<OwnedUserId>> {
        self.0
            .outdated
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins the fetch of the list of `user`, or starts one.
    fn start(&self, user: &UserId) -> Result<Flight<Outcome>, Error> {
        let (lists, key) = (self.clone(), user.to_owned());
        let user = user.to_owned();
        let work = move || async move { lists.run(&user).await };
        let flight = self.0.fetches.start(&self.0.executor, key, work);
        flight.ok_or(Error::TimedOut)
    }

    async fn run(&self, user: &UserId) -> Outcome {
        self.outdated().remove(user);
        let outcome = with_timeout(FETCH_TIMEOUT, self.fetch(user))
            .await
            .flatten();
        match &outcome {
            Ok(()) => self.0.retries.remove(user),
            Err(error) => {
                log::debug!("the device list of {user} cannot be fetched: {error}");
                self.0.retries.put(user);
            }
        }
        outcome
    }

    /// Fetches the list of `user` until no update comes meanwhile.
    async fn fetch(&self, user: &UserId) -> Outcome {
        for _ in 0..MAX_ROUNDS {
            let round = self.fetch_once(user).await?;
            if round == Round::Current && !self.outdated().remove(user) {
                return Ok(());
            }
        }
        Err(Error::InvalidResponse(
            "the device list changes all the time".into(),
        ))
    }

    async fn fetch_once(&self, user: &UserId) -> Result<Round, Error> {
        let now = self.0.clock.now_ms();
        // An update after this position may not be in the response.
        let before = self.0.store.read(|s| {
            if !shared_rooms::any_local_user_shares(s, user)? {
                return Ok(None);
            }
            let list = remote_devices::load(s, user)?;
            if list.is_some_and(|list| !list.is_stale && !is_old(&list, now)) {
                return Ok(None);
            }
            let num = users::num_of(s, user)?;
            let last = num.map(|num| device_lists::last_change(s, num));
            Ok::<_, rooms::Error>(Some(last.transpose()?.flatten()))
        });
        let Some(before) = before.map_err(store_error)? else {
            return Ok(Round::Current);
        };
        let request = get_devices::v1::Request::new(user.to_owned());
        let server = user.server_name();
        let of = user.to_owned();
        let parse = move |body: &[u8]| {
            DeviceListResponse::parse(&of, body)
                .map_err(|reason| Error::InvalidResponse(reason.into()))
        };
        let response = self
            .0
            .client
            .send_and_parse_body(server, request, LIMITS, parse)
            .await;
        let (list, _memory) = match response {
            Ok(list) => list,
            Err(error) if matches!(error.kind(), Some(ErrorKind::NotFound)) => {
                return self.remove_unknown_user(user).await;
            }
            Err(error) => return Err(error),
        };
        let user = user.to_owned();
        let job = move |tx: &Tx| save(tx, &user, &list, before, now);
        self.0.store.write(job).await.map_err(store_error)
    }

    /// Removes the list of a user who does not exist, as the user's server says.
    async fn remove_unknown_user(&self, user: &UserId) -> Result<Round, Error> {
        let user = user.to_owned();
        let job = move |tx: &Tx| {
            if remote_devices::is_tracked(tx, &user)? {
                remote_devices::remove(tx, &user)?;
                let user = tx.user_num(user.as_str())?;
                device_lists::remote_changed(tx, user)?;
            }
            Ok::<_, rooms::Error>(Round::Current)
        };
        self.0.store.write(job).await.map_err(store_error)
    }
}

/// Stores the list of `user`, whose last change before the request was at `before`. If another list was
/// stored, or one that clients got as stale, they are notified of a change.
fn save(
    tx: &Tx,
    user: &UserId,
    list: &DeviceListResponse,
    before: Option<Position>,
    now: u64,
) -> Result<Round, rooms::Error> {
    // The last user who shared a room may have left meanwhile.
    if !shared_rooms::any_local_user_shares(tx, user)? {
        return Ok(Round::Current);
    }
    let num = tx.user_num(user.as_str())?;
    let is_outdated = device_lists::last_change(tx, num)? != before;
    let is_stored_stale = remote_devices::is_stale(tx, user)?;
    // The stored list has the updates, which the response may lack.
    if is_outdated && is_stored_stale == Some(false) {
        return Ok(Round::Outdated);
    }
    let is_news = is_stored_stale.is_some() && !remote_devices::is_same(tx, num, list)?;
    remote_devices::replace(tx, user, list, now, is_outdated)?;
    if is_news {
        device_lists::remote_changed(tx, num)?;
    }
    Ok(if is_outdated {
        Round::Outdated
    } else {
        Round::Current
    })
}

fn store_error(error: rooms::Error) -> Error {
    Error::Disk(error.to_string().into())
}

pub(super) fn is_old(list: &RemoteDeviceList, now: u64) -> bool {
    list.fetched_ts.saturating_add(MAX_AGE_MS) < now
}
