//! The memory of user-interactive authentication: which stages a client has been through, for which
//! request.
//!
//! A session belongs to one request, its path and body but for `auth`, and to the user who makes it:
//! what was authenticated is what is done. It lives in memory only; after a restart a client begins
//! anew.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use ruma::{
    api::client::uiaa::AuthType,
    serde::{Base64, base64::UrlSafe},
};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{clock::Clock, store::UserNum, users::expiring::Expiring};

/// How long a client has for all stages together.
const LIFETIME_MS: u64 = 15 * 60 * 1000;
/// How many sessions live at once.
const MOST: usize = 1024;

/// A request as far as its authentication is concerned.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Operation([u8; 32]);

impl Operation {
    /// The request of `method` to `endpoint` with `rest`, all that it holds but `auth`. Only a
    /// hash is kept.
    pub fn new(method: &str, endpoint: &str, rest: &impl Serialize) -> Self {
        let bytes = serde_json::to_vec(&(method, endpoint, rest))
            .expect("requests are made of strings, numbers and lists, which JSON can hold");
        Self(Sha256::digest(bytes).into())
    }
}

impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Operation(…)")
    }
}

#[derive(Debug)]
struct Progress {
    operation: Operation,
    owner: Option<UserNum>,
    completed: Vec<AuthType>,
    registered: Option<UserNum>,
}

/// The sessions.
#[derive(Debug)]
pub struct UiaSessions {
    clock: Clock,
    sessions: Mutex<Expiring<Progress>>,
}

impl UiaSessions {
    pub(in crate::users) fn new(clock: Clock) -> Self {
        Self {
            clock,
            sessions: Mutex::new(Expiring::new(LIFETIME_MS, MOST)),
        }
    }

    /// Begins a session for `operation` of `owner`, who is `None` where nobody is logged in. The
    /// name of the session is a secret between server and client.
    pub fn begin(&self, operation: Operation, owner: Option<UserNum>) -> String {
        let id = Base64::<UrlSafe, _>::new(rand::random::<[u8; 16]>()).encode();
        let progress = Progress {
            operation,
            owner,
            completed: Vec::new(),
            registered: None,
        };
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.insert(self.clock.now_ms(), id.clone(), progress);
        id
    }

    /// The stages completed in session `id`; `None` if it is over, or is not one of this
    /// `operation` and `owner`.
    pub fn completed(
        &self,
        id: &str,
        operation: Operation,
        owner: Option<UserNum>,
    ) -> Option<Vec<AuthType>> {
        self.with(id, |progress| {
            (progress.operation == operation && progress.owner == owner)
                .then(|| progress.completed.clone())
        })
        .flatten()
    }

    /// The stages completed in session `id` of somebody who is not logged in, for whoever knows
    /// nothing but the session: the page that completes a stage in a browser.
    pub fn completed_unauthenticated(&self, id: &str) -> Option<Vec<AuthType>> {
        self.with(id, |progress| {
            progress.owner.is_none().then(|| progress.completed.clone())
        })
        .flatten()
    }

    /// Notes that `stage` of session `id` is complete; gives all that are.
    pub fn complete(&self, id: &str, stage: AuthType) -> Vec<AuthType> {
        let completed = self.with(id, |progress| {
            if !progress.completed.contains(&stage) {
                progress.completed.push(stage);
            }
            progress.completed.clone()
        });
        completed.unwrap_or_default()
    }

    /// Notes that session `id` made the account `user`, so that the same request, sent again
    /// because its answer was lost, is answered again.
    pub fn note_registered(&self, id: &str, user: UserNum) {
        self.with(id, |progress| progress.registered = Some(user));
    }

    /// The account that `operation` made in session `id`.
    pub fn registered(&self, id: &str, operation: Operation) -> Option<UserNum> {
        self.with(id, |progress| {
            (progress.operation == operation).then_some(progress.registered)
        })
        .flatten()
        .flatten()
    }

    /// Ends session `id`: what it authenticated is done and must not be done twice.
    pub fn end(&self, id: &str) {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.remove(self.clock.now_ms(), id);
    }

    fn with<T>(&self, id: &str, change: impl FnOnce(&mut Progress) -> T) -> Option<T> {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.get_mut(self.clock.now_ms(), id).map(change)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const ALICE: Option<UserNum> = Some(UserNum(1));
    const BOB: Option<UserNum> = Some(UserNum(2));

    fn uia() -> (UiaSessions, Clock) {
        let clock = Clock::manual(1_000_000);
        (UiaSessions::new(clock.clone()), clock)
    }

    #[test]
    fn a_session_belongs_to_one_request_of_one_user() {
        let (uia, _) = uia();
        let operation = Operation::new("POST", "delete_devices", &["A", "B"]);
        let id = uia.begin(operation, ALICE);
        uia.complete(&id, AuthType::Password);
        assert_eq!(
            uia.completed(&id, operation, ALICE),
            Some(vec![AuthType::Password])
        );
        assert_eq!(uia.completed(&id, operation, BOB), None);
        assert_eq!(uia.completed(&id, operation, None), None);
        for other in [
            Operation::new("POST", "delete_devices", &["A", "C"]),
            Operation::new("POST", "delete_devices", &["AB"]),
            Operation::new("POST", "deactivate", &["A", "B"]),
            Operation::new("DELETE", "delete_devices", &["A", "B"]),
        ] {
            assert_eq!(uia.completed(&id, other, ALICE), None);
        }
    }

    #[test]
    fn a_session_ends_after_a_quarter_of_an_hour() {
        let (uia, clock) = uia();
        let operation = Operation::new("POST", "register", &());
        let id = uia.begin(operation, None);
        clock.advance(Duration::from_mins(15));
        assert!(uia.completed(&id, operation, None).is_some());
        clock.advance(Duration::from_millis(1));
        assert!(uia.completed(&id, operation, None).is_none());
    }
}
