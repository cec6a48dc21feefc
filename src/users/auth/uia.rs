//! Sessions of user-interactive authentication (client-server API, "User-Interactive Authentication API").
//!
//! A session belongs to one operation of one user, and serves it once. An operation is an endpoint and
//! the body without `auth`; for registrations it is the endpoint alone.
//! Sessions are in memory only; after a restart a client begins again.

use std::{fmt, net::IpAddr, time::Duration};

use ruma::{
    OwnedDeviceId,
    api::client::uiaa::AuthType,
    serde::{Base64, base64::UrlSafe},
};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::passwords::PasswordHash;
use crate::{cache::Cache, clock::Clock, store::UserNum};

/// For all stages together.
const SESSION_LIFETIME: Duration = Duration::from_mins(15);
const MAX_SESSIONS: usize = 1024;

/// The hash of what of a request, without its `auth`, a session is bound to.
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

/// What the requests of a session say about the account to register. A later request need not repeat it.
#[derive(Clone, Default)]
pub struct RegistrationFields {
    pub username: Option<String>,
    pub password: Option<PasswordHash>,
    pub device_id: Option<OwnedDeviceId>,
    pub initial_device_display_name: Option<String>,
    pub inhibit_login: bool,
    pub refresh_token: bool,
}

impl fmt::Debug for RegistrationFields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RegistrationFields(…)")
    }
}

struct UiaSession {
    operation: Operation,
    claimant: Claimant,
    completed: Vec<AuthType>,
    registered: Option<UserNum>,
    registration: RegistrationFields,
    /// With which the stage for it was completed.
    registration_token: Option<String>,
}

impl UiaSession {
    fn new(operation: Operation, claimant: Claimant) -> Self {
        Self {
            operation,
            claimant,
            completed: Vec::new(),
            registered: None,
            registration: RegistrationFields::default(),
            registration_token: None,
        }
    }
}

/// Who begins a session. If there are too many sessions, who has the most of them loses the oldest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Claimant {
    User(UserNum),
    /// Nobody is logged in: the network of the client.
    Network(IpAddr),
}

impl Claimant {
    pub fn user(self) -> Option<UserNum> {
        match self {
            Self::User(user) => Some(user),
            Self::Network(_) => None,
        }
    }
}

#[derive(Debug)]
pub struct UiaSessions(Cache<String, UiaSession>);

impl UiaSessions {
    pub(in crate::users) fn new(clock: &Clock) -> Self {
        Self(Cache::new(clock, MAX_SESSIONS))
    }

    /// Begins a session and returns its id, a secret between server and client.
    pub fn begin(&self, operation: Operation, claimant: Claimant) -> String {
        let id = Base64::<UrlSafe, _>::new(rand::random::<[u8; 16]>()).encode();
        self.insert(id.clone(), UiaSession::new(operation, claimant));
        id
    }

    fn insert(&self, id: String, session: UiaSession) {
        let claimant = |session: &UiaSession| session.claimant;
        self.0
            .insert_for_holder(id, session, SESSION_LIFETIME, claimant);
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
                (session.operation == operation && session.claimant.user() == owner)
                    .then(|| session.completed.clone())
            })
            .flatten()
    }

    /// The completed stages of session `id` without owner, for the fallback page, which knows the id only.
    pub fn completed_unauthenticated(&self, id: &str) -> Option<Vec<AuthType>> {
        self.0
            .update(id, |session| {
                let is_of_nobody = session.claimant.user().is_none();
                is_of_nobody.then(|| session.completed.clone())
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

    /// The registration token with which its stage of session `id` was completed.
    pub fn registration_token(&self, id: &str) -> Option<String> {
        let token = self
            .0
            .update(id, |session| session.registration_token.clone());
        token.flatten()
    }

    pub fn set_registration_token(&self, id: &str, token: String) {
        self.0
            .update(id, |session| session.registration_token = Some(token));
    }

    /// Records that `operation` registered `user` in session `id`, so that a repetition of the request, whose
    /// response was lost, gets the same response: `registration` is what it needs not repeat.
    pub fn set_registered(
        &self,
        id: String,
        operation: Operation,
        claimant: Claimant,
        user: UserNum,
        registration: RegistrationFields,
    ) {
        let session = UiaSession {
            registered: Some(user),
            registration,
            ..UiaSession::new(operation, claimant)
        };
        self.insert(id, session);
    }

    /// What earlier requests of session `id` said about the account to register.
    pub fn registration(&self, id: &str) -> RegistrationFields {
        let fields = self.0.update(id, |session| session.registration.clone());
        fields.unwrap_or_default()
    }

    pub fn set_registration(&self, id: &str, fields: RegistrationFields) {
        self.0.update(id, |session| session.registration = fields);
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
    use std::net::Ipv4Addr;

    use super::*;

    const ALICE: Option<UserNum> = Some(UserNum(1));
    const BOB: Option<UserNum> = Some(UserNum(2));
    const NETWORK: Claimant = Claimant::Network(IpAddr::V4(Ipv4Addr::LOCALHOST));

    fn uia() -> (UiaSessions, Clock) {
        let clock = Clock::manual(1_000_000);
        (UiaSessions::new(&clock), clock)
    }

    #[test]
    fn one_network_cannot_flush_the_sessions_of_others() {
        let (uia, _clock) = uia();
        let operation = Operation::new("POST", "/register", &());
        let alice = uia.begin(operation, Claimant::User(UserNum(1)));
        let local = uia.begin(operation, NETWORK);
        for _ in 0..2 * MAX_SESSIONS {
            uia.begin(
                operation,
                Claimant::Network(Ipv4Addr::new(192, 0, 2, 1).into()),
            );
        }
        assert!(uia.completed(&alice, operation, ALICE).is_some());
        assert!(uia.completed(&local, operation, None).is_some());
    }

    #[test]
    fn a_session_belongs_to_one_request_of_one_user() {
        let (uia, _) = uia();
        let operation = Operation::new("POST", "delete_devices", &["A", "B"]);
        let id = uia.begin(operation, Claimant::User(UserNum(1)));
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
        let id = uia.begin(operation, NETWORK);
        clock.advance(SESSION_LIFETIME - Duration::from_millis(1));
        assert!(uia.completed(&id, operation, None).is_some());
        clock.advance(Duration::from_millis(1));
        assert!(uia.completed(&id, operation, None).is_none());
    }
}
