//! The users whose lists are fetched when their server sends a request. They are in memory: after a start
//! they are those whose stored lists are stale.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use ruma::{OwnedServerName, OwnedUserId, ServerName, UserId};

/// How many servers and users of each are remembered. Other lists are fetched when they are used.
const MAX_SERVERS: usize = 1000;
const MAX_PER_SERVER: usize = 1000;
/// How many lists of a server are fetched at once, and the shortest time between two batches.
const BATCH: usize = 200;
const BATCH_INTERVAL_MS: u64 = 60_000;

#[derive(Default)]
pub struct PendingRetries(Mutex<HashMap<OwnedServerName, OfServer>>);

#[derive(Default)]
struct OfServer {
    users: VecDeque<OwnedUserId>,
    /// When the last batch was, in milliseconds since the epoch.
    batch_ts: Option<u64>,
}

impl PendingRetries {
    fn lock(&self) -> MutexGuard<'_, HashMap<OwnedServerName, OfServer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn put(&self, user: &UserId) {
        let mut retries = self.lock();
        let server = user.server_name();
        if retries.len() >= MAX_SERVERS && !retries.contains_key(server) {
            return;
        }
        let of_server = retries.entry(server.to_owned()).or_default();
        if of_server.users.len() < MAX_PER_SERVER
            && !of_server.users.iter().any(|other| other == user)
        {
            of_server.users.push_back(user.to_owned());
        }
    }

    pub fn remove(&self, user: &UserId) {
        let mut retries = self.lock();
        if let Some(of_server) = retries.get_mut(user.server_name()) {
            of_server.users.retain(|other| other != user);
            if of_server.users.is_empty() {
                retries.remove(user.server_name());
            }
        }
    }

    /// The users of `server` whose lists are fetched at `now_ms`. They stay until they are removed.
    pub fn next_batch(&self, server: &ServerName, now_ms: u64) -> Vec<OwnedUserId> {
        let mut retries = self.lock();
        let Some(of_server) = retries.get_mut(server) else {
            return Vec::new();
        };
        let since = of_server.batch_ts.map(|last| now_ms.abs_diff(last));
        if since.is_some_and(|since| since < BATCH_INTERVAL_MS) {
            return Vec::new();
        }
        of_server.batch_ts = Some(now_ms);
        let count = of_server.users.len().min(BATCH);
        of_server.users.rotate_left(count);
        of_server.users.iter().rev().take(count).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use ruma::{OwnedUserId, server_name};

    use super::{BATCH, BATCH_INTERVAL_MS, MAX_PER_SERVER, PendingRetries};

    fn user(number: usize) -> OwnedUserId {
        format!("@u{number}:b.example").try_into().unwrap()
    }

    #[test]
    fn every_list_is_fetched_in_some_batch_and_batches_have_an_interval() {
        let (retries, server) = (PendingRetries::default(), server_name!("b.example"));
        assert!(retries.next_batch(server, 0).is_empty());
        (0..2 * BATCH).for_each(|number| retries.put(&user(number)));
        retries.put(&user(0));
        let mut batches = retries.next_batch(server, 0);
        assert_eq!(batches.len(), BATCH);
        assert!(retries.next_batch(server, BATCH_INTERVAL_MS - 1).is_empty());
        batches.extend(retries.next_batch(server, BATCH_INTERVAL_MS));
        batches.sort();
        batches.dedup();
        assert_eq!(batches.len(), 2 * BATCH);
        batches.iter().for_each(|user| retries.remove(user));
        assert!(retries.next_batch(server, 2 * BATCH_INTERVAL_MS).is_empty());
    }

    #[test]
    fn the_number_of_users_of_a_server_is_limited() {
        let retries = PendingRetries::default();
        (0..2 * MAX_PER_SERVER).for_each(|number| retries.put(&user(number)));
        assert_eq!(
            retries.lock()[server_name!("b.example")].users.len(),
            MAX_PER_SERVER
        );
    }
}
