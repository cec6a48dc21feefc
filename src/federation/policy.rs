//! Asking the policy server of a room to sign an event (server-server API, "Policy Servers").
//!
//! One event of a room is asked for at a time. A policy server that did not answer in time is left alone for a
//! while: what needs its signature fails at once then, and the room is not held up.

use std::{fmt, sync::Arc, time::Duration};

use http::StatusCode;
use ruma::{
    OwnedRoomId, OwnedServerName, RoomId, api::federation::policy::sign_event,
    room_version_rules::RoomVersionRules,
};
use serde_json::value::{RawValue, to_raw_value};
use smol::lock::MutexGuardArc;

use super::{error::Error, inbound::Room, keyed_locks::KeyedLocks, transport::client::Client};
use crate::{
    cache::Cache,
    clock::Clock,
    protocol::{Pdu, policy_signature},
    rooms::{
        self, Local,
        policy_server::{self, PolicySigner},
        policy_signatures::PolicyAnswer,
        unsigned_event::{PolicyServer, UnsignedEvent},
    },
    store::{Store, Tx},
};

/// How long a policy server may take.
const SIGN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one that did not answer is left alone.
const UNREACHABLE_TTL: Duration = Duration::from_secs(30);
const MAX_UNREACHABLE: usize = 1024;
/// How often a job runs while policy servers are asked.
const MAX_RUNS: usize = 12;

/// Why events are not sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    #[error(transparent)]
    Rooms(#[from] rooms::Error),
    /// [`Error::Status`] if the policy server refuses.
    #[error(transparent)]
    Unsigned(Error),
    #[error("the room changes faster than its policy server signs events")]
    Busy,
}

/// Clones share one state.
#[derive(Clone)]
pub struct PolicyServers(Arc<Inner>);

struct Inner {
    client: Client,
    locks: KeyedLocks<OwnedRoomId>,
    unreachable: Cache<OwnedServerName, ()>,
}

impl fmt::Debug for PolicyServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicyServers").finish_non_exhaustive()
    }
}

impl PolicyServers {
    pub(super) fn new(client: &Client, clock: &Clock) -> Self {
        Self(Arc::new(Inner {
            client: client.clone(),
            locks: KeyedLocks::default(),
            unreachable: Cache::new(clock, MAX_UNREACHABLE),
        }))
    }

    /// To be held while an event of the room is asked for.
    pub async fn lock(&self, room: &RoomId) -> MutexGuardArc<()> {
        self.0.locks.of(room.to_owned()).await
    }

    /// Asks for the signature of `event`, and keeps it for the job that sends the event.
    ///
    /// # Errors
    /// [`Error::Status`] if the server refuses.
    pub async fn sign(&self, local: &Local, event: &UnsignedEvent) -> Result<(), Error> {
        let signature = self.signature(&event.server, &event.json, event.rules);
        let signature = signature.await?;
        local
            .policy_signatures()
            .insert(event.event_id.clone(), PolicyAnswer::Signature(signature));
        Ok(())
    }

    /// Runs a job that sends events. What the policy server of a room has to sign first is sent to it, and the
    /// job run again.
    pub async fn write_signed<T, F>(
        &self,
        store: &Store,
        local: &Local,
        job: F,
    ) -> Result<T, SendError>
    where
        F: Fn(&Tx) -> Result<T, rooms::Error> + Send + Sync + 'static,
        T: Send + 'static,
    {
        let job = Arc::new(job);
        let mut lock = None;
        for _ in 0..MAX_RUNS {
            let run = job.clone();
            let event = match store.write(move |tx: &Tx| run(tx)).await {
                Err(rooms::Error::Unsigned(event)) => event,
                result => return Ok(result?),
            };
            // Others of this room may have waited: the next run makes the event anew.
            if lock.is_none() {
                lock = Some(self.lock(&event.room_id).await);
                continue;
            }
            let signed = self.sign(local, &event).await;
            signed.map_err(SendError::Unsigned)?;
        }
        Err(SendError::Busy)
    }

    /// The signature of `server` for the event `json`; it is valid.
    ///
    /// # Errors
    /// [`Error::Status`] if the server refuses.
    pub async fn signature(
        &self,
        server: &PolicyServer,
        json: &[u8],
        rules: &RoomVersionRules,
    ) -> Result<String, Error> {
        let name = &server.name;
        if self.0.unreachable.get(name).is_some() {
            return Err(Error::TimedOut);
        }
        let unsendable = |error: serde_json::Error| Error::Unsendable(error.to_string().into());
        let pdu: &RawValue = serde_json::from_slice(json).map_err(unsendable)?;
        let request = sign_event::v1::Request::new(to_raw_value(pdu).map_err(unsendable)?);
        let client = &self.0.client;
        let response = client.send(name, request);
        let response = client
            .answered()
            .give_up_after(SIGN_TIMEOUT, name, response)
            .await;
        let response = response.inspect_err(|error| {
            if error.is_unreachable() || error.is_overloaded() {
                log::info!("the policy server {name} is left alone for a while: {error}");
                self.0.unreachable.insert(name.clone(), (), UNREACHABLE_TTL);
            }
        })?;
        let invalid = || Error::InvalidResponse("the policy server did not sign the event".into());
        let signature = response.ed25519_signature(name).ok_or_else(invalid)?;
        let signed = policy_signature::add(json, rules, name, signature);
        let is_valid = signed
            .and_then(|json| policy_signature::is_signed(&json, rules, name, &server.key))
            .is_ok_and(|is_valid| is_valid);
        if is_valid {
            Ok(signature.to_owned())
        } else {
            Err(invalid())
        }
    }
}

/// The JSON of an event with the signature that `sign` gets; `None` if the room uses no policy server, the event is
/// signed already, or there is none.
pub async fn signed_json<F, E>(
    store: &Store,
    room: &Room,
    (pdu, json): (&Pdu, &[u8]),
    sign: impl FnOnce(PolicyServer) -> F,
) -> Result<Option<Vec<u8>>, E>
where
    F: Future<Output = Result<Option<String>, E>> + Send,
    E: From<rooms::Error>,
{
    let missing = |s: &_| policy_server::missing_signature(s, room.num, room.rules, pdu, json);
    let Some(server) = store.read(missing)? else {
        return Ok(None);
    };
    let name = server.name.clone();
    let Some(signature) = sign(server).await? else {
        return Ok(None);
    };
    let signed = policy_signature::add(json, room.rules, &name, &signature);
    Ok(Some(signed.map_err(rooms::Error::from)?))
}

/// Requests signatures for the background jobs.
pub struct JobSigner {
    pub policy_servers: PolicyServers,
    pub local: Local,
}

impl PolicySigner for JobSigner {
    async fn request_signature(&self, event: &UnsignedEvent) {
        let _lock = self.policy_servers.lock(&event.room_id).await;
        let Err(error) = self.policy_servers.sign(&self.local, event).await else {
            return;
        };
        let answer = match &error {
            Error::Status(status, _)
                if status.is_client_error() && *status != StatusCode::TOO_MANY_REQUESTS =>
            {
                PolicyAnswer::Refused
            }
            _ => PolicyAnswer::Unavailable,
        };
        let (server, room) = (&event.server.name, &event.room_id);
        log::info!("the policy server {server} of {room} does not sign an event: {error}");
        let signatures = self.local.policy_signatures();
        signatures.insert(event.event_id.clone(), answer);
    }
}
