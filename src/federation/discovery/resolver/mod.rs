//! [Server discovery], with a cache.
//!
//! [`Discovery`] goes through the steps of the specification each time. [`Resolver`] stores its results,
//! also over a restart. A result that is too old is still used while it is refreshed in the background: a
//! server proves its identity at whatever address.
//!
//! [Server discovery]: https://spec.matrix.org/v1.19/server-server-api/#resolving-server-names

mod discovery;
mod srv_order;
mod stored;
#[cfg(test)]
mod tests;
mod well_known;

use std::{sync::Arc, time::Duration};

use ruma::{OwnedServerName, ServerName};
use smol::lock::Semaphore;

pub use self::discovery::Discovery;
use self::discovery::target;
use crate::{
    cache::Cache,
    clock::{Clock, as_ms},
    executor::Executor,
    federation::{
        Error,
        transport::{
            connect::{Target, with_timeout},
            throttle::Throttle,
        },
    },
    single_flight::{Flight, SingleFlight},
    store::{self, Store, Tx, records::ResolvedServer},
};

const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a request waits for the discovery of its destination, with the time in the queue.
const WAIT_TIMEOUT: Duration = Duration::from_secs(40);
const MAX_QUEUED: usize = 200;
/// More than a few users can cause by naming servers that are silent.
const MAX_CONCURRENT: usize = 64;
/// How many discoveries start at once, and the interval of further ones.
const BURST: u32 = 20;
const INTERVAL: Duration = Duration::from_millis(100);
/// For how long a server is not resolved again, whether it was found or not.
const FOUND_TTL: Duration = Duration::from_mins(5);
const FAILED_TTL: Duration = Duration::from_mins(1);
const MAX_RECENT: usize = 1000;
/// A stored result is not used for longer, even if the clock was ahead when it was stored.
const MAX_STORED_TTL: Duration = Duration::from_hours(48);

/// Resolves server names. Clones are the same.
#[derive(Clone)]
pub struct Resolver(Arc<ResolverInner>);

type Outcome = Result<Arc<ResolvedServer>, Error>;

struct ResolverInner {
    discovery: Discovery,
    store: Store,
    clock: Clock,
    executor: Executor,
    recent: Cache<OwnedServerName, Outcome>,
    discoveries: SingleFlight<OwnedServerName, Outcome>,
    permits: Semaphore,
    throttle: Throttle,
}

impl Resolver {
    pub fn new(discovery: Discovery, store: &Store, clock: &Clock, executor: &Executor) -> Self {
        Self(Arc::new(ResolverInner {
            discovery,
            store: store.clone(),
            clock: clock.clone(),
            executor: executor.clone(),
            recent: Cache::new(clock, MAX_RECENT),
            discoveries: SingleFlight::new(MAX_QUEUED),
            permits: Semaphore::new(MAX_CONCURRENT),
            throttle: Throttle::new(BURST, INTERVAL),
        }))
    }

    /// Where to connect for the server `name`, possibly by an old result.
    pub async fn resolve(&self, name: &ServerName) -> Result<Target, Error> {
        if name.is_ip_literal() {
            // Discovery is large, and would be part of the future of every request.
            let resolved = Box::pin(self.0.discovery.resolve(name, None, 0)).await?;
            return Ok(target(name, &resolved));
        }
        if let Some(recent) = self.0.recent.get(name) {
            return Ok(target(name, &*recent?));
        }
        let Some(stored) = self.stored(name) else {
            return Ok(target(name, &*self.discover(name, None).await?));
        };
        let now = self.0.clock.now_ms();
        let is_current = now < stored.until_ts && stored.until_ts - now <= as_ms(MAX_STORED_TTL);
        let old_target = target(name, &stored);
        if !is_current {
            // Nobody waits for it. If too many are queued, the next request starts it.
            let _ = self.start(name, Some(stored));
        }
        Ok(old_target)
    }

    /// Where to connect for the server `name` instead of what [`resolve`](Self::resolve) returned, if
    /// discovery finds something else.
    pub async fn resolve_again(&self, name: &ServerName) -> Option<Target> {
        if self.0.recent.get(name).is_some() {
            return None;
        }
        let stored = self.stored(name)?;
        let without_delegation = ResolvedServer {
            delegated_until_ts: 0,
            ..stored.clone()
        };
        let resolved = self.discover(name, Some(without_delegation)).await.ok()?;
        let is_other =
            (&resolved.delegated, &resolved.endpoints) != (&stored.delegated, &stored.endpoints);
        is_other.then(|| target(name, &resolved))
    }

    /// Forgets what is in memory of the server `name`.
    pub fn forget(&self, name: &ServerName) {
        self.0.recent.remove(name);
    }

    pub fn discovery(&self) -> &Discovery {
        &self.0.discovery
    }

    fn stored(&self, name: &ServerName) -> Option<ResolvedServer> {
        let stored = self.0.store.read(|s| stored::get(s, name));
        stored.unwrap_or_else(|error| {
            log::error!("the stored addresses of {name} cannot be read: {error}");
            None
        })
    }

    async fn discover(&self, name: &ServerName, before: Option<ResolvedServer>) -> Outcome {
        let flight = self.start(name, before)?;
        let outcome = with_timeout(WAIT_TIMEOUT, flight.wait()).await?;
        outcome.unwrap_or(Err(Error::TimedOut))
    }

    /// Joins the discovery of the server `name`, or starts one.
    fn start(
        &self,
        name: &ServerName,
        before: Option<ResolvedServer>,
    ) -> Result<Flight<Outcome>, Error> {
        let (resolver, key) = (self.clone(), name.to_owned());
        let name = name.to_owned();
        let work = move || async move { resolver.run(&name, before).await };
        let flight = self.0.discoveries.start(&self.0.executor, key, work);
        flight.ok_or_else(|| Error::Unreachable("too many servers are being resolved".into()))
    }

    async fn run(&self, name: &ServerName, before: Option<ResolvedServer>) -> Outcome {
        let _permit = self.0.permits.acquire().await;
        self.0.throttle.wait().await;
        let now = self.0.clock.now_ms();
        let discovery = Box::pin(self.0.discovery.resolve(name, before.as_ref(), now));
        let resolved = with_timeout(DISCOVERY_TIMEOUT, discovery).await.flatten();
        let (outcome, ttl) = match resolved {
            Ok(resolved) => {
                self.save(name, resolved.clone());
                (Ok(Arc::new(resolved)), FOUND_TTL)
            }
            Err(error) => {
                log::debug!("{name} cannot be resolved: {error}");
                // The old addresses may still be right.
                (before.map(Arc::new).ok_or(error), FAILED_TTL)
            }
        };
        self.0.recent.insert(name.to_owned(), outcome.clone(), ttl);
        outcome
    }

    /// Queues a write that nobody waits for.
    fn save(&self, name: &ServerName, resolved: ResolvedServer) {
        let (store, name) = (self.0.store.clone(), name.to_owned());
        let task = self.0.executor.spawn(async move {
            let server = name.clone();
            let job = move |tx: &Tx| stored::put(tx, &name, &resolved);
            match store.write_deferred(job).await {
                Ok(()) | Err(store::Error::Closed) => {}
                Err(error) => log::debug!("the addresses of {server} cannot be stored: {error}"),
            }
        });
        task.detach();
    }
}
