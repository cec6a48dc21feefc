//! Towards other servers.
//!
//! [`Client`] asks them, [`keys`] knows by what keys they sign, [`receive`] takes what they send.
//! [`Federation`] is all of it, for those above. Nobody below calls this.

mod devices;
mod discovery;
mod error;
pub mod inbound;
pub mod keys;
mod locks;
mod media;
mod membership;
mod outbound;
mod queries;
mod remembered;
mod transport;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use ruma::{
    OwnedEventId, OwnedServerName, ServerName,
    api::federation::{
        authentication::XMatrix, discovery::ServerSigningKeys, transactions::edu::PresenceUpdate,
    },
    serde::Raw,
};
use smol::channel;

pub use self::{
    devices::{
        device_lists::{DeviceLists, Update as DeviceUpdate},
        user_keys::UserKeys,
    },
    error::Error,
    media::{Error as MediaError, RemoteMedia, previews::Previews},
    membership::{
        invite::ReceivedInvite,
        remote_join::{Error as MembershipError, MembershipClient},
        remote_leave::stripped_event_json,
        resident::AcceptedMemberEvent,
    },
    outbound::EphemeralEdu,
    queries::{profiles::Profiles, spaces::Spaces},
    transport::{client::Client, connect::Limits, tls::TlsError},
};
use self::{
    inbound::{Queues, RawPdu, Receiver, Taken, ask::RemoteEventSource},
    keys::{Keys, Query},
    outbound::{Sender, backoff::Backoffs},
};
use crate::{
    clock::Clock,
    config::Config,
    executor::Executor,
    pool::Pool,
    rooms::{self, Local, room, servers},
    store::{Effect, Place, Reader, RoomNum, Rows, ServerNum, Store, UserNum, records::Membership},
};

/// How many servers are asked in turn for a room's history.
const HISTORY_FROM: usize = 5;
/// How many members a room has at the most whose servers hear who is online.
const FRIENDS: u32 = 50;
/// How long somebody waits for it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Everything that has to do with other servers.
pub struct Federation {
    store: Store,
    local: Local,
    clock: Clock,
    client: Client,
    keys: Keys,
    user_keys: UserKeys,
    profiles: Profiles,
    device_lists: DeviceLists,
    spaces: Spaces,
    receiver: Receiver<RemoteEventSource>,
    queues: Queues<RemoteEventSource>,
    membership_client: MembershipClient,
    sender: Sender,
    executor: Executor,
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
        executor: &Executor,
    ) -> Result<Self, StartError> {
        let client = Client::new(config, (store, local), (clock, pool), executor)?;
        let keys = Keys::new(
            (store, local),
            &client,
            &config.notaries,
            (clock, pool),
            executor,
        );
        let asker = RemoteEventSource {
            client: client.clone(),
            keys: keys.clone(),
        };
        let receiver = Receiver::new(store.clone(), local.clone(), asker.clone());
        let backoffs = Backoffs::new(store, clock);
        Ok(Self {
            executor: executor.clone(),
            user_keys: UserKeys::new(&client, &backoffs, executor),
            sender: Sender::start(store, local, &client, clock, executor)?,
            membership_client: MembershipClient::new(
                (store, local),
                clock,
                (&asker, &receiver),
                executor,
                &config.data_dir,
            ),
            store: store.clone(),
            local: local.clone(),
            clock: clock.clone(),
            profiles: Profiles::new(&client, clock),
            device_lists: DeviceLists::new(store, (&client, clock), &backoffs, executor),
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
    pub fn membership_client(&self) -> &MembershipClient {
        &self.membership_client
    }

    /// The profiles of users of other servers.
    pub fn profiles(&self) -> &Profiles {
        &self.profiles
    }

    /// The keys of users of other servers.
    pub fn user_keys(&self) -> &UserKeys {
        &self.user_keys
    }

    /// The devices of users of other servers.
    pub fn device_lists(&self) -> &DeviceLists {
        &self.device_lists
    }

    /// What other servers tell of rooms that this one is not in.
    pub fn spaces(&self) -> &Spaces {
        &self.spaces
    }

    /// Whether this server has to do with `server`, and is another.
    pub fn allows(&self, server: &ServerName) -> bool {
        self.client.may_contact(server)
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
            self.device_lists.alive(&signed.origin);
        }
        Ok(is_signed)
    }

    /// To be told of every effect.
    pub fn apply(&self, effect: &Effect) {
        self.sender.apply(effect);
    }

    /// Tells the other servers in `room` of something that is not stored.
    pub fn send_edu_to_room(&self, room: RoomNum, edu: &EphemeralEdu) -> Result<(), rooms::Error> {
        let others = self.store.read(|s| servers::of_room(s, room))?;
        self.sender.send_edu(&others, edu)
    }

    /// Tells the servers of those how `user` is with whom the user is in rooms of a few: in a large
    /// one it costs everybody more than it is worth to anybody.
    pub fn send_presence(&self, user: UserNum, update: PresenceUpdate) -> Result<(), rooms::Error> {
        let others = self.store.read(|s| friends(s, user))?;
        let others: Vec<_> = others.into_iter().collect();
        self.sender
            .send_edu(&others, &EphemeralEdu::Presence(update))
    }

    /// Does something for which nobody waits.
    pub fn spawn(&self, deed: impl Future<Output = ()> + Send + 'static) {
        self.executor.spawn(deed).detach();
    }

    /// What this server tells of its keys.
    pub fn published_keys(&self) -> Result<Raw<ServerSigningKeys>, rooms::Error> {
        let now = self.clock.now_ms();
        self.store.read(|s| keys::published(s, &self.local, now))
    }

    /// What servers tell of their keys, vouched for by this one.
    pub async fn notarized_keys(
        &self,
        wanted: BTreeMap<OwnedServerName, Query>,
    ) -> Result<Vec<Raw<ServerSigningKeys>>, rooms::Error> {
        self.keys.vouched(wanted).await
    }

    /// Fetches some of what comes before the gap at `gap` from servers that are in the room; whether
    /// anything came. Who waits for it does not wait long; it goes on by itself.
    pub async fn backfill(&self, room: RoomNum, gap: Place) -> Result<bool, rooms::Error> {
        let servers = self.store.read(|s| servers::names(s, room))?;
        let servers = servers.into_iter().filter(|server| self.allows(server));
        let servers: Vec<_> = servers.take(HISTORY_FROM).collect();
        let receiver = self.receiver.clone();
        let (done, result) = channel::bounded(1);
        let task = self.executor.spawn(async move {
            // Nobody may be waiting any more.
            let _ = done.try_send(receiver.backfill(room, gap, servers).await);
        });
        task.detach();
        match transport::connect::in_time(PATIENCE, result.recv()).await {
            Ok(Ok(Err(inbound::Error::Rooms(error)))) => Err(error),
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

/// The other servers in the small rooms of a local user.
fn friends(r: &impl Reader, user: UserNum) -> Result<BTreeSet<ServerNum>, rooms::Error> {
    let mut friends = BTreeSet::new();
    let rooms = (user, RoomNum::MIN)..=(user, RoomNum::MAX);
    for row in r.memberships()?.range(rooms)? {
        let (key, row) = row?;
        let room = key.value().1;
        let is_in = row.value().unpack()?.membership == Membership::Join;
        if is_in && room::heads(r, room)?.joined <= FRIENDS {
            friends.extend(servers::of_room(r, room)?);
        }
    }
    Ok(friends)
}
