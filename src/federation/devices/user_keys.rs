//! Queries and claims of keys of users of other servers (server-server API, "End-to-End Encryption").
//!
//! All servers get their requests at once. What a response has beyond the request is ignored.

use std::{collections::BTreeMap, time::Duration};

use ruma::{
    OneTimeKeyAlgorithm, OwnedDeviceId, OwnedServerName, OwnedUserId,
    api::federation::keys::{claim_keys, get_keys},
};
use smol::Task;

use crate::{
    executor::Executor,
    federation::{
        Client, Error, Limits, outbound::backoff::Backoffs, transport::connect::with_timeout,
    },
    users::remote_devices::{are_valid_device_keys, is_valid_cross_signing_key},
};

const MAX_RESPONSE_BYTES: usize = 4 * 1024 * 1024;

/// The result of each server.
pub type Responses<T> = Vec<(OwnedServerName, Result<T, Error>)>;
/// The devices of each user; an empty list means all.
pub type Requested = BTreeMap<OwnedUserId, Vec<OwnedDeviceId>>;
/// The algorithm of the wanted key of each device.
pub type Claims = BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, OneTimeKeyAlgorithm>>;

/// Requests keys. Clones are the same.
#[derive(Clone)]
pub struct UserKeys {
    client: Client,
    backoffs: Backoffs,
    executor: Executor,
}

impl UserKeys {
    pub fn new(client: &Client, backoffs: &Backoffs, executor: &Executor) -> Self {
        Self {
            client: client.clone(),
            backoffs: backoffs.clone(),
            executor: executor.clone(),
        }
    }

    pub async fn query(
        &self,
        requested: Requested,
        timeout: Duration,
    ) -> Responses<get_keys::v1::Response> {
        let limits = Limits {
            timeout,
            max_bytes: MAX_RESPONSE_BYTES,
        };
        self.each(requested, move |client, server, requested| async move {
            let request = get_keys::v1::Request::new(requested.clone());
            let response = client.send_with_limits(&server, request, limits);
            let response = with_timeout(timeout, response).await??;
            Ok(only_requested(response, &requested))
        })
        .await
    }

    /// Claims one-time keys.
    pub async fn claim(
        &self,
        claims: Claims,
        timeout: Duration,
    ) -> Responses<claim_keys::v1::Response> {
        let limits = Limits {
            timeout,
            max_bytes: MAX_RESPONSE_BYTES,
        };
        self.each(claims, move |client, server, claims| async move {
            let request = claim_keys::v1::Request::new(claims.clone());
            let response = client.send_with_limits(&server, request, limits);
            let response = with_timeout(timeout, response).await??;
            Ok(only_claimed(response, &claims))
        })
        .await
    }

    /// Calls `request` for the server of each user, all of them at once.
    async fn each<W, T, F>(
        &self,
        wanted: BTreeMap<OwnedUserId, W>,
        request: impl Fn(Client, OwnedServerName, BTreeMap<OwnedUserId, W>) -> F,
    ) -> Responses<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let mut by_server: BTreeMap<OwnedServerName, BTreeMap<OwnedUserId, W>> = BTreeMap::new();
        for (user, wanted) in wanted {
            let of_server = by_server.entry(user.server_name().to_owned()).or_default();
            of_server.insert(user, wanted);
        }
        let tasks: Vec<(_, Task<_>)> = by_server
            .into_iter()
            .map(|(server, wanted)| {
                let checked = self.backoffs.check(&server);
                let response = request(self.client.clone(), server.clone(), wanted);
                let response = async move {
                    checked?;
                    response.await
                };
                (server, self.executor.spawn(response))
            })
            .collect();
        let mut responses = Responses::new();
        for (server, task) in tasks {
            responses.push((server, task.await));
        }
        responses
    }
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
