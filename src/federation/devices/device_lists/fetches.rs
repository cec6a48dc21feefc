//! Fetching lists: each by a task of its own, for which everybody waits who wants the list, and which goes
//! on when nobody does any more.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ruma::{
    OwnedUserId, UserId,
    api::{error::ErrorKind, federation::device::get_devices},
};
use smol::lock::OnceCell;

use super::{DeviceLists, is_old};
use crate::{
    federation::{Error, Limits, transport::connect::in_time},
    rooms::{self, state::current},
    store::{Position, Tx},
    users::{
        self, device_lists,
        remote_devices::{self, DeviceListResponse},
    },
};

/// How long a server has to answer, and how much it may say of one user.
const LIMITS: Limits = Limits {
    time: Duration::from_secs(10),
    size: 4 * 1024 * 1024,
};
/// How long a fetch may take, with finding the server.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a list is asked for that changes meanwhile.
const ROUNDS: usize = 4;
/// How many lists are fetched at once.
const UNDER_WAY: usize = 500;

type Outcome = Result<(), Error>;
/// A fetch that somebody waits for.
pub(in crate::federation) type Fetch = Arc<OnceCell<Outcome>>;

/// The fetches that are under way.
#[derive(Default)]
pub(in crate::federation) struct Fetches(Mutex<HashMap<OwnedUserId, UnderWay>>);

struct UnderWay {
    fetch: Fetch,
    /// Whether an update has come since the last round began.
    is_wanted_again: bool,
}

/// What came of asking once.
enum Round {
    /// The list is as its server has it.
    Done,
    /// It has changed since it was asked for.
    Late,
}

impl Fetches {
    fn lock(&self) -> MutexGuard<'_, HashMap<OwnedUserId, UnderWay>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The list of `user`, if it is being fetched, may be another by now.
    pub(in crate::federation) fn want_again(&self, user: &UserId) {
        if let Some(this) = self.lock().get_mut(user) {
            this.is_wanted_again = true;
        }
    }

    /// Whether the fetch that seems to have ended is to go on. If not, the next who asks begins another.
    fn goes_on(&self, user: &UserId) -> bool {
        let mut under_way = self.lock();
        let this = under_way.get_mut(user);
        let goes_on = this.is_some_and(|this| std::mem::take(&mut this.is_wanted_again));
        if !goes_on {
            under_way.remove(user);
        }
        goes_on
    }

    /// The list of `user` is not fetched by `fetch` any more.
    fn ended(&self, user: &UserId, fetch: &Fetch) {
        let mut under_way = self.lock();
        let this = under_way.get(user);
        if this.is_some_and(|this| Arc::ptr_eq(&this.fetch, fetch)) {
            under_way.remove(user);
        }
    }
}

impl DeviceLists {
    /// Starts to fetch the list of `user`, unless that is under way.
    pub(in crate::federation) fn start(&self, user: &UserId) -> Result<Fetch, Error> {
        let mut under_way = self.0.fetches.lock();
        if let Some(this) = under_way.get(user) {
            return Ok(this.fetch.clone());
        }
        if under_way.len() >= UNDER_WAY {
            return Err(Error::TimedOut);
        }
        let fetch = Fetch::default();
        let new = UnderWay {
            fetch: fetch.clone(),
            is_wanted_again: false,
        };
        under_way.insert(user.to_owned(), new);
        drop(under_way);
        // Whoever waits is told also if the task does not come to its end.
        let end = End {
            lists: self.clone(),
            user: user.to_owned(),
            fetch: fetch.clone(),
            result: Err(Error::TimedOut),
        };
        self.0.executor.spawn(end.reach()).detach();
        Ok(fetch)
    }

    /// Fetches the list of `user`, until it is as its server has it.
    async fn fetch(&self, user: &UserId) -> Outcome {
        for _ in 0..ROUNDS {
            match self.fetch_once(user).await? {
                Round::Done if !self.0.fetches.goes_on(user) => return Ok(()),
                _ => {}
            }
        }
        Err(Error::Nonsense("devices that change all the time".into()))
    }

    async fn fetch_once(&self, user: &UserId) -> Result<Round, Error> {
        let now = self.0.clock.now_ms();
        // What is told later than this may not be in the answer.
        let before = self.0.store.read(|s| {
            if !current::shares_any_room(s, user)? {
                return Ok(None);
            }
            let kept = remote_devices::load(s, user)?;
            if kept.is_some_and(|kept| !kept.is_stale && !is_old(&kept, now)) {
                return Ok(None);
            }
            let num = users::num_of(s, user)?;
            let last = num.map(|num| device_lists::last_change(s, num));
            Ok::<_, rooms::Error>(Some(last.transpose()?.flatten()))
        });
        let Some(before) = before.map_err(own)? else {
            return Ok(Round::Done);
        };
        let request = get_devices::v1::Request::new(user.to_owned());
        let answer = self.0.client.answer(user.server_name(), request, LIMITS);
        let told = match answer.await {
            Ok(answer) => DeviceListResponse::parse(user, answer.body())
                .map_err(|why| Error::Nonsense(why.into()))?,
            Err(error) if matches!(error.kind(), Some(ErrorKind::NotFound)) => {
                return self.forget_one(user).await;
            }
            Err(error) => return Err(error),
        };
        let user = user.to_owned();
        let job = move |tx: &Tx| keep(tx, &user, &told, (before, now));
        self.0.store.write(job).await.map_err(own)
    }

    /// Forgets the list of a user of whom the user's server says that there is no such user.
    async fn forget_one(&self, user: &UserId) -> Result<Round, Error> {
        let user = user.to_owned();
        let job = move |tx: &Tx| {
            if remote_devices::is_tracked(tx, &user)? {
                remote_devices::remove(tx, &user)?;
                let user = tx.user_num(user.as_str())?;
                device_lists::remote_changed(tx, user)?;
            }
            Ok::<_, rooms::Error>(Round::Done)
        };
        self.0.store.write(job).await.map_err(own)
    }
}

/// Keeps what was told of `user`, who had last changed at `before` when it was asked for. Of whom
/// something was kept, somebody may have seen that: they look again.
fn keep(
    tx: &Tx,
    user: &UserId,
    told: &DeviceListResponse,
    (before, now): (Option<Position>, u64),
) -> Result<Round, rooms::Error> {
    // Whoever shared a room with the user may have left meanwhile.
    if !current::shares_any_room(tx, user)? {
        return Ok(Round::Done);
    }
    let num = tx.user_num(user.as_str())?;
    let is_late = device_lists::last_change(tx, num)? != before;
    let kept = remote_devices::is_stale(tx, user)?;
    // A list that follows the updates has what the answer may lack.
    if is_late && kept == Some(false) {
        return Ok(Round::Late);
    }
    remote_devices::replace(tx, user, told, now, is_late)?;
    if kept.is_some() {
        device_lists::remote_changed(tx, num)?;
    }
    Ok(if is_late { Round::Late } else { Round::Done })
}

fn own(error: rooms::Error) -> Error {
    Error::Disk(error.to_string().into())
}

/// Says how a fetch ended, when it is dropped.
struct End {
    lists: DeviceLists,
    user: OwnedUserId,
    fetch: Fetch,
    result: Outcome,
}

impl End {
    async fn reach(mut self) {
        let fetch = self.lists.fetch(&self.user);
        self.result = in_time(PATIENCE, fetch).await.unwrap_or_else(Err);
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let parts = &self.lists.0;
        parts.fetches.ended(&self.user, &self.fetch);
        match &self.result {
            Ok(()) => parts.waiting.remove(&self.user),
            Err(error) => {
                log::debug!("the devices of {} cannot be fetched: {error}", self.user);
                parts.waiting.put(&self.user);
            }
        }
        // Nobody else sets it.
        let _ = self.fetch.set_blocking(self.result.clone());
    }
}
