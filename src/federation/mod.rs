//! Towards other servers.
//!
//! [`Client`] asks them, [`keys`] knows by what keys they sign, [`receive`] takes what they send.
//! [`Federation`] is all of it, for those above. Nobody below calls this.

mod address;
mod ask;
mod client;
mod connect;
mod dns;
mod enter;
mod error;
mod invite;
pub mod keys;
mod moment;
mod outside;
mod pace;
mod profiles;
pub mod receive;
mod remembered;
mod resident;
mod resolve;
mod sender;
mod spaces;
mod third_party;
mod tls;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use ruma::{
    OwnedEventId, OwnedServerName, ServerName,
    api::federation::{authentication::XMatrix, discovery::ServerSigningKeys},
    serde::Raw,
};
use smol::{Executor, channel};

use self::{
    ask::Asker,
    keys::{Keys, Query},
    receive::{Queues, RawPdu, Receiver, Taken},
    sender::Sender,
};
pub use self::{
    client::Client,
    connect::Limits,
    enter::{Door, Error as EnterError},
    error::Error,
    invite::Handed,
    outside::text,
    profiles::Profiles,
    resident::Admitted,
    spaces::Spaces,
    tls::TlsError,
};
use crate::{
    clock::Clock,
    config::Config,
    pool::Pool,
    rooms::{self, Local, servers},
    store::{Effect, Place, RoomNum, Store},
};

/// How many servers are asked in turn for a room's history.
const HISTORY_FROM: usize = 5;
/// How long somebody waits for it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Everything that has to do with other servers.
pub struct Federation {
    store: Store,
    local: Local,
    clock: Clock,
    client: Client,
    keys: Keys,
    profiles: Profiles,
    spaces: Spaces,
    receiver: Receiver<Asker>,
    queues: Queues<Asker>,
    door: Door,
    sender: Sender,
    executor: Arc<Executor<'static>>,
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
        let client = Client::new(config, (store, local), (clock, pool), executor)?;
        let keys = Keys::new(
            (store, local),
            &client,
            &config.notaries,
            (clock, pool),
            executor,
        );
        let asker = Asker {
            client: client.clone(),
            keys: keys.clone(),
        };
        let receiver = Receiver::new(store.clone(), local.clone(), asker.clone());
        Ok(Self {
            executor: executor.clone(),
            sender: Sender::start((store, local), (&client, clock), executor)?,
            door: Door::new((store, local), clock, (&asker, &receiver), executor),
            store: store.clone(),
            local: local.clone(),
            clock: clock.clone(),
            profiles: Profiles::new(&client, clock),
            spaces: Spaces::new(&client, clock),
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

    /// Who gets people into rooms of other servers.
    pub fn door(&self) -> &Door {
        &self.door
    }

    /// The profiles of users of other servers.
    pub fn profiles(&self) -> &Profiles {
        &self.profiles
    }

    /// What other servers tell of rooms that this one is not in.
    pub fn spaces(&self) -> &Spaces {
        &self.spaces
    }

    /// Whether this server has to do with `server`, and is another.
    pub fn allows(&self, server: &ServerName) -> bool {
        self.client.may_ask(server)
    }

    /// Whether `request`, which `signed` says comes from its origin, does.
    pub async fn is_signed(
        &self,
        signed: &XMatrix,
        request: &http::Request<&[u8]>,
    ) -> Result<bool, rooms::Error> {
        let is_signed = self.keys.is_signed(signed, request).await?;
        if is_signed {
            self.sender.alive(&signed.origin);
        }
        Ok(is_signed)
    }

    /// To be told of every effect.
    pub fn apply(&self, effect: &Effect) {
        self.sender.apply(effect);
    }

    /// What this server tells of its keys.
    pub fn published_keys(&self) -> Result<Raw<ServerSigningKeys>, rooms::Error> {
        let now = self.clock.now_ms();
        self.store.read(|s| keys::published(s, &self.local, now))
    }

    /// What servers tell of their keys, vouched for by this one.
    pub async fn vouched_keys(
        &self,
        wanted: BTreeMap<OwnedServerName, Query>,
    ) -> Result<Vec<Raw<ServerSigningKeys>>, rooms::Error> {
        self.keys.vouched(wanted).await
    }

    /// Fetches some of what comes before the gap at `gap` from servers that are in the room; whether
    /// anything came. Who waits for it does not wait long; it goes on by itself.
    pub async fn fetch_history(&self, room: RoomNum, gap: Place) -> Result<bool, rooms::Error> {
        let servers = self.store.read(|s| servers::names(s, room))?;
        let servers = servers.into_iter().filter(|server| self.allows(server));
        let servers: Vec<_> = servers.take(HISTORY_FROM).collect();
        let receiver = self.receiver.clone();
        let (done, result) = channel::bounded(1);
        let task = self.executor.spawn(async move {
            // Nobody may be waiting any more.
            let _ = done.try_send(receiver.fetch_history(room, gap, servers).await);
        });
        task.detach();
        match connect::in_time(PATIENCE, result.recv()).await {
            Ok(Ok(Err(receive::Error::Rooms(error)))) => Err(error),
            Ok(Ok(Ok(fetched))) => Ok(fetched),
            _ => Ok(false),
        }
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
