//! Fetching the keys of a server.

use std::{net::IpAddr, pin::pin, sync::Arc, time::Duration};

use ruma::{OwnedServerName, ServerName, api::federation::discovery::get_server_keys};
use smol::lock::Semaphore;

use super::{
    known::{self, KnownKeys},
    own, stored,
};
use crate::{
    cache::Cache,
    clock::Clock,
    executor::Executor,
    fair_semaphore::{FairPermit, FairSemaphore},
    federation::{Client, Limits, transport::connect::with_timeout},
    pool::Pool,
    rooms::{self, Local},
    single_flight::SingleFlight,
    store::{Store, Tx},
};

/// How many servers' keys are fetched at once.
const MAX_CONCURRENT: usize = 16;
/// How many servers' keys are fetched at once for other servers, of all networks and of one.
const MAX_CONCURRENT_NOTARIZED: usize = 8;
const MAX_CONCURRENT_NOTARIZED_PER_NETWORK: usize = 4;
/// How many servers' keys are fetched at once because a request names them, of all networks and of one.
const MAX_CONCURRENT_ORIGINS: usize = 32;
const MAX_CONCURRENT_ORIGINS_PER_NETWORK: usize = 4;
/// A server that takes longer needs one of so many further permits, or is given up: those that respond at
/// once wait for the others no longer than this.
const PROMPT_RESPONSE: Duration = Duration::from_secs(2);
const MAX_CONCURRENT_SLOW_ORIGINS: usize = 16;
/// How many servers' keys are being fetched or wait for that.
const MAX_QUEUED: usize = 2000;

/// Requests for keys keep no others from being sent, nor the other way round.
const MAX_REQUESTS: usize = 80;
/// With the discovery of the server.
const FETCH_TIMEOUT: Duration = Duration::from_secs(20);
const LIMITS: Limits = Limits {
    timeout: Duration::from_secs(10),
    max_bytes: 1024 * 1024,
};

/// Between two fetches from a server, whether it responded or not: else whoever signs with keys that do
/// not exist could cause a fetch each time.
const RETRY_INTERVAL: Duration = Duration::from_mins(5);
/// How many servers that is remembered of.
const MAX_RECENT: usize = 1000;

/// The keys of all servers. Clones are the same.
#[derive(Clone)]
pub struct Keys(pub(super) Arc<KeysInner>);

pub(super) struct KeysInner {
    pub store: Store,
    pub local: Local,
    pub client: Client,
    pub clock: Clock,
    pub pool: Pool,
    pub executor: Executor,
    pub permits: Semaphore,
    /// By the network of who wants to know.
    pub notarize_permits: FairSemaphore<IpAddr>,
    /// For requests of servers that share no room with this one, by network.
    pub origin_permits: FairSemaphore<IpAddr>,
    /// For those of them whose origin does not respond at once.
    slow_origin_permits: FairSemaphore<IpAddr>,
    fetches: SingleFlight<(OwnedServerName, Fetcher), KnownKeys>,
    /// Servers whose keys were fetched lately.
    recent: Cache<OwnedServerName, ()>,
    pub notaries: Vec<OwnedServerName>,
    /// Servers of which no notary had the keys lately.
    pub notaries_failed: Cache<OwnedServerName, ()>,
}

/// For what keys are fetched. A fetch for an unauthenticated request may be given up early, which must not keep
/// the keys from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Fetcher {
    Own,
    Unauthenticated,
}

impl Keys {
    pub fn new(
        store: &Store,
        local: &Local,
        client: &Client,
        notaries: &[OwnedServerName],
        clock: &Clock,
        pool: &Pool,
        executor: &Executor,
    ) -> Self {
        Self(Arc::new(KeysInner {
            store: store.clone(),
            local: local.clone(),
            client: client.with_own_slots(MAX_REQUESTS),
            clock: clock.clone(),
            pool: pool.clone(),
            executor: executor.clone(),
            permits: Semaphore::new(MAX_CONCURRENT),
            notarize_permits: FairSemaphore::new(
                MAX_CONCURRENT_NOTARIZED,
                MAX_CONCURRENT_NOTARIZED_PER_NETWORK,
            ),
            origin_permits: FairSemaphore::new(
                MAX_CONCURRENT_ORIGINS,
                MAX_CONCURRENT_ORIGINS_PER_NETWORK,
            ),
            slow_origin_permits: FairSemaphore::new(
                MAX_CONCURRENT_SLOW_ORIGINS,
                MAX_CONCURRENT_ORIGINS_PER_NETWORK,
            ),
            fetches: SingleFlight::new(MAX_QUEUED),
            recent: Cache::new(clock, MAX_RECENT),
            notaries: notaries.to_vec(),
            notaries_failed: Cache::new(clock, MAX_RECENT),
        }))
    }

    /// The known keys of a server. They are fetched first if they are not `enough`.
    pub(super) async fn of_server(
        &self,
        server: &ServerName,
        enough: impl Fn(&KnownKeys) -> bool,
    ) -> Result<KnownKeys, rooms::Error> {
        let fetch = |keys: Self, name: OwnedServerName| async move { keys.fetch(&name).await };
        self.of_server_by(server, enough, Fetcher::Own, fetch).await
    }

    /// The same, fetched with `fetch`.
    pub(super) async fn of_server_by<F>(
        &self,
        server: &ServerName,
        enough: impl Fn(&KnownKeys) -> bool,
        fetcher: Fetcher,
        fetch: impl FnOnce(Self, OwnedServerName) -> F,
    ) -> Result<KnownKeys, rooms::Error>
    where
        F: Future<Output = KnownKeys> + Send + 'static,
    {
        if server == self.0.local.server_name() {
            return self.0.store.read(own::known);
        }
        let mut known = self.stored(server)?;
        if enough(&known) || self.0.recent.get(server).is_some() {
            return Ok(known);
        }
        let work = || fetch(self.clone(), server.to_owned());
        let key = (server.to_owned(), fetcher);
        let flight = self.0.fetches.start(&self.0.executor, key, work);
        if let Some(flight) = flight
            && let Some(fetched) = flight.wait().await
        {
            known.0.extend(fetched.0);
        }
        Ok(known)
    }

    pub(super) fn stored(&self, server: &ServerName) -> Result<KnownKeys, rooms::Error> {
        self.0.store.read(|s| stored::load(s, server))
    }

    /// Fetches a server's keys and stores them. Empty if it does not answer.
    async fn fetch(&self, server: &ServerName) -> KnownKeys {
        let now = self.0.clock.now_ms();
        let request = get_server_keys::v2::Request::new();
        let client = &self.0.client;
        let response = client.send_with_limits(server, request, LIMITS);
        let response = client
            .answered()
            .give_up_after(FETCH_TIMEOUT, server, response)
            .await;
        let response = response.map_err(|error| error.to_string());
        let fetched = response.and_then(|response| {
            let keys = known::parse(server, &response.server_key, now)?;
            Ok((keys, response.server_key.into_json().to_string()))
        });
        let keys = match fetched {
            Ok((keys, json)) => {
                self.save(server, keys.clone(), json).await;
                keys
            }
            Err(error) => {
                log::debug!("the keys of {server} cannot be fetched: {error}");
                KnownKeys::default()
            }
        };
        // Only when the keys are stored: a concurrent request must not look for them there too early.
        self.0.recent.insert(server.to_owned(), (), RETRY_INTERVAL);
        keys
    }

    /// The same for a request from `network` that is not known to be of that server.
    pub(super) async fn fetch_unauthenticated(
        &self,
        server: &ServerName,
        network: IpAddr,
        permit: FairPermit<IpAddr>,
    ) -> KnownKeys {
        let mut fetch = pin!(self.fetch(server));
        if let Ok(keys) = with_timeout(PROMPT_RESPONSE, fetch.as_mut()).await {
            return keys;
        }
        drop(permit);
        match self.0.slow_origin_permits.try_acquire(network) {
            Some(_permit) => fetch.await,
            None => {
                log::debug!("{server} is slow to respond with its keys, as are too many others");
                KnownKeys::default()
            }
        }
    }

    pub(super) async fn save(&self, server: &ServerName, keys: KnownKeys, json: String) {
        let name = server.to_owned();
        let job = move |tx: &Tx| stored::put(tx, &name, &keys, &json);
        if let Err(error) = self.0.store.write::<_, rooms::Error, _>(job).await {
            log::debug!(
                "the keys of {server} are fetched again later, as they are not stored: {error}"
            );
        }
    }

    /// The keys of `server` are not fetched from notaries for a while.
    pub(super) fn notaries_failed(&self, server: OwnedServerName) {
        self.0.notaries_failed.insert(server, (), RETRY_INTERVAL);
    }
}
