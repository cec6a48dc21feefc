//! [`Federation`]: the parts of this module put together, for the layers above.

use std::{collections::BTreeMap, fmt, net::IpAddr, time::Duration};

use super::{
    devices::{device_lists::DeviceLists, user_keys::UserKeys},
    inbound::{
        self, AuthChains, PduOutcome, PduReceiver, RawPdu, ReceivedEdu, RemoteEventSource,
        RoomQueues,
        edu::{EduReceiver, EphemeralChange},
    },
    keys::{self, Keys, Query},
    membership::{MembershipClient, MembershipHandler},
    outbound::{
        Delivery, Destination, EphemeralEdu, Sender,
        backoff::{self, Backoffs},
    },
    policy::PolicyServers,
    queries::{profiles::Profiles, spaces::Spaces, timestamp_to_event},
    transport::{client::Client, connect::with_timeout, tls::TlsError},
};
use crate::{
    clock::Clock,
    config::Config,
    executor::Executor,
    fair_semaphore::{FairPermit, FairSemaphore},
    pool::Pool,
    protocol::signed_request::SignedRequest,
    rooms::{
        self, Local,
        deletion::run::OutgoingQueue,
        servers::{self, server_acl::ServerAcls},
        typing::Typing,
    },
    store::{Effect, Place, Position, Reader, RoomNum, ServerNum, Snapshot, Store, Tx, UserNum},
    users::presence::Presence,
};
use ruma::{
    OwnedEventId, OwnedServerName, RoomId, ServerName,
    api::{
        Direction,
        federation::{
            authentication::XMatrix, discovery::ServerSigningKeys,
            transactions::edu::PresenceUpdate,
        },
    },
    serde::Raw,
};

/// How many servers are tried for a backfill.
const MAX_BACKFILL_SERVERS: usize = 5;
/// How long a client waits for a backfill.
const BACKFILL_TIMEOUT: Duration = Duration::from_secs(10);
/// How many requests to other servers are under way at once for those who are not logged in.
const MAX_GUEST_REQUESTS: usize = 16;
/// The same for users. Together they are fewer than the client's slots.
const MAX_USER_REQUESTS: usize = 32;
const MAX_REQUESTS_PER_USER: usize = 8;
const MAX_GUEST_REQUESTS_PER_NETWORK: usize = 4;

pub struct Federation {
    store: Store,
    local: Local,
    clock: Clock,
    client: Client,
    keys: Keys,
    policy_servers: PolicyServers,
    user_keys: UserKeys,
    profiles: Profiles,
    device_lists: DeviceLists,
    spaces: Spaces,
    receiver: PduReceiver<RemoteEventSource>,
    queues: RoomQueues<RemoteEventSource>,
    membership_client: MembershipClient,
    membership_handler: MembershipHandler,
    sender: Sender,
    guest_permits: FairSemaphore<IpAddr>,
    user_permits: FairSemaphore<UserNum>,
    executor: Executor,
}

impl fmt::Debug for Federation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Federation").finish_non_exhaustive()
    }
}

impl Federation {
    /// What the server does with others. Nothing that was pending goes on before [`resume`](Self::resume).
    ///
    /// # Errors
    /// If a file that the settings name is invalid.
    pub fn new(
        config: &Config,
        store: &Store,
        local: &Local,
        clock: &Clock,
        pool: &Pool,
        executor: &Executor,
    ) -> Result<Self, TlsError> {
        let client = Client::new(config, store, local, clock, pool, executor)?;
        let (notaries, names) = (&config.notaries, config.share_device_names);
        let keys = Keys::new(store, local, &client, notaries, clock, pool, executor);
        let policy_servers = PolicyServers::new(&client, clock);
        let source = RemoteEventSource {
            client: client.clone(),
            keys: keys.clone(),
            policy_servers: policy_servers.clone(),
            auth_chains: AuthChains::new(store, config),
        };
        let server_acls = ServerAcls::new(clock);
        let receiver = PduReceiver::new(store.clone(), local.clone(), server_acls, source);
        let membership_client =
            MembershipClient::new(store, local, clock, &receiver, executor, config);
        let backoffs = Backoffs::new(store, clock);
        let device_lists = DeviceLists::new(store, &client, clock, &backoffs, executor);
        Ok(Self {
            user_keys: UserKeys::new(&client, &backoffs, executor),
            sender: Sender::new(store, local, &client, names, clock, executor),
            profiles: Profiles::new(&client, clock),
            device_lists,
            spaces: Spaces::new(&client, clock),
            queues: RoomQueues::new(executor, receiver.clone()),
            membership_handler: MembershipHandler::new(&membership_client),
            membership_client,
            guest_permits: FairSemaphore::new(MAX_GUEST_REQUESTS, MAX_GUEST_REQUESTS_PER_NETWORK),
            user_permits: FairSemaphore::new(MAX_USER_REQUESTS, MAX_REQUESTS_PER_USER),
            executor: executor.clone(),
            store: store.clone(),
            local: local.clone(),
            clock: clock.clone(),
            client,
            keys,
            policy_servers,
            receiver,
        })
    }

    /// Continues all work that was pending when the server stopped.
    pub fn resume(&self) -> Result<(), rooms::Error> {
        let find_stale = self.device_lists.clone().find_stale();
        self.executor.spawn(find_stale).detach();
        self.queues.resume();
        self.sender.resume()
    }

    pub fn outgoing_queue(&self) -> impl OutgoingQueue + use<> {
        self.sender.clone()
    }

    pub fn policy_servers(&self) -> &PolicyServers {
        &self.policy_servers
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    pub fn server_acls(&self) -> &ServerAcls {
        self.receiver.server_acls()
    }

    pub fn membership_client(&self) -> &MembershipClient {
        &self.membership_client
    }

    pub fn membership_handler(&self) -> &MembershipHandler {
        &self.membership_handler
    }

    pub fn profiles(&self) -> &Profiles {
        &self.profiles
    }

    pub fn user_keys(&self) -> &UserKeys {
        &self.user_keys
    }

    pub fn device_lists(&self) -> &DeviceLists {
        &self.device_lists
    }

    pub fn spaces(&self) -> &Spaces {
        &self.spaces
    }

    /// Whether the settings allow federation with `server`, and it is another server.
    pub fn allows(&self, server: &ServerName) -> bool {
        self.client.may_contact(server)
    }

    /// Whether the key of `signed` is known. If not, it is fetched from its origin first; for requests of
    /// servers that share no room with this one, only a few at once for each `network` from which they come.
    pub async fn has_key_of(
        &self,
        signed: &XMatrix,
        network: IpAddr,
    ) -> Result<bool, rooms::Error> {
        let requester = (!self.shares_room(&signed.origin)?).then_some(network);
        self.keys.has_key_of(signed, requester).await
    }

    /// Whether `server` is in a room of this server.
    pub fn shares_room(&self, server: &ServerName) -> Result<bool, rooms::Error> {
        self.store.read(|s| servers::is_in_any(s, server))
    }

    /// Held while a request without a login causes requests to other servers. So such requests delay
    /// neither those of users nor those of other networks.
    pub async fn guest_permit(&self, network: IpAddr) -> FairPermit<IpAddr> {
        self.guest_permits.acquire(network).await
    }

    /// Held while a request of `user` causes a request to another server that may be slow. So no user has
    /// all connections to other servers.
    pub async fn user_permit(&self, user: UserNum) -> FairPermit<UserNum> {
        self.user_permits.acquire(user).await
    }

    /// What is signed of `request`, if it has a valid signature of the origin that `signature` names
    /// (server-server API, "Request Authentication"). Then the origin is reachable again.
    pub async fn verify_request(
        &self,
        signature: &XMatrix,
        request: http::Request<Vec<u8>>,
    ) -> Result<Option<SignedRequest>, rooms::Error> {
        let signed = self.keys.verify_request(signature, request).await?;
        if signed.is_some() {
            self.sender.end_backoff(&signature.origin);
            self.device_lists.alive(&signature.origin);
        }
        Ok(signed)
    }

    /// Has to be called when a verified request of `origin` has been handled.
    pub fn handled_request_of(&self, origin: &ServerName) {
        self.sender.wake(origin);
    }

    /// The servers that share rooms with this one, and those that do not answer.
    pub async fn destinations(&self) -> Result<Vec<Destination>, rooms::Error> {
        let sender = self.sender.clone();
        let scan = move |s: &Snapshot| sender.destinations(s);
        self.store.scan("the servers", scan).await
    }

    /// How many events are in the queues for other servers.
    pub fn queued_events(&self) -> usize {
        self.sender.queued_events()
    }

    /// What is known of `server`; `None` if nothing ever was.
    pub fn destination(&self, server: &ServerName) -> Result<Option<Destination>, rooms::Error> {
        self.store.read(|s| match servers::num(s, server)? {
            Some(num) => Ok(Some(self.sender.destination(s, num, server.to_owned())?)),
            None => Ok(None),
        })
    }

    /// How many events `server` lacks that are no longer in its queue in memory; none if it is not behind.
    pub async fn backlog(&self, server: &ServerName) -> Result<Option<usize>, rooms::Error> {
        let server = server.to_owned();
        let scan = move |s: &Snapshot| match servers::num(s, &server)? {
            Some(num) => Sender::backlog(s, num),
            None => Ok(None),
        };
        self.store.scan("the backlog of a server", scan).await
    }

    /// How far a local event in a room, at a position, is on its way to `server`.
    pub fn delivery(
        &self,
        r: &impl Reader,
        server: &ServerName,
        event: (RoomNum, Position),
    ) -> Result<Delivery, rooms::Error> {
        self.sender.delivery(r, server, event)
    }

    /// Ends the backoff of `server`, so that it is tried at once; whether anything is known of it. Where it is
    /// found is looked up again.
    pub async fn retry(&self, server: &ServerName) -> Result<bool, rooms::Error> {
        let Some(num) = self.store.read(|s| servers::num(s, server))? else {
            return Ok(false);
        };
        let name = server.to_owned();
        let job = move |tx: &Tx| {
            tx.resolved_servers()?.remove(name.as_str())?;
            backoff::clear(tx, num)
        };
        self.store.write(job).await?;
        self.client.forget_address(server);
        self.sender.wake(server);
        self.device_lists.alive(server);
        Ok(true)
    }

    /// Has to be called with every effect of a commit.
    pub fn apply(&self, effect: &Effect) {
        self.sender.apply(effect);
        if let Effect::MembershipChanged(..) = effect {
            self.spaces.membership_changed();
        }
    }

    /// Sends an EDU to the other servers in `room`.
    pub async fn send_edu_to_room(
        &self,
        room: RoomNum,
        edu: EphemeralEdu,
    ) -> Result<(), rooms::Error> {
        let servers = self.store.read(|s| servers::of_room(s, room))?;
        self.sender.send_edu(servers, edu).await
    }

    /// Sends the presence of a local user to `servers`.
    pub async fn send_presence(
        &self,
        servers: Vec<ServerNum>,
        update: PresenceUpdate,
    ) -> Result<(), rooms::Error> {
        self.sender
            .send_edu(servers, EphemeralEdu::Presence(update))
            .await
    }

    /// Runs `task` to its end even if the caller stops waiting. `None` if it panicked.
    pub async fn run_to_completion<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        self.executor.spawn_and_wait(task).await
    }

    /// Runs a task that nobody waits for.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.executor.spawn(task).detach();
    }

    /// The signing keys of this server.
    pub fn published_keys(&self) -> Result<Raw<ServerSigningKeys>, rooms::Error> {
        let now = self.clock.now_ms();
        self.store.read(|s| keys::published(s, &self.local, now))
    }

    /// The signing keys of other servers, signed by this one as a notary, for a client in `network`.
    pub async fn notarized_keys(
        &self,
        queries: BTreeMap<OwnedServerName, Query>,
        network: IpAddr,
    ) -> Result<Vec<Raw<ServerSigningKeys>>, rooms::Error> {
        self.keys.notarized(queries, network).await
    }

    /// Fetches some of the events before the gap at `gap` from servers in the room. Returns whether any
    /// were stored in time; later ones are stored too.
    pub async fn backfill(
        &self,
        user: UserNum,
        room: RoomNum,
        gap: Place,
    ) -> Result<bool, rooms::Error> {
        let servers = self.store.read(|s| servers::names(s, room))?;
        let servers = servers.into_iter().filter(|server| self.allows(server));
        let servers: Vec<_> = servers.take(MAX_BACKFILL_SERVERS).collect();
        let receiver = self.receiver.clone();
        let result = async {
            let permit = self.user_permit(user).await;
            let backfill = async move {
                let _permit = permit;
                receiver.backfill(room, gap, servers).await
            };
            self.executor.spawn_and_wait(backfill).await
        };
        match with_timeout(BACKFILL_TIMEOUT, result).await {
            Ok(Some(Err(inbound::Error::Rooms(error)))) => Err(error),
            Ok(Some(Ok(stored))) => Ok(stored),
            _ => Ok(false),
        }
    }

    /// The event nearest to `ts` according to other servers in the room.
    pub async fn timestamp_to_event(
        &self,
        room: RoomNum,
        room_id: &RoomId,
        ts: u64,
        dir: Direction,
    ) -> Result<Option<(OwnedEventId, u64)>, rooms::Error> {
        let servers = self.store.read(|s| servers::names(s, room))?;
        let servers = servers.into_iter().filter(|server| self.allows(server));
        Ok(timestamp_to_event::request(&self.client, servers, room_id, ts, dir).await)
    }

    /// Receives the PDUs of a transaction. Returns the response by event id.
    ///
    /// # Errors
    /// If `origin` has to repeat the transaction.
    pub async fn receive_pdus(
        &self,
        origin: &ServerName,
        pdus: Vec<RawPdu>,
    ) -> Result<BTreeMap<OwnedEventId, Result<(), String>>, rooms::Error> {
        let received = self.receiver.receive(origin, pdus).await?;
        let results = received.into_iter().map(|(id, outcome)| {
            let result = outcome.map(|outcome| {
                if let PduOutcome::Queued(room) = outcome {
                    self.queues.wake(room, origin.as_str());
                }
            });
            (id, result)
        });
        Ok(results.collect())
    }

    /// Applies the EDUs of a transaction, except for to-device messages.
    pub async fn receive_edus(
        &self,
        origin: &ServerName,
        edus: Vec<ReceivedEdu>,
        typing: &Typing,
        presence: &Presence,
        announce: &(dyn Fn(EphemeralChange) + Send + Sync),
    ) -> Result<(), rooms::Error> {
        let receiver = EduReceiver {
            store: &self.store,
            executor: &self.executor,
            server_acls: self.server_acls(),
            device_lists: &self.device_lists,
            typing,
            presence,
            now_ms: self.clock.now_ms(),
        };
        receiver.apply(origin, edus, announce).await
    }
}
