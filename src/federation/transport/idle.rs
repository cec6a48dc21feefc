//! Connections that are kept for the next request.

use std::{
    borrow::Borrow,
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Bytes;

use super::connect::{Connection, Limits, Target, exchange};
use crate::{
    body_budget::{BodyBudget, BodyOwner, BufferedBody},
    federation::Error,
};

/// How many idle connections are kept, of all hosts and of one.
const MAX_IDLE: usize = 64;
const MAX_IDLE_PER_HOST: usize = 2;
const IDLE_TIMEOUT: Duration = Duration::from_secs(50);

/// Idle connections by host.
pub struct IdleConnections<K>(Mutex<HashMap<K, Vec<Idle>>>);

impl<K> Default for IdleConnections<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

/// A connection that can be reused.
struct Idle {
    connection: Connection,
    target: Target,
    since: Instant,
}

impl<K: BodyOwner> IdleConnections<K> {
    /// Sends `request` to `host` over an idle connection, or one that `connect` opens, and waits for the whole
    /// response, whose body gets memory of `budget`.
    pub async fn exchange<Q>(
        &self,
        host: &Q,
        request: Request<Bytes>,
        mut limits: Limits,
        budget: &BodyBudget<K>,
        connect: impl Future<Output = Result<(Connection, Target), Error>>,
    ) -> Result<Response<BufferedBody<K>>, Error>
    where
        K: Borrow<Q>,
        Q: ToOwned<Owned = K> + Eq + Hash + ?Sized,
    {
        let copy = || request.clone().map(Full::new);
        let received = || budget.begin(host.to_owned());
        limits.max_bytes = limits.max_bytes.min(budget.max_body());
        // The other side may close an idle connection at any time.
        while let Some(mut idle) = self.take(host) {
            let Idle {
                connection, target, ..
            } = &mut idle;
            match exchange(connection, target, copy(), limits, received()).await {
                Err(Error::Unreachable(_)) => {}
                result => {
                    self.keep(host, idle, &result);
                    return result;
                }
            }
        }
        let (connection, target) = connect.await?;
        let mut idle = Idle {
            connection,
            target,
            since: Instant::now(),
        };
        let Idle {
            connection, target, ..
        } = &mut idle;
        let result = exchange(connection, target, copy(), limits, received()).await;
        self.keep(host, idle, &result);
        result
    }

    fn take<Q>(&self, host: &Q) -> Option<Idle>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let mut all = self.lock();
        let of_host = all.get_mut(host)?;
        of_host.retain(Idle::is_open);
        of_host.pop()
    }

    /// Keeps a connection for the next request, if this one succeeded.
    fn keep<Q, T>(&self, host: &Q, idle: Idle, result: &Result<T, Error>)
    where
        K: Borrow<Q>,
        Q: ToOwned<Owned = K> + Eq + Hash + ?Sized,
    {
        if result.is_err() || idle.connection.is_closed() {
            return;
        }
        let mut all = self.lock();
        for of_host in all.values_mut() {
            of_host.retain(Idle::is_open);
        }
        all.retain(|_, of_host| !of_host.is_empty());
        let of_host = all.get(host).map_or(0, Vec::len);
        if of_host < MAX_IDLE_PER_HOST && all.values().map(Vec::len).sum::<usize>() < MAX_IDLE {
            let idle = Idle {
                since: Instant::now(),
                ..idle
            };
            all.entry(host.to_owned()).or_default().push(idle);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Vec<Idle>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Idle {
    fn is_open(&self) -> bool {
        self.since.elapsed() < IDLE_TIMEOUT && !self.connection.is_closed()
    }
}
