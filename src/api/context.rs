//! What handlers work with.

use std::{net::IpAddr, sync::Arc, time::Duration};

use ruma::RoomId;

use super::{Error, RefusedJoins, Session, Unauthenticated};
use crate::{
    acme::Acme,
    backup::Backups,
    clock::Clock,
    config::Config,
    doctor::Doctor,
    fair_semaphore::FairPermit,
    federation::{self, Federation, Previews, RemoteMedia, SendError},
    gauges::Gauges,
    media::Media,
    pool::Pool,
    push::PushSender,
    rates::{Kind, Rates, site},
    request_counts::RequestCounts,
    rooms::{self, Actor, Local, state::current, typing::Typing},
    stop::Stopping,
    store::{RoomNum, Store, Tx, UserNum, records::Membership},
    sync::{
        LazyLoadedMembers, Notifier, SyncHandler,
        sliding::{ReadStates, RoomLists, SlidingSyncHandler},
    },
    users::{Users, presence::Presence},
};

const POLICY_RETRY_AFTER: Duration = Duration::from_secs(5);

/// The first argument of every handler.
pub type Api = Arc<Context>;

/// The parts of the server that handlers call.
#[derive(Debug)]
pub struct Context {
    pub config: Config,
    pub acme: Option<Acme>,
    pub backups: Arc<Backups>,
    pub clock: Clock,
    pub doctor: Arc<Doctor>,
    /// What the parts use.
    pub gauges: Arc<Gauges>,
    pub pool: Pool,
    pub store: Store,
    pub local: Local,
    pub users: Users,
    pub notifier: Arc<Notifier>,
    pub federation: Arc<Federation>,
    pub media: Media,
    pub remote_media: RemoteMedia,
    pub previews: Previews,
    pub push: PushSender,
    pub typing: Arc<Typing>,
    pub lazy_loaded_members: Arc<LazyLoadedMembers>,
    pub room_lists: RoomLists,
    pub read_states: ReadStates,
    pub presence: Arc<Presence>,
    pub refused_joins: RefusedJoins,
    pub requests: RequestCounts,
    /// The rate limits that depend on what only the handler knows.
    pub rates: Rates,
    /// Resolves when the server stops. A handler that waits longer than a second waits for this too.
    pub stopping: Stopping,
}

/// Held while a client causes requests to other servers.
pub enum RemoteLookupPermit {
    User(FairPermit<UserNum>),
    Network(FairPermit<IpAddr>),
}

impl Context {
    pub(super) fn sync_handler(&self) -> SyncHandler<'_> {
        SyncHandler {
            store: &self.store,
            local: &self.local,
            clock: &self.clock,
            notifier: &self.notifier,
            typing: &self.typing,
            presence: &self.presence,
            federation: &self.federation,
            stopping: &self.stopping,
        }
    }

    pub(super) fn sliding_sync_handler(&self) -> SlidingSyncHandler<'_> {
        SlidingSyncHandler {
            sync: self.sync_handler(),
            room_lists: &self.room_lists,
            read_states: &self.read_states,
        }
    }

    /// Lets `client` cause requests to other servers while the permit is held.
    pub(super) async fn remote_lookup_permit(
        &self,
        client: Unauthenticated,
    ) -> Result<RemoteLookupPermit, Error> {
        if let Some(user) = client.user {
            let permit = self.user_lookup_permit(user);
            return Ok(RemoteLookupPermit::User(permit.await?));
        }
        self.rates
            .check_network(Kind::RemoteLookup, client.address, ())?;
        let permit = self.federation.guest_permit(site(client.address));
        Ok(RemoteLookupPermit::Network(permit.await))
    }

    /// Lets a user cause requests to other servers while the permit is held.
    pub(super) async fn user_lookup_permit(
        &self,
        user: UserNum,
    ) -> Result<FairPermit<UserNum>, Error> {
        self.rates.check(Kind::RemoteLookup, user)?;
        Ok(self.federation.user_permit(user).await)
    }

    /// Runs a job that sends events. What the policy server of a room has to sign first is sent to it, and the job
    /// run again.
    ///
    /// # Errors
    /// The error of the policy server if it refuses to sign (server-server API, "Validating Policy Server
    /// signatures").
    pub(super) async fn write_events<T, F>(&self, job: F) -> Result<T, Error>
    where
        F: Fn(&Tx) -> Result<T, rooms::Error> + Send + Sync + 'static,
        T: Send + 'static,
    {
        let policy_servers = self.federation.policy_servers();
        let written = policy_servers.write_signed(&self.store, &self.local, job);
        written.await.map_err(|error| match error {
            SendError::Rooms(error) => error.into(),
            SendError::Unsigned(federation::Error::Status(status, Some(body)))
                if status.is_client_error() =>
            {
                Error::Refused(status, body)
            }
            SendError::Unsigned(error) => Error::Peer(error),
            SendError::Busy => {
                Error::limit_exceeded(SendError::Busy.to_string(), POLICY_RETRY_AFTER)
            }
        })
    }

    /// The user of `session` as the sender of events that are made now.
    pub(super) fn actor(&self, session: &Session) -> Actor {
        Actor {
            num: session.user,
            id: session.user_id.clone(),
            now: self.clock.timestamp(),
        }
    }

    /// The number of the room `room_id`, of which `session` must be a joined member. Others get the same
    /// error whether the room exists or not.
    pub(super) fn joined_room(
        &self,
        session: &Session,
        room_id: &RoomId,
    ) -> Result<RoomNum, Error> {
        let room = self.store.read(|s| {
            let room = match rooms::room::num(s, room_id) {
                Err(rooms::Error::UnknownRoom) => return Ok(None),
                room => room?,
            };
            let row = current::local_membership(s, session.user, room)?;
            let is_in = row.is_some_and(|row| row.membership == Membership::Join);
            Ok::<_, rooms::Error>(is_in.then_some(room))
        })?;
        room.ok_or_else(|| Error::forbidden("you are not joined to this room"))
    }
}
