//! The slots of requests to other servers. Those that answer do not wait for slots that silent ones hold.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ruma::{OwnedServerName, ServerName};
use smol::lock::{Semaphore, SemaphoreGuardArc};

use super::connect::with_timeout;
use crate::{cache::Cache, clock::Clock, federation::Error};

/// How long, and of how many servers, it is known that they answered.
const ANSWERED_TTL: Duration = Duration::from_hours(2);
const MAX_ANSWERED: usize = 4096;

/// The servers that answered the last request to them. Clones are the same.
#[derive(Clone)]
pub struct Answered(Arc<Inner>);

struct Inner {
    servers: Cache<OwnedServerName, ()>,
    /// How many requests were answered, and how many were not.
    counts: [AtomicU64; 2],
}

impl Answered {
    pub fn new(clock: &Clock) -> Self {
        Self(Arc::new(Inner {
            servers: Cache::new(clock, MAX_ANSWERED),
            counts: Default::default(),
        }))
    }

    pub fn has(&self, server: &ServerName) -> bool {
        self.0.servers.get(server).is_some()
    }

    /// How many requests to all servers had which outcome since the start.
    pub fn outcomes(&self) -> [(&'static str, u64); 2] {
        let [answered, failed] = &self.0.counts;
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        [("answered", count(answered)), ("failed", count(failed))]
    }

    /// An error response is an answer. Where this server lacks memory or disk space, that says nothing of
    /// the other one, and does not count.
    pub fn note<T>(&self, server: &ServerName, response: &Result<T, Error>) {
        let [answered, failed] = &self.0.counts;
        let count = match response {
            Ok(_) => {
                self.0.servers.insert(server.to_owned(), (), ANSWERED_TTL);
                answered
            }
            Err(Error::NoMemory | Error::Disk(_)) => return,
            Err(_) => {
                self.0.servers.remove(server);
                failed
            }
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// Gives up `request`, which a client sends to `server`, after `timeout`: the server is silent then.
    pub async fn give_up_after<T>(
        &self,
        timeout: Duration,
        server: &ServerName,
        request: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let response = with_timeout(timeout, request).await;
        // The client notes the result of a request that ends, but this one is dropped before.
        if response.is_err() {
            self.note(server, &response);
        }
        response.flatten()
    }
}

impl fmt::Debug for Answered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answered").finish_non_exhaustive()
    }
}

/// Slots for servers that answered their last request, and as many for others. Clones are the same.
#[derive(Clone)]
pub struct Slots {
    answered: Answered,
    of_answering: Arc<Semaphore>,
    of_others: Arc<Semaphore>,
}

impl Slots {
    pub fn new(max: usize, answered: &Answered) -> Self {
        Self {
            answered: answered.clone(),
            of_answering: Arc::new(Semaphore::new(max)),
            of_others: Arc::new(Semaphore::new(max)),
        }
    }

    /// Waits for a slot for a request to `server`.
    pub async fn acquire(&self, server: &ServerName) -> SemaphoreGuardArc {
        let slots = match self.answered.has(server) {
            true => &self.of_answering,
            false => &self.of_others,
        };
        slots.acquire_arc().await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::StatusCode;
    use ruma::server_name;
    use smol::{
        block_on,
        future::{self, poll_once},
    };

    use super::{Answered, Slots};
    use crate::{clock::Clock, federation::Error};

    #[test]
    fn a_server_that_answers_does_not_wait_for_slots_that_silent_ones_hold() {
        let clock = Clock::manual(1000);
        let answered = Answered::new(&clock);
        let slots = Slots::new(2, &answered);
        let (silent, healthy) = (server_name!("silent.example"), server_name!("a.example"));
        let slot = |server| block_on(poll_once(Box::pin(slots.acquire(server))));
        let _held = [slot(silent).unwrap(), slot(silent).unwrap()];
        assert!(slot(healthy).is_none());
        answered.note(healthy, &Ok(()));
        let of_healthy = slot(healthy);
        assert!(of_healthy.is_some() && slot(silent).is_none());
        answered.note::<()>(healthy, &Err(Error::NoMemory));
        answered.note::<()>(healthy, &Err(Error::Disk("full".into())));
        assert!(slot(healthy).is_some(), "it is not its fault");
        answered.note::<()>(healthy, &Err(Error::TimedOut));
        assert!(slot(healthy).is_none(), "it has become silent");
        assert_eq!(answered.outcomes(), [("answered", 1), ("failed", 1)]);
    }

    #[test]
    fn a_server_whose_request_is_given_up_is_silent_and_one_that_refuses_it_is_not() {
        let answered = Answered::new(&Clock::manual(1000));
        let server = server_name!("a.example");
        answered.note(server, &Ok(()));
        let refused = async { Err::<(), _>(Error::Status(StatusCode::FORBIDDEN, None)) };
        let refused = answered.give_up_after(Duration::from_secs(20), server, refused);
        assert!(block_on(refused).is_err() && answered.has(server));
        let silent = future::pending::<Result<(), Error>>();
        let given_up = block_on(answered.give_up_after(Duration::ZERO, server, silent));
        assert!(matches!(given_up, Err(Error::TimedOut)) && !answered.has(server));
    }
}
