//! Sessions of user-interactive authentication (client-server API, "User-Interactive Authentication API").
//!
//! A session belongs to one operation (endpoint and body without `auth`) of one user, and serves it once.
//! Sessions are in memory only; after a restart a client begins again.

use std::{fmt, time::Duration};

use ruma::{
    api::client::uiaa::AuthType,
    serde::{Base64, base64::UrlSafe},
};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{cache::Cache, clock::Clock, store::UserNum};

/// For all stages together.
const SESSION_LIFETIME: Duration = Duration::from_mins(15);
const MAX_SESSIONS: usize = 1024;

/// The hash of a request without its `auth`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Operation([u8; 32]);

impl Operation {
    /// `parameters` is everything in the request but `auth`.
    pub fn new(method: &str, endpoint: &str, parameters: &impl Serialize) -> Self {
        let bytes = serde_json::to_vec(&(method, endpoint, parameters))
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
struct UiaSession {
    operation: Operation,
    /// `None` if nobody is logged in.
    owner: Option<UserNum>,
    completed: Vec<AuthType>,
    registered: Option<UserNum>,
}

#[derive(Debug)]
pub struct UiaSessions(Cache<String, UiaSession>);

impl UiaSessions {
    pub(in crate::users) fn new(clock: &Clock) -> Self {
        Self(Cache::new(clock, MAX_SESSIONS))
    }

    /// Begins a session and returns its id, a secret between server and client.
    pub fn begin(&self, operation: Operation, owner: Option<UserNum>) -> String {
        let id = Base64::<UrlSafe, _>::new(rand::random::<[u8; 16]>()).encode();
        let session = UiaSession {
            operation,
            owner,
            completed: Vec::new(),
            registered: None,
        };
        self.0.insert(id.clone(), session, SESSION_LIFETIME);
        id
    }

    /// The completed stages of session `id`; `None` if it does not exist, or is of another operation or
    /// owner.
    pub fn completed(
        &self,
        id: &str,
        operation: Operation,
        owner: Option<UserNum>,
    ) -> Option<Vec<AuthType>> {
        self.0
            .update(id, |session| {
                (session.operation == operation && session.owner == owner)
                    .then(|| session.completed.clone())
            })
            .flatten()
    }

    /// The completed stages of session `id` without owner, for the fallback page, which knows the id only.
    pub fn completed_unauthenticated(&self, id: &str) -> Option<Vec<AuthType>> {
        self.0
            .update(id, |session| {
                session.owner.is_none().then(|| session.completed.clone())
            })
            .flatten()
    }

    /// Marks `stage` of session `id` as completed; returns all completed stages.
    pub fn complete(&self, id: &str, stage: AuthType) -> Vec<AuthType> {
        let completed = self.0.update(id, |session| {
            if !session.completed.contains(&stage) {
                session.completed.push(stage);
            }
            session.completed.clone()
        });
        completed.unwrap_or_default()
    }

    /// Records that `operation` registered `user` in session `id`, so that a repetition of the request, whose
    /// response was lost, gets the same response.
    pub fn set_registered(&self, id: String, operation: Operation, user: UserNum) {
        let session = UiaSession {
            operation,
            owner: None,
            completed: Vec::new(),
            registered: Some(user),
        };
        self.0.insert(id, session, SESSION_LIFETIME);
    }

    /// The account that `operation` registered in session `id`.
    pub fn registered(&self, id: &str, operation: Operation) -> Option<UserNum> {
        self.0
            .update(id, |session| {
                (session.operation == operation).then_some(session.registered)
            })
            .flatten()
            .flatten()
    }

    /// Uses up session `id`, whose stages are complete.
    pub fn remove(&self, id: &str) {
        self.0.remove(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: Option<UserNum> = Some(UserNum(1));
    const BOB: Option<UserNum> = Some(UserNum(2));

    fn uia() -> (UiaSessions, Clock) {
        let clock = Clock::manual(1_000_000);
        (UiaSessions::new(&clock), clock)
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
    fn a_session_expires_after_a_quarter_of_an_hour() {
        let (uia, clock) = uia();
        let operation = Operation::new("POST", "register", &());
        let id = uia.begin(operation, None);
        clock.advance(SESSION_LIFETIME - Duration::from_millis(1));
        assert!(uia.completed(&id, operation, None).is_some());
        clock.advance(Duration::from_millis(1));
        assert!(uia.completed(&id, operation, None).is_none());
    }
}
