//! The keys of other servers' users (server-server API, "End-to-End Encryption").
//!
//! Every server is asked by a task of its own, so a slow one holds up nobody's answer but its own. Of what
//! it answers only that counts which it was asked for.

use std::{collections::BTreeMap, time::Duration};

use ruma::{
    OneTimeKeyAlgorithm, OwnedDeviceId, OwnedServerName, OwnedUserId,
    api::federation::keys::{claim_keys, get_keys},
};
use smol::Task;

use crate::{
    executor::Executor,
    federation::{Client, Error, Limits, outbound::backoff::Backoffs, transport::connect::in_time},
    users::remote_devices::{are_valid_device_keys, is_valid_cross_signing_key},
};

/// How much one server may answer, in bytes.
const SIZE: usize = 4 * 1024 * 1024;

/// What each server says.
pub type Answers<T> = Vec<(OwnedServerName, Result<T, Error>)>;
/// Which devices of whom; none are all.
pub type Asked = BTreeMap<OwnedUserId, Vec<OwnedDeviceId>>;
/// Of which devices a key is wanted, and of which kind.
pub type Claims = BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, OneTimeKeyAlgorithm>>;

/// Asks for keys. Clones are the same.
#[derive(Clone)]
pub struct UserKeys {
    client: Client,
    backoffs: Backoffs,
    executor: Executor,
}

impl UserKeys {
    /// Asks through `client`.
    pub fn new(client: &Client, backoffs: &Backoffs, executor: &Executor) -> Self {
        Self {
            client: client.clone(),
            backoffs: backoffs.clone(),
            executor: executor.clone(),
        }
    }

    /// The identity keys of devices.
    pub async fn query(&self, asked: Asked, time: Duration) -> Answers<get_keys::v1::Response> {
        let limits = Limits { time, size: SIZE };
        self.each(asked, move |client, server, asked| async move {
            let request = get_keys::v1::Request::new(asked.clone());
            let answer = in_time(time, client.send_within(&server, request, limits)).await??;
            Ok(only_asked(answer, &asked))
        })
        .await
    }

    /// One-time keys of devices.
    pub async fn claim(&self, claims: Claims, time: Duration) -> Answers<claim_keys::v1::Response> {
        let limits = Limits { time, size: SIZE };
        self.each(claims, move |client, server, claims| async move {
            let request = claim_keys::v1::Request::new(claims.clone());
            let answer = in_time(time, client.send_within(&server, request, limits)).await??;
            Ok(only_claimed(answer, &claims))
        })
        .await
    }

    /// Asks the server of each user, all of them side by side.
    async fn each<W, T, F>(
        &self,
        wanted: BTreeMap<OwnedUserId, W>,
        ask: impl Fn(Client, OwnedServerName, BTreeMap<OwnedUserId, W>) -> F,
    ) -> Answers<T>
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
                let is_there = self.backoffs.check(&server);
                let asking = ask(self.client.clone(), server.clone(), wanted);
                let asking = async move {
                    is_there?;
                    asking.await
                };
                (server, self.executor.spawn(asking))
            })
            .collect();
        let mut answers = Answers::new();
        for (server, task) in tasks {
            answers.push((server, task.await));
        }
        answers
    }
}

/// What an answer says of the users and devices that were asked for, and of no others.
fn only_asked(mut answer: get_keys::v1::Response, asked: &Asked) -> get_keys::v1::Response {
    answer.device_keys.retain(|user, devices| {
        let wanted = asked.get(user);
        devices.retain(|id, keys| {
            wanted.is_some_and(|wanted| wanted.is_empty() || wanted.contains(id))
                && are_valid_device_keys(user, id, keys)
        });
        wanted.is_some()
    });
    for keys in [&mut answer.master_keys, &mut answer.self_signing_keys] {
        keys.retain(|user, key| asked.contains_key(user) && is_valid_cross_signing_key(user, key));
    }
    answer
}

/// One key of each device of which one was claimed, of the kind that was.
fn only_claimed(mut answer: claim_keys::v1::Response, claims: &Claims) -> claim_keys::v1::Response {
    answer.one_time_keys.retain(|user, devices| {
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
    answer
}
