//! The last joins that failed, for `hearth why join`. They are only in memory.

use std::{fmt, time::Duration};

use crate::{cache::Cache, clock::Clock, store::UserNum};

const MAX_JOINS: usize = 500;
const KEPT_FOR: Duration = Duration::from_hours(7 * 24);
const MAX_REASON_CHARS: usize = 300;

/// By the user, and the room by its id or alias. If it is full, the user with the most loses one.
pub struct RefusedJoins {
    cache: Cache<(UserNum, String), RefusedJoin>,
    clock: Clock,
}

#[derive(Clone, Debug)]
pub struct RefusedJoin {
    user: UserNum,
    /// Milliseconds since the epoch.
    pub ts: u64,
    pub reason: String,
}

impl fmt::Debug for RefusedJoins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RefusedJoins").finish_non_exhaustive()
    }
}

impl RefusedJoins {
    pub fn new(clock: &Clock) -> Self {
        Self {
            cache: Cache::new(clock, MAX_JOINS),
            clock: clock.clone(),
        }
    }

    pub(super) fn add(&self, user: UserNum, room: &str, reason: &impl ToString) {
        let refused = RefusedJoin {
            user,
            ts: self.clock.now_ms(),
            reason: reason.to_string().chars().take(MAX_REASON_CHARS).collect(),
        };
        let key = (user, room.to_owned());
        self.cache
            .insert_for_holder(key, refused, KEPT_FOR, |refused| refused.user);
    }

    /// To be called when the user has joined.
    pub(super) fn forget(&self, user: UserNum, room: &str) {
        self.cache.remove(&(user, room.to_owned()));
    }

    /// The last one.
    pub(super) fn last(&self, user: UserNum, room: &str) -> Option<RefusedJoin> {
        self.cache.get(&(user, room.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_JOINS, MAX_REASON_CHARS, RefusedJoins};
    use crate::{clock::Clock, store::UserNum};

    #[test]
    fn one_user_evicts_only_what_is_of_the_same_user() {
        let refused = RefusedJoins::new(&Clock::manual(1000));
        refused.add(UserNum(1), "!a:example.org", &"no".repeat(MAX_REASON_CHARS));
        for number in 0..MAX_JOINS {
            refused.add(UserNum(2), &format!("!{number}:example.org"), &"no");
        }
        let kept = refused.last(UserNum(1), "!a:example.org").unwrap();
        assert_eq!(kept.reason.chars().count(), MAX_REASON_CHARS);
        assert!(refused.last(UserNum(2), "!0:example.org").is_none());
        assert!(refused.last(UserNum(1), "!1:example.org").is_none());
    }
}
