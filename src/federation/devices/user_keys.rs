//! Queries and claims of keys of users of other servers (server-server API, "End-to-End Encryption").
//!
//! Several servers get their requests at once. What a response has beyond the request is ignored.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use ruma::{
    OneTimeKeyAlgorithm, OwnedDeviceId, OwnedServerName, OwnedUserId, ServerName,
    api::federation::keys::{claim_keys, get_keys},
};
use smol::{Task, future::yield_now};

use crate::{
    executor::Executor,
    fair_semaphore::FairSemaphore,
    federation::{
        Client, Error, Limits,
        outbound::backoff::Backoffs,
        transport::{client::ResponseMemory, connect::with_timeout},
    },
    shares::{Share, Shares},
    store::UserNum,
    users::remote_devices::{are_valid_device_keys, is_valid_cross_signing_key},
};

const MAX_RESPONSE_BYTES: usize = 4 * 1024 * 1024;
/// How many servers are called at once, for all users and for one, who can name thousands. As many again of
/// servers that are not known to answer.
const MAX_CONCURRENT: usize = 32;
const MAX_CONCURRENT_PER_USER: usize = 16;
/// How many users may be named in all requests that are not answered yet: each may be of a server of its own, and
/// takes about a kilobyte. One request names at most a third of them.
const MAX_REQUESTED: usize = 30_000;

/// The result of each server, with its memory in the budget for responses.
pub type Responses<T> = Vec<(OwnedServerName, Result<(T, ResponseMemory), Error>)>;
/// The devices of each user; an empty list means all.
pub type Requested = BTreeMap<OwnedUserId, Vec<OwnedDeviceId>>;
/// The algorithm of the wanted key of each device.
pub type Claims = BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, OneTimeKeyAlgorithm>>;

/// Requests keys. Clones are the same.
#[derive(Clone)]
pub struct UserKeys {
    /// With slots of its own: others do not wait for those whose keys are requested.
    client: Client,
    backoffs: Backoffs,
    executor: Executor,
    permits: FairSemaphore<UserNum>,
    /// For servers that did not answer their last request, or have had none.
    other_permits: FairSemaphore<UserNum>,
    requested: Shares<UserNum>,
}

impl UserKeys {
    pub fn new(client: &Client, backoffs: &Backoffs, executor: &Executor) -> Self {
        Self {
            client: client.with_own_slots(MAX_CONCURRENT),
            backoffs: backoffs.clone(),
            executor: executor.clone(),
            permits: FairSemaphore::new(MAX_CONCURRENT, MAX_CONCURRENT_PER_USER),
            other_permits: FairSemaphore::new(MAX_CONCURRENT, MAX_CONCURRENT_PER_USER),
            requested: Shares::of(MAX_REQUESTED),
        }
    }

    /// The share of the local user `user` for a request that names so many users of other servers; `None` if they
    /// have to wait for the answers to earlier ones.
    pub fn share(&self, user: UserNum, named: usize) -> Option<Share<UserNum>> {
        self.requested.take_many(user, named)
    }

    /// Queries keys for the local user `user`.
    pub async fn query(
        &self,
        user: UserNum,
        requested: Requested,
        timeout: Duration,
    ) -> Responses<get_keys::v1::Response> {
        self.each(user, requested, timeout, query).await
    }

    /// Claims one-time keys for the local user `user`.
    pub async fn claim(
        &self,
        user: UserNum,
        claims: Claims,
        timeout: Duration,
    ) -> Responses<claim_keys::v1::Response> {
        self.each(user, claims, timeout, claim).await
    }

    fn permits_for(&self, server: &ServerName) -> &FairSemaphore<UserNum> {
        match self.client.answered().has(server) {
            true => &self.permits,
            false => &self.other_permits,
        }
    }

    /// Calls `request` for the server of each user, with what is left of `timeout`. Those that are not
    /// called in time have timed out.
    async fn each<W, T, F>(
        &self,
        user: UserNum,
        wanted: BTreeMap<OwnedUserId, W>,
        timeout: Duration,
        request: fn(Client, OwnedServerName, BTreeMap<OwnedUserId, W>, Duration) -> F,
    ) -> Responses<T>
    where
        W: Send + 'static,
        T: Send + 'static,
        F: Future<Output = Result<(T, ResponseMemory), Error>> + Send + 'static,
    {
        let mut by_server: BTreeMap<OwnedServerName, BTreeMap<OwnedUserId, W>> = BTreeMap::new();
        for (user, wanted) in wanted {
            let of_server = by_server.entry(user.server_name().to_owned()).or_default();
            of_server.insert(user, wanted);
        }
        let deadline = Instant::now() + timeout;
        let workers = by_server.len().min(MAX_CONCURRENT_PER_USER);
        let queue = Arc::new(Mutex::new(by_server.into_iter()));
        let workers: Vec<Task<_>> = (0..workers)
            .map(|_| {
                let (this, queue) = (self.clone(), queue.clone());
                self.executor.spawn(async move {
                    let mut responses = Responses::new();
                    while let Some((server, wanted)) = next(&queue) {
                        let left = deadline.saturating_duration_since(Instant::now());
                        let response = match this.backoffs.check(&server) {
                            Ok(()) if left.is_zero() => Err(Error::TimedOut),
                            Ok(()) => {
                                let response = async {
                                    let permits = this.permits_for(&server);
                                    // It is not the server's fault if there is none in time.
                                    let _permit = with_timeout(left, permits.acquire(user)).await?;
                                    let left = deadline.saturating_duration_since(Instant::now());
                                    let client = this.client.clone();
                                    let response = request(client, server.clone(), wanted, left);
                                    let answered = this.client.answered();
                                    answered.give_up_after(left, &server, response).await
                                };
                                response.await
                            }
                            Err(error) => Err(error),
                        };
                        responses.push((server, response));
                        // Thousands may have timed out, or not be reachable.
                        yield_now().await;
                    }
                    responses
                })
            })
            .collect();
        let mut responses = Responses::new();
        for worker in workers {
            responses.extend(worker.await);
        }
        responses
    }
}

fn next<T>(queue: &Mutex<impl Iterator<Item = T>>) -> Option<T> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).next()
}

async fn query(
    client: Client,
    server: OwnedServerName,
    requested: Requested,
    timeout: Duration,
) -> Result<(get_keys::v1::Response, ResponseMemory), Error> {
    let limits = Limits {
        timeout,
        max_bytes: MAX_RESPONSE_BYTES,
    };
    let request = get_keys::v1::Request::new(requested.clone());
    let response = client.send_with_memory(&server, request, limits);
    let (response, mut memory) = response.await?;
    memory.keep()?;
    Ok((only_requested(response, &requested), memory))
}

async fn claim(
    client: Client,
    server: OwnedServerName,
    claims: Claims,
    timeout: Duration,
) -> Result<(claim_keys::v1::Response, ResponseMemory), Error> {
    let limits = Limits {
        timeout,
        max_bytes: MAX_RESPONSE_BYTES,
    };
    let request = claim_keys::v1::Request::new(claims.clone());
    let response = client.send_with_memory(&server, request, limits);
    let (response, mut memory) = response.await?;
    memory.keep()?;
    Ok((only_claimed(response, &claims), memory))
}

/// Removes users and devices that were not requested.
fn only_requested(
    mut response: get_keys::v1::Response,
    requested: &Requested,
) -> get_keys::v1::Response {
    response.device_keys.retain(|user, devices| {
        let wanted = requested.get(user);
        devices.retain(|id, keys| {
            wanted.is_some_and(|wanted| wanted.is_empty() || wanted.contains(id))
                && are_valid_device_keys(user, id, keys)
        });
        wanted.is_some()
    });
    for keys in [&mut response.master_keys, &mut response.self_signing_keys] {
        keys.retain(|user, key| {
            requested.contains_key(user) && is_valid_cross_signing_key(user, key)
        });
    }
    response
}

/// Removes all but one key of each claimed device, which has the claimed algorithm.
fn only_claimed(
    mut response: claim_keys::v1::Response,
    claims: &Claims,
) -> claim_keys::v1::Response {
    response.one_time_keys.retain(|user, devices| {
        let of_user = claims.get(user);
        devices.retain(|id, keys| {
            let wanted = of_user.and_then(|devices| devices.get(id));
            keys.retain(|id, _| wanted.is_some_and(|wanted| id.algorithm() == *wanted));
            let first = keys.keys().next().cloned();
            keys.retain(|id, _| Some(id) == first.as_ref());
            !keys.is_empty()
        });
        !devices.is_empty()
    });
    response
}
