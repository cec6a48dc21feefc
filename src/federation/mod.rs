//! Towards other servers.
//!
//! [`Client`] asks them, [`keys`] knows by what keys they sign, [`receive`] takes what they send.
//! [`Federation`] is all of it, for those above. Nobody below calls this.

mod address;
mod ask;
mod client;
mod connect;
mod error;
pub mod keys;
pub mod receive;
mod resolve;
mod tls;

use std::{collections::BTreeMap, fmt, sync::Arc};

use ruma::{
    OwnedEventId, ServerName,
    api::federation::{authentication::XMatrix, discovery::ServerSigningKeys},
    serde::Raw,
};
use smol::Executor;

use self::{
    ask::Asker,
    keys::Keys,
    receive::{Queues, RawPdu, Receiver, Taken},
};
pub use self::{client::Client, connect::Limits, error::Error, tls::TlsError};
use crate::{
    clock::Clock,
    config::{self, Config},
    pool::Pool,
    rooms::{self, Local},
    store::Store,
};

/// Everything that has to do with other servers.
pub struct Federation {
    allowed: config::Federation,
    store: Store,
    local: Local,
    clock: Clock,
    client: Client,
    keys: Keys,
    receiver: Receiver<Asker>,
    queues: Queues<Asker>,
}

impl fmt::Debug for Federation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Federation").finish_non_exhaustive()
    }
}

/// Why it cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The settings name a file that is of no use.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The store.
    #[error(transparent)]
    Rooms(#[from] rooms::Error),
}

impl Federation {
    /// Goes on where it stopped.
    pub fn start(
        config: &Config,
        (store, local): (&Store, &Local),
        (clock, pool): (&Clock, &Pool),
        executor: &Arc<Executor<'static>>,
    ) -> Result<Self, StartError> {
        let client = Client::new(config, local, (clock, pool), executor)?;
        let keys = Keys::new((store, local), &client, (clock, pool), executor);
        let asker = Asker {
            client: client.clone(),
            keys: keys.clone(),
        };
        let receiver = Receiver::new(store.clone(), local.clone(), asker);
        Ok(Self {
            allowed: config.federation.clone(),
            store: store.clone(),
            local: local.clone(),
            clock: clock.clone(),
            client,
            keys,
            queues: Queues::start(executor, receiver.clone())?,
            receiver,
        })
    }

    /// Who asks other servers.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Whether this server has to do with `server`.
    pub fn allows(&self, server: &ServerName) -> bool {
        self.allowed.allows(server)
    }

    /// Whether `request`, which `signed` says comes from its origin, does.
    pub async fn is_signed(
        &self,
        signed: &XMatrix,
        request: &http::Request<&[u8]>,
    ) -> Result<bool, rooms::Error> {
        self.keys.is_signed(signed, request).await
    }

    /// What this server tells of its keys.
    pub fn published_keys(&self) -> Result<Raw<ServerSigningKeys>, rooms::Error> {
        let now = self.clock.now_ms();
        self.store.read(|s| keys::published(s, &self.local, now))
    }

    /// Takes events that `origin` sends; for each that is one, what became of it.
    pub async fn receive(
        &self,
        origin: &ServerName,
        pdus: Vec<RawPdu>,
    ) -> BTreeMap<OwnedEventId, Result<(), String>> {
        let taken = self.receiver.take(origin, pdus).await;
        let results = taken.into_iter().map(|(id, taken)| {
            let result = taken.map(|taken| {
                if let Taken::Waits(room) = taken {
                    self.queues.wake(room);
                }
            });
            (id, result)
        });
        results.collect()
    }
}
