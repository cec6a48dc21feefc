//! Signing keys: this server's as others see them, and those of others.
//!
//! What another server has told of its keys is stored, so that its events can be checked when it is
//! gone. It is asked again when a key is wanted that is not known, or not known to be valid at the
//! time that matters.
//!
//! Source: server-server API, "Retrieving server keys".

mod notaries;
mod notary;
mod own;
mod stored;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ruma::{
    OwnedServerName, ServerName,
    api::federation::{authentication::XMatrix, discovery::get_server_keys},
    signatures::PublicKeyMap,
};
use smol::lock::Semaphore;

use self::stored::Known;
pub use self::{notary::Query, own::published};
use super::{Client, locks::Locks, remembered::Remembered};
use crate::{
    clock::Clock,
    executor::Executor,
    pool::{Kind, Pool},
    protocol::receive::{Incoming, ReceiveError, Received},
    rooms::{self, Local},
    store::Store,
};

/// How many servers are asked at once.
const AT_ONCE: usize = 16;
/// How many of them because somebody else wants to know.
const VOUCHED_AT_ONCE: usize = 8;
/// Servers share so many locks.
const LOCKS: usize = 64;
/// As many events are checked in place, more on the pool.
const IN_PLACE: usize = 4;

/// How long a server is not asked again.
const REST: Duration = Duration::from_mins(5);
/// Of how many servers, and of how many bytes of their names, that is remembered.
const RESTING: usize = 1000;
const RESTING_BYTES: usize = 64 * 1024;

/// Servers that are not asked again for a while.
type Resting = Remembered<OwnedServerName, ()>;

/// The keys of all servers. Clones are the same.
#[derive(Clone)]
pub struct Keys(Arc<Parts>);

struct Parts {
    store: Store,
    local: Local,
    client: Client,
    clock: Clock,
    pool: Pool,
    executor: Executor,
    slots: Semaphore,
    vouching: Semaphore,
    /// A server is asked by one at a time.
    locks: Locks<LOCKS>,
    /// Those that did not give what was wanted.
    resting: Resting,
    notaries: Vec<OwnedServerName>,
    /// Those about which notaries did not say what was wanted.
    notaries_rest: Resting,
}

/// A key that is wanted: its id, and when it must have been valid, in milliseconds since the epoch.
pub type Wanted = (String, u64);

impl Keys {
    /// The keys that `store` knows and `client` can ask for, of `notaries` too.
    pub fn new(
        (store, local): (&Store, &Local),
        client: &Client,
        notaries: &[OwnedServerName],
        (clock, pool): (&Clock, &Pool),
        executor: &Executor,
    ) -> Self {
        Self(Arc::new(Parts {
            store: store.clone(),
            local: local.clone(),
            client: client.clone(),
            clock: clock.clone(),
            pool: pool.clone(),
            executor: executor.clone(),
            slots: Semaphore::new(AT_ONCE),
            vouching: Semaphore::new(VOUCHED_AT_ONCE),
            locks: Locks::default(),
            resting: resting(clock),
            notaries: notaries.to_vec(),
            notaries_rest: resting(clock),
        }))
    }

    /// Whether `request`, which `signed` says comes from its origin, does.
    ///
    /// Source: server-server API, "Request authentication".
    pub async fn is_signed(
        &self,
        signed: &XMatrix,
        request: &http::Request<&[u8]>,
    ) -> Result<bool, rooms::Error> {
        let now = self.0.clock.now_ms();
        let wanted = [(signed.key.to_string(), now)];
        let enough = |known: &Known| known.satisfies(&wanted);
        let known = self.of_server(&signed.origin, enough).await?;
        let keys = PublicKeyMap::from([(signed.origin.to_string(), known.valid_at(Some(now)))]);
        let name = self.0.local.server_name();
        Ok(signed.verify_http_request(request, name, &keys).is_ok())
    }

    /// Checks signatures and hashes of `events`, each by the keys that count for it.
    pub async fn verify(&self, events: Vec<Incoming>) -> Vec<Result<Received, ReceiveError>> {
        let known = self.of_servers(wanted_by(&events)).await;
        let checked: Vec<(Incoming, PublicKeyMap)> = events
            .into_iter()
            .map(|event| {
                let keys = keys_for(&event, &known);
                (event, keys)
            })
            .collect();
        let verify = |checked: Vec<(Incoming, PublicKeyMap)>| {
            let each = checked.into_iter();
            each.map(|(event, keys)| event.verify(&keys)).collect()
        };
        if checked.len() <= IN_PLACE {
            return verify(checked);
        }
        let mut results = Vec::new();
        let mut checked = checked.into_iter().peekable();
        while checked.peek().is_some() {
            let some: Vec<_> = checked.by_ref().take(100).collect();
            let again = some.clone();
            match self.0.pool.run(Kind::Verify, move || verify(some)).await {
                Ok(verified) => results.extend::<Vec<_>>(verified),
                // Whoever is in the pool's queue waits for others of this kind.
                Err(_) => results.extend::<Vec<_>>(verify(again)),
            }
        }
        results
    }

    /// The keys of several servers, asked at once.
    async fn of_servers(
        &self,
        wanted: BTreeMap<OwnedServerName, Vec<Wanted>>,
    ) -> BTreeMap<OwnedServerName, Known> {
        let asking: Vec<_> = wanted
            .iter()
            .map(|(server, wanted)| {
                let (keys, server, wanted) = (self.clone(), server.clone(), wanted.clone());
                self.0.executor.spawn(async move {
                    let _slot = keys.0.slots.acquire().await;
                    let enough = |known: &Known| known.satisfies(&wanted);
                    let known = keys.of_server(&server, enough).await;
                    (server, known.unwrap_or_default())
                })
            })
            .collect();
        let mut known = BTreeMap::new();
        for server in asking {
            let (server, keys) = server.await;
            known.insert(server, keys);
        }
        if let Err(error) = self.by_notaries(wanted, &mut known).await {
            log::error!("the keys of other servers: {error}");
        }
        known
    }

    /// What is known of a server's keys, after asking it if that is not enough.
    async fn of_server(
        &self,
        server: &ServerName,
        enough: impl Fn(&Known) -> bool,
    ) -> Result<Known, rooms::Error> {
        let store = &self.0.store;
        if server == self.0.local.server_name() {
            return store.read(own::known);
        }
        let known = store.read(|s| stored::of(s, server))?;
        if enough(&known) {
            return Ok(known);
        }
        // Who comes while the server is being asked waits for that answer.
        let _one = self.0.locks.of(server).await;
        let known = store.read(|s| stored::of(s, server))?;
        if enough(&known) || self.0.resting.get(server).is_some() {
            return Ok(known);
        }
        // It is rare and large, and would make every request that is checked as large.
        let told = Box::pin(self.ask(server)).await;
        if let Some((told, json)) = told.clone() {
            let server = server.to_owned();
            store
                .write(move |tx| stored::put(tx, &server, &told, &json))
                .await?;
        }
        // Also after an answer: whoever sends what is signed with keys that do not exist must not
        // have their server asked each time.
        rest(&self.0.resting, server);
        Ok(match told {
            Some((told, _)) => known.with(told),
            None => known,
        })
    }

    /// Asks a server for its keys: what they are, and how it says so.
    async fn ask(&self, server: &ServerName) -> Option<(Known, String)> {
        let now = self.0.clock.now_ms();
        let request = get_server_keys::v2::Request::new();
        let told = self.0.client.send(server, request).await;
        let told = told.map_err(|error| error.to_string());
        let told = told.and_then(|told| {
            let known = stored::parse(server, &told.server_key, now)?;
            Ok((known, told.server_key.into_json().to_string()))
        });
        told.map_err(|error| log::debug!("{server} does not tell its keys: {error}"))
            .ok()
    }
}

fn resting(clock: &Clock) -> Resting {
    Remembered::new(clock, RESTING, RESTING_BYTES)
}

/// Lets `server` rest from now on.
fn rest(resting: &Resting, server: &ServerName) {
    resting.put(server.to_owned(), (), server.as_str().len(), REST);
}

/// The keys that `events` say they are signed with.
fn wanted_by(events: &[Incoming]) -> BTreeMap<OwnedServerName, Vec<Wanted>> {
    let mut wanted: BTreeMap<OwnedServerName, Vec<Wanted>> = BTreeMap::new();
    for event in events {
        let at = when(event).unwrap_or(0);
        for server in event.signers().unwrap_or_default() {
            let ids = event.key_ids(server.as_str()).map(|id| (id.to_owned(), at));
            let ids: Vec<Wanted> = ids.take(8).collect();
            wanted.entry(server).or_default().extend(ids);
        }
    }
    wanted
}

/// When the keys of an event must have been valid, if that matters.
fn when(event: &Incoming) -> Option<u64> {
    let at = event
        .enforces_key_validity()
        .then(|| event.origin_server_ts())??;
    Some(u64::try_from(at).unwrap_or(0))
}

fn keys_for(event: &Incoming, known: &BTreeMap<OwnedServerName, Known>) -> PublicKeyMap {
    let signers = event.signers().unwrap_or_default().into_iter();
    let keys = signers.filter_map(|server| {
        let valid = known.get(&server)?.valid_at(when(event));
        Some((server.to_string(), valid))
    });
    keys.collect()
}
