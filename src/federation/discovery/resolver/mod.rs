//! From a server's name to where it is: [server-server API, "Resolving server names"].
//!
//! [`Search`] goes through the specification's steps each time it is asked. [`Resolver`] stores what
//! came out, so that a restart asks nobody, and goes on with that while it looks again: wherever
//! a server is, it proves who it is.
//!
//! [server-server API, "Resolving server names"]: https://spec.matrix.org/v1.19/server-server-api/#resolving-server-names

mod order;
mod search;
mod stored;
#[cfg(test)]
mod tests;
mod well_known;

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ruma::{OwnedServerName, ServerName};
use smol::{
    channel::{self, Receiver},
    lock::Semaphore,
};

use self::search::target;
pub use self::search::{Ports, Search};
use crate::{
    clock::Clock,
    executor::Executor,
    federation::{
        Error,
        remembered::Remembered,
        transport::{
            connect::{Target, in_time},
            pace::Pace,
        },
    },
    store::{self, Store, Tx, records::ResolvedServer},
};

/// How long a search may take, and who waits for one to have its turn.
const SEARCH: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(40);
/// How many searches wait, and how many are under way.
const WAITING: usize = 200;
const UNDER_WAY: usize = 16;
/// How many begin at once, and after what time one more.
const AT_ONCE: u32 = 20;
const EVERY: Duration = Duration::from_millis(100);
/// How many searches are remembered, and how much memory they take in all and each: a server hardly
/// has ten addresses.
const REMEMBERED: usize = 1000;
const BYTES: usize = REMEMBERED * BYTES_EACH;
const BYTES_EACH: usize = 512;
/// For how long a server is not looked for again, whether it was found or not.
const FOUND: Duration = Duration::from_mins(5);
const FAILED: Duration = Duration::from_mins(1);
/// Nothing holds longer: else a clock that once ran ahead makes it hold for ever.
const LONGEST: Duration = Duration::from_hours(48);

/// Finds servers. Clones are the same.
#[derive(Clone)]
pub struct Resolver(Arc<Parts>);

struct Parts {
    search: Search,
    store: Store,
    clock: Clock,
    executor: Executor,
    /// What the last searches found, before it is stored too.
    recent: Remembered<OwnedServerName, Result<Arc<ResolvedServer>, Error>>,
    /// The searches under way; each channel is closed when its search is over.
    searches: Mutex<HashMap<OwnedServerName, Receiver<Infallible>>>,
    slots: Semaphore,
    pace: Pace,
}

impl Resolver {
    /// Stores what `search` finds.
    pub fn new(search: Search, store: &Store, clock: &Clock, executor: &Executor) -> Self {
        Self(Arc::new(Parts {
            search,
            store: store.clone(),
            clock: clock.clone(),
            executor: executor.clone(),
            recent: Remembered::new(clock, REMEMBERED, BYTES),
            searches: Mutex::default(),
            slots: Semaphore::new(UNDER_WAY),
            pace: Pace::new(AT_ONCE, EVERY),
        }))
    }

    /// Where the server `name` is, or was before it is looked for again.
    pub async fn resolve(&self, name: &ServerName) -> Result<Target, Error> {
        if name.is_ip_literal() {
            // What looks for a name is large, and would be part of every request.
            let found = Box::pin(self.0.search.find(name, None, 0)).await?;
            return Ok(target(name, &found));
        }
        if let Some(found) = self.0.recent.get(name) {
            return Ok(target(name, &*found?));
        }
        let Some(known) = self.stored(name) else {
            return Ok(target(name, &*self.look(name, None).await?));
        };
        let now = self.0.clock.now_ms();
        let longest = u64::try_from(LONGEST.as_millis()).unwrap_or(u64::MAX);
        let holds = now < known.until_ts && known.until_ts - now <= longest;
        let found = target(name, &known);
        if !holds {
            // Nobody waits for it; if there are too many, the next who asks tries again.
            let _ = self.start(name, Some(known));
        }
        Ok(found)
    }

    /// Where the server `name` is, if that is not where [`resolve`](Self::resolve) said and nobody
    /// was.
    pub async fn resolve_again(&self, name: &ServerName) -> Option<Target> {
        if self.0.recent.get(name).is_some() {
            return None;
        }
        let known = self.stored(name)?;
        let doubtful = ResolvedServer {
            delegated_until_ts: 0,
            ..known.clone()
        };
        let found = self.look(name, Some(doubtful)).await.ok()?;
        let is_elsewhere =
            (&found.delegated, &found.endpoints) != (&known.delegated, &known.endpoints);
        is_elsewhere.then(|| target(name, &found))
    }

    /// Who searches.
    pub fn searcher(&self) -> &Search {
        &self.0.search
    }

    fn stored(&self, name: &ServerName) -> Option<ResolvedServer> {
        let stored = self.0.store.read(|s| stored::get(s, name));
        stored.unwrap_or_else(|error| {
            log::error!("cannot read where {name} is: {error}");
            None
        })
    }

    /// Looks for the server `name`, and waits for what comes out.
    async fn look(
        &self,
        name: &ServerName,
        before: Option<ResolvedServer>,
    ) -> Result<Arc<ResolvedServer>, Error> {
        let search = self.start(name, before)?;
        // It says nothing, and ends.
        let _ = in_time(PATIENCE, search.recv()).await?;
        self.0.recent.get(name).unwrap_or(Err(Error::TimedOut))
    }

    /// Starts looking for the server `name`, unless somebody looks for it already.
    fn start(
        &self,
        name: &ServerName,
        before: Option<ResolvedServer>,
    ) -> Result<Receiver<Infallible>, Error> {
        let searches = self.0.searches.lock();
        let mut searches = searches.unwrap_or_else(PoisonError::into_inner);
        if let Some(search) = searches.get(name)
            && !search.is_closed()
        {
            return Ok(search.clone());
        }
        if searches.len() >= WAITING {
            let busy = "too many servers are being looked for";
            return Err(Error::Unreachable(busy.into()));
        }
        let (end, search) = channel::bounded(1);
        searches.insert(name.to_owned(), search.clone());
        let (resolver, name) = (self.clone(), name.to_owned());
        let task = self.0.executor.spawn(async move {
            resolver.search(&name, before).await;
            let searches = resolver.0.searches.lock();
            let mut searches = searches.unwrap_or_else(PoisonError::into_inner);
            searches.remove(&name);
            drop(end);
        });
        task.detach();
        Ok(search)
    }

    async fn search(&self, name: &ServerName, before: Option<ResolvedServer>) {
        let _slot = self.0.slots.acquire().await;
        self.0.pace.turn().await;
        let now = self.0.clock.now_ms();
        let search = Box::pin(self.0.search.find(name, before.as_ref(), now));
        let found = in_time(SEARCH, search).await.flatten();
        let (found, holds) = match (found, before) {
            (Ok(found), _) => {
                self.note(name, found.clone());
                (Ok(Arc::new(found)), FOUND)
            }
            (Err(error), before) => {
                log::debug!("{name} is not found: {error}");
                // It may still be where it was.
                (before.map(Arc::new).ok_or(error), FAILED)
            }
        };
        self.0.recent.put(name.to_owned(), found, BYTES_EACH, holds);
    }

    /// Stores where the server `name` is. Nobody waits for that.
    fn note(&self, name: &ServerName, found: ResolvedServer) {
        let (store, name) = (self.0.store.clone(), name.to_owned());
        let task = self.0.executor.spawn(async move {
            let job = move |tx: &Tx| stored::put(tx, &name, &found);
            match store.write_soon(job).await {
                Ok(()) | Err(store::Error::Closed) => {}
                Err(error) => log::debug!("cannot store where a server is: {error}"),
            }
        });
        task.detach();
    }
}
