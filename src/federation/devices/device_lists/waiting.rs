//! Whose lists could not be fetched, and wait for their server to show life. It is in memory: at a start
//! it is what is stale in the store.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use ruma::{OwnedServerName, OwnedUserId, ServerName, UserId};

/// How many servers are waited for, and with how many users each. The lists of others are fetched when
/// they are used.
const SERVERS: usize = 1000;
const OF_ONE: usize = 1000;
/// How many lists are fetched when a server shows life, and when the next ones are if it does again, in
/// milliseconds.
const TURN: usize = 200;
const NEXT_TURN_MS: u64 = 60_000;

/// Who waits, by server.
#[derive(Default)]
pub struct Waiting(Mutex<HashMap<OwnedServerName, OfServer>>);

#[derive(Default)]
struct OfServer {
    users: VecDeque<OwnedUserId>,
    /// When the last turn was, in milliseconds since the epoch.
    turn_ts: Option<u64>,
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, HashMap<OwnedServerName, OfServer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The list of `user` waits.
    pub fn put(&self, user: &UserId) {
        let mut waiting = self.lock();
        let server = user.server_name();
        if waiting.len() >= SERVERS && !waiting.contains_key(server) {
            return;
        }
        let of_server = waiting.entry(server.to_owned()).or_default();
        if of_server.users.len() < OF_ONE && !of_server.users.iter().any(|waits| waits == user) {
            of_server.users.push_back(user.to_owned());
        }
    }

    /// The list of `user` waits no more.
    pub fn remove(&self, user: &UserId) {
        let mut waiting = self.lock();
        if let Some(of_server) = waiting.get_mut(user.server_name()) {
            of_server.users.retain(|waits| waits != user);
            if of_server.users.is_empty() {
                waiting.remove(user.server_name());
            }
        }
    }

    /// Whose lists `server`, which shows life at `now_ms`, is to be asked for now. They wait until they
    /// are removed.
    pub fn turn(&self, server: &ServerName, now_ms: u64) -> Vec<OwnedUserId> {
        let mut waiting = self.lock();
        let Some(of_server) = waiting.get_mut(server) else {
            return Vec::new();
        };
        let since = of_server.turn_ts.map(|last| now_ms.abs_diff(last));
        if since.is_some_and(|since| since < NEXT_TURN_MS) {
            return Vec::new();
        }
        of_server.turn_ts = Some(now_ms);
        let turn = of_server.users.len().min(TURN);
        of_server.users.rotate_left(turn);
        of_server.users.iter().rev().take(turn).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use ruma::{OwnedUserId, server_name};

    use super::{NEXT_TURN_MS, OF_ONE, TURN, Waiting};

    fn user(number: usize) -> OwnedUserId {
        format!("@u{number}:b.example").try_into().unwrap()
    }

    #[test]
    fn everybody_who_waits_has_a_turn_but_a_server_is_not_asked_all_the_time() {
        let (waiting, server) = (Waiting::default(), server_name!("b.example"));
        assert!(waiting.turn(server, 0).is_empty());
        (0..2 * TURN).for_each(|number| waiting.put(&user(number)));
        waiting.put(&user(0));
        let mut asked = waiting.turn(server, 0);
        assert_eq!(asked.len(), TURN);
        assert!(waiting.turn(server, NEXT_TURN_MS - 1).is_empty());
        asked.extend(waiting.turn(server, NEXT_TURN_MS));
        asked.sort();
        asked.dedup();
        assert_eq!(asked.len(), 2 * TURN);
        asked.iter().for_each(|user| waiting.remove(user));
        assert!(waiting.turn(server, 2 * NEXT_TURN_MS).is_empty());
    }

    #[test]
    fn only_so_many_wait() {
        let waiting = Waiting::default();
        (0..2 * OF_ONE).for_each(|number| waiting.put(&user(number)));
        assert_eq!(
            waiting.lock()[server_name!("b.example")].users.len(),
            OF_ONE
        );
    }
}
